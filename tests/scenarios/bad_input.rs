//! Wrong settings, wrong directories, wrong clusters: a clear sentence, and nothing changed.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::member::{Member, Product, free_ports};
use crate::harness::wait::until;

const END_LIMIT: Duration = Duration::from_secs(20);

/// Flags, the exit code, and what is said of them: etcd's sentence.
const NONSENSE: [(&[&str], i32, &str); 9] = [
    (&["--nonsense"], 2, "flag provided but not defined: -nonsense"),
    (&["--listen-peer-urls=nonsense"], 2, "URL scheme must be http, https, unix, or unixs: nonsense"),
    (&["--listen-peer-urls=http://127.0.0.1"], 2, "URL address does not have the form \"host:port\": http://127.0.0.1"),
    (&["--listen-peer-urls=http://example.com:1"], 1, "expected IP in URL for binding (http://example.com:1)"),
    (
        &["--listen-client-urls=http://127.0.0.1:1"],
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (&["--heartbeat-interval=0"], 1, "--heartbeat-interval must be >0 (set to 0ms)"),
    (
        &["--election-timeout=10"],
        1,
        "--election-timeout[10ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (&["--initial-cluster-state=maybe"], 2, "invalid value \"maybe\" for flag -initial-cluster-state"),
    (&["--quota-backend-bytes=much"], 2, "invalid value \"much\" for flag -quota-backend-bytes"),
];

#[test]
fn nonsense_is_refused_with_etcds_words_and_codes_and_creates_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for (flags, code, words) in NONSENSE {
        let output = Command::new(Product::Ours.program()).arg("--data-dir").arg(&data).args(flags).output();
        let output = output.expect("the daemon starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words), "{flags:?} said {said}");
        assert_eq!(output.status.code(), Some(code), "{flags:?} said {said}");
        assert!(!data.exists(), "{flags:?} created {}", data.display());
    }
}

/// Waits for the end of a member that must not start, and for what it says.
async fn refuses(member: &mut Member, words: &str) {
    let ended = member.ends_within(END_LIMIT).await;
    assert_eq!(ended.code(), Some(1), "{}", member.log());
    assert!(member.log().contains(words), "{words:?} in:\n{}", member.log());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let mut cluster = Cluster::prepare(Product::Ours, 1, &[]);
    let member = &mut cluster.members[0];
    let held = TcpListener::bind(("127.0.0.1", member.client_port)).expect("the port is free");
    member.start();
    refuses(member, &format!("127.0.0.1:{}", member.client_port)).await;
    assert!(member.log().contains("ddress already in use"), "{}", member.log());
    drop(held);
    let _cluster = cluster.run().await;
}

#[tokio::test]
async fn a_data_directory_serves_one_process_and_one_member_only() {
    let mut cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    ctl.run(&["put", "kept", "1"]).ok();
    let revision = cluster.read_at(0).await.expect("a revision");

    let mut other = stranger(&cluster, "other");
    other.set_data_dir(cluster.members[0].data_dir());
    other.start();
    refuses(&mut other, "is in use by another process").await;
    cluster.members[0].stop();
    other.start();
    refuses(&mut other, "belongs to member").await;

    cluster.members[0].start();
    cluster.ready(0).await;
    assert_eq!(cluster.read_at(0).await, Ok(revision), "nothing changed");
}

/// A member of a cluster of its own, not started.
fn stranger(cluster: &Cluster, name: &str) -> Member {
    let ports = free_ports(2);
    let (client, peer) = (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
    let flags = ["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer];
    let mut flags: Vec<String> = flags.map(str::to_owned).to_vec();
    flags.extend(
        ["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("{name}={peer}")].map(str::to_owned),
    );
    Member::new(Product::Ours, name, cluster.folder.path(), (ports[0], ports[1]), flags)
}

#[tokio::test]
async fn a_member_with_a_foreign_cluster_id_is_kept_out() {
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let revision = cluster.read_at(0).await.expect("a revision");
    let mut foreign = stranger(&cluster, "foreign");
    let mut flags = foreign.flags().to_vec();
    // Its list holds a member of the other cluster, so the two have different ids.
    let list = flags.last_mut().expect("the member list is last");
    *list += &format!(",m0=http://127.0.0.1:{}", cluster.members[0].peer_port);
    foreign.set_flags(flags);
    foreign.start();
    until("the foreign member is told", START_LIMIT, || async {
        let (theirs, ours) = (foreign.log(), cluster.members[0].log());
        if [&theirs, &ours].iter().any(|log| log.contains("cluster ID mismatch")) { Ok(()) } else { Err(theirs) }
    })
    .await;
    foreign.crash();
    assert_eq!(cluster.read_at(0).await, Ok(revision), "nothing changed");
    let members = Ctl::v3(cluster.endpoint(0)).run(&["member", "list"]).ok();
    assert_eq!(members.lines().count(), 1, "{members}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_changes_nothing() {
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &["--max-request-bytes", "100000"]).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    let revision = cluster.read_at(0).await.expect("a revision");
    let said = ctl.run_with(&["put", "large"], &"x".repeat(100_001));
    assert!(said.err.contains("etcdserver: request is too large"), "{said:?}");
    assert_eq!(said.code, Some(1));
    assert_eq!(cluster.read_at(0).await, Ok(revision), "nothing changed");
    ctl.run_with(&["put", "fits"], &"x".repeat(90_000)).ok();
}
