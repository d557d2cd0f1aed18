//! Random v3 requests over a small key space, so that keys collide, ranges overlap and leases are shared.

use bytes::Bytes;
use etcd_charm::proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use rand::Rng;
use rand::rngs::SmallRng;

/// One call.
#[derive(Debug, Clone)]
pub enum Call {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
}

/// What the generator knows of the stores, so that most requests make sense and some do not.
pub struct Generator {
    pub random: SmallRng,
    pub revision: i64,
    pub compacted: i64,
}

const DEPTH: usize = 2;

impl Generator {
    pub fn next(&mut self) -> Call {
        match self.random.random_range(0..100) {
            0..35 => Call::Put(self.put()),
            35..60 => Call::Range(self.range()),
            60..70 => Call::Delete(self.delete()),
            70..88 => Call::Txn(self.txn(DEPTH)),
            88..90 => Call::Compact(pb::CompactionRequest { revision: self.old_revision(), physical: false }),
            90..93 => Call::Grant(pb::LeaseGrantRequest { id: self.lease(), ttl: self.ttl() }),
            93..95 => Call::Revoke(pb::LeaseRevokeRequest { id: self.lease() }),
            95..98 => Call::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys: self.chance(2) }),
            _ => Call::Leases,
        }
    }

    /// A call that may change keys, without leases.
    pub fn write(&mut self) -> Call {
        match self.random.random_range(0..10) {
            0..5 => Call::Put(pb::PutRequest { lease: 0, ..self.put() }),
            5..7 => Call::Delete(self.delete()),
            _ => Call::Txn(self.txn(DEPTH)),
        }
    }

    /// A compaction, mostly one that is possible. Physical, so that nobody sees half of it.
    pub fn compaction(&mut self) -> Call {
        Call::Compact(pb::CompactionRequest { revision: self.old_revision(), physical: true })
    }

    /// A watcher of now, the past or the future, which may be refused.
    pub fn watch(&mut self) -> pb::WatchCreateRequest {
        let start_revision = match self.random.random_range(0..8) {
            0..3 => 0,
            3 => self.revision + self.random.random_range(1..40),
            4 => self.random.random_range(0..=self.revision),
            // Never below nothing: 3.4 takes that for the beginning, newer versions refuse it, and so do we.
            _ => self.old_revision().max(0),
        };
        let filters = match self.random.random_range(0..6) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            _ => Vec::new(),
        };
        pb::WatchCreateRequest {
            key: self.key(),
            range_end: self.range_end(),
            start_revision,
            filters,
            prev_kv: self.chance(2),
            watch_id: if self.chance(8) { self.random.random_range(1..40) } else { 0 },
            fragment: self.chance(3),
            progress_notify: self.chance(6),
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn key(&mut self) -> Bytes {
        if self.chance(60) {
            return Bytes::new();
        }
        let names: [&[u8]; 12] =
            [b"a", b"a/", b"a/1", b"a/2", b"a/2/x", b"b", b"b\xff", b"c", b"\x00", b"zz", b"a0", b"\xff\xff"];
        Bytes::from_static(names[self.random.random_range(0..names.len())])
    }

    fn range_end(&mut self) -> Bytes {
        match self.random.random_range(0..10) {
            0..5 => Bytes::new(),
            5 => Bytes::from_static(b"\x00"),
            6 => Bytes::from_static(b"a0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = self.random.random_range(0..12);
        (0..length).map(|_| self.random.random_range(b'a'..=b'd')).collect::<Vec<u8>>().into()
    }

    fn lease(&mut self) -> i64 {
        self.random.random_range(1..6)
    }

    /// Never short enough to expire during the run.
    fn ttl(&mut self) -> i64 {
        [100_000, 500_000, 9_000_000_000, 9_000_000_001][self.random.random_range(0..4)]
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.chance(12);
        let ignore_lease = self.chance(12);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && !self.chance(5) { Bytes::new() } else { self.value() },
            lease: if self.chance(4) && (!ignore_lease || self.chance(5)) { self.lease() } else { 0 },
            prev_kv: self.chance(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest { key: self.key(), range_end: self.range_end(), prev_kv: self.chance(2) }
    }

    /// A revision that is mostly readable, sometimes compacted or not yet there.
    fn old_revision(&mut self) -> i64 {
        match self.random.random_range(0..12) {
            0 => self.compacted - 1,
            1 => self.compacted,
            2 => self.revision + 1,
            3 => self.revision,
            // The end of a lease writes without telling a revision here, and a compaction may reach there.
            _ => self.random.random_range(self.compacted.max(0)..=self.revision.max(self.compacted)),
        }
    }

    fn bound(&mut self) -> i64 {
        if self.chance(8) { self.old_revision().max(0) } else { 0 }
    }

    fn range(&mut self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: if self.chance(3) { self.random.random_range(-1..4) } else { 0 },
            revision: if self.chance(3) { self.old_revision() } else { 0 },
            sort_order: if self.chance(3) { self.random.random_range(0..3) } else { 0 },
            sort_target: if self.chance(3) { self.random.random_range(0..5) } else { 0 },
            serializable: self.chance(3),
            keys_only: self.chance(6),
            count_only: self.chance(8),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    /// A put inside a transaction. etcd 3.4 panics when `ignore_value` or `ignore_lease` meets a key that an earlier
    /// operation of the same transaction deleted, so there only plain puts are asked.
    fn put_inside(&mut self) -> pb::PutRequest {
        pb::PutRequest { ignore_value: false, ignore_lease: false, ..self.put() }
    }

    /// A range inside a transaction. Where its revision cannot be read, etcd 3.4 panics once a write went before it, and
    /// at any such revision in a nested transaction; both servers are to live, so those are not asked.
    fn range_inside(&mut self, depth: usize) -> pb::RangeRequest {
        let range = self.range();
        let readable = range.revision == 0 || (self.compacted.max(1)..=self.revision).contains(&range.revision);
        pb::RangeRequest { revision: if readable && depth == DEPTH { range.revision } else { 0 }, ..range }
    }

    fn compare(&mut self) -> pb::Compare {
        let target = self.random.random_range(0..5);
        let union = match CompareTarget::try_from(target) {
            Ok(CompareTarget::Version) => TargetUnion::Version(self.random.random_range(0..4)),
            Ok(CompareTarget::Create) => {
                TargetUnion::CreateRevision(if self.chance(2) { 0 } else { self.old_revision() })
            }
            Ok(CompareTarget::Mod) => TargetUnion::ModRevision(if self.chance(2) { 0 } else { self.old_revision() }),
            Ok(CompareTarget::Value) => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(self.random.random_range(0..6)),
        };
        pb::Compare {
            result: self.random.random_range(CompareResult::Equal as i32..=CompareResult::NotEqual as i32),
            target,
            key: self.key(),
            range_end: if self.chance(4) { self.range_end() } else { Bytes::new() },
            target_union: if self.chance(15) { None } else { Some(union) },
        }
    }

    fn operation(&mut self, depth: usize) -> pb::RequestOp {
        let request = match self.random.random_range(0..10) {
            0..4 => Some(Request::RequestPut(self.put_inside())),
            4..7 => Some(Request::RequestRange(self.range_inside(depth))),
            7..9 => Some(Request::RequestDeleteRange(self.delete())),
            _ if depth > 0 => Some(Request::RequestTxn(self.txn(depth - 1))),
            _ if self.chance(6) => None,
            _ => Some(Request::RequestRange(self.range_inside(depth))),
        };
        pb::RequestOp { request }
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let (compares, success, failure) =
            (self.random.random_range(0..3), self.random.random_range(0..4), self.random.random_range(0..4));
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..success).map(|_| self.operation(depth)).collect(),
            failure: (0..failure).map(|_| self.operation(depth)).collect(),
        }
    }
}
