//! Which watchers a key concerns, answered without looking at every watcher.
//!
//! Single keys and prefixes are hash lookups (a prefix range is recognised by its shape); every other span is kept once
//! per distinct range and tested in turn. A token may be registered under several ranges, and several times under one.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use bytes::Bytes;

use crate::model::view::KeyRange;

/// Ranges → tokens. A token is whatever the owner wakes: a stream in the hub, a watcher inside a stream.
#[derive(Debug, Clone)]
pub(super) struct Index<T> {
    exact: HashMap<Bytes, Vec<T>>,
    prefixes: HashMap<Bytes, Vec<T>>,
    /// How many distinct prefixes have each length: the lengths to try for a key.
    prefix_lengths: BTreeMap<usize, usize>,
    spans: HashMap<(Bytes, Option<Bytes>), Vec<T>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefixes: HashMap::new(), prefix_lengths: BTreeMap::new(), spans: HashMap::new() }
    }
}

/// How a range is filed.
enum Shape {
    Exact(Bytes),
    Prefix(Bytes),
    Span(Bytes, Option<Bytes>),
}

impl<T: Copy + Eq> Index<T> {
    /// Files `token` under `range`.
    pub(super) fn insert(&mut self, range: &KeyRange, token: T) {
        match shape(range) {
            Shape::Exact(key) => self.exact.entry(key).or_default().push(token),
            Shape::Prefix(prefix) => {
                let length = prefix.len();
                let tokens = self.prefixes.entry(prefix).or_default();
                if tokens.is_empty() {
                    *self.prefix_lengths.entry(length).or_default() += 1;
                }
                tokens.push(token);
            }
            Shape::Span(start, end) => self.spans.entry((start, end)).or_default().push(token),
        }
    }

    /// Takes back one earlier `insert` of the same pair.
    pub(super) fn remove(&mut self, range: &KeyRange, token: T) {
        match shape(range) {
            Shape::Exact(key) => take_one(&mut self.exact, &key, token),
            Shape::Prefix(prefix) => {
                let length = prefix.len();
                take_one(&mut self.prefixes, &prefix, token);
                if !self.prefixes.contains_key(&prefix)
                    && let Some(count) = self.prefix_lengths.get_mut(&length)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lengths.remove(&length);
                    }
                }
            }
            Shape::Span(start, end) => take_one(&mut self.spans, &(start, end), token),
        }
    }

    /// Whether any range holds `key`.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        let mut any = false;
        self.matches(key, |_| any = true);
        any
    }

    /// Calls `visit` with every token filed under a range that holds `key`; once per filing.
    pub(super) fn matches(&self, key: &[u8], mut visit: impl FnMut(T)) {
        if let Some(tokens) = self.exact.get(key) {
            tokens.iter().copied().for_each(&mut visit);
        }
        for &length in self.prefix_lengths.keys() {
            let Some(head) = key.get(..length) else { break };
            if let Some(tokens) = self.prefixes.get(head) {
                tokens.iter().copied().for_each(&mut visit);
            }
        }
        for ((start, end), tokens) in &self.spans {
            if key >= start.as_ref() && end.as_ref().is_none_or(|end| key < end.as_ref()) {
                tokens.iter().copied().for_each(&mut visit);
            }
        }
    }
}

fn shape(range: &KeyRange) -> Shape {
    match range {
        KeyRange::One(key) => Shape::Exact(key.clone()),
        KeyRange::Span { start, end } => match end {
            Some(end) if is_prefix_end(start, end) => Shape::Prefix(start.clone()),
            _ => Shape::Span(start.clone(), end.clone()),
        },
    }
}

/// Whether `end` is the first key after all keys that start with `start`, as clients compute it.
fn is_prefix_end(start: &[u8], end: &[u8]) -> bool {
    let Some(last) = start.iter().rposition(|&byte| byte != 0xff) else { return false };
    end.len() == last + 1 && end[..last] == start[..last] && end[last] == start[last] + 1 && last + 1 == start.len()
}

fn take_one<K: Hash + Eq, T: Copy + Eq>(map: &mut HashMap<K, Vec<T>>, key: &K, token: T) {
    if let Some(tokens) = map.get_mut(key) {
        if let Some(place) = tokens.iter().position(|&other| other == token) {
            tokens.swap_remove(place);
        }
        if tokens.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: &[u8], end: Option<&[u8]>) -> KeyRange {
        KeyRange::Span { start: Bytes::copy_from_slice(start), end: end.map(Bytes::copy_from_slice) }
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        let key = prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xfe, 0xff]), 0..4);
        prop_oneof![
            key.clone().prop_map(|k| KeyRange::One(k.into())),
            (key.clone(), key.clone()).prop_map(|(a, b)| span(&a, Some(&b))),
            key.clone().prop_map(|a| span(&a, None)),
            key.prop_filter("has a prefix end", |k| k.last().is_some_and(|&b| b != 0xff)).prop_map(|k| {
                let mut end = k.clone();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                span(&k, Some(&end))
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_index_finds_exactly_the_ranges_that_hold_a_key(
            ranges in prop::collection::vec(any_range(), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            key in prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xfe, 0xff]), 0..5),
        ) {
            let mut index = Index::default();
            for (token, range) in ranges.iter().enumerate() {
                index.insert(range, token);
            }
            for (token, range) in ranges.iter().enumerate().filter(|(token, _)| removed[*token]) {
                index.remove(range, token);
            }
            let mut found = Vec::new();
            index.matches(&key, |token| found.push(token));
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..ranges.len()).filter(|&token| !removed[token] && ranges[token].contains(&key)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn removing_one_of_two_equal_filings_keeps_the_other() {
        let mut index = Index::default();
        let range = span(b"a", Some(b"b"));
        index.insert(&range, 7);
        index.insert(&range, 7);
        index.remove(&range, 7);
        let mut found = Vec::new();
        index.matches(b"ax", |token| found.push(token));
        assert_eq!(found, [7]);
    }
}
