//! What was written lately, live versions and v2 rows, so that apply need not search the engine for what it just wrote.
//!
//! Half of all commands change a key that was changed a moment ago. Finding its previous version in the engine costs more
//! than writing the new one. Readers of live versions go to the engine all the same; of v2 rows they share what is here.
//!
//! Invariant: what is in here is what the engine holds. An entry enters when its batch is written, or when it was read, and
//! is replaced or shadowed by every later write of its key.

use std::collections::HashMap;

use bytes::Bytes;

/// Memory for cached versions, bytes, both generations together.
pub const CAPACITY: usize = 8 << 20;
/// What an entry costs beside its bytes.
const ENTRY_COST: usize = 120;

/// Values by key. Two generations: when the young one is half the capacity it becomes the old one, and the old one is dropped.
#[derive(Debug)]
pub(super) struct Recent<V> {
    young: HashMap<Bytes, Option<V>>,
    old: HashMap<Bytes, Option<V>>,
    young_bytes: usize,
    written: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, written: 0 }
    }
}

impl<V: AsRef<[u8]>> Recent<V> {
    /// `Some(None)` knows that the key is absent; `None` knows nothing.
    pub fn get(&self, key: &[u8]) -> Option<&Option<V>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The same, and what is found counts as new again: for what is read far more often than written.
    pub fn renewed(&mut self, key: &[u8]) -> Option<&Option<V>> {
        if !self.young.contains_key(key)
            && let Some((key, version)) = self.old.remove_entry(key)
        {
            self.insert(key, version);
        }
        self.get(key)
    }

    /// How much has been written; see [`Recent::put_read`].
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes over what was read from the engine after [`Recent::written`] said `since`. Not if anything was written
    /// meanwhile: it may have been this, and what was read is older.
    pub fn put_read(&mut self, key: &[u8], version: Option<V>, since: u64) {
        if self.written == since {
            self.insert(Bytes::copy_from_slice(key), version);
        }
    }

    /// Takes over what a batch has just written to the engine.
    pub fn put(&mut self, key: Bytes, version: Option<V>) {
        self.written += 1;
        self.insert(key, version);
    }

    fn insert(&mut self, key: Bytes, version: Option<V>) {
        let bytes = |version: &Option<V>| version.as_ref().map_or(0, |version| version.as_ref().len());
        let size = key.len() + bytes(&version) + ENTRY_COST;
        let key_len = key.len();
        match self.young.insert(key, version) {
            Some(before) => {
                self.young_bytes = (self.young_bytes + size).saturating_sub(key_len + bytes(&before) + ENTRY_COST)
            }
            None => self.young_bytes += size,
        }
        if self.young_bytes > CAPACITY / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::Record;
    use crate::proto::mvccpb::KeyValue;

    fn record(version: i64, size: usize) -> Record {
        Record::new(&KeyValue { version, value: vec![1; size].into(), ..Default::default() })
    }

    #[test]
    fn the_newest_version_wins_over_the_old_generation() {
        let mut recent = Recent::default();
        recent.put("k".into(), Some(record(1, 10)));
        recent.put("filler".into(), Some(record(1, CAPACITY)));
        assert_eq!(recent.get(b"k"), Some(&Some(record(1, 10))));
        recent.put("k".into(), None);
        assert_eq!(recent.get(b"k"), Some(&None));
    }

    #[test]
    fn what_is_renewed_outlives_any_number_of_others() {
        let mut recent = Recent::default();
        recent.put("renewed".into(), Some(record(1, 10)));
        recent.put("left".into(), Some(record(1, 10)));
        for n in 0..40_000 {
            recent.put(format!("key{n}").into(), Some(record(n, 1000)));
            assert!(recent.renewed(b"renewed").is_some(), "after {n} others");
        }
        assert_eq!(recent.renewed(b"left"), None);
    }

    #[test]
    fn what_was_read_before_a_write_does_not_hide_it() {
        let mut recent = Recent::default();
        let since = recent.written();
        recent.put("k".into(), Some(record(2, 10)));
        recent.put_read(b"k", Some(record(1, 10)), since);
        assert_eq!(recent.get(b"k"), Some(&Some(record(2, 10))));
        recent.put_read(b"other", None, recent.written());
        assert_eq!(recent.get(b"other"), Some(&None));
    }

    #[test]
    fn memory_stays_bounded_whatever_is_written() {
        let mut recent = Recent::default();
        for n in 0..40_000 {
            recent.put(format!("key{n}").into(), Some(record(n, 1000)));
        }
        let held: usize =
            recent.young.values().chain(recent.old.values()).flatten().map(|record| record.bytes().len()).sum();
        assert!(held <= CAPACITY, "{held} bytes");
        assert_eq!(recent.get(b"key1"), None);
        assert!(recent.get(b"key39999").is_some());
    }

    #[test]
    fn rewriting_one_key_does_not_push_others_out() {
        let mut recent = Recent::default();
        recent.put("quiet".into(), Some(record(1, 10)));
        for n in 0..100_000 {
            recent.put("busy".into(), Some(record(n, 1000)));
        }
        assert!(recent.get(b"quiet").is_some());
    }
}
