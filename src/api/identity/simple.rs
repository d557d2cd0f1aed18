//! Simple tokens: random text that the members remember.
//!
//! A token is sixteen letters, a dot and the index of the log entry that made it known. It lives for a time after its last
//! use on this member. Restarting forgets all of them, as etcd does; clients log in again by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;

use crate::model::auth::Secret;

const PREFIX_LETTERS: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Life of a token when none is configured; etcd's.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// Expired tokens are looked for whenever so many new ones came.
const SWEEP_EVERY: usize = 1024;

struct Known {
    user: Arc<str>,
    /// Monotonic time after which it is void.
    until: Duration,
}

#[derive(Default)]
struct Table {
    tokens: HashMap<String, Known>,
    since_sweep: usize,
}

/// The tokens this member knows.
pub struct SimpleTokens {
    ttl: Duration,
    open: AtomicBool,
    table: Mutex<Table>,
}

/// The random half of a new token.
pub fn new_prefix() -> String {
    // The generator is a cryptographic one, seeded by the system.
    let mut random = rand::rng();
    (0..PREFIX_LETTERS).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// The log index in a token; `None` when it is no simple token at all.
pub fn index_of(token: &str) -> Option<u64> {
    let (prefix, index) = token.split_once('.')?;
    let is_prefix = prefix.len() == PREFIX_LETTERS && prefix.bytes().all(|letter| letter.is_ascii_alphabetic());
    let is_number = index.bytes().all(|digit| digit.is_ascii_digit());
    (is_prefix && is_number).then(|| index.parse().ok()).flatten()
}

impl SimpleTokens {
    /// No token yet. `ttl` 0 = five minutes.
    pub fn new(ttl: Duration) -> Self {
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        Self { ttl, open: AtomicBool::new(false), table: Mutex::default() }
    }

    /// From now on logins count.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// A user has a new token.
    pub fn add(&self, user: &str, token: &Secret, now: Duration) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let Ok(token) = String::from_utf8(token.expose().to_vec()) else { return };
        let mut table = self.table.lock();
        table.since_sweep += 1;
        if table.since_sweep >= SWEEP_EVERY {
            table.since_sweep = 0;
            table.tokens.retain(|_, known| known.until > now);
        }
        table.tokens.insert(token, Known { user: user.into(), until: now + self.ttl });
    }

    /// Whose token this is. Its life starts anew.
    pub fn user_of(&self, token: &str, now: Duration) -> Option<Arc<str>> {
        let mut table = self.table.lock();
        let known = table.tokens.get_mut(token)?;
        if known.until <= now {
            table.tokens.remove(token);
            return None;
        }
        known.until = now + self.ttl;
        Some(Arc::clone(&known.user))
    }

    /// All tokens of a user are void.
    pub fn forget(&self, user: &str) {
        self.table.lock().tokens.retain(|_, known| *known.user != *user);
    }

    /// All tokens are void.
    pub fn clear(&self) {
        *self.table.lock() = Table::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn table(tokens: &[(&str, &'static str)]) -> SimpleTokens {
        let table = SimpleTokens::new(TTL);
        table.open();
        for (user, token) in tokens {
            table.add(user, &Secret::new(*token), at(0));
        }
        table
    }

    #[test]
    fn new_prefixes_are_sixteen_letters_and_differ() {
        let (one, other) = (new_prefix(), new_prefix());
        assert_ne!(one, other);
        assert_eq!(index_of(&format!("{one}.42")), Some(42));
    }

    #[test]
    fn what_is_no_token_is_told_from_the_text_alone() {
        let bad = ["", "a.1", "abcdefghijklmnop", "abcdefghijklmnop.", "abcdefghijklmnop.x", "abcdefghijklmnop.1.2"];
        let odd = [
            "abcdefghijklmno1.1",
            "abcdefghijklmnop.-1",
            "abcdefghijklmnop.+1",
            "abcdefghijklmnop.99999999999999999999",
        ];
        assert!(bad.iter().chain(&odd).all(|token| index_of(token).is_none()));
    }

    #[test]
    fn a_token_lives_from_use_to_use() {
        let table = table(&[("ann", "t")]);
        assert_eq!(table.user_of("t", at(9)).as_deref(), Some("ann"));
        assert_eq!(table.user_of("t", at(18)).as_deref(), Some("ann"));
        assert_eq!(table.user_of("t", at(28)), None);
        assert_eq!(table.user_of("t", at(18)), None, "gone for good");
        assert_eq!(table.user_of("other", at(0)), None);
    }

    #[test]
    fn users_are_logged_out_one_by_one_or_all_at_once() {
        let table = table(&[("ann", "a"), ("bob", "b"), ("ann", "c")]);
        table.forget("ann");
        assert_eq!((table.user_of("a", at(0)), table.user_of("c", at(0))), (None, None));
        assert_eq!(table.user_of("b", at(0)).as_deref(), Some("bob"));
        table.clear();
        assert_eq!(table.user_of("b", at(0)), None);
    }

    #[test]
    fn logins_out_of_the_past_do_not_count_and_expired_tokens_do_not_pile_up() {
        let closed = SimpleTokens::new(TTL);
        closed.add("ann", &Secret::new("old"), at(0));
        closed.open();
        assert_eq!(closed.user_of("old", at(0)), None);
        for n in 0..SWEEP_EVERY as u64 * 3 {
            closed.add("ann", &Secret::new(n.to_string()), at(n));
        }
        assert!(closed.table.lock().tokens.len() <= SWEEP_EVERY + 10);
    }
}
