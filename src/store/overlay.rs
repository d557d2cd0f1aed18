//! The state as entry n of a batch sees it: what is stored, with the effects of entries before n on top.
//!
//! The overlay also collects the rows to write. History and version rows go into the write batch at once; live versions
//! and v2 rows wait, so a key that changes often in one batch is written once, and keys arrive in order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::database::{Database, walk};
use super::error::StoreError;
use super::events::AuthEvent;
use super::keys::{self, Before, HistoryRow, Progress, meta};
use super::{auth, leases, records};
use crate::model::auth::{Auth, AuthEffect};
use crate::model::effects::{Change, Effects, LeaseChange, Refusal, Response};
use crate::model::record::Record;
use crate::model::v2;
use crate::model::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};

type VisitRow<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A version that is not longer than this is held by the row of the next change: reading another row would cost more.
const WORTH_POINTING_TO: usize = 64;

/// Pending effects over a stored state.
pub(super) struct Overlay<'a> {
    database: &'a Database,
    batch: WriteBatch,
    /// The stored revision: everything above it is in `changes`.
    base: i64,
    revision: i64,
    compacted: i64,
    live: BTreeMap<Bytes, Option<Record>>,
    changes: Vec<(i64, Change)>,
    leases: BTreeMap<i64, Option<Lease>>,
    attached: BTreeMap<(i64, Bytes), bool>,
    alarms: Option<Vec<Alarm>>,
    cluster_version: Option<String>,
    /// The stored auth store, or the one that this batch makes of it.
    auth: Arc<Auth>,
    auth_changed: bool,
    auth_events: Vec<AuthEvent>,
    v2: BTreeMap<Bytes, Option<Bytes>>,
    lease_changes: Vec<LeaseChange>,
    v2_events: Vec<v2::types::Event>,
    live_bytes: u64,
    superseded: u64,
    /// The oldest revision that a history row may point to.
    near: i64,
    /// Bytes of history in the batch.
    history: u64,
    scratch: Vec<u8>,
}

/// An overlay that is complete: what to write, and what to publish once it is written.
pub(super) struct Sealed {
    pub batch: WriteBatch,
    pub progress: Progress,
    /// Bytes of history in the batch.
    pub history: u64,
    pub changes: Vec<(i64, Change)>,
    pub compacted: Option<i64>,
    pub alarms: Option<Vec<Alarm>>,
    pub cluster_version: Option<String>,
    pub auth: Option<Arc<Auth>>,
    pub auth_events: Vec<AuthEvent>,
    pub leases: Vec<LeaseChange>,
    pub v2_events: Vec<v2::types::Event>,
    /// Live versions in the batch.
    pub live: BTreeMap<Bytes, Option<Record>>,
    /// v2 rows in the batch.
    pub v2: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Overlay<'a> {
    /// Nothing pending yet. `expected` sizes the write batch, bytes.
    pub fn over(database: &'a Database, expected: usize) -> Self {
        let marks = &database.marks;
        let revision = marks.revision.load(Ordering::Acquire);
        Self {
            database,
            batch: WriteBatch::with_capacity_bytes(expected),
            base: revision,
            revision,
            compacted: marks.compacted.load(Ordering::Acquire),
            live: BTreeMap::new(),
            changes: Vec::new(),
            leases: BTreeMap::new(),
            attached: BTreeMap::new(),
            alarms: None,
            cluster_version: None,
            auth: Arc::clone(&database.facts.load().auth),
            auth_changed: false,
            auth_events: Vec::new(),
            v2: BTreeMap::new(),
            lease_changes: Vec::new(),
            v2_events: Vec::new(),
            live_bytes: marks.live.load(Ordering::Acquire),
            superseded: marks.superseded.load(Ordering::Acquire),
            near: database.layers.lock().near(),
            history: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes in what one command did; the answer stays with the caller.
    pub fn absorb(&mut self, effects: Effects) -> Result<Response, Refusal> {
        for (sub, change) in (0u32..).zip(effects.changes) {
            self.change(effects.revision, sub, change);
        }
        self.revision = effects.revision;
        for change in effects.leases {
            match change {
                LeaseChange::Granted(lease) | LeaseChange::Recorded(lease) => {
                    leases::put(self.database, &lease, &mut self.batch);
                    self.leases.insert(lease.id, Some(lease));
                }
                LeaseChange::Remove(id) => {
                    leases::remove(self.database, id, &mut self.batch);
                    self.leases.insert(id, None);
                }
            }
            self.lease_changes.push(change);
        }
        if let Some(compacted) = effects.compacted {
            self.compacted = compacted;
            self.put_meta(meta::COMPACTED, &compacted.to_be_bytes());
        }
        if let Some(alarms) = effects.alarms {
            self.put_meta(meta::ALARMS, &records::encode_alarms(&alarms));
            self.alarms = Some(alarms);
        }
        if let Some(version) = effects.cluster_version {
            self.put_meta(meta::CLUSTER_VERSION, version.as_bytes());
            self.cluster_version = Some(version);
        }
        if let Some(effect) = effects.auth {
            self.authenticate(*effect);
        }
        self.v2.extend(effects.v2);
        self.v2_events.extend(effects.v2_events);
        effects.outcome
    }

    fn authenticate(&mut self, effect: AuthEffect) {
        self.auth_events.push(match effect {
            AuthEffect::Login { user, token } => AuthEvent::Login { user, token },
            AuthEffect::Changed(change) => {
                auth::put(self.database, &change, &mut self.batch);
                self.auth = Arc::new(self.auth.after(&change));
                self.auth_changed = true;
                AuthEvent::Changed { enabled: change.enabled, logged_out: change.logged_out }
            }
        });
    }

    fn change(&mut self, main: i64, sub: u32, change: Change) {
        let image = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.bytes().len());
        let row = HistoryRow {
            key: &change.key,
            after: change.after.as_ref().map(|record| record.bytes().as_ref()),
            before: change.before.as_ref().map(|record| self.before(main, record.bytes())),
        };
        self.superseded += row.superseded_bytes();
        row.encode(&mut self.scratch);
        self.history += self.scratch.len() as u64;
        self.batch.put_cf(self.database.family(keys::HISTORY), keys::revision_key(main, sub), &self.scratch);
        keys::version_key(&change.key, main, sub, &mut self.scratch);
        self.batch.put_cf(self.database.family(keys::VERSIONS), &self.scratch, []);
        if change.before.is_some() {
            self.live_bytes = self.live_bytes.saturating_sub(keys::live_bytes(image(&change.before)));
        }
        if change.after.is_some() {
            self.live_bytes += keys::live_bytes(image(&change.after));
        }
        if change.lease_before != change.lease_after {
            self.attach(change.lease_before, &change.key, false);
            self.attach(change.lease_after, &change.key, true);
        }
        self.live.insert(change.key.clone(), change.after.clone());
        self.changes.push((main, change));
    }

    /// How the change at revision `main` keeps the version before it.
    fn before<'r>(&self, main: i64, image: &'r [u8]) -> Before<'r> {
        let written = keys::mod_revision(image).unwrap_or(i64::MIN);
        match u32::try_from(image.len()) {
            Ok(len) if image.len() > WORTH_POINTING_TO && (self.near..main).contains(&written) => {
                Before::At { main: written, len }
            }
            _ => Before::Here(image),
        }
    }

    fn attach(&mut self, lease: i64, key: &Bytes, attached: bool) {
        if lease != 0 {
            leases::attach(self.database, lease, key, attached, &mut self.batch);
            self.attached.insert((lease, key.clone()), attached);
        }
    }

    /// Adds a row to the `meta` family.
    pub fn put_meta(&mut self, name: &[u8], value: &[u8]) {
        self.batch.put_cf(self.database.family(keys::META), name, value);
    }

    /// Completes the batch: every entry up to `applied` (term, index) is in it.
    pub fn seal(mut self, applied: (u64, u64)) -> Sealed {
        let family = self.database.family(keys::LATEST);
        for (key, record) in &self.live {
            match record {
                Some(record) => self.batch.put_cf(family, key, record.bytes()),
                None => self.batch.delete_cf(family, key),
            }
        }
        let family = self.database.family(keys::V2);
        for (key, value) in &self.v2 {
            match value {
                Some(value) => self.batch.put_cf(family, key, value),
                None => self.batch.delete_cf(family, key),
            }
        }
        let progress = Progress {
            applied: Some(applied),
            revision: self.revision,
            live: self.live_bytes,
            superseded: self.superseded,
        };
        self.put_meta(meta::PROGRESS, &progress.encode());
        let compacted =
            (self.compacted != self.database.marks.compacted.load(Ordering::Acquire)).then_some(self.compacted);
        Sealed {
            batch: self.batch,
            progress,
            history: self.history,
            changes: self.changes,
            compacted,
            alarms: self.alarms,
            cluster_version: self.cluster_version,
            auth: self.auth_changed.then_some(self.auth),
            auth_events: self.auth_events,
            leases: self.lease_changes,
            v2_events: self.v2_events,
            live: self.live,
            v2: self.v2,
        }
    }

    fn pending(&self, range: &KeyRange) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let images = self.live.range::<[u8], _>(bounds(range));
        images.map(|(key, record)| (key.as_ref(), record.as_ref().map(|record| record.bytes().as_ref())))
    }

    /// What the keys in `range` that changed in this batch were at `at`, a revision not below `base`.
    fn pending_at(&self, range: &KeyRange, at: i64) -> BTreeMap<&[u8], Option<&[u8]>> {
        let mut images: BTreeMap<_, _> = self.pending(range).collect();
        for (main, change) in self.changes.iter().rev().take_while(|(main, _)| *main > at) {
            debug_assert!(*main > self.base, "pending changes are above the stored revision");
            if range.contains(&change.key) {
                images.insert(&change.key, change.before.as_ref().map(|record| record.bytes().as_ref()));
            }
        }
        images
    }

    fn each(&self, range: &KeyRange, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        merge(self.pending(range), |visit| walk(self.database.live(range), visit), visit)
    }
}

impl View for Overlay<'_> {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        if let Some(pending) = self.live.get(key) {
            return Ok(pending.clone());
        }
        if let Some(recent) = self.database.recent.lock().get(key) {
            return Ok(recent.clone());
        }
        Ok(self.database.get(keys::LATEST, key)?.map(Record::from_stored))
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        if revision < self.base {
            return Ok(self.database.version_at(key, revision)?.map(Record::from_stored));
        }
        let later = self.changes.iter().find(|(main, change)| *main > revision && change.key == key);
        match later {
            Some((_, change)) => Ok(change.before.clone()),
            None => self.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        Ok(self.each(range, &mut |_, record| visit(Record::from_stored(Bytes::copy_from_slice(record))))?)
    }

    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if range.is_empty() {
            return Ok(());
        }
        let visit = &mut |_: &[u8], record: &[u8]| visit(Record::from_stored(Bytes::copy_from_slice(record)));
        if revision < self.base {
            return Ok(self.database.scan_at(range, revision, visit)?);
        }
        let pending = self.pending_at(range, revision);
        Ok(merge(pending.into_iter(), |visit| walk(self.database.live(range), visit), visit)?)
    }

    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        let mut count = 0;
        self.each(range, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        match self.leases.get(&id) {
            Some(pending) => Ok(*pending),
            None => Ok(leases::lease(self.database, id)?),
        }
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        let stored = leases::keys_of(self.database, id)?;
        let mut pending =
            self.attached.range((id, Bytes::new())..).take_while(|((lease, _), _)| *lease == id).peekable();
        if pending.peek().is_none() {
            return Ok(stored);
        }
        let mut keys: BTreeSet<Bytes> = stored.into_iter().collect();
        for ((_, key), attached) in pending {
            if *attached {
                keys.insert(key.clone())
            } else {
                keys.remove(key)
            };
        }
        Ok(keys.into_iter().collect())
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.clone().unwrap_or_else(|| self.database.facts.load().alarms.clone())
    }

    fn cluster_version(&self) -> String {
        self.cluster_version.clone().unwrap_or_else(|| self.database.facts.load().cluster_version.clone())
    }

    fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.auth)
    }

    fn auth_is_on(&self) -> bool {
        self.auth.is_enabled()
    }

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if let Some(pending) = self.v2.get(key) {
            return Ok(pending.clone());
        }
        Ok(self.database.v2_row(key)?)
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        let end = keys::after_prefix(prefix);
        let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let pending = self.v2.range::<[u8], _>((Bound::Included(prefix), upper));
        let pending = pending.map(|(key, value)| (key.as_ref(), value.as_deref()));
        Ok(merge(pending, |visit| walk(self.database.rows(keys::V2, prefix, end.as_deref()), visit), visit)?)
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match range {
        KeyRange::One(key) => (Bound::Included(key), Bound::Included(key)),
        KeyRange::Span { start, end } => {
            (Bound::Included(start), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded))
        }
    }
}

/// Visits stored rows with pending ones over them, in key order. A pending `None` hides the stored row.
fn merge<'p>(
    pending: impl Iterator<Item = (&'p [u8], Option<&'p [u8]>)>,
    stored: impl FnOnce(&mut VisitRow<'_>) -> Result<(), StoreError>,
    visit: &mut VisitRow<'_>,
) -> Result<(), StoreError> {
    let mut pending = pending.peekable();
    let visit_pending = |visit: &mut VisitRow<'_>, (key, image): (&[u8], Option<&[u8]>)| match image {
        Some(image) => visit(key, image),
        None => ControlFlow::Continue(()),
    };
    let mut ended = ControlFlow::Continue(());
    stored(&mut |key, value| {
        while let Some(row) = pending.next_if(|(next, _)| *next < key) {
            ended = visit_pending(visit, row);
            ended?;
        }
        ended = match pending.next_if(|(next, _)| *next == key) {
            Some(row) => visit_pending(visit, row),
            None => visit(key, value),
        };
        ended
    })?;
    if ended.is_continue() {
        for row in pending {
            if visit_pending(visit, row).is_break() {
                break;
            }
        }
    }
    Ok(())
}
