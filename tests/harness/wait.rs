//! Waiting for conditions, never for time.

use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(50);

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
