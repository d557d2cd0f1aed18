//! The key ranges a user may read and write: the union of the permissions of all its roles.

use bytes::Bytes;

use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;

/// `range_end` that means "to the last key".
const OPEN: &[u8] = &[0];

/// The merged permissions of a user. Write permission does not imply read permission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    read: Spans,
    write: Spans,
}

impl Grants {
    /// The union of these permissions. A permission of unknown type grants nothing.
    pub fn of<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let Some(span) = span_of(permission) else { continue };
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(span),
                Ok(Type::Write) => write.push(span),
                Ok(Type::Readwrite) => {
                    read.push(span.clone());
                    write.push(span);
                }
                Err(_) => {}
            }
        }
        Self { read: Spans::union(read), write: Spans::union(write) }
    }

    /// Whether every key of etcd's pair `key`, `range_end` may be read. The pair is taken as the client sent it.
    pub fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.read.cover(key, range_end)
    }

    /// The same for writing.
    pub fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.write.cover(key, range_end)
    }
}

/// Whether a permission for this pair can be granted: it has a key, and its range is not empty.
pub fn is_grantable(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == OPEN || key < range_end)
}

/// First key, and first key after it; `None` = no end.
type Span = (Bytes, Option<Bytes>);

fn span_of(permission: &Permission) -> Option<Span> {
    let Permission { key, range_end, .. } = permission;
    // Old stores may hold permissions that can no longer be granted; they grant nothing.
    if !is_grantable(key, range_end) {
        return None;
    }
    let end = if range_end.is_empty() {
        Some(Bytes::from([key.as_ref(), OPEN].concat()))
    } else if range_end.as_ref() == OPEN {
        None
    } else {
        Some(range_end.clone())
    };
    Some((key.clone(), end))
}

/// Disjoint spans in key order; adjacent spans are merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Spans(Vec<Span>);

impl Spans {
    fn union(mut pieces: Vec<Span>) -> Self {
        pieces.sort_unstable();
        let mut spans: Vec<Span> = Vec::with_capacity(pieces.len());
        for (start, end) in pieces {
            match spans.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    // `None` is greater than every end.
                    if last.is_some() && (end.is_none() || end > *last) {
                        *last = end;
                    }
                }
                _ => spans.push((start, end)),
            }
        }
        Self(spans)
    }

    /// An inverted range (`range_end` before `key`) holds no key, so only `key` itself is checked. etcd's answer
    /// depends on the shape of its interval tree: sometimes a refusal, never a key.
    fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|(start, _)| start.as_ref() <= key);
        let Some((_, end)) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        let Some(end) = end else { return true };
        key < end.as_ref() && (range_end.is_empty() || (range_end != OPEN && range_end <= end.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::view::KeyRange;

    fn read(key: &'static str, range_end: &'static str) -> Permission {
        Permission { perm_type: Type::Read.into(), key: key.into(), range_end: range_end.into() }
    }

    fn grants(permissions: &[Permission]) -> Grants {
        Grants::of(permissions.iter())
    }

    #[test]
    fn the_whole_requested_range_must_be_granted() {
        // (granted, asked, allowed)
        type Pair = (&'static str, &'static str);
        let table: [(&[Pair], Pair, bool); 22] = [
            (&[], ("a", ""), false),
            (&[("a", "")], ("a", ""), true),
            (&[("a", "")], ("a\0", ""), false),
            (&[("a", "")], ("b", ""), false),
            (&[("a", "")], ("a", "a\0"), true),
            (&[("a", "")], ("a", "b"), false),
            (&[("a", "")], ("a", "\0"), false),
            (&[("a", "c")], ("a", ""), true),
            (&[("a", "c")], ("c", ""), false),
            (&[("a", "c")], ("a", "c"), true),
            (&[("a", "c")], ("a", "c\0"), false),
            (&[("a", "c")], ("a", "\0"), false),
            (&[("a", "c")], ("b", "\0"), false),
            (&[("a", "c"), ("c", "e")], ("b", "d"), true),
            (&[("a", "b"), ("c", "e")], ("a", "d"), false),
            (&[("a", ""), ("a\0", "e")], ("a", "c"), true),
            (&[("a", "z"), ("c", "e")], ("d", "x"), true),
            (&[("c", "\0"), ("a", "c")], ("b", "\0"), true),
            (&[("c", "\0")], ("b", "\0"), false),
            (&[("\0", "\0")], ("\0", "\0"), true),
            (&[("c", "\0"), ("c", "d")], ("x", "\0"), true),
            (&[("b", "a"), ("", "\0")], ("b", ""), false),
        ];
        for (granted, (key, end), allowed) in table {
            let permissions: Vec<Permission> = granted.iter().map(|(key, end)| read(key, end)).collect();
            let asked = grants(&permissions).may_read(key.as_bytes(), end.as_bytes());
            assert_eq!(asked, allowed, "{granted:?} for {key:?} {end:?}");
        }
    }

    #[test]
    fn an_inverted_range_is_checked_at_its_first_key_as_in_etcd() {
        let granted = grants(&[read("c", "f")]);
        assert!(granted.may_read(b"d", b"a"));
        assert!(!granted.may_read(b"g", b"d"));
        assert!(!granted.may_read(b"b", b"a"));
    }

    #[test]
    fn read_and_write_are_separate_and_an_unknown_type_grants_nothing() {
        let with = |perm_type| grants(&[Permission { perm_type, ..read("a", "") }]);
        let seen = [0, 1, 2, 7].map(|kind| (with(kind).may_read(b"a", b""), with(kind).may_write(b"a", b"")));
        assert_eq!(seen, [(true, false), (false, true), (true, true), (false, false)]);
    }

    #[test]
    fn permissions_need_a_key_and_a_range_that_is_not_empty() {
        let good = [("a", ""), ("a", "b"), ("a", "\0"), ("\0", "\0")];
        assert!(good.iter().all(|(key, end)| is_grantable(key.as_bytes(), end.as_bytes())));
        let bad = [("", ""), ("", "b"), ("", "\0"), ("b", "b"), ("b", "a")];
        assert!(!bad.iter().any(|(key, end)| is_grantable(key.as_bytes(), end.as_bytes())));
    }

    fn any_pair() -> impl Strategy<Value = (Bytes, Bytes)> {
        let key = prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)], 1..3);
        let end = prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..3);
        (key.prop_map(Bytes::from), end.prop_map(Bytes::from))
    }

    /// Enough keys to distinguish any two ranges over the alphabet above.
    fn witnesses() -> Vec<Vec<u8>> {
        let letters = [0u8, b'a', b'b', 0xff];
        let longer = |keys: &[Vec<u8>]| -> Vec<Vec<u8>> {
            keys.iter()
                .flat_map(|key| letters.iter().map(move |letter| [key.as_slice(), &[*letter]].concat()))
                .collect()
        };
        let one = longer(&[Vec::new()]);
        let two = longer(&one);
        let three = longer(&two);
        let four = longer(&three);
        [one, two, three, four].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_range_is_allowed_exactly_when_every_key_of_it_is(
            granted in prop::collection::vec(any_pair(), 0..6),
            (key, end) in any_pair(),
        ) {
            let permissions: Vec<Permission> = granted.iter().map(|(key, end)| Permission {
                perm_type: Type::Read.into(), key: key.clone(), range_end: end.clone(),
            }).collect();
            let open = |witness: &[u8]| granted.iter()
                .filter(|(key, end)| is_grantable(key, end))
                .any(|(key, end)| KeyRange::new(key.clone(), end.clone()).contains(witness));
            let asked = KeyRange::new(key.clone(), end.clone());
            let expected = if asked.is_empty() {
                open(&key)
            } else {
                // An open-ended range also holds keys beyond every witness.
                let beyond = !matches!(asked, KeyRange::Span { end: None, .. }) || open(&[0xff; 9]);
                beyond && witnesses().iter().filter(|key| asked.contains(key)).all(|key| open(key)) && open(&key)
            };
            prop_assert_eq!(grants(&permissions).may_read(&key, &end), expected);
        }
    }
}
