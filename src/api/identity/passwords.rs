//! Passwords and their bcrypt hashes. Slow on purpose, so never on the serving thread and only a few at a time.

use bcrypt::{BcryptError, Version};
use bytes::Bytes;

use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::model::auth::Secret;
use crate::work::{self, Lane};

/// Longest password that bcrypt looks at whole, bytes. Longer ones are refused rather than cut.
const LONGEST: usize = 72;

/// Hashes and compares.
pub struct Passwords {
    cost: u32,
    /// As many at once as leave a core for serving.
    lane: Lane,
}

impl Passwords {
    /// `cost` is bcrypt's, 4 to 31.
    pub fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cost, lane: Lane::new(work::password_threads(cores)) }
    }

    /// The hash of a new password, in the form that etcd writes.
    ///
    /// # Errors
    /// [`ApiError::PasswordTooLong`]; a timeout waiting for a turn.
    pub async fn hash(&self, call: &Call, password: String) -> Result<Bytes, ApiError> {
        if password.len() > LONGEST {
            return Err(ApiError::PasswordTooLong);
        }
        let cost = self.cost;
        let hash = self.work(call, move || bcrypt::hash_with_result(password, cost)).await?;
        match hash {
            Ok(parts) => Ok(parts.format_for_version(Version::TwoA).into()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Whether `password` is the one that was hashed. A stored hash that is none matches nothing.
    ///
    /// # Errors
    /// A timeout waiting for a turn.
    pub async fn matches(&self, call: &Call, password: String, hash: &Secret) -> Result<bool, ApiError> {
        let Ok(hash) = String::from_utf8(hash.expose().to_vec()) else { return Ok(false) };
        Ok(self.work(call, move || bcrypt::verify(password, &hash)).await?.unwrap_or(false))
    }

    async fn work<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = self.lane.run(call.source(), Some(call.deadline()), move |_| work()).await;
        done.map_err(|undone| call.undone(undone))
    }
}

/// Only the system's randomness can fail here, and a cost out of range, which the settings forbid.
fn failed(error: &BcryptError) -> ApiError {
    tracing::error!(%error, "a password could not be hashed");
    ApiError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_made_by_etcd_are_understood_and_ours_have_its_form() {
        // A hash that Go's bcrypt made.
        let golang = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(bcrypt::verify("allmine", golang).expect("a hash"));
        assert!(!bcrypt::verify("Allmine", golang).expect("a hash"));
        let ours = bcrypt::hash_with_result("pass", 4).expect("a hash").format_for_version(Version::TwoA);
        assert!(ours.starts_with("$2a$04$") && bcrypt::verify("pass", &ours).expect("a hash"));
        assert!(bcrypt::verify("", "").is_err(), "an empty hash is no hash");
    }
}
