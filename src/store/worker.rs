//! A background thread of the store: woken when there is work, joined when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::error::StoreError;

/// The thread's handle. Dropping it stops the thread and waits for it.
pub(super) struct Worker {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a worker's thread hears.
#[derive(Default)]
pub(super) struct Signal {
    stop: AtomicBool,
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Worker {
    /// Starts a thread that runs `work`, which must return soon once the signal says [`stopped`](Signal::stopped).
    pub fn start(name: &str, work: impl FnOnce(Arc<Signal>) + Send + 'static) -> Result<Self, StoreError> {
        let signal = Arc::new(Signal::default());
        let heard = Arc::clone(&signal);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(heard))
            .map_err(StoreError::files("start a background thread of", "the store"))?;
        Ok(Self { signal, thread: Mutex::new(Some(thread)) })
    }

    /// There is something to do.
    pub fn wake(&self) {
        *self.signal.woken.lock() = true;
        self.signal.wake.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("a background thread of the store had panicked");
        }
    }
}

impl Signal {
    /// Whether the thread must end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Sleeps until the thread is woken, or for `at_most`.
    pub fn wait(&self, at_most: Option<Duration>) {
        let mut woken = self.woken.lock();
        if !*woken {
            match at_most {
                Some(time) => drop(self.wake.wait_for(&mut woken, time)),
                None => self.wake.wait(&mut woken),
            }
        }
        *woken = false;
    }
}
