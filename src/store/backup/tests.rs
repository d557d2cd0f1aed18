//! A state goes out as an etcd database and comes back the same; what is no such database is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::bbolt::{Reader, Writer};
use crate::model::command::{Command, LeaseGrant};
use crate::model::view::{KeyRange, Lease, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use crate::raft::types::Member;
use crate::store::tests::{apply, compact, delete, entry, open, put};
use crate::store::{Machine, Store};

fn how(bump: Option<i64>) -> Import {
    let member = Member { name: "m".into(), peer_urls: vec!["http://h:1".into()], client_urls: Vec::new() };
    Import { members: BTreeMap::from([(7, member)]), applied: (1, 1), bump }
}

fn export(store: &Store) -> Vec<u8> {
    use std::io::Read;
    let mut exported = store.export(&AtomicBool::new(false)).expect("an export");
    let mut bytes = Vec::new();
    exported.file.read_to_end(&mut bytes).expect("a file");
    assert_eq!(bytes.len() as u64, exported.len);
    assert_eq!(exported.revision, store.revision());
    bytes
}

fn import_bytes(bytes: &[u8], member: &Path, how: &Import) -> Result<Imported, ImportError> {
    let mut reader = Reader::open(bytes.to_vec(), bytes.len() as u64)?;
    std::fs::create_dir_all(member).expect("a directory");
    import(&mut reader, member, how)
}

/// Everything a client can see: each readable revision, each change, each lease with its keys.
fn visible(store: &Store) -> Vec<String> {
    let view = store.view();
    let mut seen = vec![format!("revision {} compacted {}", view.revision(), view.compacted())];
    let all = KeyRange::Span { start: Bytes::new(), end: None };
    for revision in view.compacted().max(1)..=view.revision() {
        view.scan_at(&all, revision, &mut |record| {
            seen.push(format!("{revision}: {:?}", record.decode().expect("a record")));
            ControlFlow::Continue(())
        })
        .expect("a scan");
    }
    // The changes of the compaction revision itself may have lost what was before them.
    let from = view.compacted().max(1) + 1;
    if from <= view.revision() {
        store
            .history(from, view.revision(), usize::MAX, &|_| true, &mut |event| {
                seen.push(format!("{event:?}"));
                ControlFlow::Continue(())
            })
            .expect("history");
    }
    for lease in store.leases().expect("leases") {
        // etcd's format has no place for the entry that granted it.
        let lease = Lease { granted: 0, ..lease };
        seen.push(format!("{lease:?} {:?}", view.lease_keys(lease.id).expect("keys")));
    }
    seen.push(format!("{:?} {:?}", view.alarms(), store.hash_kv(0).expect("a hash").hash));
    seen
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>, Option<i64>),
    Delete(u8),
    Both(u8, u8),
    Compact(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![5 => 0usize..50, 1 => 4000usize..9000].prop_map(|len| vec![len as u8; len]);
    prop_oneof![
        8 => (0u8..20, value, prop::option::of(1i64..4)).prop_map(|(key, value, lease)| Step::Put(key, value, lease)),
        4 => (0u8..20).prop_map(Step::Delete),
        2 => (0u8..20, 0u8..20).prop_map(|(a, b)| Step::Both(a, b)),
        1 => (0i64..6).prop_map(Step::Compact),
    ]
}

fn command(step: &Step, revision: i64) -> Command {
    let key = |n: &u8| Bytes::from(vec![b'k', *n]);
    let put_request = |n: &u8, value: &[u8], lease| pb::PutRequest {
        key: key(n),
        value: Bytes::copy_from_slice(value),
        lease,
        ..Default::default()
    };
    match step {
        Step::Put(n, value, lease) => Command::Put(put_request(n, value, lease.unwrap_or(0))),
        Step::Delete(n) => delete(&key(n)),
        Step::Both(a, b) => {
            let op =
                |n| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put_request(n, b"both", 0))) };
            // One revision with two changes, in an order that is not that of the keys.
            let success = if a == b { vec![op(a)] } else { vec![op(b), op(a)] };
            Command::Txn(pb::TxnRequest { success, ..Default::default() })
        }
        Step::Compact(back) => compact(revision - back),
    }
}

async fn run(machine: &mut Machine, store: &Store, steps: &[Step]) {
    let mut index = 1;
    for id in [1, 2, 3] {
        apply(machine, [entry(index, Command::LeaseGrant(LeaseGrant { id, ttl: 60 + id }))]).await;
        index += 1;
    }
    for step in steps {
        apply(machine, [entry(index, command(step, store.revision()))]).await;
        index += 1;
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_restored_state_shows_at_every_revision_what_the_saved_one_shows(steps in prop::collection::vec(step(), 0..60)) {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, mut machine) = open(&folder.path().join("a"));
        block_on(run(&mut machine, &store, &steps));
        let bytes = export(&store);
        let imported = import_bytes(&bytes, &folder.path().join("b"), &how(None)).expect("our own file");
        let (restored, _machine) = open(&folder.path().join("b"));
        prop_assert_eq!(visible(&restored), visible(&store));
        prop_assert_eq!((imported.revision, imported.compacted), (store.revision(), store.compacted()));
        prop_assert!(restored.size().in_use > 0);
        // And once more: what was restored saves the same keyspace.
        import_bytes(&export(&restored), &folder.path().join("c"), &how(None)).expect("our own file");
        let (again, _machine) = open(&folder.path().join("c"));
        prop_assert_eq!(visible(&again), visible(&store));
    }

    /// Behind a valid header anything may stand: the import ends, and never by a panic.
    #[test]
    fn a_damaged_database_is_refused_or_read_and_never_ends_the_process(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, mut machine) = open(&folder.path().join("a"));
        let steps: Vec<Step> = (0..60).map(|n| Step::Put(n % 20, vec![n; 30], Some(1))).collect();
        block_on(run(&mut machine, &store, &steps));
        let mut bytes = export(&store);
        // The two headers stay: without them nothing is read at all.
        let len = bytes.len() - 8192;
        for (at, value) in damage {
            bytes[8192 + at.index(len)] = value;
        }
        if let Ok(imported) = import_bytes(&bytes, &folder.path().join("b"), &how(None)) {
            let (restored, _machine) = open(&folder.path().join("b"));
            prop_assert_eq!(restored.revision(), imported.revision);
            // A damaged revision may be any number, and there is a look at each.
            if imported.revision < 1000 {
                visible(&restored);
            }
        }
    }
}

/// A database with these rows in `key`, a compaction revision, and nothing else.
fn database(rows: &[(rows::Revision, Vec<u8>)], compacted: Option<i64>) -> Vec<u8> {
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new())).expect("a buffer");
    let mut bucket = writer.bucket(rows::KEY);
    let mut key = Vec::new();
    for (revision, value) in rows {
        revision.encode(&mut key);
        bucket.put(&key, value).expect("rows in order");
    }
    bucket.finish().expect("a bucket");
    let mut bucket = writer.bucket(rows::META);
    if let Some(compacted) = compacted {
        bucket.put(rows::SCHEDULED, &rows::compaction(compacted)).expect("a row");
    }
    bucket.finish().expect("a bucket");
    writer.finish().expect("a database").0.into_inner()
}

fn version(key: &str, create: i64, modified: i64, version: i64) -> (rows::Revision, Vec<u8>) {
    let kv = KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision: create,
        mod_revision: modified,
        version,
        ..Default::default()
    };
    (rows::Revision { main: modified, sub: 0, deleted: false }, kv.encode_to_vec())
}

#[test]
fn a_compaction_that_was_only_begun_counts_and_what_it_left_is_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = rows::Revision { main: 4, sub: 0, deleted: true };
    let tombstone = KeyValue { key: "b".into(), ..Default::default() }.encode_to_vec();
    let rows =
        [version("a", 2, 2, 1), version("b", 3, 3, 1), (gone, tombstone), version("a", 2, 5, 2), version("a", 2, 6, 3)];
    let imported = import_bytes(&database(&rows, Some(5)), folder.path(), &how(None)).expect("a keyspace");
    assert_eq!(imported, Imported { revision: 6, compacted: 5, keys: 1, leases: 0 });
    let (store, _machine) = open(folder.path());
    let versions = |revision| {
        let mut found = Vec::new();
        let all = KeyRange::Span { start: Bytes::new(), end: None };
        store
            .view()
            .scan_at(&all, revision, &mut |record| {
                found.push(record.decode().expect("a record").version);
                ControlFlow::Continue(())
            })
            .expect("a scan");
        found
    };
    assert_eq!((versions(5), versions(6)), (vec![2], vec![3]));
}

#[test]
fn a_bump_raises_the_revision_and_leaves_no_history() {
    let folder = tempfile::tempdir().expect("a folder");
    // The row without a value is what etcdutl's own bump leaves behind.
    let marker = (rows::Revision { main: 100, sub: 0, deleted: false }, Vec::new());
    let bytes = database(&[version("a", 2, 2, 1), version("a", 2, 3, 2), marker], None);
    let imported = import_bytes(&bytes, folder.path(), &how(Some(1000))).expect("a keyspace");
    assert_eq!(imported, Imported { revision: 1100, compacted: 1100, keys: 1, leases: 0 });
    let (store, mut machine) = open(folder.path());
    assert!(store.history(3, 3, 1 << 20, &|_| true, &mut |_| ControlFlow::Continue(())).is_err());
    block_on(apply(&mut machine, [entry(2, put(b"n", b""))]));
    assert_eq!(store.revision(), 1101);
    assert!(import_bytes(&bytes, &folder.path().join("o"), &how(Some(i64::MAX))).is_err(), "it would overflow");
}

#[test]
fn a_change_after_an_import_holds_the_imported_version_before_it() {
    // Long enough to be pointed to, if its history row were here.
    let key = "k".repeat(100);
    let bytes = database(&[version(&key, 2, 2, 1), version("other", 5, 5, 1)], Some(4));
    for (how, revision) in [(how(None), 5), (how(Some(10)), 15)] {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(import_bytes(&bytes, folder.path(), &how).expect("a keyspace").revision, revision);
        let (store, mut machine) = open(folder.path());
        let puts = [put(key.as_bytes(), b"new"), put(key.as_bytes(), b"newer")];
        block_on(apply(&mut machine, (2..).zip(puts).map(|(index, put)| entry(index, put))));
        let view = store.view();
        let read =
            |at| view.get_at(key.as_bytes(), at).expect("a read").expect("a version").decode().expect("a record");
        assert_eq!(
            [read(revision), read(revision + 1)].map(|kv| (kv.mod_revision, kv.version)),
            [(2, 1), (revision + 1, 2)]
        );
        let mut before = Vec::new();
        let visit = &mut |event: crate::store::Event| {
            before.push(KeyValue::decode(event.prev.expect("a version before")).expect("a record").mod_revision);
            ControlFlow::Continue(())
        };
        store.history(revision + 1, revision + 2, usize::MAX, &|_| true, visit).expect("history");
        assert_eq!(before, [2, revision + 1]);
    }
}

#[test]
fn rows_that_etcd_never_writes_are_refused_by_name() {
    let wrong = |rows: &[(rows::Revision, Vec<u8>)]| {
        let folder = tempfile::tempdir().expect("a folder");
        import_bytes(&database(rows, None), folder.path(), &how(None)).expect_err("wrong").to_string()
    };
    let at = |main| rows::Revision { main, sub: 0, deleted: false };
    let (_, second) = version("a", 2, 2, 1);
    assert!(wrong(&[(at(5), second)]).contains("says it is of revision 2"));
    assert!(wrong(&[(at(5), b"\xff\xff".to_vec())]).contains("does not decode"));
    assert!(wrong(&[(at(5), b"\x10\x05".to_vec())]).contains("has no key"));
    assert!(wrong(&[version("a", 2, 5, i64::MAX)]).contains("at revision 5"), "more versions than revisions");
    assert!(wrong(&[version("a", 2, i64::MAX, 1)]).contains("too large to count on from"));
    let twice = [version("a", 2, 2, 1), (rows::Revision { main: 2, sub: 0, deleted: true }, b"\x0a\x01a".to_vec())];
    assert!(wrong(&twice).contains("repeats a revision"));
    let folder = tempfile::tempdir().expect("a folder");
    let compacted = import_bytes(&database(&[], Some(i64::MAX)), folder.path(), &how(None)).expect_err("wrong");
    assert!(compacted.to_string().contains("too large to count on from"), "{compacted}");
}

#[test]
fn users_roles_and_the_switch_go_both_ways_and_wrong_rows_are_refused() {
    use crate::proto::authpb;
    let user = authpb::User {
        name: "ann".into(),
        password: "$2a$10$hash".into(),
        roles: vec!["root".into()],
        options: Some(authpb::UserAddOptions { no_password: false }),
    };
    let permission = authpb::Permission { perm_type: 2, key: "a".into(), range_end: "b".into() };
    let role = authpb::Role { name: "root".into(), key_permission: vec![permission] };
    let auth_database = |user_key: &str, enabled: &[u8], revision: u64| {
        let mut writer = Writer::new(std::io::Cursor::new(Vec::new())).expect("a buffer");
        let mut fill = |name: &str, rows: &[(&[u8], Vec<u8>)]| {
            let mut bucket = writer.bucket(name);
            rows.iter().for_each(|(key, value)| bucket.put(key, value).expect("rows in order"));
            bucket.finish().expect("a bucket");
        };
        fill(rows::KEY, &[]);
        fill(rows::META, &[]);
        fill(
            rows::AUTH,
            &[(rows::AUTH_ENABLED, enabled.to_vec()), (rows::AUTH_REVISION, revision.to_be_bytes().to_vec())],
        );
        fill(rows::AUTH_USERS, &[(user_key.as_bytes(), user.encode_to_vec())]);
        fill(rows::AUTH_ROLES, &[(b"root", role.encode_to_vec())]);
        writer.finish().expect("a database").0.into_inner()
    };
    let folder = tempfile::tempdir().expect("a folder");
    import_bytes(&auth_database("ann", &[1], 9), &folder.path().join("a"), &how(None)).expect("etcd's rows");
    let (store, _machine) = open(&folder.path().join("a"));
    let exported = export(&store);
    let mut reader = Reader::open(exported.clone(), exported.len() as u64).expect("our own file");
    let mut found = BTreeMap::new();
    for bucket in reader.buckets().expect("buckets") {
        let name = String::from_utf8_lossy(&bucket.name).into_owned();
        reader
            .walk::<bbolt::Error>(&bucket, &mut |key, value| {
                found.insert((name.clone(), key.to_vec()), value.to_vec());
                Ok(())
            })
            .expect("rows");
    }
    let at = |bucket: &str, key: &[u8]| found.get(&(bucket.to_owned(), key.to_vec())).cloned();
    assert_eq!(at(rows::AUTH, rows::AUTH_ENABLED), Some(vec![1]));
    assert_eq!(at(rows::AUTH, rows::AUTH_REVISION), Some(9u64.to_be_bytes().to_vec()));
    assert_eq!(at(rows::AUTH_USERS, b"ann"), Some(user.encode_to_vec()));
    assert_eq!(at(rows::AUTH_ROLES, b"root"), Some(role.encode_to_vec()));
    for (user, enabled, revision) in [("bob", &[1][..], 9), ("ann", &[7], 9), ("ann", &[], 9), ("ann", &[1], u64::MAX)]
    {
        let wrong = import_bytes(&auth_database(user, enabled, revision), &folder.path().join("b"), &how(None));
        assert!(matches!(wrong, Err(ImportError::Contents(_))), "{user} {enabled:?}");
        std::fs::remove_dir_all(folder.path().join("b")).expect("what it had begun");
    }
}

#[test]
fn a_database_of_something_else_is_refused() {
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new())).expect("a buffer");
    writer.bucket("widgets").finish().expect("a bucket");
    let bytes = writer.finish().expect("a database").0.into_inner();
    let folder = tempfile::tempdir().expect("a folder");
    let error = import_bytes(&bytes, folder.path(), &how(None)).expect_err("foreign").to_string();
    assert!(error.contains("no bucket \"key\""), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing was made of it");
}

#[test]
fn an_abandoned_export_ends_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, mut machine) = open(folder.path());
    let many = (1..=3000u64).map(|n| entry(n, put(&n.to_be_bytes(), b"value")));
    block_on(apply(&mut machine, many));
    assert!(matches!(store.export(&AtomicBool::new(true)), Err(ExportError::Abandoned)));
    let _kept: File = store.export(&AtomicBool::new(false)).expect("an export").file;
    assert_eq!(std::fs::read_dir(folder.path().join("snap")).expect("a folder").count(), 0);
}
