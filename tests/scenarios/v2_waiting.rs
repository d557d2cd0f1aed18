//! v2 clients that wait, ten thousand at once: no thread each, woken only for their own, so much memory each; and the
//! switch that turns v2 off.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::raw::Raw;
use crate::harness::wait::{can, setting, turn, until};

/// Descriptors the test needs besides those of its clients.
const SPARE: u64 = 500;
/// Most that a client which waits may cost the member, bytes: its connection included.
const MEMORY_EACH: u64 = 24 << 10;

fn address(cluster: &Cluster) -> String {
    format!("{}:{}", cluster.members[0].host, cluster.members[0].client_port)
}

/// A number out of `/metrics`.
async fn metric(address: &str, name: &str) -> u64 {
    let mut raw = Raw::open(address).await.expect("a connection");
    let page = raw.ask("GET", "/metrics", None).await.expect("metrics").body;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Client `n` begins to wait below a prefix of its own; half of them for one event after another.
async fn begin(address: &str, n: u64) -> Raw {
    let mut raw = Raw::open(address).await.expect("a connection");
    let target = format!("/v2/keys/app{n}?wait=true&recursive=true&stream={}", n.is_multiple_of(2));
    let request = raw.request("GET", &target, &[], None);
    raw.send(&request).await.expect("a request is sent");
    assert_eq!(raw.head().await.expect("a head at once").status, 200);
    raw
}

#[tokio::test]
async fn ten_thousand_waiting_clients_cost_no_thread_each_and_wake_only_for_their_own() {
    let _turn = turn().await;
    let clients = setting("V2_WAITING", 10_000);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if !can("enough open files", hard > clients + SPARE) {
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit can be raised");
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let (address, member) = (address(&cluster), &cluster.members[0]);
    let (threads, memory) = (member.process_figure("Threads:"), member.process_figure("VmRSS:"));
    let mut waiting = Vec::new();
    for first in (0..clients).step_by(100) {
        let begun = (first..clients.min(first + 100)).map(|n| begin(&address, n));
        waiting.extend(futures::future::join_all(begun).await);
    }
    assert_eq!(metric(&address, "etcd_debugging_store_watchers").await, clients);
    let each = (member.process_figure("VmRSS:").saturating_sub(memory) << 10) / clients;
    println!("{clients} clients wait; {each} bytes each, connection included; {threads} threads before");
    assert!(member.process_figure("Threads:") <= threads + 2, "threads must not grow with clients");
    assert!(each < MEMORY_EACH, "{each} bytes for each client that waits");
    let delivered = metric(&address, "etcd_charm_v2_events_delivered_total").await;
    let mut writer = Raw::open(&address).await.expect("a connection");
    let written = [3, 77, (clients - 1) as usize];
    for n in written {
        let whole = writer.ask("PUT", &format!("/v2/keys/app{n}/key"), Some("value=v")).await.expect("an answer");
        assert_eq!(whole.head.status, 201);
    }
    let whole = writer.ask("PUT", "/v2/keys/elsewhere", Some("value=v")).await.expect("an answer");
    assert_eq!(whole.head.status, 201);
    for n in written {
        let chunk = waiting[n].chunk().await.expect("a chunk").expect("an event");
        assert!(String::from_utf8_lossy(&chunk).contains(&format!("/app{n}/key")));
    }
    let woken = metric(&address, "etcd_charm_v2_events_delivered_total").await - delivered;
    assert_eq!(woken, written.len() as u64, "four writes, three of them for somebody, one client each");
    drop(waiting);
    until("everybody has gone", std::time::Duration::from_secs(60), || async {
        match metric(&address, "etcd_debugging_store_watchers").await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
}

#[tokio::test]
async fn without_v2_its_paths_are_unknown_and_the_others_answer() {
    for (flags, expected) in [(&["--enable-v2=false"][..], 404), (&[][..], 200)] {
        let cluster = Cluster::start_in_memory(Product::Ours, 1, flags).await;
        let mut raw = Raw::open(&address(&cluster)).await.expect("a connection");
        for path in ["/v2/keys", "/v2/members", "/v2/machines", "/v2/stats/self", "/v2/auth/enable"] {
            let whole = raw.ask("GET", path, None).await.expect("an answer");
            assert_eq!(whole.head.status, expected, "{path} with {flags:?}");
            if expected == 404 {
                assert_eq!(whole.body, "404 page not found\n");
                assert_eq!(whole.head.get("content-type"), Some("text/plain; charset=utf-8"));
            }
        }
        for path in ["/version", "/health"] {
            assert_eq!(raw.ask("GET", path, None).await.expect("an answer").head.status, 200, "{path}");
        }
    }
}
