//! Bytes of answers that exist at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::{Lane, Source, Turn, Undone};

/// A number of bytes that many share. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    total: usize,
    taken: Arc<AtomicUsize>,
    /// Whose turn it is to go beyond.
    beyond: Lane,
}

/// Bytes that somebody has. They are given back when it is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Budget,
    bytes: usize,
    beyond: Option<Turn>,
}

impl Budget {
    /// `total` bytes.
    pub fn new(total: usize) -> Self {
        Self { total, taken: Arc::default(), beyond: Lane::new(1) }
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many wait for their turn to go beyond.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.beyond.waiting()
    }

    /// `bytes`, if they are there.
    pub fn take(&self, bytes: usize) -> Option<Grant> {
        let mut grant = Grant { budget: self.clone(), bytes: 0, beyond: None };
        grant.grow(bytes).then_some(grant)
    }

    /// `bytes` that exist already, whether they are there or not: those who come later wait for them.
    pub fn owed(&self, bytes: usize) -> Grant {
        let mut grant = Grant { budget: self.clone(), bytes: 0, beyond: None };
        grant.resize(bytes);
        grant
    }

    /// Waits for the turn to be the one that may take more than there is; the grant is empty and grows without limit. Sources
    /// take turns.
    ///
    /// # Errors
    /// [`Undone`].
    pub async fn beyond(&self, source: Source, deadline: Option<Instant>) -> Result<Grant, Undone> {
        let turn = self.beyond.turn(source, deadline).await?;
        Ok(Grant { budget: self.clone(), bytes: 0, beyond: Some(turn) })
    }
}

impl Grant {
    /// Takes `more` bytes as well. `false`: they are not there, and nothing changed.
    pub fn grow(&mut self, more: usize) -> bool {
        let (total, may_exceed) = (self.budget.total, self.beyond.is_some());
        let fits = |taken: usize| {
            let after = taken.saturating_add(more);
            (may_exceed || after <= total).then_some(after)
        };
        let grown = self.budget.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if grown {
            self.bytes += more;
        }
        grown
    }

    /// Bytes it is for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// It is for `bytes` from now on, which may be more than there is: they exist already.
    pub fn resize(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.budget.taken.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.budget.taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn there_is_never_more_than_the_total_and_one_that_goes_beyond() {
        let budget = Budget::new(100);
        let mut first = budget.take(60).expect("room");
        assert!(budget.take(41).is_none());
        assert!(!first.grow(41) && first.bytes() == 60);
        assert!(first.grow(40));
        let mut large = budget.beyond(Source::numbered(1), None).await.expect("nobody else");
        assert!(large.grow(1000));
        assert_eq!(budget.taken(), 1100);
        assert!(budget.take(1).is_none());
        let mut second = Box::pin(budget.beyond(Source::numbered(2), None));
        assert!((&mut second).now_or_never().is_none(), "one at a time");
        assert_eq!(budget.waiting(), 1);
        drop(large);
        assert!(second.now_or_never().expect("its turn").is_ok());
        first.resize(10);
        assert_eq!(budget.taken(), 10);
        first.resize(200);
        assert!(budget.take(1).is_none(), "what exists already is counted, also beyond the total");
        drop(first);
        assert_eq!(budget.taken(), 0);
    }
}
