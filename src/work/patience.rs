//! How long a reader is waited for, piece by piece.

use std::time::Duration;

use super::SLOWEST_READER;

/// Time that is left to a reader. Waiting uses it up, and each piece that was taken earns what [`SLOWEST_READER`] needs for
/// it, so a reader that is quick enough has all of it again soon, and one that takes a little just before the end of every
/// silence has none of it soon.
#[derive(Debug)]
pub struct Patience {
    full: Duration,
    left: Duration,
}

impl Patience {
    /// `full`: how long a reader may take nothing.
    pub fn new(full: Duration) -> Self {
        Self { full, left: full }
    }

    /// How long the next piece may wait.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// A piece of `bytes` was taken after it had waited for `waited`.
    pub fn taken(&mut self, waited: Duration, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / SLOWEST_READER as f64);
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of 32 KiB that a reader of so many bytes a second gets, with a minute of patience; at most a million.
    fn pieces(per_second: usize) -> usize {
        const PIECE: usize = 32 << 10;
        let mut patience = Patience::new(Duration::from_secs(60));
        let waits = Duration::from_secs_f64(PIECE as f64 / per_second as f64);
        (0..1_000_000)
            .take_while(|_| {
                let in_time = waits <= patience.left();
                patience.taken(waits, PIECE);
                in_time
            })
            .count()
    }

    #[test]
    fn a_reader_that_is_quick_enough_gets_everything_and_one_that_drips_soon_nothing_more() {
        assert_eq!(pieces(SLOWEST_READER + 1), 1_000_000);
        assert_eq!(pieces(1 << 30), 1_000_000);
        // A piece every 59 seconds.
        assert_eq!(pieces(555), 1);
        let half = pieces(SLOWEST_READER / 2);
        assert!((400..600).contains(&half), "{half} pieces, behind by an eighth of a second with each");
    }
}
