//! Users, roles and permissions on real processes: stock etcdctl, client certificates, a member that was away.

use std::fs;
use std::path::Path;

use super::bad_tls::member;
use super::etcdctl::compare;
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::{Ctl, Said};
use crate::harness::member::Product;
use crate::harness::pem::Authority;
use crate::harness::wait::{turn, until};

/// One command a line, in the order in which people set authentication up, use it and take it down again.
pub(super) const SESSION: &str = r#"
user list
role list
auth enable
user add root:rootword
user add ann:annword
user add ann:annword
user add bob --no-password
user get ann
user get nobody
role add low
role add low
role add other
role get low
role get nothing
role grant-permission low readwrite a
role grant-permission low readwrite b --prefix
role grant-permission low read m n
role grant-permission low write x --from-key
role grant-permission nothing read a
role get low
role revoke-permission low m n
role revoke-permission low m n
role revoke-permission low m
user grant-role ann low
user grant-role ann low
user grant-role ann nothing
user grant-role bob low
user get ann
user get ann --detail
user revoke-role ann other
user list
role list
auth enable
put a 1
get a
user list
put a 1 --user ann:annword
get a --user ann:annword
put a 2 --user ann:wrong
put a 2 --user nobody:x
put a 2 --user bob:x
put b/c 1 --user ann:annword
get b --prefix --user ann:annword
get c --user ann:annword
get b c --user ann:annword
get b d --user ann:annword
get a --from-key --user ann:annword
put y 1 --user ann:annword
get y --user ann:annword
put y 2 --prev-kv --user ann:annword
del y --user ann:annword
del y --prev-kv --user ann:annword
txn --user ann:annword < value("a") = "1"\n\nput b 1\nget a\n\nput c 1\n\n
txn --user ann:annword < value("c") = "1"\n\nput b 1\n\n\n
get a --user root:rootword
put c 1 --user root:rootword
user get ann --user ann:annword
user get root --user ann:annword
role get low --user ann:annword
role get other --user ann:annword
user list --user ann:annword
role list --user ann:annword
user add eve:eveword --user ann:annword
user add eve:eveword --user root:rootword
user delete eve --user ann:annword
user delete root --user root:rootword
user revoke-role root root --user root:rootword
role delete root --user root:rootword
auth enable --user root:rootword
auth disable --user ann:annword
user delete eve --user root:rootword
user delete eve --user root:rootword
role revoke-permission low a --user root:rootword
put a 3 --user ann:annword
role delete low --user root:rootword
put b/c 1 --user ann:annword
user get ann --user root:rootword
member add x --peer-urls http://127.0.0.1:1 --user ann:annword
member remove 123 --user ann:annword
auth disable --user root:rootword
auth disable
put a 4
get a
"#;

#[tokio::test]
async fn a_session_of_etcdctl_says_the_same_of_both_and_leaves_no_password_behind() {
    let _turn = turn().await;
    let flags = ["--bcrypt-cost", "4"];
    let etcd = Cluster::start_in_memory(Product::Etcd, 1, &flags).await;
    let ours = Cluster::start_in_memory(Product::Ours, 1, &["--bcrypt-cost", "4", "--log-level", "debug"]).await;
    compare(SESSION, [Ctl::v3(etcd.endpoint(0)), Ctl::v3(ours.endpoint(0))]);
    let log = ours.members[0].log();
    assert!(log.contains("invalid authentication was requested"), "what is looked through must be the log");
    for word in ["rootword", "annword", "eveword"] {
        assert!(!log.contains(word), "{word} is in the log");
        assert!(!holds(ours.members[0].data_dir(), word.as_bytes()), "{word} is in the data directory");
    }
    assert!(!log.contains("$2a$04$"), "a hash is in the log");
    assert!(holds(ours.members[0].data_dir(), b"$2a$04$"), "hashes are where they belong");
}

/// Whether any file below `folder` holds `what`.
fn holds(folder: &Path, what: &[u8]) -> bool {
    fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return holds(&path, what);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(what.len()).any(|window| window == what)
    })
}

fn as_user(ctl: &Ctl, user: &str, words: &[&str]) -> Said {
    ctl.run(&[words, &["--user", user]].concat())
}

/// Waits until the member behind `ctl` does what root asks of it.
async fn serves(ctl: &Ctl, what: &str) {
    until(what, START_LIMIT, || async {
        let said = as_user(ctl, "root:root", &["get", "k"]);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_follows_the_grants_through_a_member_that_was_away() {
    let _turn = turn().await;
    let flags = ["--bcrypt-cost", "4"];
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &flags).await;
    let one = |n: usize, cluster: &Cluster| Ctl::v3(cluster.endpoint(n));
    let ctl = one(0, &cluster);
    let setup = [
        "user add root:root",
        "user add ann:ann",
        "role add low",
        "role grant-permission low readwrite k",
        "user grant-role ann low",
        "auth enable",
    ];
    for line in setup {
        ctl.run(&line.split(' ').collect::<Vec<_>>()).ok();
    }
    // Every member knows the token that another one gave, and the grant.
    for n in 0..3 {
        as_user(&one(n, &cluster), "ann:ann", &["put", "k", "1"]).ok();
    }
    let away = 2;
    for (puts, how) in [(3, "a few entries late"), (80, "many entries late")] {
        cluster.members[away].crash();
        as_user(&ctl, "root:root", &["role", "revoke-permission", "low", "k"]).ok();
        let denied = as_user(&ctl, "ann:ann", &["put", "k", "2"]);
        assert!(denied.err.contains("permission denied"), "{denied:?}");
        for n in 0..puts {
            as_user(&ctl, "root:root", &["put", &format!("other{n}"), "x"]).ok();
        }
        cluster.members[away].start();
        let there = one(away, &cluster);
        serves(&there, "the member is back").await;
        for words in [&["get", "k"][..], &["get", "k", "--consistency", "s"], &["put", "k", "2"], &["del", "k"]] {
            let denied = as_user(&there, "ann:ann", words);
            assert!(denied.err.contains("permission denied"), "{how}, {words:?}: {denied:?}");
        }
        assert_eq!(as_user(&there, "root:root", &["get", "k", "--print-value-only"]).ok().trim(), "1", "{how}");
        as_user(&there, "root:root", &["role", "grant-permission", "low", "readwrite", "k"]).ok();
        as_user(&ctl, "ann:ann", &["put", "k", "1"]).ok();
    }
    as_user(&ctl, "root:root", &["auth", "disable"]).ok();
    cluster.assert_equal_hashes().await;
}

#[tokio::test]
async fn whoever_holds_a_certificate_is_the_user_of_its_common_name() {
    // In memory: `etcdctl` gives up after five seconds of a stalled disk.
    let folder = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let authority = Authority::new(folder.path(), "authority");
    let leaf = |name: &'static str| authority.leaf(name);
    let mut server = member(folder.path(), &authority.certificate, &leaf("server"));
    server.start();
    let endpoint = format!("https://127.0.0.1:{}", server.client_port);
    let ctl = |name: &'static str| Ctl::v3(&endpoint).with_tls(&authority.certificate, Some(&leaf(name)));
    let root = ctl("root");
    until("the member serves", START_LIMIT, || async {
        let said = root.run(&["get", "k"]);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
    let setup = [
        "user add root --no-password",
        "user add ann --no-password",
        "role add low",
        "role grant-permission low readwrite k",
        "user grant-role ann low",
        "auth enable",
    ];
    for line in setup {
        root.run(&line.split(' ').collect::<Vec<_>>()).ok();
    }
    ctl("ann").run(&["put", "k", "1"]).ok();
    let denied = ctl("ann").run(&["put", "z", "1"]);
    assert!(denied.err.contains("permission denied"), "{denied:?}");
    let stranger = ctl("stranger").run(&["get", "k"]);
    assert!(stranger.err.contains("permission denied"), "{stranger:?}");
    root.run(&["put", "z", "1"]).ok();
    root.run(&["user", "delete", "ann"]).ok();
    let gone = ctl("ann").run(&["get", "k"]);
    assert!(gone.err.contains("permission denied"), "{gone:?}");
    root.run(&["auth", "disable"]).ok();
    ctl("stranger").run(&["get", "k"]).ok();
}
