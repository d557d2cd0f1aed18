//! The buffer between the threads that log and the writer thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Maximum bytes waiting in the buffer; the writer may hold as many again.
pub const MAX_QUEUED_BYTES: usize = 4 << 20;

/// Concatenated lines, waiting to be written.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// Signalled when a line was pushed.
    filled: Condvar,
    /// Signalled when the writer has written its batch.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
}

impl Queue {
    /// An empty buffer.
    pub fn new() -> Queue {
        Queue { state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), dropped: AtomicU64::new(0) }
    }

    /// Adds a line, or counts it as dropped when the buffer is full. Never waits for the writer.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.waiting.len() + line.len() > MAX_QUEUED_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Adds a line even if the buffer is full: for the last line of a process.
    pub fn push_always(&self, line: &[u8]) {
        self.state.lock().waiting.extend_from_slice(line);
        self.filled.notify_one();
    }

    /// For the writer: marks the previous batch as written and waits for the next. `batch` is cleared
    /// and swapped with the buffer, without copying.
    pub fn take(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let mut state = self.state.lock();
        state.writing = false;
        while state.waiting.is_empty() {
            self.emptied.notify_all();
            self.filled.wait(&mut state);
        }
        std::mem::swap(&mut state.waiting, batch);
        state.writing = true;
    }

    /// Waits until everything pushed so far is written, for at most `most`.
    pub fn flush(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut state = self.state.lock();
        while state.writing || !state.waiting.is_empty() {
            if self.emptied.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_full_buffer_drops_and_counts_and_never_waits() {
        let queue = Queue::new();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..6 {
            queue.push(&line);
        }
        assert_eq!(queue.dropped(), 2);
        queue.push(b"small");
        assert_eq!(queue.dropped(), 3, "the buffer is full to the byte");
        queue.push_always(b"last words");
        let mut batch = Vec::new();
        queue.take(&mut batch);
        assert!(batch.len() <= MAX_QUEUED_BYTES + 10 && batch.ends_with(b"last words"));
        queue.push(b"small");
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn flushing_waits_for_the_writer_with_a_timeout() {
        let queue = Arc::new(Queue::new());
        queue.push(b"one");
        queue.flush(Duration::from_millis(5));
        let writer = queue.clone();
        let (written, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut batch = Vec::new();
            loop {
                writer.take(&mut batch);
                written.send(batch.clone()).expect("test lives");
            }
        });
        queue.flush(Duration::from_secs(10));
        assert_eq!(seen.try_recv().expect("written before flush returned"), b"one");
    }
}
