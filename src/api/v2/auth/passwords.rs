//! bcrypt, kept off the serving thread and asked as seldom as possible.
//!
//! A check costs some 50 ms of processor, and the clients of v2 send their password with every request. What was found
//! right is therefore remembered as a keyed digest of stored hash and password, under a key that this process drew when
//! it started: a changed password has another hash and is checked again, and nothing remembered is worth stealing.

use std::collections::HashSet;
use std::sync::OnceLock;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Failure;
use crate::work::{self, Lane, Source, Undone};

/// etcd's own cost.
const COST: u32 = 10;
/// Right answers remembered; all are forgotten when there are more.
const REMEMBERED: usize = 4096;

/// Hashes and checks passwords.
pub(in crate::api::v2) struct Passwords {
    key: [u8; 32],
    right: Mutex<HashSet<[u8; 32]>>,
    /// Half of the processors, so that strangers with wrong passwords cannot take all of them.
    lane: Lane,
    /// What the password of an unknown user is compared with, so that it takes as long to refuse.
    nobody: OnceLock<String>,
}

impl Passwords {
    pub(in crate::api::v2) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            key: rand::random(),
            right: Mutex::default(),
            lane: Lane::new(work::password_threads(processors).min(processors / 2)),
            nobody: OnceLock::new(),
        }
    }

    /// A salted hash of the password. Only its first 72 bytes count, as in etcd.
    pub(super) async fn hash(&self, source: Source, password: String, deadline: Instant) -> Result<String, Failure> {
        let hashed = self.work(source, deadline, move || bcrypt::hash(password, COST)).await?;
        hashed.map_err(|error| Failure::Refused(format!("cannot hash a password: {error}")))
    }

    /// Whether the password is that of the user with this hash; of nobody's with `None`, which takes as long.
    pub(super) async fn is_right(
        &self,
        source: Source,
        hash: Option<&str>,
        password: &str,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let known = hash.map(|hash| self.digest(hash, password));
        if known.is_some_and(|digest| self.right.lock().contains(&digest)) {
            return Ok(true);
        }
        let hash = match (hash, self.nobody.get()) {
            (Some(hash), _) => hash.to_owned(),
            (None, Some(nobody)) => nobody.clone(),
            (None, None) => {
                let nobody = self.hash(source, format!("{:032x}", rand::random::<u128>()), deadline).await?;
                self.nobody.get_or_init(|| nobody).clone()
            }
        };
        let password = password.to_owned();
        // A stored hash that does not read as one lets nobody in.
        let right = self.work(source, deadline, move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        match known {
            Some(digest) if right => {
                let mut remembered = self.right.lock();
                if remembered.len() >= REMEMBERED {
                    remembered.clear();
                }
                remembered.insert(digest);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn digest(&self, hash: &str, password: &str) -> [u8; 32] {
        let parts = [&self.key, hash.as_bytes(), &[0], password.as_bytes()];
        parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize().into()
    }

    async fn work<T: Send + 'static>(
        &self,
        source: Source,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.lane.run(source, Some(deadline), move |_| work()).await.map_err(|undone| match undone {
            Undone::Late | Undone::TooMany => Failure::TooManyRequests,
            Undone::Stopped => Failure::Stopped,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn only_the_right_password_passes_and_only_it_is_remembered() {
        let passwords = Passwords::new();
        let hash = passwords.hash(Source(1), "secret".to_owned(), soon()).await.expect("hashes");
        assert!(hash.starts_with("$2b$10$"), "{hash}");
        assert_eq!(passwords.is_right(Source(1), Some(&hash), "wrong", soon()).await, Ok(false));
        assert_eq!(passwords.is_right(Source(1), None, "secret", soon()).await, Ok(false));
        assert!(passwords.right.lock().is_empty());
        assert_eq!(passwords.is_right(Source(1), Some(&hash), "secret", soon()).await, Ok(true));
        assert_eq!(passwords.right.lock().len(), 1);
        assert_eq!(passwords.is_right(Source(1), Some(&hash), "wrong", soon()).await, Ok(false));
        // Remembered: it needs no place among those who work.
        passwords.lane.close();
        assert_eq!(passwords.is_right(Source(1), Some(&hash), "secret", soon()).await, Ok(true));
        assert_eq!(passwords.is_right(Source(1), Some(&hash), "wrong", soon()).await, Err(Failure::Stopped));
        assert_eq!(passwords.is_right(Source(1), Some("$2a$10$other"), "secret", soon()).await, Err(Failure::Stopped));
    }
}
