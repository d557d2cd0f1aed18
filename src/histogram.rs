//! Histograms of durations for metrics: fixed buckets, one atomic add per observation, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of buckets, in microseconds, ascending. Longer durations go into the `+Inf` bucket.
pub type Bounds = &'static [u64];

/// Exponential bounds: `first` microseconds, doubling.
pub const fn doubling<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut n = 1;
    while n < N {
        bounds[n] = bounds[n - 1] * 2;
        n += 1;
    }
    bounds
}

/// etcd's bounds for fsyncs and commits: 1 ms to 8.192 s.
pub const DISK: Bounds = &doubling::<14>(1_000);
/// etcd's bounds for round trips between members: 0.1 ms to 3.2768 s.
pub const ROUND_TRIP: Bounds = &doubling::<16>(100);

/// A histogram of durations.
pub struct Histogram {
    bounds: Bounds,
    /// One more than `bounds`, for `+Inf`.
    buckets: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

/// A snapshot of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Observations {
    /// (upper bound in seconds, observations at or below it), ascending.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all durations, in seconds.
    pub sum_seconds: f64,
    /// Number of observations.
    pub count: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: Bounds) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_micros: AtomicU64::new(0) }
    }

    /// Adds one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // Rounded up to a microsecond, so that a duration just above a bound is not counted below it.
        let ceiling = micros.saturating_add(u64::from(!duration.subsec_nanos().is_multiple_of(1_000)));
        let bucket = self.bounds.partition_point(|bound| *bound < ceiling);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// A snapshot of the current counts.
    pub fn read(&self) -> Observations {
        let mut count = 0;
        let mut below = |bucket: &AtomicU64| {
            count += bucket.load(Relaxed);
            count
        };
        let buckets =
            self.bounds.iter().zip(&self.buckets).map(|(bound, bucket)| (*bound as f64 / 1e6, below(bucket))).collect();
        if let Some(last) = self.buckets.last() {
            below(last);
        }
        Observations { buckets, sum_seconds: self.sum_micros.load(Relaxed) as f64 / 1e6, count }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_narrowest_bucket_that_holds_them() {
        let histogram = Histogram::new(DISK);
        for micros in [10, 1_000, 1_001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_nanos(2_000_001));
        let seen = histogram.read();
        assert_eq!(seen.buckets[0], (0.001, 2));
        assert_eq!(seen.buckets[1], (0.002, 3));
        assert_eq!(seen.buckets[2], (0.004, 4));
        assert_eq!(seen.buckets[13], (8.192, 4));
        assert_eq!(seen.count, 5);
        assert!((seen.sum_seconds - 9.004_011).abs() < 1e-9);
    }
}
