//! A continuous writer of unique keys through all members, which remembers what was acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etcd_charm::client::{Client, TlsPem};

/// Pause between writes: about 200 a second, so that the reader's listing stays small.
const PAUSE: Duration = Duration::from_millis(5);

/// Pause after a failed write.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Shared {
    endpoints: Mutex<Vec<String>>,
    acked: Mutex<Vec<String>>,
    errors: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// See the module text.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write keys `<prefix><number>` to `endpoints` in turn.
    pub fn start(prefix: &str, endpoints: Vec<String>, credentials: &std::path::Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = credentials.join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let tls = TlsPem { ca: read("ca.pem")?, certificate: read("clientcert.pem")?, key: read("clientkey.pem")? };
        let shared = Arc::new(Shared { endpoints: Mutex::new(endpoints), ..Shared::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the writer: {error}"))?;
        let (state, prefix) = (Arc::clone(&shared), prefix.to_owned());
        let thread = std::thread::spawn(move || runtime.block_on(write(&state, &prefix, &tls)));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Writes go to these from now on.
    pub fn set_endpoints(&self, endpoints: Vec<String>) {
        *self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    /// Keys acknowledged so far.
    pub fn acked(&self) -> Vec<String> {
        self.shared.acked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of writes that failed or whose outcome is unknown, and the last reason.
    pub fn errors(&self) -> (usize, String) {
        let errors = self.shared.errors.lock().unwrap_or_else(PoisonError::into_inner);
        (errors.len(), errors.last().cloned().unwrap_or_default())
    }

    /// Waits until `more` further writes were acknowledged; gives how long that took.
    pub fn wait_progress(&self, more: usize, limit: Duration) -> Result<Duration, String> {
        let begun = Instant::now();
        let wanted = self.acked().len() + more;
        while self.acked().len() < wanted {
            if begun.elapsed() > limit {
                return Err(format!("writes stalled for {} s: {}", limit.as_secs(), self.errors().1));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(begun.elapsed())
    }

    /// Ends the writer.
    pub fn finish(mut self) -> Vec<String> {
        self.stop();
        self.acked()
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn write(shared: &Shared, prefix: &str, tls: &TlsPem) {
    let mut clients: Vec<Client> = Vec::new();
    let mut number = 0u64;
    while !shared.stop.load(Ordering::SeqCst) {
        number += 1;
        let endpoints = shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(endpoint) = endpoints.get(number as usize % endpoints.len().max(1)) else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Unique for ever: a write of unknown outcome is never tried again under its key.
        let key = format!("{prefix}{number:08}");
        match put(&mut clients, endpoint, tls, &key).await {
            Ok(()) => {
                shared.acked.lock().unwrap_or_else(PoisonError::into_inner).push(key);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                clients.retain(|client| client.endpoint() != endpoint);
                shared.errors.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{endpoint}: {error}"));
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn put(clients: &mut Vec<Client>, endpoint: &String, tls: &TlsPem, key: &str) -> Result<(), String> {
    let known = clients.iter().find(|client| client.endpoint() == endpoint).cloned();
    let client = match known {
        Some(client) => client,
        None => {
            let new = Client::connect(std::slice::from_ref(endpoint), Some(tls)).await;
            let new = new.map_err(|error| error.to_string())?;
            clients.push(new.clone());
            new
        }
    };
    client.put(key, "x").await.map(|_| ()).map_err(|error| error.to_string())
}
