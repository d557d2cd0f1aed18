//! Layers of history: how far back a row may point for the version before its change.
//!
//! A history row holds the version before its change, or says where that is: a near one was written a moment ago as the
//! version *after* another change, and need not be written again. Near means: in the row's own layer, or in the layer
//! before. A layer ends once it holds [`history_layer`](super::StoreOptions::history_layer) bytes, and with the process. So
//! compaction to C has to keep what rows behind C may point to, and can drop the rest.
//!
//! Two layers end for good: no later row points into a layer that one large batch made much larger than the others, nor
//! into what was there when a compaction was applied. Otherwise a compaction right after a large deletion would keep all
//! that was deleted.

use super::keys::Damaged;

/// One layer. It ends where the next one begins; the last is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layer {
    /// First revision whose rows are in it.
    pub start: i64,
    /// The oldest revision that its rows may point to. It never decreases from layer to layer.
    pub near: i64,
}

impl Layer {
    /// A layer whose rows point to nothing before it.
    pub fn closed(start: i64) -> Self {
        Self { start, near: start }
    }

    /// The row that keeps it; its key says `start`.
    pub fn encode(&self) -> [u8; 8] {
        self.near.to_be_bytes()
    }

    /// Reads it back.
    pub fn decode(start: i64, row: &[u8]) -> Result<Self, Damaged> {
        let near = row.try_into().map(i64::from_be_bytes).map_err(|_| Damaged("layer"))?;
        Ok(Self { start, near })
    }
}

/// The layers of one state, oldest first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Layers {
    layers: Vec<Layer>,
    /// Bytes of rows in the last one.
    bytes: u64,
}

impl Layers {
    /// What was stored, in ascending order.
    pub fn stored(layers: Vec<Layer>) -> Self {
        Self { layers, bytes: 0 }
    }

    /// The oldest revision that a row written now may point to.
    pub fn near(&self) -> i64 {
        self.layers.last().map_or(i64::MAX, |layer| layer.near)
    }

    /// Begins a layer behind revision `last`, and returns it unless nothing was written to the one before. Bytes are counted
    /// from here on.
    pub fn begin(&mut self, last: i64) -> Option<Layer> {
        let start = last + 1;
        let before = self.layers.last().copied();
        if before.is_some_and(|before| before.start == start) {
            return None;
        }
        Some(self.push(before.map_or(Layer::closed(start), |before| Layer { start, near: before.start })))
    }

    /// Takes in a batch with rows of `bytes`, the last one at revision `last`; `compacted`: it holds a compaction. `size` is
    /// how many bytes fill a layer. Returns the layer that begins behind the batch, if one does.
    pub fn grow(&mut self, bytes: u64, last: i64, compacted: bool, size: u64) -> Option<Layer> {
        self.bytes += bytes;
        if compacted || self.bytes >= 2 * size {
            return Some(self.push(Layer::closed(last + 1)));
        }
        if self.bytes >= size { self.begin(last) } else { None }
    }

    /// A layer that begins where the last one does takes its place.
    fn push(&mut self, layer: Layer) -> Layer {
        self.bytes = 0;
        self.layers.pop_if(|last| last.start == layer.start);
        self.layers.push(layer);
        layer
    }

    /// How many layers end before revision `compacted` + 1, the first whose version before can still be asked for.
    fn ended_at(&self, compacted: i64) -> usize {
        self.layers.partition_point(|layer| layer.start <= compacted.saturating_add(1)).saturating_sub(1)
    }

    /// The first revision whose row must stay once nothing below `compacted` is asked for.
    pub fn kept_from(&self, compacted: i64) -> i64 {
        match self.layers.get(self.ended_at(compacted)) {
            Some(layer) => layer.near.min(compacted),
            None => compacted,
        }
    }

    /// Forgets, and returns, the layers that no later compaction than `compacted` needs.
    pub fn forget_ended_at(&mut self, compacted: i64) -> Vec<Layer> {
        let ended = self.ended_at(compacted);
        self.layers.drain(..ended).collect()
    }

    /// Forgets all of them, and returns them.
    pub fn forget_all(&mut self) -> Vec<Layer> {
        std::mem::take(&mut self.layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(of: &[(i64, i64)]) -> Layers {
        Layers::stored(of.iter().map(|&(start, near)| Layer { start, near }).collect())
    }

    #[test]
    fn a_row_may_point_into_its_layer_and_the_one_before() {
        let mut layers = layers(&[(2, 2)]);
        assert_eq!(layers.near(), 2);
        assert_eq!(layers.grow(60, 10, false, 100), None);
        assert_eq!(layers.grow(40, 20, false, 100), Some(Layer { start: 21, near: 2 }));
        assert_eq!(layers.grow(100, 30, false, 100), Some(Layer { start: 31, near: 21 }));
        assert_eq!(layers.near(), 21);
        assert_eq!(layers.begin(30), None, "nothing was written to it");
        assert_eq!(layers.begin(31), Some(Layer { start: 32, near: 31 }));
        assert_eq!(Layers::default().near(), i64::MAX);
    }

    #[test]
    fn no_row_points_into_an_oversized_layer_or_past_a_compaction() {
        let mut layers = layers(&[(2, 2)]);
        assert_eq!(layers.grow(1000, 10, false, 100), Some(Layer::closed(11)));
        assert_eq!(layers.grow(1, 20, true, 100), Some(Layer::closed(21)));
        assert_eq!(layers.grow(0, 20, true, 100), Some(Layer::closed(21)), "it begins once");
        assert_eq!(layers.layers.len(), 3);
        assert_eq!(layers.kept_from(20), 20);
        assert_eq!(layers.kept_from(10), 10);
    }

    #[test]
    fn compaction_keeps_what_later_rows_may_point_to() {
        let layers = layers(&[(10, 10), (20, 10), (30, 20)]);
        for (compacted, kept) in [(5, 5), (9, 9), (10, 10), (18, 10), (19, 10), (28, 10), (29, 20), (99, 20)] {
            assert_eq!(layers.kept_from(compacted), kept, "compacted to {compacted}");
        }
    }

    #[test]
    fn what_is_forgotten_changes_no_later_answer() {
        let whole = layers(&[(10, 10), (20, 10), (30, 30), (40, 30), (50, 40)]);
        for compacted in 0..70 {
            let mut rest = whole.clone();
            rest.forget_ended_at(compacted);
            assert_eq!(rest.near(), whole.near());
            for later in compacted..70 {
                assert_eq!(rest.kept_from(later), whole.kept_from(later), "compacted to {compacted}, then to {later}");
            }
        }
    }

    #[test]
    fn a_layer_reads_back() {
        let layer = Layer { start: 7, near: 3 };
        assert_eq!(Layer::decode(7, &layer.encode()), Ok(layer));
        assert_eq!(Layer::decode(7, &[]), Err(Damaged("layer")));
    }
}
