//! What is sent to each route with each of its methods, and what is due. The match is exhaustive: a new route does not
//! build without requests here.

use http::Method;

use super::Due;
use super::servers::Ask;
use crate::api::routes::Route;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

// Callers in the order of `Who::ALL`: nobody, the low user, v3's root, v2's root, root's certificate. Modes: neither, v2,
// v3, both.
/// What needs nobody.
const OPEN: Due = [".....", ".....", ".....", "....."];
/// Keys that are not the low user's own.
const KEYS: Due = [".....", "uuu..", "cc.c.", "uuu.."];
/// Keys that are.
const OWN_KEYS: Due = [".....", "u.u..", "cc.c.", "u.u.."];
/// The answer to HEAD has no sentence.
const KEYS_BY_HEAD: Due = [".....", "444..", "44.4.", "444.."];
const ABOUT: Due = [".....", ".....", "cc.c.", "....."];
const ABOUT_BY_HEAD: Due = [".....", ".....", "44.4.", "....."];
const ADMIN: Due = [".....", "uuu..", "cc.c.", "uuu.."];
const MEMBERS: Due = [".....", "uuu..", "cc.c.", "mm.m."];

/// Every request to a route, with what is due.
pub fn asks(route: Route, peer_url: &str) -> Vec<(Ask, Due)> {
    let get = |path: &str| Ask::http(Method::GET, path, FORM, "");
    let members = format!(r#"{{"peerURLs":["{peer_url}"]}}"#);
    let json = |method: Method, path: &str, body: &str| Ask::http(method, path, JSON, body.to_owned());
    match route {
        Route::V2Keys => keys(),
        // What is behind it is asked call by call.
        Route::Gateway => vec![(json(Method::POST, "/v3/nope", "{}"), ["....", "....", "...g", "...g"])],
        Route::GatewayFolder => vec![(get("/v3"), OPEN)],
        Route::Health => vec![(get("/health"), OPEN)],
        Route::Livez => vec![(get("/livez"), OPEN), (get("/livez/serializable_read"), OPEN)],
        Route::Readyz => vec![(get("/readyz"), OPEN), (get("/readyz/linearizable_read"), OPEN)],
        Route::Metrics => vec![(get("/metrics"), OPEN)],
        Route::Version => vec![(get("/version"), OPEN)],
        Route::Debug => vec![(get("/debug/vars"), OPEN), (get("/debug/pprof/"), OPEN)],
        Route::V2Machines => {
            let head = Ask::http(Method::HEAD, "/v2/machines", FORM, "");
            vec![(get("/v2/machines"), ABOUT), (head, ABOUT_BY_HEAD)]
        }
        Route::V2Members => vec![
            (get("/v2/members"), ABOUT),
            (json(Method::POST, "/v2/members", &members), MEMBERS),
            (json(Method::PUT, "/v2/members", &members), MEMBERS),
            (json(Method::DELETE, "/v2/members", ""), MEMBERS),
        ],
        Route::V2Member => vec![
            (get("/v2/members/leader"), ABOUT),
            (get("/v2/members/5"), ABOUT),
            (json(Method::POST, "/v2/members/5", &members), MEMBERS),
            (json(Method::PUT, "/v2/members/5", r#"{"peerURLs":["http://127.0.0.1:9"]}"#), MEMBERS),
            (json(Method::DELETE, "/v2/members/5", ""), MEMBERS),
        ],
        Route::V2StatsSelf => vec![(get("/v2/stats/self"), ABOUT)],
        Route::V2StatsLeader => vec![(get("/v2/stats/leader"), ABOUT)],
        Route::V2StatsStore => vec![(get("/v2/stats/store"), ABOUT)],
        Route::V2Export => vec![(get("/v2/export"), ADMIN), (get("/v2/export/own"), ADMIN)],
        Route::V2AuthEnable => vec![
            (get("/v2/auth/enable"), ABOUT),
            (json(Method::PUT, "/v2/auth/enable", ""), ADMIN),
            (json(Method::DELETE, "/v2/auth/enable", ""), ADMIN),
        ],
        Route::V2AuthUsers => vec![(get("/v2/auth/users"), ADMIN)],
        Route::V2AuthUser => vec![
            (get("/v2/auth/users/root"), ADMIN),
            (json(Method::PUT, "/v2/auth/users/spare", r#"{"user":"spare","password":"x"}"#), ADMIN),
            (json(Method::DELETE, "/v2/auth/users/gone", ""), ADMIN),
        ],
        Route::V2AuthRoles => vec![(get("/v2/auth/roles"), ADMIN)],
        Route::V2AuthRole => vec![
            (get("/v2/auth/roles/own"), ADMIN),
            (json(Method::PUT, "/v2/auth/roles/spare", r#"{"role":"spare"}"#), ADMIN),
            (json(Method::DELETE, "/v2/auth/roles/gone", ""), ADMIN),
        ],
    }
}

fn keys() -> Vec<(Ask, Due)> {
    let form = |method: Method, path: &str, body: &'static str| Ask::http(method, path, FORM, body);
    vec![
        (form(Method::GET, "/v2/keys/z", ""), KEYS),
        (form(Method::HEAD, "/v2/keys/z", ""), KEYS_BY_HEAD),
        (form(Method::PUT, "/v2/keys/z", "value=1"), KEYS),
        (form(Method::POST, "/v2/keys/zz", "value=1"), KEYS),
        (form(Method::DELETE, "/v2/keys/gone", ""), KEYS),
        (form(Method::GET, "/v2/keys/?recursive=true", ""), KEYS),
        (form(Method::GET, "/v2/keys/own/x", ""), OWN_KEYS),
        (form(Method::PUT, "/v2/keys/own/x", "value=1"), OWN_KEYS),
    ]
}
