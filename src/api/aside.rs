//! Work that takes a processor for tens of milliseconds: off the serving threads, and only a few at once.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It had no turn before its deadline.
    Late,
    /// The member stops.
    Stopped,
}

/// Takes turns at such work.
pub struct Aside {
    turns: Arc<Semaphore>,
}

impl Aside {
    /// At most `at_once` pieces of work run at the same time; zero counts as one.
    pub fn new(at_once: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// What `work` answers. A caller who gives up does not stop work that has begun; its turn ends with it.
    ///
    /// # Errors
    /// [`Undone`].
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_elapsed| Undone::Late)?.map_err(|_closed| Undone::Stopped)?;
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(turn);
            outcome
        });
        done.await.map_err(|_stopped| Undone::Stopped)
    }

    /// Nothing has a turn any more.
    #[cfg(test)]
    pub fn close(&self) {
        self.turns.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_has_no_turn_before_his_deadline_is_told_so_and_nothing_is_done_for_him() {
        let aside = Aside::new(0);
        let (finish, finished) = mpsc::channel::<()>();
        let far = Instant::now() + Duration::from_secs(60);
        let long = aside.run(far, move || finished.recv().is_ok());
        let late = async {
            let outcome = aside.run(Instant::now(), || panic!("it had no turn")).await;
            finish.send(()).expect("the work waits");
            outcome
        };
        let (long, late) = tokio::join!(long, late);
        assert_eq!((long, late), (Ok(true), Err::<(), _>(Undone::Late)));
        assert_eq!(aside.run(far, || 7).await, Ok(7), "the turn is free again");
        aside.close();
        assert_eq!(aside.run(far, || 7).await, Err(Undone::Stopped));
    }
}
