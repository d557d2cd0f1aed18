//! Consensus that died must not look alive: the process ends with it.
//!
//! openraft ends its core task on a storage error, and a panic inside it ends that task alone. Both would leave a
//! member that accepts connections and answers nothing, or worse, one whose state machine stands still while its vote
//! still counts. So the end of the core that nobody ordered ends the process at once, without unwinding.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::Inner;
use crate::store::say_unheard;

/// How long the log gets to write why the process ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Waits for the end of the core; returns only when it was ordered.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut metrics = inner.raft.metrics();
    loop {
        let death = metrics.borrow_and_update().running_state.as_ref().err().map(ToString::to_string);
        let death = match death {
            Some(cause) => Some(cause),
            None if metrics.changed().await.is_err() => Some("its task ended".to_owned()),
            None => None,
        };
        let Some(cause) = death else { continue };
        if inner.stopping.is_cancelled() {
            return;
        }
        tracing::error!(
            target: "last_words",
            cause,
            local_member_id = format!("{:x}", inner.id),
            "consensus ended by itself; this process ends so that no one takes it for a working member"
        );
        say_unheard("consensus ended by itself", &cause);
        // The log's own thread needs a moment for that line; nothing here is worth going on for.
        std::thread::sleep(LAST_WORDS);
        std::process::abort();
    }
}
