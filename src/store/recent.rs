//! Live versions that were written lately, so that apply need not search the engine for what it just wrote.
//!
//! Half of all commands change a key that was changed a moment ago. Finding its previous version in the engine costs more
//! than writing the new one. Only apply reads and writes this; readers go to the engine.
//!
//! Invariant: what is in here is what the engine holds. An entry enters when its batch is written and is replaced or
//! shadowed by every later write of its key.

use std::collections::HashMap;

use bytes::Bytes;

use crate::model::record::Record;

/// Memory for cached versions, bytes, both generations together.
const CAPACITY: usize = 8 << 20;
/// What an entry costs beside its bytes.
const ENTRY_COST: usize = 120;

/// Two generations: when the young one is half the capacity it becomes the old one, and the old one is dropped.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: HashMap<Bytes, Option<Record>>,
    old: HashMap<Bytes, Option<Record>>,
    young_bytes: usize,
}

impl Recent {
    /// `Some(None)` knows that the key is absent; `None` knows nothing.
    pub fn get(&self, key: &[u8]) -> Option<&Option<Record>> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Takes over what a batch has just written.
    pub fn put(&mut self, key: Bytes, version: Option<Record>) {
        let bytes = |version: &Option<Record>| version.as_ref().map_or(0, |record| record.bytes().len());
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
