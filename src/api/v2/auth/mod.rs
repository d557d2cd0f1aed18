//! `/v2/auth`: users, roles and the switch; and who asks, on every request (reference: etcd-v2 §8).
//!
//! [`asker`] reads the caller from a request, [`passwords`] hashes and checks off the serving thread, [`json`] reads
//! and writes etcd's objects, [`refusals`] is the one table of its sentences. What a change means is decided in
//! `model::v2::auth`, at apply.

mod asker;
#[cfg(fuzzing)]
pub(in crate::api::v2) mod fuzzing;
mod json;
mod passwords;
mod refusals;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

pub(super) use asker::{Asker, asker, source};
pub(super) use passwords::Passwords;

use super::propose::{Failure, propose};
use super::{V2, json as json_response, message, not_allowed, with_cluster_id};
use crate::api::body::{AnyBody, ClientBody};
use crate::model::v2::auth::types::{Change, Command, Outcome, Reason, Switch, User};
use crate::model::v2::auth::{self as model};
use crate::model::v2::types::{Command as Mutation, Verb};
use crate::model::view::ViewError;

const LIST: &[Method] = &[Method::GET];
const ITEM: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];
/// Largest accepted body, bytes. A role with a thousand patterns is far below it.
const MAX_BODY_BYTES: usize = 1 << 20;

/// An answer that ends the request early.
type Refused = Box<Response<ClientBody>>;

/// Users or roles: both have the same paths and methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Role,
}

/// Answers everything under `/v2/auth/`; `None` for paths that do not exist there.
pub(super) async fn answer(v2: &Arc<V2>, request: Request<AnyBody>) -> Option<Response<ClientBody>> {
    let path = request.uri().path().strip_prefix("/v2/auth/")?.to_owned();
    if path == "enable" {
        return Some(switch(v2, request).await);
    }
    let (kind, rest) = match path.split_once('/') {
        Some(("users", rest)) => (Kind::User, rest),
        Some(("roles", rest)) => (Kind::Role, rest),
        None if path == "users" => (Kind::User, ""),
        None if path == "roles" => (Kind::Role, ""),
        _ => return None,
    };
    let decoded = super::request::decoded(rest);
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    Some(match parts[..] {
        [] => list(v2, kind, request).await,
        [name] => item(v2, kind, name, request).await,
        _ => message(StatusCode::BAD_REQUEST, "Invalid path"),
    })
}

async fn list(v2: &Arc<V2>, kind: Kind, request: Request<AnyBody>) -> Response<ClientBody> {
    if !LIST.contains(request.method()) {
        return not_allowed(LIST);
    }
    if let Err(refused) = root_only(v2, asker(v2, &request)).await {
        return *refused;
    }
    let view = v2.state.store.view();
    let body = match kind {
        Kind::User => model::users(&view).and_then(|users| json::users(&view, &users)),
        Kind::Role => model::roles(&view).map(|roles| json::roles(&roles)),
    };
    with_cluster_id(v2, body.map_or_else(|error| broken(&error), |body| json_response(StatusCode::OK, body)))
}

async fn item(v2: &Arc<V2>, kind: Kind, name: &str, request: Request<AnyBody>) -> Response<ClientBody> {
    if !ITEM.contains(request.method()) {
        return not_allowed(ITEM);
    }
    if let Err(refused) = root_only(v2, asker(v2, &request)).await {
        return *refused;
    }
    let answer = match *request.method() {
        Method::GET => show(v2, kind, name),
        Method::PUT => put(v2, kind, name, request).await,
        _ => delete(v2, kind, name).await,
    };
    with_cluster_id(v2, answer.unwrap_or_else(|refused| *refused))
}

fn show(v2: &V2, kind: Kind, name: &str) -> Result<Response<ClientBody>, Refused> {
    let view = v2.state.store.view();
    let read = |error: ViewError| Box::new(broken(&error));
    let missing = |reason: Reason, name: &str| Box::new(refusals::response(reason, name, ""));
    let body = match kind {
        Kind::User => {
            let user = model::user(&view, name).map_err(read)?.ok_or_else(|| missing(Reason::NoUser, name))?;
            // etcd shows no user who has a role that does not exist; the list skips the role instead.
            for role in user.roles() {
                model::role(&view, role).map_err(read)?.ok_or_else(|| missing(Reason::NoRole, role))?;
            }
            json::user(&view, &user).map_err(read)?
        }
        Kind::Role => {
            let role = model::role(&view, name).map_err(read)?.ok_or_else(|| missing(Reason::NoRole, name))?;
            json::role(&role)
        }
    };
    Ok(json_response(StatusCode::OK, body + "\n"))
}

async fn put(v2: &Arc<V2>, kind: Kind, name: &str, request: Request<AnyBody>) -> Result<Response<ClientBody>, Refused> {
    let source = asker::source(&request);
    let body = read_body(request).await?;
    let bad = |text: &'static str| Box::new(message(StatusCode::BAD_REQUEST, text));
    let change = match kind {
        Kind::User => {
            let mut user = json::read_user(&body, name).map_err(bad)?;
            if !user.password.is_empty() {
                let password = std::mem::take(&mut user.password);
                user.password = v2.passwords.hash(source, password, v2.deadline()).await.map_err(failed)?;
            }
            Change::PutUser(user)
        }
        Kind::Role => Change::PutRole(json::read_role(&body, name).map_err(bad)?),
    };
    let outcome = run(v2, change).await?;
    let status = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    let body = match outcome {
        Outcome { user: Some(User { name, roles, .. }), .. } => json::user_after_put(&name, roles.as_ref()),
        Outcome { role: Some(role), .. } => json::role(&role),
        _ => return Err(failed(Failure::Refused("a change without an answer".to_owned()))),
    };
    Ok(json_response(status, body + "\n"))
}

async fn delete(v2: &Arc<V2>, kind: Kind, name: &str) -> Result<Response<ClientBody>, Refused> {
    let change = match kind {
        Kind::User => Change::DeleteUser(name.to_owned()),
        Kind::Role => Change::DeleteRole(name.to_owned()),
    };
    run(v2, change).await.map(|_| json_response(StatusCode::OK, ClientBody::empty()))
}

async fn switch(v2: &Arc<V2>, request: Request<AnyBody>) -> Response<ClientBody> {
    if !ITEM.contains(request.method()) {
        return not_allowed(ITEM);
    }
    let answer = match *request.method() {
        Method::GET => model::enabled(&v2.state.store.view())
            .map(|enabled| json_response(StatusCode::OK, format!("{{\"enabled\":{enabled}}}\n")))
            .map_err(|error| Box::new(broken(&error))),
        _ => {
            if let Err(refused) = root_only(v2, asker(v2, &request)).await {
                return *refused;
            }
            let change = Change::Switch(Switch { enable: request.method() == Method::PUT });
            run(v2, change).await.map(|_| json_response(StatusCode::OK, ClientBody::empty()))
        }
    };
    with_cluster_id(v2, answer.unwrap_or_else(|refused| *refused))
}

/// Lets only users with the role root pass while authentication is on.
pub(super) async fn root_only(v2: &Arc<V2>, asker: Asker) -> Result<(), Refused> {
    match asker.may_administer(v2).await {
        Ok(true) => Ok(()),
        // Without the cluster's id, as in etcd.
        Ok(false) => Err(Box::new(message(StatusCode::UNAUTHORIZED, "Insufficient credentials"))),
        Err(failure) => Err(failed(failure)),
    }
}

async fn run(v2: &Arc<V2>, change: Change) -> Result<Outcome, Refused> {
    let auth = Some(Command { change: Some(change) });
    let command = Mutation { verb: Verb::Auth as i32, auth, ..Mutation::default() };
    let outcome = propose(v2, &command).await.map_err(failed)?;
    let outcome = outcome.auth.unwrap_or_default();
    match &outcome.refusal {
        Some(refusal) => Err(Box::new(refusals::response(refusal.reason(), &refusal.subject, &refusal.user))),
        None => Ok(outcome),
    }
}

async fn read_body(request: Request<AnyBody>) -> Result<Bytes, Refused> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|_| Box::new(message(StatusCode::BAD_REQUEST, json::INVALID)))?;
    Ok(body.to_bytes())
}

/// What etcd answers when the state could not be changed: the cause is in the log.
fn failed(failure: Failure) -> Refused {
    tracing::warn!(error = %failure, "a v2 request about users or roles has no outcome");
    Box::new(message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))
}

fn broken(error: &ViewError) -> Response<ClientBody> {
    tracing::error!(%error, "cannot read v2 users and roles");
    message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}
