//! Which superseded snapshots are still on their way to other members. A slow follower may take hours for one, and its files
//! stay as long. So that they are bounded whatever the followers do, only the oldest goes on: somebody gets done. The others
//! end, and their followers go on with the newest, of which they have the tables that did not change. While space is low all
//! of them end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What belongs to one snapshot for as long as its files are there.
#[derive(Debug, Default)]
pub(super) struct Shipment {
    /// How many send it at this moment.
    senders: AtomicUsize,
    ended: CancellationToken,
}

impl Shipment {
    fn is_under_way(&self) -> bool {
        self.senders.load(Ordering::Acquire) > 0 && !self.ended.is_cancelled()
    }
}

/// Somebody sends a snapshot to another member.
#[derive(Debug)]
pub struct Shipping {
    shipment: Arc<Shipment>,
}

impl Shipping {
    pub(super) fn of(shipment: &Arc<Shipment>) -> Self {
        shipment.senders.fetch_add(1, Ordering::AcqRel);
        Self { shipment: Arc::clone(shipment) }
    }

    /// Returns when the sender must let go of the snapshot: a newer one is there.
    pub async fn ended(&self) {
        self.shipment.ended.cancelled().await;
    }

    #[cfg(test)]
    pub fn has_ended(&self) -> bool {
        self.shipment.ended.is_cancelled()
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.shipment.senders.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The superseded snapshots whose files are still there, oldest first.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    list: Mutex<Vec<Weak<Shipment>>>,
}

impl Superseded {
    pub fn add(&self, shipment: &Arc<Shipment>) {
        self.list.lock().push(Arc::downgrade(shipment));
    }

    /// Ends those that are not to go on; see the module's head.
    pub fn bound(&self, space_is_low: bool) {
        let mut list = self.list.lock();
        list.retain(|shipment| shipment.strong_count() > 0);
        let under_way = list.iter().filter_map(Weak::upgrade).filter(|shipment| shipment.is_under_way());
        for shipment in under_way.skip(usize::from(!space_is_low)) {
            shipment.ended.cancel();
        }
    }
}
