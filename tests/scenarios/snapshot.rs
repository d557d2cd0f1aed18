//! Snapshots between etcd and us, both ways: history, leases and revisions survive, and bad files change nothing.

use std::path::Path;
use std::process::Command;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::member::Product;
use crate::harness::snapshot::{contents, restore, run, save, status_of, status_tools};
use crate::harness::wait::{can, setting, until};

/// Writes history: overwrites, deletions, transactions of several keys, leases, values of all sizes.
async fn write(cluster: &Cluster, operations: u32, seed: u64) {
    let channel = cluster.channel(0).await.expect("the server accepts");
    let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
    for id in 1..=3 {
        lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 3000 + id }).await.expect("a lease");
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let put = |random: &mut SmallRng| {
        let size = if random.random_ratio(1, 20) { 10_000 } else { random.random_range(0..200) };
        pb::PutRequest {
            key: format!("k{:02}", random.random_range(0..40)).into(),
            value: vec![random.random::<u8>(); size].into(),
            lease: random.random_range(0..4),
            ..Default::default()
        }
    };
    for _ in 0..operations {
        match random.random_range(0..10) {
            0..6 => drop(kv.put(put(&mut random)).await.expect("a put")),
            6..8 => {
                let key = format!("k{:02}", random.random_range(0..40)).into();
                let delete = pb::DeleteRangeRequest { key, ..Default::default() };
                drop(kv.delete_range(delete).await.expect("a delete"));
            }
            _ => {
                let first = put(&mut random);
                let mut second = put(&mut random);
                while second.key == first.key {
                    second = put(&mut random);
                }
                let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
                let txn = pb::TxnRequest { success: vec![op(first), op(second)], ..Default::default() };
                drop(kv.txn(txn).await.expect("a transaction"));
            }
        }
    }
}

async fn put(cluster: &Cluster, key: &str, value: &str) {
    let mut kv = KvClient::new(cluster.channel(0).await.expect("the server accepts"));
    let request = pb::PutRequest {
        key: bytes::Bytes::copy_from_slice(key.as_bytes()),
        value: bytes::Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    kv.put(request).await.expect("a put");
}

/// A new cluster of `product` that begins with a file.
async fn restored(product: Product, size: usize, file: &Path) -> Cluster {
    let cluster = Cluster::prepare(product, size, &[]);
    for member in &cluster.members {
        restore(member, file, &[]).ok();
    }
    cluster.run().await
}

/// All tools print the same hash and revision of a file, ours among them.
fn assert_tools_agree(file: &Path) {
    let ours = status_of(&Product::Ours.program(), file);
    for tool in status_tools() {
        assert_eq!(status_of(&tool, file), ours, "{} and ours of {}", tool.display(), file.display());
    }
}

/// etcd → us → etcd, with history down to `compact` (a number of revisions from the end; `None` = all of it).
async fn round_trip(compact: Option<i64>) {
    let folder = tempfile::tempdir().expect("a folder");
    let etcd = Cluster::start_in_memory(Product::Etcd, 1, &[]).await;
    write(&etcd, 400, 7).await;
    let revision = etcd.read_at(0).await.expect("a read");
    let first = compact.map_or(1, |back| revision - back);
    if compact.is_some() {
        Ctl::v3(etcd.endpoint(0)).run(&["compaction", &first.to_string(), "--physical"]).ok();
    }
    let (from_etcd, from_us) = (folder.path().join("from-etcd.db"), folder.path().join("from-us.db"));
    save(&etcd, 0, &from_etcd);
    assert_tools_agree(&from_etcd);

    let ours = restored(Product::Ours, 1, &from_etcd).await;
    let wanted = contents(&etcd, 0, first..=revision).await;
    assert_eq!(contents(&ours, 0, first..=revision).await, wanted, "what etcd saved, restored into us");
    if compact.is_none() {
        assert_eq!(ours.hash(0, revision).await, etcd.hash(0, revision).await, "HashKV of etcd and us");
    }
    put(&ours, "after", "restored").await;
    assert_eq!(ours.read_at(0).await, Ok(revision + 1), "the revision goes on");
    save(&ours, 0, &from_us);
    assert_tools_agree(&from_us);

    let again = restored(Product::Etcd, 1, &from_us).await;
    let wanted = contents(&ours, 0, first..=revision + 1).await;
    assert_eq!(contents(&again, 0, first..=revision + 1).await, wanted, "what we saved, restored into etcd");
    if compact.is_none() {
        assert_eq!(again.hash(0, revision + 1).await, ours.hash(0, revision + 1).await, "HashKV of us and etcd");
    }
    put(&again, "after", "twice").await;
    assert_eq!(again.read_at(0).await, Ok(revision + 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_history_goes_from_etcd_to_us_and_back_with_equal_hashes() {
    round_trip(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_keyspace_goes_from_etcd_to_us_and_back() {
    round_trip(Some(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_keyspace_goes_both_ways() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("empty.db");
    let ours = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    save(&ours, 0, &file);
    assert_tools_agree(&file);
    for product in [Product::Etcd, Product::Ours] {
        let again = restored(product, 1, &file).await;
        put(&again, "first", "").await;
        assert_eq!(again.read_at(0).await, Ok(2), "{product:?}");
    }
}

/// Saves where authentication may be on already.
fn save_as_root(cluster: &Cluster, file: &Path) {
    let (ctl, file) = (Ctl::v3(cluster.endpoint(0)), file.display().to_string());
    let plain = ["snapshot", "save", &file];
    if ctl.run(&plain).code != Some(0) {
        ctl.run(&[&["--user", "root:secret"][..], &plain].concat()).ok();
    }
}

/// Root, and ann who may read and write `a` up to `b`.
fn add_users(cluster: &Cluster) {
    let ctl = Ctl::v3(cluster.endpoint(0));
    for (name, password) in [("root", "secret\n"), ("ann", "other\n")] {
        ctl.run_with(&["user", "add", name, "--interactive=false"], password).ok();
    }
    for words in
        ["role add r", "role grant-permission r readwrite a b", "user grant-role ann r", "user grant-role root root"]
    {
        ctl.run(&words.split(' ').collect::<Vec<_>>()).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_roles_and_passwords_go_from_etcd_to_us_and_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from_etcd, from_us) = (folder.path().join("from-etcd.db"), folder.path().join("from-us.db"));
    let etcd = Cluster::start_in_memory(Product::Etcd, 1, &[]).await;
    put(&etcd, "x", "1").await;
    add_users(&etcd);
    Ctl::v3(etcd.endpoint(0)).run(&["auth", "enable"]).ok();
    save_as_root(&etcd, &from_etcd);
    // Its readiness is asked without a name, which an etcd with users refuses: started by hand.
    let start = |product| {
        let mut cluster = Cluster::prepare(product, 1, &[]);
        restore(&cluster.members[0], if product == Product::Ours { &from_etcd } else { &from_us }, &[]).ok();
        cluster.members[0].start();
        cluster
    };
    let ours = start(Product::Ours);
    keeps_to_its_users(&ours).await;
    save_as_root(&ours, &from_us);
    keeps_to_its_users(&start(Product::Etcd)).await;
}

/// Root reads, ann writes where she may and nowhere else, and nobody else gets in.
async fn keeps_to_its_users(cluster: &Cluster) {
    let ctl = Ctl::v3(cluster.endpoint(0));
    until("the member leads", START_LIMIT, || async {
        let said = ctl.run(&["--user", "root:secret", "get", "x"]);
        if said.out == "x\n1\n" { Ok(()) } else { Err(said.err) }
    })
    .await;
    assert!(ctl.run(&["get", "x"]).err.contains("user name is empty"), "authentication is on");
    assert_eq!(ctl.run(&["--user", "ann:other", "put", "a", "1"]).ok(), "OK\n");
    assert!(ctl.run(&["--user", "ann:other", "put", "x", "2"]).err.contains("permission denied"));
    assert!(ctl.run(&["--user", "ann:wrong", "put", "a", "2"]).err.contains("invalid user ID or password"));
}

/// Three members restored from one file are one cluster, and who joins later is sent what was restored, which no log has.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_begins_with_a_snapshot_and_takes_in_a_fourth_member() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.db");
    let before = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    write(&before, 200, 3).await;
    let revision = before.read_at(0).await.expect("a read");
    save(&before, 0, &file);
    let wanted = contents(&before, 0, 1..=revision).await;
    drop(before);

    let mut cluster = restored(Product::Ours, 3, &file).await;
    for n in 0..3 {
        assert_eq!(contents(&cluster, n, 1..=revision).await, wanted, "member {n}");
    }
    put(&cluster, "new", "life").await;
    assert_eq!(cluster.assert_equal_hashes().await, revision + 1);
    cluster.add_learner(&Ctl::v3(cluster.endpoint(0))).await;
    let same = until("the learner has everything", START_LIMIT, || async {
        let hashes = (cluster.hash(0, revision + 1).await?, serializable(&cluster, 3).await?);
        if hashes.1 == revision + 1 { Ok(hashes.0) } else { Err(format!("{hashes:?}")) }
    })
    .await;
    let leader = cluster.leader().await;
    let id = cluster.status(3).await.expect("its status").header.expect("a header").member_id;
    until("the learner is promoted", START_LIMIT, || async {
        let said = Ctl::v3(cluster.endpoint(leader)).run(&["member", "promote", &format!("{id:x}")]);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
    assert_eq!(until("a hash", START_LIMIT, || cluster.hash(3, revision + 1)).await, same);
    // And all of them come back from their disks.
    for member in &mut cluster.members {
        member.crash();
        member.start();
    }
    assert_eq!(cluster.assert_equal_hashes().await, revision + 1);
}

async fn serializable(cluster: &Cluster, n: usize) -> Result<i64, String> {
    let mut kv = KvClient::new(cluster.channel(n).await?);
    let request = pb::RangeRequest { key: "new".into(), serializable: true, ..Default::default() };
    let answer = kv.range(request).await.map_err(|status| status.to_string())?.into_inner();
    if answer.kvs.is_empty() {
        return Err("the key is not there".to_owned());
    }
    Ok(answer.header.map_or(0, |header| header.revision))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_raises_the_revision_for_the_whole_new_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.db");
    let before = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    write(&before, 50, 1).await;
    let revision = before.read_at(0).await.expect("a read");
    save(&before, 0, &file);
    let cluster = Cluster::prepare(Product::Ours, 1, &[]);
    restore(&cluster.members[0], &file, &["--bump-revision", "1000000", "--mark-compacted"]).ok();
    let cluster = cluster.run().await;
    assert_eq!(cluster.read_at(0).await, Ok(revision + 1_000_000));
    let ctl = Ctl::v3(cluster.endpoint(0));
    let said = ctl.run(&["get", "k", "--prefix", "--rev", &revision.to_string()]);
    assert!(said.err.contains("required revision has been compacted"), "{said:?}");
    let keys = |said: String| said.lines().count();
    let now = keys(ctl.run(&["get", "k", "--prefix", "--keys-only"]).ok());
    assert_eq!(now, keys(Ctl::v3(before.endpoint(0)).run(&["get", "k", "--prefix", "--keys-only"]).ok()));
    // etcd serves what we save of it, at the same revision.
    save(&cluster, 0, &file);
    let etcd = restored(Product::Etcd, 1, &file).await;
    assert_eq!(etcd.read_at(0).await, Ok(revision + 1_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_and_places_are_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    write(&ours, 100, 5).await;
    let good = folder.path().join("good.db");
    save(&ours, 0, &good);
    let bytes = std::fs::read(&good).expect("the file");
    let target = Cluster::prepare(Product::Ours, 1, &[]);
    let member = &target.members[0];
    let refused = |what: &str, contents: &[u8], extra: &[&str], words: &str| {
        let bad = folder.path().join("bad.db");
        std::fs::write(&bad, contents).expect("written");
        let said = restore(member, &bad, extra);
        assert_ne!(said.code, Some(0), "{what}");
        assert!(said.err.contains(words), "{what}: {}", said.err);
        assert!(!member.data_dir().exists(), "{what}: a data directory is left behind");
    };
    let mut random = SmallRng::seed_from_u64(11);
    refused("empty", &[], &[], "snapshot missing hash");
    for cut in [31, 32, 4096, bytes.len() / 2, bytes.len() - 33, bytes.len() - 32, bytes.len() - 1] {
        refused("cut", &bytes[..cut], &[], "");
    }
    refused("longer", &[&bytes[..], b"x"].concat(), &[], "snapshot missing hash");
    for _ in 0..8 {
        let mut flipped = bytes.clone();
        let at = random.random_range(0..flipped.len());
        flipped[at] ^= 1 << random.random_range(0..8);
        refused("flipped", &flipped, &[], "expected sha256 ");
    }
    let trusting = ["--skip-hash-check"];
    refused("foreign", &[b'x'; 65536], &trusting, "the file is no bbolt database");
    refused("half a database", &bytes[..bytes.len() / 8192 * 4096], &trusting, "the file is no bbolt database");
    let mut broken = bytes.clone();
    // Behind the two headers and the free list: leaves, whose element heads no longer make sense.
    broken[3 * 4096 + 16..].fill(0xee);
    refused("broken pages", &broken, &trusting, "");
    // A copy of a database without its hash is taken on demand only.
    let database = &bytes[..bytes.len() - 32];
    refused("no hash", database, &[], "--skip-hash-check");
    std::fs::write(folder.path().join("bare.db"), database).expect("written");
    restore(member, &folder.path().join("bare.db"), &trusting).ok();
    let again = restore(member, &good, &[]);
    assert!(again.err.contains("not empty or could not be read"), "{again:?}");
    let missing = restore(&Cluster::prepare(Product::Ours, 1, &[]).members[0], Path::new("/nonexistent.db"), &[]);
    assert!(missing.err.contains("cannot read snapshot file /nonexistent.db"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_member_and_one_of_the_old_cluster_do_not_talk() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.db");
    let mut old = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    put(&old, "k", "v").await;
    save(&old, 0, &file);
    let cluster_of =
        async |cluster: &Cluster| cluster.status(0).await.expect("a status").header.expect("one").cluster_id;
    let before = cluster_of(&old).await;
    old.members[0].stop();
    // The same name, URLs and token, in another directory.
    old.members[0].set_data_dir(&folder.path().join("new"));
    restore(&old.members[0], &file, &[]).ok();
    let old = old.run().await;
    assert_ne!(cluster_of(&old).await, before);
}

/// Newer releases of etcd start from what we save. Needs their servers in the folders of `SNAPSHOT_TOOLS`.
#[tokio::test(flavor = "multi_thread")]
async fn newer_etcdutls_restore_what_we_save() {
    let folders = std::env::var("SNAPSHOT_TOOLS").unwrap_or_default();
    if !can("a newer etcdutl (name its folder in SNAPSHOT_TOOLS)", !folders.is_empty()) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.db");
    let ours = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    write(&ours, 100, 9).await;
    save(&ours, 0, &file);
    for (n, tools) in folders.split(':').filter(|tools| !tools.is_empty()).enumerate() {
        let target = folder.path().join(n.to_string());
        let mut command = Command::new(Path::new(tools).join("etcdutl"));
        run(command.args(["snapshot", "restore"]).arg(&file).arg("--data-dir").arg(&target)).ok();
        assert!(target.join("member/snap/db").is_file(), "{tools}");
    }
}

/// `keys` keys in transactions, a tenth of them of a lease; then history: a tenth written again, a hundredth deleted.
async fn write_many(cluster: &Cluster, keys: u64) {
    const EACH: u64 = 100;
    const LEASES: i64 = 100;
    let channel = cluster.channel(0).await.expect("the server accepts");
    let mut lease = LeaseClient::new(channel.clone());
    for id in 1..=LEASES {
        lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 30_000 + id }).await.expect("a lease");
    }
    let key = |n: u64| bytes::Bytes::from(format!("/registry/pods/{n:09}"));
    let put = move |n: u64, size: usize| pb::PutRequest {
        key: key(n),
        value: vec![n as u8; size].into(),
        lease: if n.is_multiple_of(10) { n as i64 / 10 % LEASES + 1 } else { 0 },
        ..Default::default()
    };
    let writers = 32;
    let writing = (0..writers).map(|writer| {
        let mut kv = KvClient::new(channel.clone());
        tokio::spawn(async move {
            for first in (writer * EACH..keys).step_by((writers * EACH) as usize) {
                let op = |n| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(n, 256))) };
                let success = (first..keys.min(first + EACH)).map(op).collect();
                kv.txn(pb::TxnRequest { success, ..Default::default() }).await.expect("a transaction");
                for n in (first..keys.min(first + EACH)).step_by(10) {
                    kv.put(put(n + 1, 64)).await.expect("a put");
                }
                kv.delete_range(pb::DeleteRangeRequest { key: key(first), ..Default::default() })
                    .await
                    .expect("a delete");
            }
        })
    });
    futures::future::try_join_all(writing.collect::<Vec<_>>()).await.expect("all writers end");
}

async fn count(cluster: &Cluster) -> i64 {
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), count_only: true, ..Default::default() };
    let mut kv = KvClient::new(cluster.channel(0).await.expect("the member accepts"));
    kv.range(all).await.expect("a count").into_inner().count
}

/// Leases, what keys they have, and users, roles and passwords as the command line shows them.
fn leases_and_users(cluster: &Cluster) -> String {
    let ctl = Ctl::v3(cluster.endpoint(0));
    let mut said = String::new();
    for words in ["user list", "role list", "role get r", "user get ann"] {
        said += &ctl.run(&words.split(' ').collect::<Vec<_>>()).ok();
    }
    let mut leases: Vec<String> = ctl.run(&["lease", "list"]).ok().lines().map(str::to_owned).collect();
    leases.sort();
    for id in ["1", "2a"] {
        let shown = ctl.run(&["lease", "timetolive", id, "--keys"]).ok();
        let (_, keys) = shown.split_once("attached keys").expect("keys");
        let mut keys: Vec<&str> = keys.trim_matches(['(', ')', '[', ']', '\n']).split(' ').collect();
        keys.sort_unstable();
        said += &keys.join(" ");
    }
    said + &leases.join("\n")
}

/// A million keys (`SNAPSHOT_KEYS`), with history, leases and users, from etcd to us and back; the memory each step took.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run with --ignored"]
async fn a_large_state_goes_from_etcd_to_us_and_back_in_little_memory() {
    /// Most memory that our member may take, KiB, whatever the number of keys.
    const MEMORY: u64 = 400 << 10;
    let keys = setting("SNAPSHOT_KEYS", 1_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let (from_etcd, from_us) = (folder.path().join("from-etcd.db"), folder.path().join("from-us.db"));
    let etcd = Cluster::start_in_memory(Product::Etcd, 1, &[]).await;
    put(&etcd, "x", "1").await;
    write_many(&etcd, keys).await;
    add_users(&etcd);
    let revision = etcd.read_at(0).await.expect("a read");
    let (hash, counted, rest) = (etcd.hash(0, revision).await, count(&etcd).await, leases_and_users(&etcd));
    save(&etcd, 0, &from_etcd);
    assert_tools_agree(&from_etcd);

    let started = std::time::Instant::now();
    let ours = restored(Product::Ours, 1, &from_etcd).await;
    println!("{counted} keys at revision {revision} of etcd served by us after {:?}", started.elapsed());
    assert_eq!(ours.hash(0, revision).await, hash, "HashKV of etcd and us");
    assert_eq!((count(&ours).await, leases_and_users(&ours)), (counted, rest.clone()));
    let before = ours.members[0].process_figure("VmHWM:");
    let started = std::time::Instant::now();
    save(&ours, 0, &from_us);
    let (after, size) =
        (ours.members[0].process_figure("VmHWM:"), std::fs::metadata(&from_us).expect("the file").len());
    println!("saved {size} bytes in {:?}; peak memory {before} KiB before, {after} KiB after", started.elapsed());
    assert!(after < MEMORY, "{after} KiB of the member for a file of {size} bytes");
    assert_tools_agree(&from_us);
    Ctl::v3(ours.endpoint(0)).run(&["auth", "enable"]).ok();
    keeps_to_its_users(&ours).await;

    // etcd reads every key at its start, twice: on a busy machine longer than a start may otherwise take.
    let mut again = Cluster::prepare(Product::Etcd, 1, &[]);
    restore(&again.members[0], &from_us, &[]).ok();
    again.members[0].start();
    until("etcd serves so many keys", 10 * START_LIMIT, || again.read_at(0)).await;
    assert_eq!(again.hash(0, revision).await, hash, "HashKV of us and etcd");
    assert_eq!((count(&again).await, leases_and_users(&again)), (counted, rest));
    Ctl::v3(again.endpoint(0)).run(&["auth", "enable"]).ok();
    keeps_to_its_users(&again).await;
}
