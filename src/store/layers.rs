//! Layers of history: how far back a row may point for the version before its change.
//!
//! A history row holds the version before its change, or says where that is: a near one was written a moment ago as the
//! version *after* another change, and need not be written again. Near means: in the row's own layer, or in the layer
//! before. A layer ends once it holds [`history_layer`](super::StoreOptions::history_layer) bytes. So compaction to C has
//! to keep what rows from C on may point to, the layer of C and the one before it, and can drop the rest.

/// Where the layers of one state begin, oldest first. There is always one, and the last is being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Layers {
    /// First revision of each layer.
    starts: Vec<i64>,
    /// Bytes of rows in the last one, as far as this process wrote them.
    bytes: u64,
}

impl Layers {
    /// The layers that begin at `starts`, in ascending order.
    pub fn starting_at(starts: Vec<i64>) -> Self {
        Self { starts, bytes: 0 }
    }

    /// The oldest revision that a row written now may point to.
    pub fn near(&self) -> i64 {
        let before = self.starts.len().saturating_sub(2);
        self.starts.get(before).copied().unwrap_or(i64::MAX)
    }

    /// Takes in a batch of rows of `bytes`, the last one at revision `last`. If that fills the layer, of `size` bytes, the
    /// next one begins, and its first revision is returned.
    pub fn grow(&mut self, bytes: u64, last: i64, size: u64) -> Option<i64> {
        self.bytes += bytes;
        (self.bytes >= size).then(|| {
            self.bytes = 0;
            self.starts.push(last + 1);
            last + 1
        })
    }

    /// The first revision whose row must stay once nothing below `compacted` is asked for.
    pub fn kept_from(&self, compacted: i64) -> i64 {
        match self.starts.partition_point(|start| *start <= compacted) {
            // Rows from before there were layers point nowhere.
            0 => compacted,
            1 => self.starts[0],
            later => self.starts[later - 2],
        }
    }

    /// Forgets, and returns, the layers below `kept`, which [`Self::kept_from`] gave.
    pub fn forget_below(&mut self, kept: i64) -> Vec<i64> {
        let gone = self.starts.partition_point(|start| *start < kept);
        self.starts.drain(..gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_may_point_into_its_layer_and_the_one_before() {
        let mut layers = Layers::starting_at(vec![2]);
        assert_eq!(layers.near(), 2);
        assert_eq!(layers.grow(60, 10, 100), None);
        assert_eq!(layers.grow(40, 20, 100), Some(21));
        assert_eq!(layers.near(), 2);
        assert_eq!(layers.grow(100, 30, 100), Some(31));
        assert_eq!(layers.near(), 21);
        assert_eq!(Layers::default().near(), i64::MAX);
    }

    #[test]
    fn compaction_keeps_what_later_rows_may_point_to() {
        let layers = Layers::starting_at(vec![10, 20, 30]);
        for (compacted, kept) in [(5, 5), (10, 10), (19, 10), (20, 10), (29, 10), (30, 20), (99, 20)] {
            assert_eq!(layers.kept_from(compacted), kept, "compacted to {compacted}");
        }
    }

    #[test]
    fn what_is_forgotten_changes_no_later_answer() {
        let whole = Layers::starting_at(vec![10, 20, 30, 40]);
        for compacted in 0..60 {
            let mut rest = whole.clone();
            let kept = rest.kept_from(compacted);
            let gone = rest.forget_below(kept);
            assert!(gone.iter().all(|start| *start < kept));
            assert_eq!(rest.near(), whole.near());
            for later in compacted..60 {
                assert_eq!(rest.kept_from(later), whole.kept_from(later), "compacted to {compacted}, then to {later}");
            }
        }
    }
}
