//! The system clock, and a manual clock for tests. Code that depends on time takes a [`Clock`], so that
//! tests control the time.

#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of monotonic and wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary start. Never goes back; use it for intervals and deadlines.
    fn monotonic(&self) -> Duration;

    /// Wall-clock time since 1970-01-01 UTC. May jump when the host's clock is set; use it for calendar
    /// times such as the expiry of a certificate, never for intervals.
    fn unix(&self) -> Duration;
}

/// The clock of this machine.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that advances only when told to.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic_nanos: AtomicU64,
    unix_nanos: AtomicU64,
}

#[cfg(test)]
impl ManualClock {
    /// A clock at monotonic zero and the given wall-clock time.
    pub fn at_unix(unix: Duration) -> ManualClock {
        let clock = ManualClock::default();
        clock.unix_nanos.store(unix.as_nanos() as u64, Ordering::Relaxed);
        clock
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let nanos = by.as_nanos() as u64;
        self.monotonic_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.unix_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::Relaxed))
    }

    fn unix(&self) -> Duration {
        Duration::from_nanos(self.unix_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_advanced() {
        let clock = ManualClock::at_unix(Duration::from_secs(100));
        assert_eq!((clock.monotonic(), clock.unix()), (Duration::ZERO, Duration::from_secs(100)));
        clock.advance(Duration::from_secs(5));
        assert_eq!((clock.monotonic(), clock.unix()), (Duration::from_secs(5), Duration::from_secs(105)));
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
        assert!(clock.unix() > Duration::from_secs(1_700_000_000));
    }
}
