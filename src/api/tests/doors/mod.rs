//! The permission table, walked: every method, every path of the gateway and every HTTP route, in four modes, by every
//! kind of caller, against a live member; and the same table against real etcd, where each difference is in [`theirs`]
//! with its reason.
//!
//! What is due stands in [`calls`] and [`pages`] as one letter a caller, and is written down there rather than taken from
//! `api::rights`, which it is to check. A dot: carried out, which may still mean that a member is unknown.

mod calls;
mod late;
mod pages;
mod servers;
mod theirs;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::Method;

use servers::{Ask, Heard, Server, program};

use crate::api::identity::GATEWAY_REFUSAL;
use crate::api::methods::Rpc;
use crate::api::routes::Route;
use crate::api::v2::guard::{CLOSED, MEMBERS_ARE_GUARDED_BY_V3};

/// By mode: neither, v2, v3, both. By caller: a letter of [`letter`].
pub type Due = [&'static str; 4];

/// The user with the role root, in v3, in v2 and in the certificate.
const RULER: &str = "root";
/// A lease that holds the key `z`.
const LEASE: i64 = 71;
/// A lease that holds a leadership.
const LEADING: i64 = 72;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Nobody,
    /// A user of v3 with the keys `a` to `m`, and one of v2 with what is below `/own`; the passwords are the same.
    Low,
    /// v3's root, whose password is not that of v2's.
    Root,
    /// v2's.
    RootOfV2,
    /// Whoever has root's certificate, and nothing else.
    Certificate,
}

impl Who {
    /// For calls, of which v2's root knows nothing.
    const V3: [Self; 4] = [Self::Nobody, Self::Low, Self::Root, Self::Certificate];
    /// For HTTP.
    const ALL: [Self; 5] = [Self::Nobody, Self::Low, Self::Root, Self::RootOfV2, Self::Certificate];
}

/// Which access controls are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    v3: bool,
    v2: bool,
}

/// Its place in [`Mode::ALL`].
const V3_ONLY: usize = 2;

impl Mode {
    const ALL: [Self; 4] = [
        Self { v3: false, v2: false },
        Self { v3: false, v2: true },
        Self { v3: true, v2: false },
        Self { v3: true, v2: true },
    ];
}

/// What was heard, as a letter.
fn letter(heard: &Heard) -> char {
    let Heard { status, text, is_cut } = heard;
    let has = |sentence: &str| text.contains(sentence);
    match status {
        0 => '!',
        _ if has("etcdserver: user name is empty") => 'e',
        _ if has("etcdserver: permission denied") => 'd',
        _ if has("etcdserver: invalid auth token") => 't',
        _ if has(CLOSED) => 'c',
        _ if has(MEMBERS_ARE_GUARDED_BY_V3) => 'm',
        _ if has("Insufficient credentials") => 'u',
        _ if has(GATEWAY_REFUSAL) => 'g',
        401 if text.is_empty() => '4',
        500 if has("Internal Server Error") => 'i',
        _ if *is_cut => 'n',
        _ if has("404 page not found") || has("unknown method") || has("unknown service") => '-',
        _ => '.',
    }
}

/// The next number that no other call has.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// A way in: what its row is called, what is asked there, and what is due in each mode.
struct Door {
    name: String,
    ask: Box<dyn Fn(&Server) -> Ask>,
    due: Vec<String>,
    who: &'static [Who],
    rpc: Option<Rpc>,
    route: Option<Route>,
    method: Option<Method>,
}

/// Every method.
fn methods() -> impl Iterator<Item = Door> {
    Rpc::ALL.into_iter().map(|rpc| Door {
        name: format!("/{}/{}", rpc.service().name(), rpc.name()),
        ask: Box::new(move |server| calls::grpc(rpc, next(), &server.peer_url())),
        due: calls::due(rpc).map(str::to_owned).to_vec(),
        who: &Who::V3,
        rpc: Some(rpc),
        route: None,
        method: None,
    })
}

/// Every path of the gateway.
fn gateway() -> impl Iterator<Item = Door> {
    let paths = Rpc::ALL.into_iter().flat_map(|rpc| rpc.gateway_paths().iter().map(move |path| (rpc, *path)));
    paths.map(|(rpc, path)| Door {
        name: format!("/v3/{path}"),
        ask: Box::new(move |server| calls::json(rpc, path, next(), &server.peer_url())),
        due: calls::due_at_gateway(rpc),
        who: &Who::V3,
        rpc: Some(rpc),
        route: None,
        method: None,
    })
}

/// Every route, with every method it has.
fn routes(peer_url: &str) -> impl Iterator<Item = Door> {
    let asks = |route: Route| pages::asks(route, peer_url).into_iter().map(move |(ask, due)| (route, ask, due));
    Route::ALL.into_iter().flat_map(asks).collect::<Vec<_>>().into_iter().map(|(route, ask, due)| Door {
        name: format!("{} {}", ask.method, ask.path),
        method: Some(ask.method.clone()),
        ask: Box::new(move |_| ask.clone()),
        due: due.map(str::to_owned).to_vec(),
        who: if due[0].len() == Who::ALL.len() { &Who::ALL } else { &Who::V3 },
        rpc: None,
        route: Some(route),
    })
}

impl Server {
    /// A token of this user, while v3's authentication is on.
    async fn token(&self, name: &str) -> Option<String> {
        let password = if name == RULER { "root3" } else { name };
        let body = format!(r#"{{"name":"{name}","password":"{password}"}}"#);
        let ask = Ask::http(Method::POST, "/v3/auth/authenticate", "application/json", body);
        let heard = self.ask(Who::Nobody, ask).await;
        let value: serde_json::Value = serde_json::from_str(&heard.text).ok()?;
        Some(value.get("token")?.as_str()?.to_owned())
    }

    /// Has something done by v3's root that is no part of the table.
    async fn prepare(&self, path: &str, body: impl Into<bytes::Bytes>) -> Heard {
        let ask = Ask::http(Method::POST, &format!("/v3/{path}"), "application/json", body);
        let token = self.token(RULER).await;
        self.ask(Who::Nobody, ask.with_token(token)).await
    }

    /// Has something done by whichever root v2 listens to.
    async fn prepare_v2(&self, method: Method, path: &str, body: &'static str) {
        for password in ["root2", "root3"] {
            let ask = Ask::http(method.clone(), path, "application/json", body).with_password(RULER, password);
            let heard = self.ask(Who::Nobody, ask).await;
            if heard.status != 401 {
                return;
            }
        }
        panic!("no root of v2 may {method} {path}");
    }

    /// Users and roles of both APIs; nothing is on before and after.
    async fn furnish(&self) {
        for (path, body) in [
            ("auth/user/add", r#"{"name":"root","password":"root3"}"#),
            ("auth/user/add", r#"{"name":"ann","password":"ann"}"#),
            ("auth/role/add", r#"{"name":"root"}"#),
            ("auth/role/add", r#"{"name":"low"}"#),
            ("auth/role/add", r#"{"name":"other"}"#),
            ("auth/role/grant", r#"{"name":"low","perm":{"permType":2,"key":"YQ==","range_end":"bQ=="}}"#),
            ("auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("auth/user/grant", r#"{"user":"ann","role":"low"}"#),
        ] {
            self.prepare(path, body).await;
        }
    }

    async fn furnish_v2(&self) {
        for (method, path, body) in [
            (Method::PUT, "/v2/auth/users/root", r#"{"user":"root","password":"root2"}"#),
            (Method::PUT, "/v2/auth/users/ann", r#"{"user":"ann","password":"ann"}"#),
            (
                Method::PUT,
                "/v2/auth/roles/own",
                r#"{"role":"own","permissions":{"kv":{"read":["/own/*"],"write":["/own/*"]}}}"#,
            ),
            (Method::PUT, "/v2/auth/users/ann", r#"{"user":"ann","grant":["own"]}"#),
        ] {
            self.prepare_v2(method, path, body).await;
        }
    }

    async fn set(&self, mode: Mode, has_v2: bool) {
        let path = if mode.v3 { "auth/enable" } else { "auth/disable" };
        self.prepare(path, "{}").await;
        let refused = letter(&self.ask(Who::Nobody, calls::grpc(Rpc::Range, 0, "")).await) == 'e';
        assert_eq!(refused, mode.v3, "the switch of v3");
        if has_v2 {
            let method = if mode.v2 { Method::PUT } else { Method::DELETE };
            self.prepare_v2(method, "/v2/auth/enable", "").await;
            if mode.v2 {
                // Made anew whenever it is switched on; as long as he is there, the guest may do everything.
                self.prepare_v2(Method::DELETE, "/v2/auth/roles/guest", "").await;
            }
        }
    }

    /// What is to be there before a call, whoever makes it.
    async fn make_ready(&self, rpc: Rpc) {
        match rpc {
            Rpc::LeaseRevoke | Rpc::LeaseKeepAlive | Rpc::LeaseTimeToLive | Rpc::LeaseLeases => {
                self.prepare("lease/grant", format!(r#"{{"ID":{LEASE},"TTL":600}}"#)).await;
                self.prepare("kv/put", format!(r#"{{"key":"eg==","value":"MQ==","lease":{LEASE}}}"#)).await;
            }
            Rpc::Leader | Rpc::Observe => {
                self.prepare("lease/grant", format!(r#"{{"ID":{LEADING},"TTL":6000}}"#)).await;
                let token = self.token(RULER).await;
                self.ask(Who::Nobody, calls::lead(LEADING).with_token(token)).await;
            }
            _ => {}
        }
    }

    /// One cell of the table.
    async fn try_door(&self, door: &Door, who: Who) -> char {
        let ask = (door.ask)(self);
        let ask = match (who, door.rpc) {
            (Who::Nobody | Who::Certificate, _) => ask,
            (Who::RootOfV2, _) => ask.with_password(RULER, "root2"),
            (Who::Low, Some(_)) => ask.with_token(self.token("ann").await),
            (Who::Root, Some(_)) => ask.with_token(self.token(RULER).await),
            (Who::Low, None) => ask.with_password("ann", "ann"),
            (Who::Root, None) => ask.with_password(RULER, "root3"),
        };
        let heard = self.ask(who, ask).await;
        let letter = letter(&heard);
        assert!(letter != '!', "{}", heard.text);
        letter
    }

    /// Walks doors in all modes.
    ///
    /// # Returns
    /// The number of cells, and what differs from `due`, which is asked for each door and mode.
    async fn walk(&self, doors: &[Door], has_v2: bool, due: impl Fn(&Door, usize) -> String) -> (usize, Vec<String>) {
        let (mut cells, mut wrong) = (0, Vec::new());
        for (number, mode) in Mode::ALL.into_iter().enumerate().filter(|(_, mode)| has_v2 || !mode.v2) {
            self.set(mode, has_v2).await;
            for door in doors {
                let mut heard = String::new();
                for who in door.who {
                    if let Some(rpc) = door.rpc {
                        self.make_ready(rpc).await;
                    }
                    heard.push(self.try_door(door, *who).await);
                    let moves = matches!(door.rpc, Some(Rpc::AuthEnable | Rpc::AuthDisable))
                        || door.route == Some(Route::V2AuthEnable);
                    if moves {
                        self.set(mode, has_v2).await;
                    }
                    cells += 1;
                }
                let expected = due(door, number);
                if heard != expected {
                    wrong.push(format!("{} with {mode:?}: heard {heard}, due {expected}", door.name));
                }
            }
        }
        (cells, wrong)
    }
}

/// Three walks, so that no test takes long: each has a member of its own.
async fn walk_ours(doors: Vec<Door>) {
    let server = Server::ours().await;
    server.furnish().await;
    server.furnish_v2().await;
    let (cells, wrong) = server.walk(&doors, true, |door, mode| door.due[mode].clone()).await;
    println!("{} rows, {cells} cells", doors.len());
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn each_method_lets_in_whom_it_should_and_nobody_else() {
    walk_ours(methods().collect()).await;
}

#[tokio::test]
async fn each_path_of_the_gateway_lets_in_whom_it_should_and_nobody_else() {
    walk_ours(gateway().collect()).await;
}

#[tokio::test]
async fn each_http_route_lets_in_whom_it_should_and_nobody_else() {
    walk_ours(routes(crate::api::tests::member::Member::PEER_URL).collect()).await;
}

#[tokio::test]
async fn a_bad_token_is_refused_wherever_a_missing_one_is() {
    let server = Server::ours().await;
    server.furnish().await;
    server.furnish_v2().await;
    server.set(Mode { v3: true, v2: false }, true).await;
    let mut wrong = Vec::new();
    for door in methods().chain(gateway()) {
        for bad in ["nonsense", "abcdefghijklmnop.1"] {
            let ask = (door.ask)(&server).with_token(Some(bad.to_owned()));
            let heard = letter(&server.ask(Who::Nobody, ask).await);
            let due = if door.due[2].starts_with('e') { 't' } else { '.' };
            if heard != due {
                wrong.push(format!("{} with {bad}: heard {heard}, due {due}", door.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_metrics_port_has_what_the_table_gives_it_and_no_more() {
    let server = Server::ours().await;
    for route in Route::ALL {
        for (ask, _) in pages::asks(route, "") {
            let name = format!("{} {}", ask.method, ask.path);
            let heard = server.ask_metrics(ask).await;
            assert_eq!(letter(&heard) == '.', route.is_on_metrics_port(), "{name}: {heard:?}");
        }
    }
}

#[test]
fn every_method_of_every_route_is_asked() {
    for route in Route::ALL {
        for method in route.methods() {
            let asked = pages::asks(route, "").iter().any(|(ask, _)| ask.method == *method);
            assert!(asked, "{method} of {route:?} has no row");
        }
    }
}

#[tokio::test]
async fn etcd_3_7_judges_calls_alike_but_for_what_is_listed() {
    let Some(etcd) = program("ETCD_3_7", None, "etcd 3.7") else { return };
    let server = Server::etcd(&etcd, &[]).await;
    server.furnish().await;
    let doors: Vec<Door> = methods().chain(gateway()).collect();
    let (cells, wrong) = server.walk(&doors, false, theirs::in_3_7).await;
    println!("{} rows, {cells} cells", doors.len());
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn etcd_3_4_judges_http_alike_but_for_what_is_listed() {
    let Some(etcd) = program("ETCD_CONTROL", Some("/usr/bin/etcd"), "etcd 3.4") else { return };
    let server = Server::etcd(&etcd, &["--enable-v2"]).await;
    server.furnish().await;
    server.furnish_v2().await;
    let doors: Vec<Door> = routes(&server.peer_url()).collect();
    let (cells, wrong) = server.walk(&doors, true, theirs::in_3_4).await;
    println!("{} rows, {cells} cells", doors.len());
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
