//! Random commands through the machine, held against the rules' reference view: at every revision, across batches,
//! restarts, crashes, compactions and snapshot installs.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::prelude::*;
use prost::Message;

use super::{apply, compact, crash_copy, delete, entry, open, put};
use crate::model::command::{Command, LeaseGrant, LeaseRevoke};
use crate::model::effects::{Change, Position};
use crate::model::memory::MemoryView;
use crate::model::record::Record;
use crate::model::v2;
use crate::model::view::{KeyRange, View};
use crate::proto::etcdserverpb as pb;
use crate::raft::types::Entry;
use crate::store::{EventKind, Machine, Store};

const KEYS: [&[u8]; 6] = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"\xff"];
const PATHS: [&str; 6] = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/a/_h"];
/// A wall clock of v2 commands, nanoseconds since 1970.
const NOW: i64 = 1_700_000_000_000_000_000;

/// What a run does.
#[derive(Debug, Clone)]
enum Step {
    /// Applies these in one batch.
    Apply(Vec<Op>),
    /// Closes and opens again.
    Restart,
    /// Writes all to disk.
    Flush,
    /// Goes on with what a crash leaves on disk, and applies the rest of the log again in batches of so many entries.
    Crash(usize),
    /// Waits until compacted history is dropped, and merges, so that it is really gone.
    DropHistory,
    /// Continues on a fresh member that installed a snapshot of this one.
    Install,
}

#[derive(Debug, Clone)]
enum Op {
    Put { key: usize, value: u8, lease: i64 },
    Delete { key: usize, to: usize },
    Txn { key: usize, other: usize, back: i64 },
    Compact { back: i64 },
    Grant { id: i64 },
    Revoke { id: i64 },
    V2 { verb: v2::types::Verb, path: usize, value: u8, expires: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), any::<u8>(), 0i64..3).prop_map(|(key, value, lease)| Op::Put { key, value, lease }),
        3 => (key(), key()).prop_map(|(key, to)| Op::Delete { key, to }),
        2 => (key(), key(), 0i64..5).prop_map(|(key, other, back)| Op::Txn { key, other, back }),
        1 => (0i64..6).prop_map(|back| Op::Compact { back }),
        2 => (1i64..3).prop_map(|id| Op::Grant { id }),
        1 => (1i64..3).prop_map(|id| Op::Revoke { id }),
        4 => v2_op(),
    ]
}

fn v2_op() -> impl Strategy<Value = Op> {
    use v2::types::Verb;
    let verbs = vec![Verb::Set, Verb::Set, Verb::CreateInOrder, Verb::Update, Verb::Delete, Verb::Expire];
    let parts = (prop::sample::select(verbs), 0..PATHS.len(), any::<u8>(), any::<bool>());
    parts.prop_map(|(verb, path, value, expires)| Op::V2 { verb, path, value, expires })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(op(), 1..12).prop_map(Step::Apply),
        1 => Just(Step::Restart),
        1 => Just(Step::Flush),
        2 => (1usize..9).prop_map(Step::Crash),
        1 => Just(Step::DropHistory),
        1 => Just(Step::Install),
    ]
}

fn key(at: usize) -> Bytes {
    Bytes::from_static(KEYS[at])
}

fn command(op: &Op, revision: i64) -> Command {
    match *op {
        Op::Put { key: at, value, lease } => {
            // Some short, some long enough that the row of the next change points to them.
            let length = if value.is_multiple_of(3) { 3 } else { 90 };
            let value = vec![value; length].into();
            Command::Put(pb::PutRequest { key: key(at), value, lease, ..Default::default() })
        }
        Op::Delete { key: at, to } if to > at => {
            Command::DeleteRange(pb::DeleteRangeRequest { key: key(at), range_end: key(to), prev_kv: true })
        }
        Op::Delete { key: at, .. } => delete(KEYS[at]),
        Op::Txn { key: at, other, back } => txn(at, other, revision - back),
        Op::Compact { back } => compact(revision - back),
        Op::Grant { id } => Command::LeaseGrant(LeaseGrant { id, ttl: 60 }),
        Op::Revoke { id } => Command::LeaseRevoke(LeaseRevoke { ids: vec![id], ..LeaseRevoke::default() }),
        Op::V2 { verb, path, value, expires } => {
            let command = v2::types::Command {
                verb: verb as i32,
                path: Bytes::from_static(PATHS[path].as_bytes()),
                value: vec![value; 3].into(),
                expiration: expires.then_some(NOW - i64::from(value)),
                recursive: value % 2 == 0,
                now: NOW - 100,
                ..Default::default()
            };
            Command::V2(command.encode_to_vec().into())
        }
    }
}

/// Reads an old revision, deletes a key and writes it again (two changes of one key in one revision), reads all.
fn txn(at: usize, other: usize, old: i64) -> Command {
    use pb::request_op::Request;
    let all =
        |revision| pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
    let requests = [
        Request::RequestRange(all(old.max(0))),
        Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key(at), ..Default::default() }),
        Request::RequestPut(pb::PutRequest { key: key(other), value: "t".into(), ..Default::default() }),
        Request::RequestRange(all(0)),
    ];
    let success = requests.map(|request| pb::RequestOp { request: Some(request) }).into();
    Command::Txn(pb::TxnRequest { success, ..Default::default() })
}

fn member(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("member")
}

struct Run {
    store: Store,
    machine: Machine,
    oracle: MemoryView,
    /// Every change ever made, by revision.
    history: Vec<(i64, Change)>,
    /// Every entry ever applied; its index is its position.
    log: Vec<Entry>,
    /// Last: the directory goes after the store in it has closed.
    dir: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, machine) = open(&member(&dir));
        Self { store, machine, oracle: MemoryView::default(), history: Vec::new(), log: Vec::new(), dir }
    }

    async fn step(self, step: &Step) -> Self {
        match step {
            Step::Apply(ops) => self.apply(ops).await,
            Step::Restart => {
                let Self { dir, store, machine, oracle, history, log } = self;
                drop((store, machine));
                let (store, machine) = open(&member(&dir));
                Self { dir, store, machine, oracle, history, log }
            }
            Step::Flush => {
                self.store.shared.database().flush().unwrap();
                self
            }
            Step::Crash(batch) => self.crash(*batch).await,
            Step::DropHistory => {
                self.store.defragment().await.unwrap();
                self
            }
            Step::Install => self.install().await,
        }
    }

    async fn apply(mut self, ops: &[Op]) -> Self {
        for op in ops {
            let command = command(op, self.oracle.revision());
            let position = Position { term: 1, index: self.log.len() as u64 };
            let effects =
                crate::model::apply::apply(&self.oracle, &crate::model::auth::Identity::nobody(), &command, position)
                    .unwrap();
            self.oracle.absorb(&effects);
            self.history.extend(effects.changes.into_iter().map(|change| (effects.revision, change)));
            self.log.push(entry(position.index, command));
        }
        let new = self.log[self.log.len() - ops.len()..].to_vec();
        apply(&mut self.machine, new).await;
        self
    }

    async fn crash(self, batch: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        crash_copy(&member(&self.dir), &member(&dir));
        let (store, mut machine) = open(&member(&dir));
        let applied = store.applied().map_or(0, |id| id.index as usize + 1);
        for entries in self.log[applied..].chunks(batch) {
            apply(&mut machine, entries.to_vec()).await;
        }
        Self { dir, store, machine, ..self }
    }

    async fn install(mut self) -> Self {
        if self.log.is_empty() {
            return self;
        }
        let mut builder = self.machine.try_create_snapshot_builder(true).await.unwrap();
        let built = builder.build_snapshot().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (store, mut machine) = open(&member(&dir));
        machine.install_snapshot(&built.meta, built.snapshot).await.unwrap();
        Self { dir, store, machine, ..self }
    }

    fn check(&self) {
        let view = self.store.view();
        assert_eq!(view.revision(), self.oracle.revision());
        assert_eq!(view.compacted(), self.oracle.compacted());
        for lease in 1..3 {
            assert_eq!(view.lease(lease).unwrap(), self.oracle.lease(lease).unwrap());
            assert_eq!(view.lease_keys(lease).unwrap(), self.oracle.lease_keys(lease).unwrap());
        }
        let ranges = || {
            let span = |start, end: Option<usize>| KeyRange::Span { start: key(start), end: end.map(key) };
            [span(0, None), span(1, Some(4)), span(3, Some(3)), KeyRange::One(key(2))]
        };
        for key in KEYS {
            assert_eq!(view.get(key).unwrap(), self.oracle.get(key).unwrap());
        }
        for range in ranges() {
            assert_eq!(view.count(&range).unwrap(), self.oracle.count(&range).unwrap());
            assert_eq!(scan(&view, &range, None), scan(&self.oracle, &range, None));
        }
        for revision in self.oracle.compacted().max(1)..=self.oracle.revision() {
            for key in KEYS {
                let (ours, theirs) = (view.get_at(key, revision), self.oracle.get_at(key, revision));
                assert_eq!(ours.unwrap(), theirs.unwrap(), "{key:?} at {revision}");
            }
            for range in ranges() {
                let (ours, theirs) = (scan(&view, &range, Some(revision)), scan(&self.oracle, &range, Some(revision)));
                assert_eq!(ours, theirs, "{range:?} at {revision}");
            }
        }
        self.check_history();
        self.check_v2();
    }

    fn check_v2(&self) {
        let ours = v2_rows(&self.store.view());
        assert_eq!(ours, v2_rows(&self.oracle));
        assert_eq!(self.store.shared.database().marks.v2(), head_of(&ours), "what requests are told first");
        for path in PATHS.into_iter().chain(["/"]) {
            for recursive in [false, true] {
                let ours = v2::get(&self.store.view(), path.as_bytes(), recursive, NOW, v2::Budget::NONE);
                let theirs = v2::get(&self.oracle, path.as_bytes(), recursive, NOW, v2::Budget::NONE);
                assert_eq!(ours.unwrap(), theirs.unwrap(), "{path}");
            }
        }
    }

    fn check_history(&self) {
        let from = self.oracle.compacted().max(1);
        let mut found = Vec::new();
        let last = self.store.history(from, i64::MAX - 1, usize::MAX, &|_| true, &mut |event| {
            found.push(event);
            ControlFlow::Continue(())
        });
        assert_eq!(last.unwrap(), self.oracle.revision());
        let expected: Vec<_> = self.history.iter().filter(|(revision, _)| *revision >= from).collect();
        assert_eq!(found.len(), expected.len());
        for (event, (revision, change)) in found.iter().zip(expected) {
            let bytes = |record: &Option<Record>| record.as_ref().map(|record| record.bytes().clone());
            let before = if *revision > self.oracle.compacted() { bytes(&change.before) } else { None };
            assert_eq!((event.revision, &event.key, &event.prev), (*revision, &change.key, &before));
            let kind = match &change.after {
                Some(_) => EventKind::Put { create: change.before.is_none() },
                None => EventKind::Delete,
            };
            assert_eq!(event.kind, kind);
        }
    }
}

fn v2_rows(view: &impl View) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    };
    view.v2_scan(b"", &mut visit).unwrap();
    found
}

fn head_of(rows: &[(Bytes, Bytes)]) -> v2::Head {
    let mut head = v2::Head::default();
    for (key, value) in rows {
        head.take_in(key, Some(value)).unwrap();
    }
    head
}

fn scan(view: &impl View, range: &KeyRange, at: Option<i64>) -> Vec<Record> {
    let mut found = Vec::new();
    let mut visit = |record| {
        found.push(record);
        ControlFlow::Continue(())
    };
    match at {
        Some(revision) => view.scan_at(range, revision, &mut visit).unwrap(),
        None => view.scan(range, &mut visit).unwrap(),
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_store_equals_the_reference_at_every_revision(steps in prop::collection::vec(step(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new();
            for step in &steps {
                run = run.step(step).await;
                run.check();
            }
        });
    }

    #[test]
    fn the_hash_depends_neither_on_batching_nor_on_physical_compaction(
        batches in prop::collection::vec(prop::collection::vec(op(), 1..12), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut batched, mut single) = (Run::new(), Run::new());
            for ops in &batches {
                batched = batched.apply(ops).await;
                for op in ops {
                    single = single.apply(std::slice::from_ref(op)).await;
                }
                // One of them has dropped, merged and restarted; the other not.
                single = single.step(&Step::DropHistory).await;
                single.store.defragment().await.unwrap();
                single = single.step(&Step::Restart).await;
                for revision in single.store.compacted().max(0)..=single.store.revision() {
                    let (one, other) = (single.store.hash_kv(revision).unwrap(), batched.store.hash_kv(revision).unwrap());
                    assert_eq!(one, other);
                }
                assert_eq!(single.store.hash().unwrap(), batched.store.hash().unwrap());
            }
        });
    }
}

#[tokio::test]
async fn the_hash_notices_a_different_value() {
    let (mut one, mut other) = (Run::new(), Run::new());
    apply(&mut one.machine, [entry(0, put(b"k", b"x"))]).await;
    apply(&mut other.machine, [entry(0, put(b"k", b"y"))]).await;
    assert_ne!(one.store.hash_kv(0).unwrap().hash, other.store.hash_kv(0).unwrap().hash);
}
