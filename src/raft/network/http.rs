//! The little HTTP of the peer port: who the members are, for whoever joins or looks around.
//!
//! `GET /members` answers a JSON list and the cluster's id in `X-Etcd-Cluster-ID`, as etcd does; `GET /version` the
//! version; `GET /space`, which etcd does not have, whether disk space is low. One request per connection, small and
//! bounded. Nothing here changes anything, so nobody has to show more than the port's TLS asks for: [`Route`] is the whole
//! list, and its matches are exhaustive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::{PeerTls, Stream, connect};
use super::wire::WireError;
use crate::raft::Inner;
use crate::raft::members::MemberInfo;
use crate::raft::types::{Member, NodeId};
use crate::settings::{CLUSTER_VERSION, SERVER_VERSION};

/// The longest request head that is read, bytes.
const MAX_REQUEST: usize = 8 << 10;
/// The longest answer that is read, bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How long one member may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const SPACE_IS_LOW: &str = "{\"low\":true}";
const SPACE_SUFFICES: &str = "{\"low\":false}";
const CLUSTER_ID: &str = "X-Etcd-Cluster-ID";

#[derive(Serialize, Deserialize)]
struct MemberJson {
    id: NodeId,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
}

/// The members of a running cluster, as one of them tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerMembers {
    /// The cluster's id.
    pub cluster_id: u64,
    /// By ascending id.
    pub members: Vec<MemberInfo>,
}

/// Answers the request that starts with `first`.
pub(super) async fn answer(stream: &mut Stream, first: BytesMut, inner: &Arc<Inner>) -> Result<(), WireError> {
    let mut head = first;
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > MAX_REQUEST || stream.read_buf(&mut head).await? == 0 {
            return Err(WireError::Closed);
        }
    }
    let answer = match Route::of(&head) {
        Ok(route) => found(route, inner),
        Err(refusal) => refusal.text(),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    Ok(stream.shutdown().await?)
}

/// Everything that the peer port serves as HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Members,
    Version,
    Space,
}

/// A request that is not answered with what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotFound,
    /// Go's words for a `Host` that is missing, or there twice, for which it has none.
    BadHost(&'static str),
}

impl Route {
    const ALL: [Self; 3] = [Self::Members, Self::Version, Self::Space];

    fn path(self) -> &'static [u8] {
        match self {
            Self::Members => b"/members",
            Self::Version => b"/version",
            Self::Space => b"/space",
        }
    }

    /// The route that a request's head asks for.
    fn of(head: &[u8]) -> Result<Self, Refusal> {
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
        // What does not begin with GET is taken for a member's handshake, and does not come here.
        let (path, version) = (words.nth(1).unwrap_or_default(), words.next());
        let is_host = |line: &&[u8]| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"));
        match lines.take_while(|line| !line.is_empty()).filter(is_host).count() {
            0 if version == Some(b"HTTP/1.1") => {
                return Err(Refusal::BadHost("400 Bad Request: missing required Host header"));
            }
            0 | 1 => {}
            _ => return Err(Refusal::BadHost("400 Bad Request")),
        }
        Self::ALL.into_iter().find(|route| route.path() == path).ok_or(Refusal::NotFound)
    }
}

impl Refusal {
    fn text(self) -> String {
        let (status, body) = match self {
            Self::NotFound => ("404 Not Found", "404 page not found\n"),
            Self::BadHost(said) => (said, said),
        };
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    }
}

fn found(route: Route, inner: &Inner) -> String {
    let body = match route {
        Route::Members => members_json(inner),
        Route::Version => version_json(),
        Route::Space => if inner.store.space().is_low() { SPACE_IS_LOW } else { SPACE_SUFFICES }.to_owned(),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{CLUSTER_ID}: {:x}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        inner.cluster_id,
        body.len()
    )
}

fn members_json(inner: &Inner) -> String {
    let json = |info: MemberInfo| MemberJson {
        id: info.id,
        peer_urls: info.member.peer_urls,
        is_learner: info.is_learner,
        name: info.member.name,
        client_urls: info.member.client_urls,
    };
    let members: Vec<MemberJson> = inner.listed().into_iter().map(json).collect();
    serde_json::to_string(&members).unwrap_or_else(|_| "[]".to_owned())
}

fn version_json() -> String {
    let fields = [("etcdserver", SERVER_VERSION), ("etcdcluster", CLUSTER_VERSION), ("storage", CLUSTER_VERSION)];
    serde_json::to_string(&BTreeMap::from(fields)).unwrap_or_default()
}

/// Asks the member at a peer URL for the member list of its cluster.
///
/// # Errors
/// Nobody answers there within seconds, or what answers is no member.
pub async fn fetch_members(peer_url: &str, tls: &PeerTls) -> Result<PeerMembers, WireError> {
    parse(&fetch_in_time(peer_url, "/members", tls).await?).ok_or(WireError::Magic)
}

/// Asks the member at a peer URL whether it has disk space to write to.
///
/// # Errors
/// Nobody answers there within seconds, or what answers is no member.
pub async fn fetch_has_space(peer_url: &str, tls: &PeerTls) -> Result<bool, WireError> {
    let answer = fetch_in_time(peer_url, "/space", tls).await?;
    match answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| &answer[at + 4..]) {
        Some(body) if body == SPACE_SUFFICES.as_bytes() => Ok(true),
        Some(body) if body == SPACE_IS_LOW.as_bytes() => Ok(false),
        _ => Err(WireError::Magic),
    }
}

async fn fetch_in_time(peer_url: &str, path: &str, tls: &PeerTls) -> Result<Vec<u8>, WireError> {
    match timeout(FETCH_TIMEOUT, fetch(peer_url, path, tls)).await {
        Ok(fetched) => fetched,
        Err(_) => {
            Err(WireError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{peer_url}: no answer"))))
        }
    }
}

async fn fetch(peer_url: &str, path: &str, tls: &PeerTls) -> Result<Vec<u8>, WireError> {
    let mut stream = connect(peer_url, tls).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let read = (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer).await;
    // Some TLS peers end without saying goodbye; what arrived is judged by its own length.
    if let Err(error) = read
        && answer.is_empty()
    {
        return Err(error.into());
    }
    Ok(answer)
}

pub(super) fn parse(answer: &[u8]) -> Option<PeerMembers> {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..at]).ok()?;
    if head.split(' ').nth(1)? != "200" {
        return None;
    }
    let header = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(CLUSTER_ID).then(|| value.trim())
    })?;
    let cluster_id = u64::from_str_radix(header, 16).ok()?;
    let members: Vec<MemberJson> = serde_json::from_slice(&answer[at + 4..]).ok()?;
    let info = |json: MemberJson| MemberInfo {
        id: json.id,
        is_learner: json.is_learner,
        member: Member { name: json.name, peer_urls: json.peer_urls, client_urls: json.client_urls },
    };
    let mut members: Vec<MemberInfo> = members.into_iter().map(info).collect();
    members.sort_by_key(|info| info.id);
    Some(PeerMembers { cluster_id, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_list_is_read_as_etcd_writes_it() {
        let answer = b"HTTP/1.1 200 OK\r\nx-etcd-cluster-id: cdf818194e3a8c32\r\n\r\n\
            [{\"id\":2,\"peerURLs\":[\"http://b:1\"],\"isLearner\":true},\
             {\"id\":1,\"peerURLs\":[\"http://a:1\"],\"name\":\"a\",\"clientURLs\":[\"http://a:2\"]}]\n";
        let read = parse(answer).expect("an answer");
        assert_eq!(read.cluster_id, 0xcdf8_1819_4e3a_8c32);
        assert_eq!(
            read.members.iter().map(|info| (info.id, info.is_learner)).collect::<Vec<_>>(),
            [(1, false), (2, true)]
        );
        assert_eq!(read.members[0].member.client_urls, ["http://a:2"]);
    }

    #[test]
    fn every_route_is_read_from_requests_that_name_one_host() {
        let of = |path: &[u8], rest: &str| {
            Route::of(format!("GET {} {rest}\r\n\r\n", String::from_utf8_lossy(path)).as_bytes())
        };
        for route in Route::ALL {
            assert_eq!(of(route.path(), "HTTP/1.1\r\nhost: a"), Ok(route));
            assert_eq!(of(route.path(), "HTTP/1.0"), Ok(route));
            let bad = |why| Err(Refusal::BadHost(why));
            assert_eq!(of(route.path(), "HTTP/1.1"), bad("400 Bad Request: missing required Host header"));
            assert_eq!(of(route.path(), "HTTP/1.1\r\nHost: a\r\nHOST: b"), bad("400 Bad Request"));
        }
        assert_eq!(of(b"/v2/members", "HTTP/1.1\r\nhost: a"), Err(Refusal::NotFound));
    }

    #[test]
    fn what_is_no_member_list_is_refused() {
        for answer in
            [&b"HTTP/1.1 404 Not Found\r\nX-Etcd-Cluster-ID: 1\r\n\r\n[]"[..], b"HTTP/1.1 200 OK\r\n\r\n[]", b"hello"]
        {
            assert_eq!(parse(answer), None);
        }
    }
}
