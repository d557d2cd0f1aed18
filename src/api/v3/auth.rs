//! The Auth service: switching authentication on and off, logins, users, roles and permissions.
//!
//! What changes anything goes through the log and is judged there; what is read is read after a barrier, since etcd sends
//! these reads through its log too. Passwords are hashed here, before anything is proposed, and go no further; that is slow
//! on purpose and not for everybody, so strangers have been turned away before (`api::rights`).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tonic::{Request, Response as Reply, Status};

use super::kv::mismatch;
use crate::api::access;
use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::identity::passwords::{HashError, LONGEST};
use crate::api::identity::{jwt, simple};
use crate::api::state::State;
use crate::model::auth::{AuthError, ROOT};
use crate::model::command::{AuthCommand, Command};
use crate::model::effects::Response;
use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;
use crate::proto::command::auth_command::Action;
use crate::proto::command::{Login, NewPassword, NewUser};
use crate::proto::etcdserverpb as pb;

/// Has users or roles changed, and returns the answer's header.
async fn change(state: &State, call: &Call, action: Action) -> Result<Option<pb::ResponseHeader>, ApiError> {
    let command = Command::Auth(AuthCommand { action: Some(action) });
    match call.propose(state, command).await? {
        (revision, Response::Auth) => Ok(state.header(revision)),
        _ => Err(mismatch("auth change")),
    }
}

/// Whether authentication is on, and the auth revision. Only root may ask, as in etcd 3.6.
///
/// # Errors
/// Barrier errors, not root.
pub async fn status(state: &State, call: &Call) -> Result<pb::AuthStatusResponse, ApiError> {
    call.read_barrier(state).await?;
    access::root(state, call).await?;
    let auth = state.store.auth();
    Ok(pb::AuthStatusResponse {
        header: state.header_now(),
        enabled: auth.is_enabled(),
        auth_revision: auth.revision(),
    })
}

/// Answers a token to whoever knows a user's password.
///
/// # Errors
/// Barrier errors; authentication is off; unknown user, wrong password, a user without one; a member that cannot sign.
pub async fn authenticate(
    state: &State,
    call: &Call,
    request: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, ApiError> {
    call.read_barrier(state).await?;
    let pb::AuthenticateRequest { name, password } = request;
    loop {
        let checked_at = password_is_right(state, call, &name, &password).await.inspect_err(|error| {
            if *error != ApiError::Auth(AuthError::NotEnabled) {
                tracing::warn!(user = name, error = %error, "invalid authentication was requested");
            }
        })?;
        let (header, token) = match state.identities.jwt() {
            Some(keys) => (state.header_now(), signed(keys, state, &name, checked_at)?),
            None => remembered(state, call, &name).await?,
        };
        if state.store.auth().revision() == checked_at {
            return Ok(pb::AuthenticateResponse { header, token });
        }
        tracing::info!(user = name, "users or roles changed during a login; checking the password again");
    }
}

/// Checks a password, and returns the auth revision that it is right at.
async fn password_is_right(state: &State, call: &Call, name: &str, password: &str) -> Result<u64, ApiError> {
    let auth = state.store.auth();
    if !auth.is_enabled() {
        return Err(AuthError::NotEnabled.into());
    }
    let user = auth.user(name);
    // Computed for everybody, so that the time of a refusal does not tell whether there is such a user.
    let hash = user.filter(|user| !user.no_password).map(|user| &user.password.expose()[..]);
    let passwords = state.identities.passwords();
    let right = passwords
        .is_right(call.source(), call.deadline(), hash, password)
        .await
        .map_err(|undone| call.undone(undone))?;
    match user {
        Some(user) if user.no_password => Err(AuthError::NoPasswordUser.into()),
        Some(_) if right => Ok(auth.revision()),
        _ => Err(AuthError::LoginFailed.into()),
    }
}

/// The hash of a new password.
///
/// # Errors
/// [`ApiError::PasswordTooLong`]; no turn at hashing in time.
async fn hashed(state: &State, call: &Call, password: String) -> Result<Bytes, ApiError> {
    if password.len() > LONGEST {
        // Refused rather than cut.
        return Err(ApiError::PasswordTooLong);
    }
    match state.identities.passwords().hash(call.source(), call.deadline(), password).await {
        Ok(hash) => Ok(hash.into()),
        Err(HashError::Undone(undone)) => Err(call.undone(undone)),
        Err(error @ HashError::Failed(_)) => {
            tracing::error!(%error, "a password could not be hashed");
            Err(ApiError::Internal)
        }
    }
}

/// A token that says itself whose it is.
fn signed(keys: &jwt::Jwt, state: &State, name: &str, revision: u64) -> Result<String, ApiError> {
    keys.sign(name, revision, state.identities.unix_time()).map_err(|error| match error {
        jwt::SignError::VerifyOnly => ApiError::VerifyOnlyKey,
        jwt::SignError::Failed => ApiError::Internal,
    })
}

/// A token that every member remembers, made known through the log. Nobody needs to be known already for that.
async fn remembered(state: &State, call: &Call, name: &str) -> Result<(Option<pb::ResponseHeader>, String), ApiError> {
    let login = Login { user: name.to_owned(), token_prefix: simple::new_prefix() };
    let command = Command::Auth(AuthCommand { action: Some(Action::Login(login)) });
    let (revision, Response::Login(token)) = call.as_member().propose(state, command).await? else {
        return Err(mismatch("login"));
    };
    let token = String::from_utf8_lossy(token.expose()).into_owned();
    Ok((state.header(revision), token))
}

/// Adds a user, with the hash of his password or without one.
///
/// # Errors
/// A password that is too long; not root; proposal errors; the refusals of `model::auth`.
pub async fn user_add(
    state: &State,
    call: &Call,
    request: pb::AuthUserAddRequest,
) -> Result<pb::AuthUserAddResponse, ApiError> {
    let no_password = request.options.is_some_and(|options| options.no_password);
    let password_hash = if no_password { Bytes::new() } else { hashed(state, call, request.password).await? };
    let action = Action::UserAdd(NewUser { name: request.name, password_hash, no_password });
    Ok(pb::AuthUserAddResponse { header: change(state, call, action).await? })
}

/// Changes a user's password. Without one, the client's own hash is taken as it is, as etcd takes it; without either
/// nobody can log in as the user any more.
///
/// # Errors
/// As [`user_add`].
pub async fn user_change_password(
    state: &State,
    call: &Call,
    request: pb::AuthUserChangePasswordRequest,
) -> Result<pb::AuthUserChangePasswordResponse, ApiError> {
    let password_hash = if request.password.is_empty() {
        STANDARD.decode(&request.hashed_password).map_err(|_| ApiError::Auth(AuthError::NoPasswordUser))?.into()
    } else {
        hashed(state, call, request.password).await?
    };
    let action = Action::UserChangePassword(NewPassword { user: request.name, password_hash });
    Ok(pb::AuthUserChangePasswordResponse { header: change(state, call, action).await? })
}

/// The roles of a user, in order. Root and the user himself may ask.
///
/// # Errors
/// Barrier errors, permission denied, unknown user.
pub async fn user_get(
    state: &State,
    call: &Call,
    request: pb::AuthUserGetRequest,
) -> Result<pb::AuthUserGetResponse, ApiError> {
    call.read_barrier(state).await?;
    access::user(state, call, &request.name).await?;
    let auth = state.store.auth();
    let user = auth.user(&request.name).ok_or(AuthError::UserNotFound)?;
    Ok(pb::AuthUserGetResponse { header: state.header_now(), roles: user.roles.clone() })
}

/// Every user, by name.
///
/// # Errors
/// Barrier errors, not root.
pub async fn user_list(state: &State, call: &Call) -> Result<pb::AuthUserListResponse, ApiError> {
    call.read_barrier(state).await?;
    access::root(state, call).await?;
    let users = state.store.auth().users().map(|(name, _)| name.to_owned()).collect();
    Ok(pb::AuthUserListResponse { header: state.header_now(), users })
}

/// The permissions of a role, by key. Root and whoever has it may ask. The role `root` opens everything, whatever it holds.
///
/// # Errors
/// Barrier errors, permission denied, unknown role.
pub async fn role_get(
    state: &State,
    call: &Call,
    request: pb::AuthRoleGetRequest,
) -> Result<pb::AuthRoleGetResponse, ApiError> {
    call.read_barrier(state).await?;
    access::role(state, call, &request.role).await?;
    let auth = state.store.auth();
    let role = auth.role(&request.role).ok_or(AuthError::RoleNotFound)?;
    let perm = if request.role == ROOT {
        let (key, range_end) = (Bytes::new(), Bytes::from_static(&[0]));
        vec![Permission { perm_type: Type::Readwrite.into(), key, range_end }]
    } else {
        role.permissions.clone()
    };
    Ok(pb::AuthRoleGetResponse { header: state.header_now(), perm })
}

/// Every role, by name.
///
/// # Errors
/// Barrier errors, not root.
pub async fn role_list(state: &State, call: &Call) -> Result<pb::AuthRoleListResponse, ApiError> {
    call.read_barrier(state).await?;
    access::root(state, call).await?;
    let roles = state.store.auth().roles().map(|(name, _)| name.to_owned()).collect();
    Ok(pb::AuthRoleListResponse { header: state.header_now(), roles })
}

/// A change that carries no secret: the request itself is the command.
trait Change {
    /// What it answers.
    type Answer;
    /// The command.
    fn action(self) -> Action;
    /// The answer, which is only a header.
    fn answer(header: Option<pb::ResponseHeader>) -> Self::Answer;
}

macro_rules! changes {
    ($($request:ident => $action:ident, $answer:ident;)*) => {
        $(impl Change for pb::$request {
            type Answer = pb::$answer;
            fn action(self) -> Action {
                Action::$action(self)
            }
            fn answer(header: Option<pb::ResponseHeader>) -> pb::$answer {
                pb::$answer { header }
            }
        })*
    };
}

changes! {
    AuthEnableRequest => Enable, AuthEnableResponse;
    AuthDisableRequest => Disable, AuthDisableResponse;
    AuthUserDeleteRequest => UserDelete, AuthUserDeleteResponse;
    AuthUserGrantRoleRequest => UserGrantRole, AuthUserGrantRoleResponse;
    AuthUserRevokeRoleRequest => UserRevokeRole, AuthUserRevokeRoleResponse;
    AuthRoleAddRequest => RoleAdd, AuthRoleAddResponse;
    AuthRoleDeleteRequest => RoleDelete, AuthRoleDeleteResponse;
    AuthRoleGrantPermissionRequest => RoleGrantPermission, AuthRoleGrantPermissionResponse;
    AuthRoleRevokePermissionRequest => RoleRevokePermission, AuthRoleRevokePermissionResponse;
}

/// Has a change made that carries no secret.
///
/// # Errors
/// Not root; proposal errors; the refusals of `model::auth`.
async fn made<C: Change>(state: &State, call: &Call, request: C) -> Result<C::Answer, ApiError> {
    Ok(C::answer(change(state, call, request.action()).await?))
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Auth(pub Arc<State>);

#[tonic::async_trait]
impl pb::auth_server::Auth for Auth {
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Reply<pb::AuthStatusResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(status(&self.0, &call).await?))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Reply<pb::AuthenticateResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(authenticate(&self.0, &call, request.into_inner()).await?))
    }

    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Reply<pb::AuthEnableResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Reply<pb::AuthDisableResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Reply<pb::AuthUserAddResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(user_add(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Reply<pb::AuthUserGetResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(user_get(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Reply<pb::AuthUserListResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(user_list(&self.0, &call).await?))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Reply<pb::AuthUserDeleteResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Reply<pb::AuthUserChangePasswordResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(user_change_password(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Reply<pb::AuthUserGrantRoleResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Reply<pb::AuthUserRevokeRoleResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Reply<pb::AuthRoleAddResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Reply<pb::AuthRoleGetResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(role_get(&self.0, &call, request.into_inner()).await?))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Reply<pb::AuthRoleListResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(role_list(&self.0, &call).await?))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Reply<pb::AuthRoleDeleteResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Reply<pb::AuthRoleGrantPermissionResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Reply<pb::AuthRoleRevokePermissionResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(made(&self.0, &call, request.into_inner()).await?))
    }
}
