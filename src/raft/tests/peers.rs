//! Who is let in on the peer port.

use super::cluster::{CLUSTER, cluster, eventually, soon};
use crate::raft::network::{Channel, Hello, Refusal, WireError, dial};
use crate::raft::network::{PeerTls, fetch_members};

async fn knock(url: &str, hello: Hello) -> Result<(), WireError> {
    dial(&[url.to_owned()], &PeerTls::Plain, hello).await.map(drop)
}

fn refusal(outcome: Result<(), WireError>) -> Refusal {
    match outcome {
        Err(WireError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn foreign_removed_and_misled_members_are_turned_away_with_the_reason() {
    let nodes = cluster(3).await;
    let hello = Hello { cluster: CLUSTER, from: 2, to: 1, channel: Channel::Pulse };
    knock(&nodes[0].url, hello).await.expect("a member is welcome");
    let foreign = refusal(knock(&nodes[0].url, Hello { cluster: 0xbad, ..hello }).await);
    assert_eq!(foreign, Refusal::Cluster { ours: 0xbad, theirs: CLUSTER });
    assert!(foreign.to_string().contains("cluster ID mismatch"));
    let misled = refusal(knock(&nodes[0].url, Hello { to: 3, ..hello }).await);
    assert_eq!(misled, Refusal::Target { wanted: 3, actual: 1 });
    nodes[0].consensus.member_remove(3, soon()).await.expect("three become two");
    eventually("the removal is applied", || nodes[0].store.removed().contains(&3)).await;
    assert_eq!(refusal(knock(&nodes[0].url, Hello { from: 3, ..hello }).await), Refusal::Removed(3));
}

#[tokio::test]
async fn the_peer_port_tells_a_joining_member_who_is_there() {
    let nodes = cluster(1).await;
    let found = fetch_members(&nodes[0].url, &PeerTls::Plain).await.expect("a member answers");
    assert_eq!(found.cluster_id, CLUSTER);
    assert_eq!(found.members, nodes[0].consensus.members());
}

#[tokio::test]
async fn noise_on_the_peer_port_disturbs_nobody() {
    use tokio::io::AsyncWriteExt;
    let nodes = cluster(1).await;
    let address = nodes[0].url.trim_start_matches("http://").to_owned();
    for noise in [&b"\x16\x03\x01"[..], b"POST / HTTP/1.1\r\n\r\n", &[0xff; 4096], b""] {
        let mut socket = tokio::net::TcpStream::connect(&address).await.expect("the port is open");
        let _ = socket.write_all(noise).await;
    }
    nodes[0].put("k", "1").await.expect("it goes on");
}
