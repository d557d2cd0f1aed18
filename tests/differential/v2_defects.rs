//! What the real server gets wrong about waiting (reference: etcd-v2 §5), shown on it, and our better behaviour beside it
//! (docs/decisions/043).

use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::raw::Raw;

/// How long a side that owes an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

struct Site {
    _cluster: Cluster,
    address: String,
    raw: Raw,
}

impl Site {
    async fn start(product: Product) -> Self {
        let cluster = Cluster::start_in_memory(product, 1, &["--enable-v2=true"]).await;
        let member = &cluster.members[0];
        let address = format!("{}:{}", member.host, member.client_port);
        let raw = Raw::open(&address).await.expect("the member answers");
        Self { _cluster: cluster, address, raw }
    }

    /// Asks for something that must succeed; the index it happened at.
    async fn ok(&mut self, method: &str, target: &str, body: Option<&str>) -> u64 {
        let target = format!("/v2/keys{target}");
        let whole = self.raw.ask(method, &target, body).await.expect("an answer");
        assert!(whole.head.status < 300, "{method} {target}: {whole:?}");
        whole.head.get("x-etcd-index").and_then(|index| index.parse().ok()).expect("an index")
    }

    async fn set(&mut self, path: &str) -> u64 {
        self.ok("PUT", path, Some("value=v")).await
    }

    /// Begins to wait.
    async fn wait(&self, target: &str) -> Raw {
        let mut raw = Raw::open(&self.address).await.expect("a connection");
        let request = raw.request("GET", &format!("/v2/keys{target}"), &[], None);
        raw.send(&request).await.expect("a request is sent");
        let head = raw.head().await.expect("a head at once");
        assert_eq!(head.status, 200, "{target}");
        raw
    }
}

/// The key of the next event, `None` at the end of the response.
async fn next(raw: &mut Raw) -> Option<String> {
    let chunk = tokio::time::timeout(LIMIT, raw.chunk()).await.expect("an event in time").expect("a chunk");
    let event: serde_json::Value = serde_json::from_slice(&chunk?).expect("an event");
    Some(event["node"]["key"].as_str().expect("a key").to_owned())
}

/// Whether nothing arrived although something later has, on another connection.
async fn silent(raw: &mut Raw) -> bool {
    !raw.has_arrived().await
}

async fn both() -> [Site; 2] {
    [Site::start(Product::Etcd).await, Site::start(Product::Ours).await]
}

#[tokio::test]
async fn the_past_hides_what_the_present_hides() {
    let [mut etcd, mut ours] = both().await;
    for (site, expected) in [(&mut etcd, "/a/_h"), (&mut ours, "/a/seen")] {
        let from = site.set("/a/_h").await;
        site.set("/a/seen").await;
        let mut past = site.wait(&format!("/a?wait=true&recursive=true&waitIndex={from}")).await;
        assert_eq!(next(&mut past).await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn the_end_of_a_directory_concerns_what_is_below_it_and_not_what_is_spelt_alike() {
    let [mut etcd, mut ours] = both().await;
    for (site, expected) in [(&mut etcd, "/y"), (&mut ours, "/yfoo")] {
        let from = site.set("/y/x").await;
        site.ok("DELETE", "/y?recursive=true", None).await;
        site.set("/yfoo").await;
        let mut past = site.wait(&format!("/yfoo?wait=true&waitIndex={from}")).await;
        assert_eq!(next(&mut past).await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_stream_that_begins_in_the_past_goes_on_into_the_present() {
    let [mut etcd, mut ours] = both().await;
    for (site, goes_on) in [(&mut etcd, false), (&mut ours, true)] {
        let from = site.set("/s/1").await;
        site.set("/s/2").await;
        let mut stream = site.wait(&format!("/s?wait=true&recursive=true&stream=true&waitIndex={from}")).await;
        let mut later = site.wait("/s/3?wait=true").await;
        assert_eq!(next(&mut stream).await.as_deref(), Some("/s/1"));
        site.set("/s/3").await;
        assert_eq!(next(&mut later).await.as_deref(), Some("/s/3"));
        if goes_on {
            assert_eq!(next(&mut stream).await.as_deref(), Some("/s/2"));
            assert_eq!(next(&mut stream).await.as_deref(), Some("/s/3"));
        } else {
            assert!(silent(&mut stream).await);
        }
    }
}

#[tokio::test]
async fn a_stream_on_a_deleted_directory_hears_of_it_once() {
    let [mut etcd, mut ours] = both().await;
    for (site, times) in [(&mut etcd, 2), (&mut ours, 1)] {
        site.set("/d/x").await;
        let mut stream = site.wait("/d?wait=true&recursive=true&stream=true").await;
        site.ok("DELETE", "/d?recursive=true", None).await;
        site.set("/d/y").await;
        for _ in 0..times {
            assert_eq!(next(&mut stream).await.as_deref(), Some("/d"));
        }
        assert_eq!(next(&mut stream).await.as_deref(), Some("/d/y"));
    }
}

/// Bytes that fill every buffer between a server and a client that does not read.
const FILL: usize = 100_000;
const WRITES: usize = 1200;

#[tokio::test]
async fn a_stream_that_is_not_read_ends_instead_of_falling_silent() {
    let [mut etcd, mut ours] = both().await;
    let value = format!("value={}", "x".repeat(FILL));
    for (site, is_ours) in [(&mut etcd, false), (&mut ours, true)] {
        let mut slow = site.wait("/big?wait=true&stream=true").await;
        let mut last = 0;
        for _ in 0..WRITES {
            last = site.ok("PUT", "/big?noValueOnSuccess=true", Some(&value)).await;
        }
        // Now it reads: some events, then an end (ours) or nothing more ever (etcd), but never a gap.
        let (mut got, mut index, mut ended) = (0, 0, false);
        loop {
            match tokio::time::timeout(Duration::from_secs(3), slow.chunk()).await {
                Err(_) => break,
                Ok(chunk) => match chunk.expect("a chunk or an end") {
                    None => {
                        ended = true;
                        break;
                    }
                    Some(chunk) => {
                        let event: serde_json::Value = serde_json::from_slice(&chunk).unwrap_or_default();
                        let now = event["node"]["modifiedIndex"].as_u64().unwrap_or(index);
                        assert!(index == 0 || now <= index + 1, "a gap between {index} and {now}");
                        index = now;
                        got += 1;
                    }
                },
            }
        }
        println!("{got} of {WRITES} events before the end, the last {index} of {last}; ended: {ended}");
        assert!(index < last, "the stream must have been too slow for this to mean anything");
        assert_eq!(ended, is_ours);
        // Whoever reads is not harmed by whoever does not.
        site.set("/after").await;
    }
}
