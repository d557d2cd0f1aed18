//! `/v2/members` and `/v2/machines` (reference: etcd-v2 §7).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde::Deserialize;

use super::auth::Refused;
use super::{V2, Whole, json, message, plain, render, respond, with_cluster_id};
use crate::api::body::ClientBody;
use crate::raft::{MemberError, MemberInfo};

/// Largest accepted body, bytes. A member has a handful of URLs.
const MAX_BODY_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
struct Wanted {
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
}

/// Client URLs of all started members, sorted, as one line.
pub(super) fn machines(v2: &V2) -> Response<ClientBody> {
    let mut urls: Vec<String> = members(v2).into_iter().flat_map(|info| info.member.client_urls).collect();
    urls.sort();
    respond(StatusCode::OK, "text/plain; charset=utf-8", urls.join(", "))
}

/// `/v2/members`: the list, or a new member.
pub(super) async fn collection(v2: &Arc<V2>, request: Request<Whole>) -> Response<ClientBody> {
    let response = match *request.method() {
        Method::GET => {
            let mut out = String::from("{\"members\":[");
            for (place, info) in members(v2).iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                member(&mut out, info);
            }
            out.push_str("]}\n");
            json(StatusCode::OK, out)
        }
        Method::POST => add(v2, request).await,
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
    };
    with_cluster_id(v2, response)
}

/// A GET of `/v2/members/leader`; other methods take the word for an id.
fn leader(v2: &V2) -> Response<ClientBody> {
    let leader = v2.state.consensus.leader_watch().borrow().leader;
    let response = match members(v2).iter().find(|info| Some(info.id) == leader) {
        Some(info) => {
            let mut out = String::new();
            member(&mut out, info);
            out.push('\n');
            json(StatusCode::OK, out)
        }
        None => message(StatusCode::SERVICE_UNAVAILABLE, "During election"),
    };
    with_cluster_id(v2, response)
}

/// `/v2/members/ID`: other URLs, or removal.
pub(super) async fn one(v2: &Arc<V2>, request: Request<Whole>) -> Response<ClientBody> {
    let text = request.uri().path().trim_start_matches("/v2/members/").to_owned();
    let response = match *request.method() {
        Method::POST => add(v2, request).await,
        Method::PUT => update(v2, &text, request).await,
        Method::DELETE => remove(v2, &text).await,
        _ if request.uri().path() == "/v2/members/leader" => return leader(v2),
        _ => message(StatusCode::NOT_FOUND, "Not found"),
    };
    with_cluster_id(v2, response)
}

async fn add(v2: &V2, request: Request<Whole>) -> Response<ClientBody> {
    let urls = match peer_urls(request) {
        Ok(urls) => urls,
        Err(refusal) => return *refusal,
    };
    match v2.state.consensus.member_add(urls, false, v2.deadline()).await {
        Ok(done) => match done.members.iter().find(|info| info.id == done.affected) {
            Some(info) => {
                let mut out = String::new();
                member(&mut out, info);
                out.push('\n');
                json(StatusCode::CREATED, out)
            }
            None => internal(),
        },
        Err(MemberError::PeerUrlExists) => message(StatusCode::CONFLICT, "membership: peerURL exists"),
        Err(MemberError::IdExists) => message(StatusCode::CONFLICT, "membership: ID exists"),
        Err(error) => failed(&error),
    }
}

async fn update(v2: &V2, text: &str, request: Request<Whole>) -> Response<ClientBody> {
    let Some(id) = parse_id(text) else { return no_such(text) };
    let urls = match peer_urls(request) {
        Ok(urls) => urls,
        Err(refusal) => return *refusal,
    };
    match v2.state.consensus.member_update(id, urls, v2.deadline()).await {
        Ok(_) => no_content(),
        Err(MemberError::NotFound) if v2.state.store.removed().contains(&id) => internal(),
        Err(MemberError::NotFound) => no_such(text),
        Err(MemberError::PeerUrlExists) => message(StatusCode::CONFLICT, "membership: peerURL exists"),
        Err(error) => failed(&error),
    }
}

async fn remove(v2: &V2, text: &str) -> Response<ClientBody> {
    let Some(id) = parse_id(text) else { return no_such(text) };
    if v2.state.store.removed().contains(&id) {
        return message(StatusCode::GONE, &format!("Member permanently removed: {text}"));
    }
    match v2.state.consensus.member_remove(id, v2.deadline()).await {
        Ok(_) => no_content(),
        Err(MemberError::NotFound) => no_such(text),
        Err(error) => failed(&error),
    }
}

fn members(v2: &V2) -> Vec<MemberInfo> {
    v2.state.consensus.members()
}

/// Ids are hexadecimal, without a prefix.
fn parse_id(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
}

fn peer_urls(request: Request<Whole>) -> Result<Vec<String>, Refused> {
    let refuse = |status, text: &str| Err(Box::new(message(status, text)));
    let (head, body) = request.into_parts();
    if let Err(kind) = is_json(&head.headers) {
        let text = format!("Bad Content-Type {kind}, accept application/json");
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text);
    }
    let Some(bytes) = body.filter(|body| body.len() <= MAX_BODY_BYTES) else {
        return refuse(StatusCode::BAD_REQUEST, "the request body is too large or broke off");
    };
    match wanted_urls(&bytes) {
        Ok(urls) => Ok(urls),
        Err(text) => refuse(StatusCode::BAD_REQUEST, &text),
    }
}

/// With parameters the type is compared without case, bare it is compared exactly, as etcd does.
fn is_json(headers: &HeaderMap) -> Result<(), String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accepted = match kind.split_once(';') {
        Some((kind, _)) => kind.trim().eq_ignore_ascii_case("application/json"),
        None => kind == "application/json",
    };
    if accepted { Ok(()) } else { Err(kind.to_owned()) }
}

fn wanted_urls(bytes: &Bytes) -> Result<Vec<String>, String> {
    let wanted: Wanted = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if wanted.peer_urls.is_empty() {
        return Err("no valid URLs given".to_owned());
    }
    for text in &wanted.peer_urls {
        let first = text.split('/').next().unwrap_or_default();
        if first.contains(':') && !first.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!("parse {text:?}: first path segment in URL cannot contain colon"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        };
        if !["http", "https", "unix", "unixs"].contains(&scheme) {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        }
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        if host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("URL address does not have the form \"host:port\": {text}"));
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
    }
    let mut urls = wanted.peer_urls;
    urls.sort();
    Ok(urls)
}

fn member(out: &mut String, info: &MemberInfo) {
    use std::fmt::Write;
    let _ = write!(out, "{{\"id\":\"{:x}\",\"name\":", info.id);
    render::text(out, &info.member.name);
    for (name, urls) in [("peerURLs", &info.member.peer_urls), ("clientURLs", &info.member.client_urls)] {
        let _ = write!(out, ",\"{name}\":[");
        for (place, url) in urls.iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            render::text(out, url);
        }
        out.push(']');
    }
    out.push('}');
}

fn no_content() -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn no_such(text: &str) -> Response<ClientBody> {
    message(StatusCode::NOT_FOUND, &format!("No such member: {text}"))
}

/// What etcd answers when the cluster could not or would not change: the cause is in the log.
fn internal() -> Response<ClientBody> {
    message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

fn failed(error: &MemberError) -> Response<ClientBody> {
    tracing::warn!(%error, "a v2 request to change the member list was refused");
    match error {
        MemberError::BadUrls => message(StatusCode::BAD_REQUEST, "no valid URLs given"),
        _ => internal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_with_etcds_words() {
        let urls = |text: &str| wanted_urls(&Bytes::from(format!("{{\"peerURLs\":[{text}]}}")));
        assert_eq!(urls(""), Err("no valid URLs given".into()));
        assert_eq!(urls("\"ftp://h:1\""), Err("URL scheme must be http, https, unix, or unixs: ftp://h:1".into()));
        assert_eq!(urls("\"http://h\""), Err("URL address does not have the form \"host:port\": http://h".into()));
        assert_eq!(urls("\"http://h:1/p\""), Err("URL must not contain a path: http://h:1/p".into()));
        let colon = "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon";
        assert_eq!(urls("\"127.0.0.1:1\""), Err(colon.into()));
        assert_eq!(urls("\"localhost:1\""), Err("URL scheme must be http, https, unix, or unixs: localhost:1".into()));
        assert_eq!(urls("\"http://b:2\",\"http://a:1\""), Ok(vec!["http://a:1".into(), "http://b:2".into()]));
        assert!(wanted_urls(&Bytes::from_static(b"{")).is_err());
    }

    #[test]
    fn ids_are_bare_hexadecimal() {
        assert_eq!(parse_id("8e9e05c52164694d"), Some(0x8e9e_05c5_2164_694d));
        assert_eq!((parse_id("+1"), parse_id("0x1"), parse_id("")), (None, None, None));
    }
}
