//! A histogram of durations: fixed buckets, one atomic add per observation, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets below the last, which takes everything.
const BUCKETS: usize = 14;
/// Upper bound of the first bucket; each next one is twice as wide. etcd's bounds for disk times: 1 ms to 8.192 s.
const FIRST: Duration = Duration::from_millis(1);

/// Durations in etcd's buckets for disk times.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Observations {
    /// (upper bound in seconds, observations at or below it), rising.
    pub buckets: [(f64, u64); BUCKETS],
    /// All durations together, seconds.
    pub sum_seconds: f64,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS).position(|n| duration <= FIRST * (1 << n)).unwrap_or(BUCKETS);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// What it holds now.
    pub fn read(&self) -> Observations {
        let mut count = 0;
        let buckets = std::array::from_fn(|n| {
            count += self.buckets[n].load(Relaxed);
            ((FIRST * (1 << n)).as_secs_f64(), count)
        });
        count += self.buckets[BUCKETS].load(Relaxed);
        Observations { buckets, sum_seconds: self.sum_micros.load(Relaxed) as f64 / 1e6, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_narrowest_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for micros in [10, 1_000, 1_001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let seen = histogram.read();
        assert_eq!(seen.buckets[0], (0.001, 2));
        assert_eq!(seen.buckets[1], (0.002, 3));
        assert_eq!(seen.buckets[13], (8.192, 3));
        assert_eq!(seen.count, 4);
        assert!((seen.sum_seconds - 9.002_011).abs() < 1e-9);
    }
}
