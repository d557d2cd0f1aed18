//! Fixed requests about members, statistics, users and roles: status, headers and bodies of etcd and of ours.

use std::collections::BTreeMap;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::raw::{Raw, Whole};
use crate::harness::wait::until;

/// `METHOD path [< body]`, some with `-u user:password` before the body. Comments start with `#`.
const REQUESTS: &str = r##"
GET /v2/keys
GET /v2/keysfoo
GET /v2
GET /v2/
GET /v2/leader
GET /v2/admin/config
GET /v2/stats/nope
GET /v2/stats/self/
PATCH /v2/keys/x
OPTIONS /v2/keys/x
POST /v2/machines
HEAD /v2/machines
GET /v2/machines/
POST /v2/stats/self
HEAD /v2/stats/store
DELETE /v2/stats/leader
HEAD /v2/members
PUT /v2/members
DELETE /v2/members/
GET /v2/members/8e9e05c52164694d
GET /v2/members/leader/
POST /v2/members/leader
PATCH /v2/members
POST /v2/members < {"peerURLs":["http://127.0.0.1:1"]}
JSON POST /v2/members < {}
JSON POST /v2/members < {"peerURLs":[]}
JSON POST /v2/members < {"peerURLs":["127.0.0.1:1"]}
JSON POST /v2/members < {"peerURLs":["ftp://127.0.0.1:1"]}
JSON POST /v2/members < {"peerURLs":["http://127.0.0.1"]}
JSON POST /v2/members < {"peerURLs":["http://127.0.0.1:1/a"]}
JSON PUT /v2/members/zz < {"peerURLs":["http://127.0.0.1:1"]}
JSON PUT /v2/members/12 < {"peerURLs":["http://127.0.0.1:1"]}
DELETE /v2/members/zz
DELETE /v2/members/12
GET /v2/auth
GET /v2/auth/
GET /v2/auth/enable/
POST /v2/auth/enable
GET /v2/auth/enable
PUT /v2/auth/enable
DELETE /v2/auth/enable
GET /v2/auth/users
GET /v2/auth/users/
POST /v2/auth/users
PUT /v2/auth/users/
HEAD /v2/auth/users
GET /v2/auth/users/a/b
GET /v2/auth/users/nobody
DELETE /v2/auth/users/nobody
GET /v2/keys
PUT /v2/auth/users/alice < {"user":"alice"}
PUT /v2/auth/users/alice < {"user":"bob","password":"x"}
PUT /v2/auth/users/alice < {"user":"alice","password":"x"}
GET /v2/keys
PUT /v2/auth/users/alice < {"user":"alice"}
PUT /v2/auth/users/alice < {"user":"alice"}
PUT /v2/auth/users/bob < {"user":"bob","password":"y","roles":["b","a","b"]}
PUT /v2/auth/users/bob < {"user":"bob","password":"y","roles":["b","a","b"]}
GET /v2/auth/users/bob
GET /v2/auth/users
PUT /v2/auth/users/bob < {"user":"bob","grant":["z"],"revoke":["b"]}
PUT /v2/auth/users/bob < {"user":"bob","grant":["z"],"revoke":["z"]}
PUT /v2/auth/users/bob < {"user":"bob","revoke":["never"]}
PUT /v2/auth/users/bob < {"user":"bob","grant":["q"],"roles":["q"]}
PUT /v2/auth/users/carl < {"user":"carl","grant":["z"]}
PUT /v2/auth/users/carl < {"USER":"carl","PassWord":"y","roles":[]} trailing
PUT /v2/auth/users/carl < {
PUT /v2/auth/users/carl
PUT /v2/auth/users/we%20ird < {"user":"we ird","password":"p:q"}
PUT /v2/auth/users/a%2Fb < {"user":"a/b","password":"p"}
DELETE /v2/auth/users/carl
GET /v2/auth/roles
GET /v2/auth/roles/
GET /v2/auth/roles/nope
GET /v2/auth/roles/root
GET /v2/auth/roles/a/b
PUT /v2/auth/roles/r1 < {"role":"r1"}
PUT /v2/auth/roles/r1 < {"role":"r1"}
PUT /v2/auth/roles/r2 < {"role":"r2","permissions":{"kv":{"read":["/b","/a"],"write":null}}}
PUT /v2/auth/roles/r1 < {"role":"r1","grant":{"kv":{"read":["/foo/*","/b"],"write":["/foo/*"]}}}
PUT /v2/auth/roles/r1 < {"role":"r1","grant":{"kv":{"read":["/foo/*"],"write":[]}}}
PUT /v2/auth/roles/r1 < {"role":"r1","grant":{"kv":{"read":[],"write":["/foo/*"]}}}
PUT /v2/auth/roles/r1 < {"role":"r1","revoke":{"kv":{"read":["/nix"],"write":[]}}}
PUT /v2/auth/roles/r1 < {"role":"r1","revoke":{"kv":{"read":["/b"],"write":[]}}}
PUT /v2/auth/roles/r1 < {"role":"r1","grant":{"kv":{"read":["/z"]}},"permissions":{"kv":{"read":["/q"]}}}
PUT /v2/auth/roles/no < {"role":"no","grant":{"kv":{"read":["/z"]}}}
PUT /v2/auth/roles/no < {"role":"other"}
PUT /v2/auth/roles/no < x
PUT /v2/auth/roles/root < {"role":"root"}
DELETE /v2/auth/roles/root
DELETE /v2/auth/roles/nope
DELETE /v2/auth/roles/r2
PUT /v2/auth/users/alice < {"user":"alice","grant":["r1","exact"]}
PUT /v2/auth/roles/exact < {"role":"exact","permissions":{"kv":{"read":["/one"],"write":["/one"]}}}
PUT /v2/auth/users/root < {"user":"root","password":"r"}
PUT /v2/auth/users/root < {"user":"root","grant":["root"]}
PUT /v2/auth/users/root < {"user":"root","revoke":["root"]}
GET /v2/auth/users/root
GET /v2/auth/users/alice
PUT /v2/auth/enable
GET /v2/auth/enable
GET /v2/keys
PUT /v2/auth/enable
-u root:r PUT /v2/auth/enable
GET /v2/auth/users
-u alice:x GET /v2/auth/users
-u root:bad GET /v2/auth/users
-u root:r GET /v2/auth/roles
-u root:r DELETE /v2/auth/users/root
PUT /v2/keys/foo/a?value=1
-u alice:x GET /v2/keys/foo/a
-u alice:y GET /v2/keys/foo/a
-u alice:x GET /v2/keys/foo
-u alice:x GET /v2/keys/foo/
-u alice:x GET /v2/keys/foo?recursive=true
-u alice:x GET /v2/keys/foo/?recursive=true
-u alice:x PUT /v2/keys/one?value=1
-u alice:x GET /v2/keys/one
-u alice:x GET /v2/keys/one?recursive=true
-u alice:x PUT /v2/keys/foo/b?value=1
-u alice:x DELETE /v2/keys/foo/b
-u alice:x DELETE /v2/keys/foo
-u alice:x POST /v2/keys/foo/?value=1
-u alice:x PUT /v2/keys/x?prevIndex=no
-u alice:x PUT /v2/keys/x?value=1
-u alice:x HEAD /v2/keys/x
-u alice:x GET /v2/keys/foo/b?wait=true&waitIndex=1
-u alice:x GET /v2/keys/b?wait=true&waitIndex=1
GET /v2/keys/?recursive=true&sorted=true
GET /v2/keys?recursive=true
GET /v2/members/x
JSON POST /v2/members < {}
DELETE /v2/members/12
-u alice:x DELETE /v2/members/12
-u root:r DELETE /v2/members/12
-u root:r DELETE /v2/auth/roles/guest
GET /v2/keys/
GET /v2/keys/foo/a
PUT /v2/keys/x?value=1
GET /v2/keys/zz?prevIndex=x
-u root:r GET /v2/keys/?sorted=true
-u root:r PUT /v2/auth/users/root < {"user":"root","password":"new"}
-u root:r GET /v2/keys/?sorted=true
-u root:new GET /v2/keys/?sorted=true
-u root:new DELETE /v2/auth/enable
DELETE /v2/auth/enable
DELETE /v2/auth/users/root
GET /v2/keys/?sorted=true
GET /v2/stats/leader
GET /version
GET /health
"##;

/// Requests whose answers differ, and why that is right.
const EXPLAINED: &[(&str, &str)] = &[
    ("GET /version", "versions differ on purpose, and etcd 3.6 adds the storage version"),
    ("GET /health", "etcd 3.6 adds a reason"),
];

struct Site {
    _cluster: Cluster,
    raw: Raw,
}

impl Site {
    async fn start(product: Product) -> Self {
        let cluster = Cluster::start_in_memory(product, 1, &["--enable-v2=true"]).await;
        let address = format!("127.0.0.1:{}", cluster.members[0].client_port);
        let raw = until("the first index", START_LIMIT, || async {
            let mut raw = Raw::open(&address).await.map_err(|error| error.to_string())?;
            let whole = raw.ask("GET", "/v2/keys", None).await.map_err(|error| error.to_string())?;
            if whole.head.get("x-etcd-index") == Some("3") { Ok(raw) } else { Err(format!("{whole:?}")) }
        })
        .await;
        Self { _cluster: cluster, raw }
    }

    async fn say(&mut self, line: &str) -> Whole {
        let (line, body) = line.split_once(" < ").map_or((line, None), |(line, body)| (line, Some(body)));
        let mut words: Vec<&str> = line.split(' ').collect();
        let mut headers = Vec::new();
        let mut basic = String::new();
        if words[0] == "-u" {
            use base64::Engine;
            basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(words[1]));
            words.drain(..2);
        }
        if words[0] == "JSON" {
            headers.push(("Content-Type", "application/json"));
            words.remove(0);
        }
        if !basic.is_empty() {
            headers.push(("Authorization", &basic));
        }
        self.raw.ask_with(words[0], words[1], &headers, body).await.unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}

/// What is compared: the date, lengths and ids are not.
fn compared(whole: &Whole) -> (u16, BTreeMap<String, String>, String) {
    let masked = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"];
    let left_out = ["date", "content-length", "transfer-encoding"];
    let headers = whole.head.headers.iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| {
        (name.clone(), if masked.contains(&name.as_str()) { "*".to_owned() } else { value.clone() })
    });
    let mut body = String::new();
    for word in whole.body.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let id = bare.len() >= 14 && bare.chars().all(|c| c.is_ascii_hexdigit());
        body += if id { word.strip_prefix(bare).unwrap_or(word) } else { word };
    }
    (whole.head.status, headers.collect(), body)
}

#[tokio::test]
async fn fixed_v2_requests_are_answered_as_etcd_answers_them() {
    let (mut etcd, mut ours) = (Site::start(Product::Etcd).await, Site::start(Product::Ours).await);
    let (mut differences, mut lines) = (Vec::new(), 0);
    for line in REQUESTS.lines().filter(|line| !line.is_empty()) {
        let (expected, got) = (etcd.say(line).await, ours.say(line).await);
        let explained = EXPLAINED.iter().any(|(explained, _)| *explained == line);
        if compared(&expected) != compared(&got) && !explained {
            differences.push(format!("{line}\netcd: {expected:#?}\nours: {got:#?}"));
        }
        lines += 1;
    }
    assert!(differences.is_empty(), "{} of {lines} differ:\n{}", differences.len(), differences.join("\n\n"));
    println!("{lines} requests are answered alike, {} explained differences", EXPLAINED.len());
}
