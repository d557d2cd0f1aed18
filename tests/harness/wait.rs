//! Waiting for conditions, never for time.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

/// Pause between two looks at a condition.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` again and again until it answers; after `limit` the test fails with `what` and the last refusal.
pub async fn until<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > limit => panic!("{what}: not within {limit:?}; last: {reason}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Held by a test that loads the machine, so that such tests run one after another and measure themselves only.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A whole number from the environment: how long a test runs, or which random numbers it takes.
pub fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        default
    } else {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number"))
    }
}

/// Says that a test could not run here. `false` lets the caller return.
pub fn can(what: &str, possible: bool) -> bool {
    if !possible {
        eprintln!("SKIPPED: this machine lacks {what}; the test proved nothing");
    }
    possible
}
