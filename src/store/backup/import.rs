//! An etcd database file becomes the state of a member that does not exist yet.
//!
//! Rows come in the order of revisions, as they happened. The newest version of each key so far is in the new `latest`,
//! which gives each change its "before". What lies below the compaction revision leaves no history. The caller gives an
//! empty directory and throws it away when this fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use rocksdb::WriteBatch;

use super::rows::{self, LeaseRow, Revision};
use super::{ImportError, auth};
use crate::bbolt::{Bucket, ReadAt, Reader};
use crate::model::view::{Alarm, Lease};
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::mvccpb::KeyValue;
use crate::raft::types::{Member, Membership, StoredMembership};
use crate::store::database::Database;
use crate::store::keys::{self, Before, Dropped, HistoryRow, Progress, meta};
use crate::store::layers::Layer;
use crate::store::options::StoreOptions;
use crate::store::{leases, open, records, size};

/// Bytes of one write, about.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// Beyond this a revision cannot be meant: a number that damage made, or malice, leaves no room to count on from.
const MAX_REVISION: i64 = 1 << 62;
/// Most alarms: one of each kind for each member that ever was.
const MAX_ALARMS: usize = 4096;

/// What a restored state is told that the file does not say.
#[derive(Debug, Clone)]
pub struct Import {
    /// The voters of the new cluster.
    pub members: BTreeMap<u64, Member>,
    /// Term and index of the entry that is said to have made the state: the log begins behind it.
    pub applied: (u64, u64),
    /// Adds to the revision and counts everything below the sum as compacted, so that no client sees a revision go back.
    pub bump: Option<i64>,
}

/// What was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Current revision of the new state.
    pub revision: i64,
    /// Its compaction revision; -1 = none.
    pub compacted: i64,
    /// Live keys.
    pub keys: u64,
    /// Leases.
    pub leases: u64,
}

/// Makes the state of the member whose directory is `member` from the database.
///
/// # Errors
/// See [`ImportError`]. The directory then holds part of a state.
pub fn import<F: ReadAt>(file: &mut Reader<F>, member: &Path, how: &Import) -> Result<Imported, ImportError> {
    let buckets = file.buckets()?;
    let find = |name: &str| buckets.iter().find(|bucket| bucket.name == name.as_bytes());
    let need = |name: &str| find(name).ok_or_else(|| ImportError::Contents(format!("it has no bucket {name:?}")));
    let (key, meta_bucket) = (need(rows::KEY)?, need(rows::META)?);
    let compacted = read_compacted(file, meta_bucket)?;
    let alarms = find(rows::ALARM).map_or(Ok(Vec::new()), |bucket| read_alarms(file, bucket))?;
    let database = Database::open(&open::first_generation(member)?, &StoreOptions::default(), true)?;
    let leases = find(rows::LEASE).map_or(Ok(0), |bucket| import_leases(&database, file, bucket))?;
    let mut keyspace = Keyspace::over(&database, if how.bump.is_some() { i64::MAX } else { compacted });
    file.walk::<ImportError>(key, &mut |key, value| keyspace.row(key, value))?;
    keyspace.commit()?;
    let Keyspace { revision, live, superseded, keys, .. } = keyspace;
    let (mut revision, mut compacted) = (revision.max(compacted), compacted);
    if let Some(bump) = how.bump {
        let overflow = || ImportError::Contents(format!("revision {revision} cannot be raised by {bump}"));
        revision = revision.checked_add(bump).ok_or_else(overflow)?;
        compacted = revision;
    }
    if revision > MAX_REVISION {
        return Err(ImportError::Contents(format!("revision {revision} is too large to count on from")));
    }
    let mut batch = WriteBatch::default();
    for layer in database.layers.lock().forget_all() {
        batch.delete_cf(database.family(keys::META), keys::layer_key(layer.start));
    }
    auth::import(file, &find, &database, &mut batch)?;
    let mut put = |name: &[u8], value: &[u8]| batch.put_cf(database.family(keys::META), name, value);
    put(meta::PROGRESS, &Progress { applied: Some(how.applied), revision, live, superseded }.encode());
    // What comes later must not point to imported versions: those below the compaction revision have no history row.
    let layer = Layer::closed(revision + 1);
    put(&keys::layer_key(layer.start), &layer.encode());
    if compacted >= 0 {
        put(meta::COMPACTED, &compacted.to_be_bytes());
        put(meta::DROPPED, &Dropped { floor: compacted, bytes: 0 }.encode());
    }
    put(meta::MEMBERSHIP, &records::encode_membership(&membership(how)?));
    put(meta::ALARMS, &records::encode_alarms(&alarms));
    put(meta::ALLOCATED, &size::pages(size::EMPTY + live + superseded).to_be_bytes());
    database.write(batch)?;
    database.flush()?;
    Ok(Imported { revision, compacted, keys, leases })
}

fn membership(how: &Import) -> Result<StoredMembership, ImportError> {
    let voters: BTreeSet<u64> = how.members.keys().copied().collect();
    let membership = Membership::new(vec![voters], how.members.clone())
        .map_err(|error| ImportError::Contents(format!("the new member list is not valid: {error}")))?;
    Ok(StoredMembership::new(Some(records::log_id(how.applied)), membership))
}

/// Where history begins. A compaction that was begun counts: part of what is below may be gone.
fn read_compacted<F: ReadAt>(file: &mut Reader<F>, bucket: &Bucket) -> Result<i64, ImportError> {
    let mut compacted = -1;
    file.walk::<ImportError>(bucket, &mut |name, value| {
        if name == rows::SCHEDULED || name == rows::FINISHED {
            let bad = || ImportError::Contents("its compaction revision is not one".to_owned());
            compacted = compacted.max(rows::parse_compaction(value).ok_or_else(bad)?);
        }
        Ok(())
    })?;
    Ok(compacted)
}

fn read_alarms<F: ReadAt>(file: &mut Reader<F>, bucket: &Bucket) -> Result<Vec<Alarm>, ImportError> {
    let mut alarms = Vec::new();
    file.walk::<ImportError>(bucket, &mut |key, _| {
        let bad = |_| ImportError::Contents("a row of bucket \"alarm\" is no alarm".to_owned());
        let alarm = AlarmMember::decode(key).map_err(bad)?;
        if alarms.len() == MAX_ALARMS {
            return Err(ImportError::Contents(format!("it has more than {MAX_ALARMS} alarms")));
        }
        alarms.push((alarm.member_id, alarm.alarm));
        Ok(())
    })?;
    alarms.sort_unstable();
    alarms.dedup();
    Ok(alarms)
}

fn import_leases<F: ReadAt>(database: &Database, file: &mut Reader<F>, bucket: &Bucket) -> Result<u64, ImportError> {
    let mut batch = WriteBatch::default();
    let mut count = 0;
    file.walk::<ImportError>(bucket, &mut |key, value| {
        let bad = || ImportError::Contents("a row of bucket \"lease\" is no lease".to_owned());
        let row = LeaseRow::decode(value).map_err(|_| bad())?;
        if key != row.id.to_be_bytes() || row.id == 0 || row.ttl <= 0 {
            return Err(bad());
        }
        let lease = Lease { id: row.id, ttl: row.ttl, remaining: row.remaining.clamp(0, row.ttl), granted: 0 };
        leases::put(database, &lease, &mut batch);
        count += 1;
        if batch.size_in_bytes() > BATCH_BYTES {
            database.write(std::mem::take(&mut batch))?;
        }
        Ok(())
    })?;
    database.write(batch)?;
    Ok(count)
}

/// The keyspace as far as it has been read.
struct Keyspace<'a> {
    database: &'a Database,
    batch: WriteBatch,
    /// Newest versions of the keys in `batch`.
    pending: HashMap<Bytes, Option<Bytes>>,
    pending_bytes: usize,
    /// Changes from here on leave history.
    compacted: i64,
    last: Option<Revision>,
    revision: i64,
    live: u64,
    superseded: u64,
    keys: u64,
    /// The lease asked for last, and whether it is there.
    lease: (i64, bool),
    scratch: Vec<u8>,
}

impl<'a> Keyspace<'a> {
    fn over(database: &'a Database, compacted: i64) -> Self {
        Self {
            database,
            batch: WriteBatch::default(),
            pending: HashMap::new(),
            pending_bytes: 0,
            compacted,
            last: None,
            // A store without any change is at 1.
            revision: 1,
            live: 0,
            superseded: 0,
            keys: 0,
            lease: (0, false),
            scratch: Vec::new(),
        }
    }

    /// Takes in one row of the `key` bucket.
    fn row(&mut self, stored: &[u8], value: &[u8]) -> Result<(), ImportError> {
        let bad = |what: &str| ImportError::Contents(format!("a row of bucket \"key\" {what}"));
        let at = Revision::decode(stored).ok_or_else(|| bad("has no revision for a key"))?;
        let before = |last: Revision| (last.main, last.sub) < (at.main, at.sub);
        if self.last.is_some_and(|last| !before(last)) {
            return Err(bad("repeats a revision"));
        }
        self.last = Some(at);
        self.revision = self.revision.max(at.main);
        let kv = KeyValue::decode(value).map_err(|_| bad("does not decode"))?;
        if kv.key.is_empty() {
            // What `etcdutl snapshot restore --bump-revision` leaves: a revision and nothing else.
            return if value.is_empty() { Ok(()) } else { Err(bad("has no key")) };
        }
        if !at.deleted {
            let counts = |number: i64| (1..=at.main).contains(&number);
            let fits = kv.mod_revision == at.main && counts(kv.version) && counts(kv.create_revision);
            if !fits {
                return Err(bad(&format!("at revision {} says it is of revision {}", at.main, kv.mod_revision)));
            }
        }
        let key = kv.key.clone();
        let after = (!at.deleted).then(|| kv.encode_to_vec());
        self.change(at, &key, after.map(Bytes::from), kv.lease)
    }

    fn change(&mut self, at: Revision, key: &Bytes, after: Option<Bytes>, lease: i64) -> Result<(), ImportError> {
        let before = match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.database.get(keys::LATEST, key)?,
        };
        if at.main >= self.compacted {
            let row = HistoryRow { key, after: after.as_deref(), before: before.as_deref().map(Before::Here) };
            self.superseded += row.superseded_bytes();
            row.encode(&mut self.scratch);
            self.batch.put_cf(self.database.family(keys::HISTORY), keys::revision_key(at.main, at.sub), &self.scratch);
            keys::version_key(key, at.main, at.sub, &mut self.scratch);
            self.batch.put_cf(self.database.family(keys::VERSIONS), &self.scratch, []);
        }
        let lease_before = match &before {
            Some(record) => KeyValue::decode(record.clone()).map_or(0, |kv| kv.lease),
            None => 0,
        };
        let lease_after = if after.is_some() { lease } else { 0 };
        if lease_before != lease_after {
            self.attach(lease_before, key, false)?;
            self.attach(lease_after, key, true)?;
        }
        if let Some(before) = &before {
            self.live = self.live.saturating_sub(keys::live_bytes(before.len()));
            self.keys -= 1;
        }
        let family = self.database.family(keys::LATEST);
        match &after {
            Some(record) => {
                self.live += keys::live_bytes(record.len());
                self.keys += 1;
                self.batch.put_cf(family, key, record);
            }
            None => self.batch.delete_cf(family, key),
        }
        self.pending_bytes += key.len() + after.as_ref().map_or(0, Bytes::len);
        self.pending.insert(key.clone(), after);
        if self.pending_bytes + self.batch.size_in_bytes() > BATCH_BYTES { self.commit() } else { Ok(()) }
    }

    /// A key may name a lease that is gone: it then stays without one, as in etcd.
    fn attach(&mut self, lease: i64, key: &[u8], attached: bool) -> Result<(), ImportError> {
        if lease == 0 {
            return Ok(());
        }
        if self.lease.0 != lease {
            self.lease = (lease, leases::lease(self.database, lease)?.is_some());
        }
        if self.lease.1 {
            leases::attach(self.database, lease, key, attached, &mut self.batch);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ImportError> {
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(self.database.write(std::mem::take(&mut self.batch))?)
    }
}
