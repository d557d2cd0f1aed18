//! Replacing the state by a snapshot.
//!
//! Two steps that each survive a crash: the snapshot gets its final name (from then on a restart installs it by itself),
//! then a new generation of the state is made from it and the pointer file moves. Before the pointer moves the old state
//! counts, after it the new one; there is nothing in between.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::database::Database;
use super::error::StoreError;
use super::events::{EventSink, Moment};
use super::open::{generation_name, set_active};
use super::reader::Store;
use super::records::log_id;
use super::snapshot::{SnapshotFiles, checksum};
use super::view::Era;
use super::{files, open};
use crate::raft::types::SnapshotMeta;

impl Store {
    /// Makes the snapshot the state. Does nothing when the state is already there or further. Blocks on the disk.
    pub(super) fn install(&self, meta: &SnapshotMeta, snapshot: &SnapshotFiles) -> Result<(), StoreError> {
        if snapshot.meta() != meta {
            return Err(StoreError::Snapshot(format!("it says {}, {meta} was announced", snapshot.meta())));
        }
        let snapshots = &self.shared.snapshots;
        let kept = match snapshots.owns(snapshot) {
            Ownership::Kept => snapshot.clone(),
            Ownership::Staged => snapshots.publish(snapshot.dir(), meta.clone(), snapshot.files().to_vec())?,
            Ownership::Foreign => self.import(snapshot)?,
        };
        if self.applied() >= meta.last_log_id {
            return Ok(());
        }
        let current = self.shared.database();
        let next = generation_name(open::generation(current.dir())? + 1);
        let dir = self.shared.state_dir.join(&next);
        files::remove_dir(&dir)?;
        populate(&dir, &kept)?;
        let database = Database::open(&dir, &self.shared.options, false)?;
        if database.applied.lock().map(log_id) != meta.last_log_id {
            return Err(StoreError::Snapshot(format!("its state is not at {meta}, as its manifest says")));
        }
        set_active(&self.shared.state_dir, &next)?;
        self.swap(database);
        current.retire();
        Ok(())
    }

    /// From here on everybody reads the new state, and every sink knows; who reads the old one finishes there.
    fn swap(&self, database: Database) {
        let (revision, compacted) = (&database.marks.revision, &database.marks.compacted);
        let (revision, compacted) = (revision.load(Ordering::SeqCst), compacted.load(Ordering::SeqCst));
        let subscribed = self.shared.sinks.read();
        let sinks: Vec<_> = subscribed.iter().filter_map(Weak::upgrade).collect();
        let tell = |sink: &dyn EventSink, moment: Moment<'_>| sink.reset(revision, compacted, moment);
        Moment::through(&sinks, &tell, || self.replace(database));
    }

    fn replace(&self, database: Database) {
        let floor = u64::try_from(database.marks.dropped_below.load(Ordering::Acquire)).unwrap_or(0);
        let applied_next = database.applied.lock().map_or(0, |(_, index)| index + 1);
        // Before the state: no request may see it under the old rules.
        self.shared.auth_mark.set(&database.facts.load().auth);
        self.shared.era.store(Arc::new(Era { database: Arc::new(database) }));
        self.shared.dropped_below.truncate(floor);
        self.shared.applied_next.advance(applied_next);
        self.housekeeper.wake();
    }

    /// Copies a snapshot that lies outside this member's directory, and checks every byte of it.
    fn import(&self, snapshot: &SnapshotFiles) -> Result<SnapshotFiles, StoreError> {
        let snapshots = &self.shared.snapshots;
        let staging = snapshots.receiving();
        populate(&staging, snapshot)?;
        for file in snapshot.files() {
            if checksum(&staging.join(&file.name))? != file.crc {
                return Err(StoreError::Snapshot(format!("the checksum of {} does not match", file.name)));
            }
        }
        snapshots.publish(&staging, snapshot.meta().clone(), snapshot.files().to_vec())
    }
}

/// Whose a snapshot's directory is.
pub(super) enum Ownership {
    /// A complete snapshot of this member.
    Kept,
    /// Received by this member, not in use yet.
    Staged,
    /// Somewhere else.
    Foreign,
}

/// Fills a new directory with a snapshot's files: tables never change and are linked, the rest is copied.
fn populate(dir: &Path, snapshot: &SnapshotFiles) -> Result<(), StoreError> {
    files::private_dir(dir)?;
    for file in snapshot.files() {
        let (from, to) = (snapshot.dir().join(&file.name), dir.join(&file.name));
        let linked = file.name.ends_with(".sst") && fs::hard_link(&from, &to).is_ok();
        if !linked {
            fs::copy(&from, &to).map_err(StoreError::files("copy", &from))?;
            files::sync(&to)?;
        }
    }
    files::sync(dir)
}
