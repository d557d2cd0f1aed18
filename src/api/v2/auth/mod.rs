//! `/v2/auth`: users, roles and the switch; and who asks, on every request (reference: etcd-v2 §8).
//!
//! [`asker`] reads the caller from a request, [`json`] reads and writes etcd's objects, [`refusals`] is the one table of
//! its sentences. What a change means is decided in `model::v2::auth`, at apply. Callers have been judged before they come
//! here ([`super::guard`]); passwords are hashed and checked off the serving thread (`api::identity::passwords`).

mod asker;
#[cfg(fuzzing)]
pub(in crate::api::v2) mod fuzzing;
mod json;
mod refusals;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};

pub(super) use asker::{Asker, asker, source};

use super::propose::{Failure, propose};
use super::{V2, Whole, json as json_response, message, not_allowed, with_cluster_id};
use crate::api::body::ClientBody;
use crate::model::v2::auth::types::{Change, Command, Outcome, Reason, Switch, User};
use crate::model::v2::auth::{self as model};
use crate::model::v2::types::{Command as Mutation, Verb};
use crate::model::view::ViewError;

const LIST: &[Method] = &[Method::GET];

/// An answer that ends the request early.
pub(super) type Refused = Box<Response<ClientBody>>;

/// Users or roles: both have the same paths and methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Role,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::User => "/v2/auth/users",
            Self::Role => "/v2/auth/roles",
        }
    }
}

/// Users or roles: the list, or one of them.
pub(super) async fn answer(v2: &Arc<V2>, kind: Kind, request: Request<Whole>) -> Response<ClientBody> {
    let path = request.uri().path();
    let rest = path.strip_prefix(kind.folder()).unwrap_or_default();
    let decoded = super::request::decoded(rest);
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        [] if *request.method() == Method::GET => list(v2, kind),
        [] => not_allowed(LIST),
        [name] => item(v2, kind, name, request).await,
        _ => message(StatusCode::BAD_REQUEST, "Invalid path"),
    }
}

fn list(v2: &V2, kind: Kind) -> Response<ClientBody> {
    let view = v2.state.store.view();
    let body = match kind {
        Kind::User => model::users(&view).and_then(|users| json::users(&view, &users)),
        Kind::Role => model::roles(&view).map(|roles| json::roles(&roles)),
    };
    with_cluster_id(v2, body.map_or_else(|error| broken(&error), |body| json_response(StatusCode::OK, body)))
}

async fn item(v2: &Arc<V2>, kind: Kind, name: &str, request: Request<Whole>) -> Response<ClientBody> {
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

async fn put(v2: &Arc<V2>, kind: Kind, name: &str, request: Request<Whole>) -> Result<Response<ClientBody>, Refused> {
    let source = source(&request);
    let body = request.into_body();
    let bad = |text: &'static str| Box::new(message(StatusCode::BAD_REQUEST, text));
    let body = body.ok_or_else(|| bad(json::INVALID))?;
    let change = match kind {
        Kind::User => {
            let mut user = json::read_user(&body, name).map_err(bad)?;
            if !user.password.is_empty() {
                let password = std::mem::take(&mut user.password);
                let hashed = v2.passwords.hash(source, v2.deadline(), password).await;
                user.password = hashed.map_err(|error| failed(error.into()))?;
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

/// Whether authentication is on; or switches it.
pub(super) async fn switch(v2: &Arc<V2>, method: &Method) -> Response<ClientBody> {
    let answer = match *method {
        Method::GET => model::enabled(&v2.state.store.view())
            .map(|enabled| json_response(StatusCode::OK, format!("{{\"enabled\":{enabled}}}\n")))
            .map_err(|error| Box::new(broken(&error))),
        _ => {
            let change = Change::Switch(Switch { enable: *method == Method::PUT });
            run(v2, change).await.map(|_| json_response(StatusCode::OK, ClientBody::empty()))
        }
    };
    with_cluster_id(v2, answer.unwrap_or_else(|refused| *refused))
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

/// What etcd answers when the state could not be changed: the cause is in the log.
pub(super) fn failed(failure: Failure) -> Refused {
    tracing::warn!(error = %failure, "a v2 request about users or roles has no outcome");
    Box::new(message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))
}

fn broken(error: &ViewError) -> Response<ClientBody> {
    tracing::error!(%error, "cannot read v2 users and roles");
    message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}
