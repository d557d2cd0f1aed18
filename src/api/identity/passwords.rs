//! Passwords and their bcrypt hashes, for v3 and v2 alike. Slow on purpose, so never on the serving thread, only a few at
//! a time, and asked as seldom as possible.
//!
//! What was found right is remembered as a keyed digest of stored hash and password, under a key that this process drew
//! when it started: a changed password has another hash and is checked again, and nothing remembered is worth stealing.
//!
//! Invariant: a refusal costs one computation of the configured cost, whether the user is unknown, has no password, has a
//! stored hash that is none, or gave a wrong password. Otherwise the time of a refusal tells which names exist.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use bcrypt::{BcryptError, HashParts, Version};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::work::{Gone, Lane, Source, Undone};

/// Longest password that bcrypt looks at whole, bytes.
pub const LONGEST: usize = 72;
/// Right answers remembered; all are forgotten when there are more.
const REMEMBERED: usize = 4096;
/// The costs that bcrypt knows.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// Bytes of a salt and of a digest in bcrypt's own base 64.
const SALT_BYTES: usize = 16;
const DIGEST_BYTES: usize = 23;

/// Hashes and checks passwords.
pub struct Passwords {
    cost: u32,
    key: [u8; 32],
    right: Mutex<HashSet<[u8; 32]>>,
    lane: Lane,
    /// What is compared with where there is nothing to compare with.
    nobody: String,
    computed: Arc<AtomicU64>,
}

impl Passwords {
    /// `cost` is bcrypt's, 4 to 31. At most `at_once` computations run at the same time; others wait for their turn.
    pub fn new(cost: u32, at_once: usize) -> Self {
        Self {
            cost,
            key: rand::random(),
            right: Mutex::default(),
            lane: Lane::by_address(at_once),
            nobody: hash_of_nothing(cost),
            computed: Arc::default(),
        }
    }

    /// The salted hash of a password, in the form that etcd writes. Only the first [`LONGEST`] bytes count.
    ///
    /// # Errors
    /// No turn in time; the system has no randomness.
    pub async fn hash(&self, source: Source, deadline: Instant, password: String) -> Result<String, HashError> {
        let cost = self.cost;
        let parts = self.work(source, deadline, move || bcrypt::hash_with_result(password, cost)).await??;
        Ok(parts.format_for_version(Version::TwoA))
    }

    /// Whether the password is the one that was hashed; of nobody's with `None` or a hash that is none, which takes as
    /// long.
    ///
    /// # Errors
    /// No turn in time.
    pub async fn is_right(
        &self,
        source: Source,
        deadline: Instant,
        hash: Option<&[u8]>,
        password: &str,
    ) -> Result<bool, Undone> {
        let hash = hash.and_then(|hash| std::str::from_utf8(hash).ok()).filter(|hash| is_computable(hash));
        let known = hash.map(|hash| self.digest(hash, password));
        if known.is_some_and(|digest| self.right.lock().contains(&digest)) {
            return Ok(true);
        }
        let (hash, password) = (hash.unwrap_or(&self.nobody).to_owned(), password.to_owned());
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

    /// How often bcrypt has run.
    #[cfg(test)]
    pub fn computed(&self) -> u64 {
        self.computed.load(Relaxed)
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
    ) -> Result<T, Undone> {
        let computed = Arc::clone(&self.computed);
        let counted = move |_: &Gone| {
            computed.fetch_add(1, Relaxed);
            work()
        };
        self.lane.run(source, Some(deadline), counted).await
    }
}

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// No turn at hashing.
    #[error("no turn at hashing: {0:?}")]
    Undone(Undone),
    /// Only the system's randomness can fail, and a cost out of range, which the settings forbid.
    #[error("a password could not be hashed: {0}")]
    Failed(#[from] BcryptError),
}

impl From<Undone> for HashError {
    fn from(undone: Undone) -> Self {
        Self::Undone(undone)
    }
}

/// Whether bcrypt can compute at all with this hash; it refuses others at once.
fn is_computable(hash: &str) -> bool {
    hash.parse::<HashParts>().is_ok_and(|parts| COSTS.contains(&parts.get_cost()))
}

/// Looks like a hash and is none: no password is known that it would be the hash of. Made without computing one, so that
/// the first refusal costs what all others cost.
fn hash_of_nothing(cost: u32) -> String {
    let base64 = GeneralPurpose::new(&BCRYPT, NO_PAD);
    let (salt, digest) = (rand::random::<[u8; SALT_BYTES]>(), rand::random::<[u8; DIGEST_BYTES]>());
    format!("$2a${cost:02}${}{}", base64.encode(salt), base64.encode(digest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const COST: u32 = 4;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn hashes_made_by_etcd_are_understood() {
        // A hash that Go's bcrypt made.
        let golang = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(bcrypt::verify("allmine", golang).expect("a hash"));
        assert!(!bcrypt::verify("Allmine", golang).expect("a hash"));
    }

    #[tokio::test]
    async fn only_the_right_password_passes_and_only_it_is_remembered() {
        let passwords = Passwords::new(COST, 1);
        let hash = passwords.hash(Source::numbered(1), soon(), "secret".to_owned()).await.expect("hashes");
        assert!(hash.starts_with("$2a$04$"), "{hash}");
        let hash = hash.as_bytes();
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), Some(hash), "wrong").await, Ok(false));
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), None, "secret").await, Ok(false));
        assert!(passwords.right.lock().is_empty());
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), Some(hash), "secret").await, Ok(true));
        assert_eq!(passwords.right.lock().len(), 1);
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), Some(hash), "wrong").await, Ok(false));
        // Remembered: it needs no place among those who work.
        passwords.lane.close();
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), Some(hash), "secret").await, Ok(true));
        assert_eq!(passwords.is_right(Source::numbered(1), soon(), Some(hash), "wrong").await, Err(Undone::Stopped));
        assert_eq!(
            passwords.is_right(Source::numbered(1), soon(), Some(b"$2a$10$other"), "secret").await,
            Err(Undone::Stopped)
        );
    }

    #[tokio::test]
    async fn every_refusal_costs_one_computation_at_the_configured_cost() {
        let passwords = Passwords::new(COST, 1);
        let hash = passwords.hash(Source::numbered(1), soon(), "secret".to_owned()).await.expect("hashes");
        let costly = hash.replacen("$04$", "$99$", 1);
        let stored: [Option<&[u8]>; 7] = [
            Some(hash.as_bytes()),
            None,
            Some(b""),
            Some(b"$2a$04$"),
            Some(b"no hash"),
            Some(b"\xff"),
            Some(costly.as_bytes()),
        ];
        for stored in stored {
            for password in ["wrong", "", "with\0nul", &"long".repeat(30)] {
                let before = passwords.computed();
                assert_eq!(passwords.is_right(Source::numbered(1), soon(), stored, password).await, Ok(false));
                assert_eq!(passwords.computed() - before, 1, "{stored:?} {password}");
            }
        }
        assert_eq!(passwords.nobody.parse::<HashParts>().expect("a hash by its form").get_cost(), COST);
        assert!(!bcrypt::verify("any", &passwords.nobody).expect("it is computed, not refused by its form"));
    }
}
