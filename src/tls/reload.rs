//! A value that is rebuilt when its files change: they are checked at most once a second, and only
//! when the value is requested.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::error::TlsError;
use crate::clock::Clock;

/// Minimum interval between two checks of the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// File fingerprint: inode, size, mtime. `None`: the file does not exist.
type Stamp = Option<(u64, u64, i64, i64)>;

type Build<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// The last good value and the files it came from.
pub struct Reloading<T> {
    current: ArcSwap<T>,
    /// The files that are watched.
    files: Vec<PathBuf>,
    build: Build<T>,
    purpose: &'static str,
    clock: Arc<dyn Clock>,
    watch: Mutex<Watch>,
}

struct Watch {
    looked_at: Duration,
    stamps: Vec<Stamp>,
    /// Consecutive failed builds with these stamps.
    failures: u32,
}

impl<T> Reloading<T> {
    /// Builds the first value; an error here fails the start.
    pub fn start(
        purpose: &'static str,
        files: Vec<PathBuf>,
        clock: Arc<dyn Clock>,
        build: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Reloading<T>, TlsError> {
        let stamps = stamps_of(&files);
        let first = build()?;
        let watch = Watch { looked_at: clock.monotonic(), stamps, failures: 0 };
        Ok(Reloading {
            current: ArcSwap::from_pointee(first),
            files,
            build: Box::new(build),
            purpose,
            clock,
            watch: Mutex::new(watch),
        })
    }

    /// The value, after checking the files if a check is due. Never waits for a check on another thread.
    pub fn get(&self) -> Arc<T> {
        if let Some(mut watch) = self.watch.try_lock() {
            let now = self.clock.monotonic();
            if now.saturating_sub(watch.looked_at) >= LOOK_EVERY {
                watch.looked_at = now;
                self.look(&mut watch);
            }
        }
        self.current.load_full()
    }

    /// Two files cannot be replaced atomically, so the first failure after a change is only a warning and
    /// is retried; the second one is an error.
    fn look(&self, watch: &mut Watch) {
        let stamps = stamps_of(&self.files);
        if stamps != watch.stamps {
            watch.stamps = stamps;
            watch.failures = 0;
        } else if watch.failures != 1 {
            return;
        }
        match (self.build)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                watch.failures = 0;
                tracing::info!(purpose = self.purpose, files = ?self.files, "reloaded TLS files");
            }
            Err(error) => {
                watch.failures += 1;
                let (purpose, error) = (self.purpose, error.to_string());
                if watch.failures > 1 {
                    tracing::error!(purpose, error, "changed TLS files are unusable; serving with the previous ones");
                } else {
                    tracing::warn!(purpose, error, "changed TLS files are not usable yet; looking again in a second");
                }
            }
        }
        // A file replaced while it was read differs from these stamps at the next check.
    }
}

fn stamps_of(files: &[PathBuf]) -> Vec<Stamp> {
    files
        .iter()
        .map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// A value that is the file's text; building it fails while the text is `bad`.
    fn reloading(path: &std::path::Path, clock: Arc<ManualClock>) -> Reloading<String> {
        let read_from = path.to_owned();
        Reloading::start("test", vec![path.to_owned()], clock, move || match std::fs::read_to_string(&read_from) {
            Ok(text) if text != "bad" => Ok(text),
            _ => Err(TlsError::NoPair),
        })
        .expect("first value")
    }

    #[test]
    fn files_are_checked_once_a_second_and_reloaded() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x");
        std::fs::write(&path, "one").expect("write");
        let clock = Arc::new(ManualClock::default());
        let value = reloading(&path, clock.clone());
        std::fs::write(&path, "three").expect("write");
        assert_eq!(*value.get(), "one", "no second has passed");
        clock.advance(LOOK_EVERY);
        assert_eq!(*value.get(), "three");
    }

    #[test]
    fn a_bad_file_keeps_the_last_good_value_until_it_is_fixed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x");
        std::fs::write(&path, "one").expect("write");
        let clock = Arc::new(ManualClock::default());
        let value = reloading(&path, clock.clone());
        std::fs::write(&path, "bad").expect("write");
        for _ in 0..3 {
            clock.advance(LOOK_EVERY);
            assert_eq!(*value.get(), "one");
        }
        std::fs::remove_file(&path).expect("remove");
        clock.advance(LOOK_EVERY);
        assert_eq!(*value.get(), "one");
        std::fs::write(&path, "mended").expect("write");
        clock.advance(LOOK_EVERY);
        assert_eq!(*value.get(), "mended");
    }
}
