//! Who may call what, in one place. The rules themselves are `model::auth`; here they meet requests.
//!
//! Nothing here costs more than a relaxed load while authentication is off. What goes through the log is judged again at
//! apply, on replicated data ([`signed`] puts the asker's name and auth revision beside the command); what is read is
//! judged before the read, and the auth revision is compared after it ([`Reading`]). Which right a method or route asks for
//! stands in [`super::rights`]; [`rpc`] and `api::v2::guard` ask for it before any handler runs. What depends on the
//! message ([`Right::Named`]) is asked by the method, with the functions below. The whole table is walked by
//! `api/tests/doors.rs`.

use std::sync::Arc;

use bytes::Bytes;

use super::call::{Audience, Call};
use super::error::ApiError;
use super::methods::Rpc;
use super::rights::Right;
use super::state::State;
use crate::model::auth::{Auth, AuthError, Identity, check};
use crate::model::command::{self, Command};
use crate::model::effects::Refusal;
use crate::model::kv::Failure;
use crate::model::view::{Lease, View};
use crate::proto::etcdserverpb as pb;

/// Whether [`rpc`] has something to judge: a call of another method is judged by the method, or not at all.
pub fn is_judged_at_the_door(rpc: Rpc) -> bool {
    !matches!(rpc.right(), Right::Open | Right::Named)
}

/// Lets pass who has the right that the method asks for, as far as its message does not decide it. A member that lags may
/// not have heard of a grant, so a refusal is looked at again after it has caught up.
///
/// # Errors
/// [`ApiError::NotSupportedForLearner`], [`ApiError::NoLeader`], [`ApiError::BadTimeout`]; those of [`root`]; barrier
/// errors.
pub async fn rpc(state: &State, rpc: Rpc, head: &http::request::Parts) -> Result<(), ApiError> {
    if !state.store.auth_mark().is_on() {
        return Ok(());
    }
    let audience = match rpc {
        Rpc::Status | Rpc::Snapshot => Audience::Anyone,
        _ => Audience::Voters,
    };
    let call = Call::of_head(state, head, audience)?;
    match rpc.right() {
        Right::Known => somebody(state, &call).await,
        Right::Root => match root(state, &call).await {
            Err(ApiError::Auth(AuthError::Denied | AuthError::UserNotFound)) => {
                call.read_barrier(state).await?;
                root(state, &call).await
            }
            judged => judged,
        },
        Right::Open | Right::Named => Ok(()),
        // Rights of v2, which no method has.
        Right::Keys | Right::About | Right::Admin | Right::Members => Err(AuthError::Denied.into()),
    }
}

/// Lets pass who has the root role.
///
/// # Errors
/// [`ApiError::InvalidAuthToken`], `UserEmpty`, `UserNotFound`, `Denied`.
pub async fn root(state: &State, call: &Call) -> Result<(), ApiError> {
    if !is_guarded(state, call) {
        return Ok(());
    }
    let by = call.identity(state).await?;
    Ok(state.store.auth().admin(&by)?)
}

/// Lets pass whoever is known.
///
/// # Errors
/// [`ApiError::InvalidAuthToken`], `UserEmpty`.
pub async fn somebody(state: &State, call: &Call) -> Result<(), ApiError> {
    if !is_guarded(state, call) {
        return Ok(());
    }
    let by = call.identity(state).await?;
    Ok(state.store.auth().somebody(&by)?)
}

/// Lets pass who may see this user: root, and the user himself.
///
/// # Errors
/// Those of [`root`].
pub async fn user(state: &State, call: &Call, name: &str) -> Result<(), ApiError> {
    root_or(state, call, |_, by| by.user == name).await
}

/// Lets pass who may see this role: root, and whoever has it.
///
/// # Errors
/// Those of [`root`].
pub async fn role(state: &State, call: &Call, name: &str) -> Result<(), ApiError> {
    root_or(state, call, |auth, by| auth.user(&by.user).is_some_and(|user| user.has(name))).await
}

async fn root_or(state: &State, call: &Call, also: impl Fn(&Auth, &Identity) -> bool) -> Result<(), ApiError> {
    if !is_guarded(state, call) {
        return Ok(());
    }
    let by = call.identity(state).await?;
    let auth = state.store.auth();
    if also(&auth, &by) { Ok(()) } else { Ok(auth.admin(&by)?) }
}

/// Lets pass who may renew the lease: whoever may write all of its keys.
///
/// # Errors
/// [`ApiError::InvalidAuthToken`], `UserEmpty`, `OldRevision`,
/// `Denied`.
pub async fn renewal(state: &State, call: &Call, lease: i64) -> Result<(), ApiError> {
    let Some(reading) = Reading::guard(state, call).await? else { return Ok(()) };
    reading.auth.somebody(&reading.by)?;
    check::lease_keys(&reading.auth, &state.store.view(), &reading.by, lease)?;
    reading.end(state)
}

/// Lets pass who may read each of `keys`, which a lease is about to be shown with.
///
/// # Errors
/// Those of [`renewal`].
pub async fn lease_keys(state: &State, call: &Call, keys: &[Bytes]) -> Result<(), ApiError> {
    let Some(Reading { by, auth }) = Reading::guard(state, call).await? else { return Ok(()) };
    auth.somebody(&by)?;
    if auth.admin(&by).is_ok() {
        return Ok(());
    }
    Ok(keys.iter().try_for_each(|key| auth.read(&by, key, &[]))?)
}

/// Lets pass who may see that these leases are there: whoever may read every key of every one.
///
/// # Errors
/// Those of [`renewal`].
pub async fn lease_list(state: &State, call: &Call, leases: &[Lease]) -> Result<(), ApiError> {
    let Some(reading) = Reading::guard(state, call).await? else { return Ok(()) };
    reading.auth.somebody(&reading.by)?;
    if reading.auth.admin(&reading.by).is_ok() {
        return Ok(());
    }
    let view = state.store.view();
    for lease in leases {
        let keys = view.lease_keys(lease.id)?;
        keys.iter().try_for_each(|key| reading.auth.read(&reading.by, key, &[]))?;
    }
    reading.end(state)
}

/// Lets pass who may watch the range, and says who that is; nobody while authentication is off. The pair is the
/// client's own: judged after "from this key on" was rewritten, one key would open all that follow (CVE-2026-73499).
///
/// # Errors
/// Those of [`renewal`].
pub async fn watch(state: &State, call: &Call, key: &[u8], range_end: &[u8]) -> Result<Option<String>, ApiError> {
    if !is_guarded(state, call) {
        return Ok(None);
    }
    let by = call.identity(state).await?;
    state.store.auth().read(&by, key, range_end)?;
    Ok(Some(by.user))
}

/// The bytes of a log entry with who asks for it. What is sure to be refused at apply is refused here, so that nobody
/// fills the log without a right to; a member that lags is no judge of that, so a refusal is looked at again after it
/// has caught up.
///
/// # Errors
/// Those of [`renewal`] and [`root`]; barrier errors.
pub async fn signed(state: &State, call: &Call, command: Command) -> Result<Bytes, ApiError> {
    let mut by = call.identity(state).await?;
    match check::command(&state.store.view(), &by, &command) {
        Ok(()) => {}
        Err(Failure::Refusal(Refusal::Auth(AuthError::Denied | AuthError::UserNotFound))) => {
            call.read_barrier(state).await?;
            by = call.identity(state).await?;
            check::command(&state.store.view(), &by, &command)?;
        }
        // Nothing that this member has yet to hear of makes nobody somebody, or an old revision new.
        Err(failure) => return Err(failure.into()),
    }
    Ok(command::encode_as(command, by.user, by.revision))
}

/// Whether anybody has to prove anything.
fn is_guarded(state: &State, call: &Call) -> bool {
    state.store.auth_mark().is_on() && !call.is_member()
}

/// A read under the rules of the moment it began at.
pub struct Reading {
    /// Who reads.
    pub by: Identity,
    /// The rules that were looked at.
    pub auth: Arc<Auth>,
}

impl Reading {
    /// Looks who reads; `None` when nobody has to prove anything.
    ///
    /// # Errors
    /// [`ApiError::InvalidAuthToken`].
    pub async fn guard(state: &State, call: &Call) -> Result<Option<Self>, ApiError> {
        if !is_guarded(state, call) {
            return Ok(None);
        }
        let by = call.identity(state).await?;
        Ok(Some(Self { by, auth: state.store.auth() }))
    }

    /// What was read was read under these rules, if they still stand.
    ///
    /// # Errors
    /// `OldRevision`.
    pub fn end(&self, state: &State) -> Result<(), ApiError> {
        let stands = self.by.is_nobody() || self.by.revision == state.store.auth().revision();
        if stands { Ok(()) } else { Err(AuthError::OldRevision.into()) }
    }
}

/// A read that can say whether somebody may have it.
pub trait Guarded {
    /// # Errors
    /// The refusal, or the view's failure.
    fn permitted(&self, auth: &Auth, view: &impl View, by: &Identity) -> Result<(), Failure>;
}

impl Guarded for pb::RangeRequest {
    fn permitted(&self, auth: &Auth, _view: &impl View, by: &Identity) -> Result<(), Failure> {
        Ok(check::read(auth, by, self)?)
    }
}

impl Guarded for pb::TxnRequest {
    fn permitted(&self, auth: &Auth, view: &impl View, by: &Identity) -> Result<(), Failure> {
        check::txn(auth, view, by, self)
    }
}
