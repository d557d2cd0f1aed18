//! Callers that say nothing, too much, or the wrong thing: they are cut off, memory stays bounded, others are served.

use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::frames::{
    CONTINUATION, END_HEADERS, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, call, flood, frame, open, read,
};
use crate::harness::member::{Member, Product, free_ports};
use crate::harness::pem::Authority;
use crate::harness::wait::{turn, until};

/// Memory that a flood may cost beyond what the member had before, bytes.
const ALLOWANCE: u64 = 96 << 20;
const PUT: &str = "/etcdserverpb.KV/Put";

fn resident(member: &Member) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", member.pid())).expect("the member runs");
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

fn descriptors(member: &Member) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", member.pid())).expect("the member runs").count()
}

/// A put of another client, and the memory so far.
async fn others_go_on(cluster: &Cluster, before: u64, what: &str) {
    let mut kv = KvClient::new(cluster.channel(0).await.unwrap_or_else(|error| panic!("{what}: {error}")));
    let put =
        kv.put(pb::PutRequest { key: "other".into(), value: what.as_bytes().to_vec().into(), ..Default::default() });
    let answer = tokio::time::timeout(Duration::from_secs(20), put).await;
    answer.unwrap_or_else(|_| panic!("{what}: no answer")).unwrap_or_else(|status| panic!("{what}: {status}"));
    let grown = resident(&cluster.members[0]).saturating_sub(before);
    assert!(grown < ALLOWANCE, "{what}: {} MiB more", grown >> 20);
}

#[tokio::test]
async fn floods_of_frames_end_the_connection_that_sends_them_and_nobody_elses() {
    let _turn = turn().await;
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let port = cluster.members[0].client_port;
    let before = resident(&cluster.members[0]);
    let request = call(PUT);

    // Rapid reset: CVE-2023-44487.
    let mut stream = open(port).await;
    let mut pairs = Vec::new();
    for n in 0..20_000u32 {
        pairs.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &request));
        pairs.extend(frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    flood(&mut stream, &pairs).await;
    let (frames, closed) = read(&mut stream, |_| false).await;
    assert!(closed, "a client that resets 20 000 requests is let go: {} frames", frames.len());
    others_go_on(&cluster, before, "rapid reset").await;

    // Header blocks without end: CVE-2024-27316 and its kin, full and empty frames, first and later request.
    for (what, piece) in [("full", vec![0u8; 16_000]), ("empty", Vec::new())] {
        for first in [true, false] {
            let mut stream = open(port).await;
            if !first {
                flood(&mut stream, &frame(HEADERS, END_HEADERS, 1, &request)).await;
            }
            flood(&mut stream, &frame(HEADERS, 0, 3, &request)).await;
            let flooded = frame(CONTINUATION, 0, 3, &piece).repeat(if piece.is_empty() { 200_000 } else { 2_000 });
            flood(&mut stream, &flooded).await;
            let (_, closed) = read(&mut stream, |_| false).await;
            assert!(closed, "{what} continuations without end");
            others_go_on(&cluster, before, &format!("{what} continuations, first request: {first}")).await;
        }
    }

    // Pings, and settings that each want an answer.
    let mut stream = open(port).await;
    flood(&mut stream, &frame(PING, 0, 0, &[1; 8]).repeat(100_000)).await;
    let (frames, closed) = read(&mut stream, |_| false).await;
    assert!(closed, "a flood of pings");
    assert!(frames.len() < 1000, "{} pings were answered", frames.len());
    others_go_on(&cluster, before, "pings").await;
    let mut stream = open(port).await;
    flood(&mut stream, &frame(SETTINGS, 0, 0, &[]).repeat(100_000)).await;
    drop(stream);
    others_go_on(&cluster, before, "settings").await;
}

#[tokio::test]
async fn a_client_that_pings_too_often_is_told_so_and_one_that_may_is_not() {
    let strict = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let mut stream = open(strict.members[0].client_port).await;
    for _ in 0..4 {
        stream.write_all(&frame(PING, 0, 0, &[1; 8])).await.expect("sent");
    }
    let (frames, closed) = read(&mut stream, |_| false).await;
    assert!(closed);
    let goaway = frames.iter().find(|(kind, ..)| *kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goaway.2[4..8], 11u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
    assert_eq!(&goaway.2[8..], b"too_many_pings");

    let lax = Cluster::start_in_memory(Product::Ours, 1, &["--grpc-keepalive-min-time", "1ns"]).await;
    let mut stream = open(lax.members[0].client_port).await;
    for n in 0..50u8 {
        stream.write_all(&frame(PING, 0, 0, &[n; 8])).await.expect("sent");
        let (_, closed) = read(&mut stream, |(kind, _, payload)| *kind == PING && payload[0] == n).await;
        assert!(!closed, "ping {n}");
    }
}

#[tokio::test]
async fn the_server_pings_a_silent_client_and_lets_go_of_one_that_does_not_answer() {
    let flags = ["--grpc-keepalive-interval", "1s", "--grpc-keepalive-timeout", "1s"];
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &flags).await;
    let mut stream = open(cluster.members[0].client_port).await;
    // A watch keeps the connection in use; its answers are read and its pings are not answered.
    flood(&mut stream, &frame(HEADERS, END_HEADERS, 1, &call("/etcdserverpb.Watch/Watch"))).await;
    let (frames, closed) = read(&mut stream, |_| false).await;
    assert!(closed, "a client that is gone is let go");
    assert!(frames.iter().any(|(kind, ..)| *kind == PING), "it was asked before");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_connection_lives() {
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &["--max-concurrent-streams", "3"]).await;
    let mut stream = open(cluster.members[0].client_port).await;
    // The limit is a setting that has to be acknowledged before it binds.
    let (_, _) = read(&mut stream, |(kind, ..)| *kind == SETTINGS).await;
    stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.expect("sent");
    let watch = call("/etcdserverpb.Watch/Watch");
    for n in 0..4u32 {
        stream.write_all(&frame(HEADERS, END_HEADERS, 2 * n + 1, &watch)).await.expect("sent");
    }
    let (frames, closed) = read(&mut stream, |(kind, ..)| *kind == RST_STREAM).await;
    assert!(!closed);
    let (_, refused, reason) = frames.last().expect("a reset");
    assert_eq!((*refused, reason.as_slice()), (7, &7u32.to_be_bytes()[..]), "REFUSED_STREAM for the fourth");
    stream.write_all(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await.expect("sent");
    stream.write_all(&frame(PING, 0, 0, &[9; 8])).await.expect("sent");
    let (_, closed) = read(&mut stream, |(kind, ..)| *kind == PING).await;
    assert!(!closed, "the connection goes on");
}

#[tokio::test]
async fn requests_that_never_end_hold_up_nobody() {
    let _turn = turn().await;
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let before = resident(&cluster.members[0]);
    let port = cluster.members[0].client_port;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = open(port).await;
        for n in 0..20u32 {
            // Announces a megabyte and sends some of it.
            let mut start = frame(HEADERS, END_HEADERS, 2 * n + 1, &call(PUT));
            start.extend(frame(0, 0, 2 * n + 1, &[&[0, 0, 0x10, 0, 0][..], &[7; 100]].concat()));
            flood(&mut stream, &start).await;
        }
        held.push(stream);
        let mut slow = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
        let head = b"PUT /v2/keys/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
            Content-Length: 1000000000\r\n\r\nvalue=";
        slow.write_all(head).await.expect("sent");
        held.push(slow);
    }
    others_go_on(&cluster, before, "bodies that never end").await;
    assert_eq!(held.len(), 200);
}

/// A member with TLS on both ports.
fn tls_member(folder: &std::path::Path) -> Member {
    let authority = Authority::new(folder, "authority");
    let leaf = authority.leaf("server");
    let ports = free_ports(2);
    let (client, peer) = (format!("https://127.0.0.1:{}", ports[0]), format!("https://127.0.0.1:{}", ports[1]));
    let path = |path: &std::path::Path| path.display().to_string();
    let flags = [
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer.clone()),
        ("--initial-cluster", format!("tls={peer}")),
        ("--cert-file", path(&leaf.certificate)),
        ("--key-file", path(&leaf.key)),
        ("--peer-cert-file", path(&leaf.certificate)),
        ("--peer-key-file", path(&leaf.key)),
        ("--peer-trusted-ca-file", path(&authority.certificate)),
    ];
    let flags = flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    Member::new(Product::Ours, "tls", folder, (ports[0], ports[1]), flags)
}

#[tokio::test]
async fn silent_callers_are_let_go_and_keep_nobody_out() {
    let _turn = turn().await;
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let mut member = tls_member(folder.path());
    member.start();
    let ctl = Ctl::v3(member.client_url().replace("http", "https"));
    let ctl = ctl.with_tls(&folder.path().join("authority/ca.crt"), None);
    let put = || async {
        let said = ctl.run(&["put", "a", "1"]);
        if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}")) }
    };
    until("the member serves", START_LIMIT, put).await;
    let (memory, files) = (resident(&member), descriptors(&member));
    let mut silent = Vec::new();
    for n in 0..800 {
        let port = if n % 2 == 0 { member.client_port } else { member.peer_port };
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
        if n % 4 < 2 {
            // Begins a handshake that it does not go on with.
            stream.write_all(&[0x16, 0x03]).await.expect("sent");
        }
        silent.push(stream);
    }
    put().await.expect("others are served meanwhile");
    let grown = resident(&member).saturating_sub(memory);
    assert!(grown < ALLOWANCE, "{} MiB for 800 silent callers", grown >> 20);
    for stream in &mut silent {
        // The daemon closes, whatever it thinks of the two bytes.
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "a silent caller is still connected");
    }
    until("the descriptors are back", Duration::from_secs(20), || async {
        let now = descriptors(&member);
        if now <= files + 8 { Ok(()) } else { Err(format!("{now} descriptors, {files} before")) }
    })
    .await;
    put().await.expect("and afterwards");
}

#[tokio::test]
async fn idle_clients_beyond_the_open_file_limit_leave_room_for_log_and_state() {
    let _turn = turn().await;
    let mut cluster = Cluster::prepare(Product::Ours, 1, &["--snapshot-count", "10"]);
    let member = cluster.members.remove(0);
    let host = member.host.clone();
    cluster.members.push(member.at(&host, ["prlimit", "--nofile=256:256"].map(str::to_owned).to_vec()));
    let cluster = cluster.run().await;
    let channel = cluster.channel(0).await.expect("a place before the others");
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(("127.0.0.1", cluster.members[0].client_port)).await.expect("queued at least"));
    }
    let mut kv = KvClient::new(channel).max_encoding_message_size(8 << 20);
    for n in 0..12 {
        // More than the first log file holds, so the log opens the next one.
        let value = vec![n; 1 << 20];
        kv.put(pb::PutRequest { key: vec![n].into(), value: value.into(), ..Default::default() })
            .await
            .expect("a client that is connected is served");
    }
    until("a snapshot is taken", START_LIMIT, || async {
        let log = cluster.members[0].log();
        if log.contains("triggering snapshot") { Ok(()) } else { Err(log) }
    })
    .await;
    kv.put(pb::PutRequest { key: "after".into(), ..Default::default() }).await.expect("served after the snapshot");
    assert!(descriptors(&cluster.members[0]) < 256);
    drop(idle);
    until("others are let in again", START_LIMIT, || cluster.read_at(0)).await;
}
