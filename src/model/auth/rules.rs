//! The commands on users, roles and permissions. Each checks for errors in etcd's order.

use bytes::Bytes;

use super::super::effects::{Effects, Position, Refusal, Response};
use super::super::view::View;
use super::AuthError;
use super::grants::is_grantable;
use super::state::{Auth, AuthChange, AuthEffect, ROOT, Role, Secret, User};
use crate::proto::authpb::Permission;
use crate::proto::command::auth_command::Action;
use crate::proto::command::{AuthCommand, Login, NewPassword, NewUser};
use crate::proto::etcdserverpb as pb;

/// Whether the command needs root while authentication is on: all but a login do.
pub fn needs_root(command: &AuthCommand) -> bool {
    !matches!(command.action, Some(Action::Login(_)) | None)
}

/// Applies the command. Permission was checked before ([`super::check`]).
pub fn apply(view: &impl View, command: &AuthCommand, at: Position) -> Effects {
    let auth = view.auth();
    let outcome = match &command.action {
        Some(Action::Login(login)) => return logged_in(view, &auth, login, at),
        Some(Action::Enable(_)) => enable(&auth),
        Some(Action::Disable(_)) => Ok(disable(&auth)),
        Some(Action::UserAdd(user)) => user_add(&auth, user),
        Some(Action::UserDelete(request)) => user_delete(&auth, &request.name),
        Some(Action::UserChangePassword(request)) => user_change_password(&auth, request),
        Some(Action::UserGrantRole(request)) => user_grant_role(&auth, &request.user, &request.role),
        Some(Action::UserRevokeRole(request)) => user_revoke_role(&auth, &request.name, &request.role),
        Some(Action::RoleAdd(request)) => role_add(&auth, &request.name),
        Some(Action::RoleDelete(request)) => role_delete(&auth, &request.role),
        Some(Action::RoleGrantPermission(request)) => role_grant_permission(&auth, request),
        Some(Action::RoleRevokePermission(request)) => role_revoke_permission(&auth, request),
        // The decoder rejects an empty command.
        None => Ok(None),
    };
    match outcome {
        Ok(change) => {
            let mut effects = Effects::nothing(view.revision(), Ok(Response::Auth));
            effects.auth = change.map(|change| Box::new(AuthEffect::Changed(change)));
            effects
        }
        Err(error) => Effects::nothing(view.revision(), Err(Refusal::Auth(error))),
    }
}

/// A change, `None` for nothing to change, or the error.
type Outcome = Result<Option<AuthChange>, AuthError>;

fn logged_in(view: &impl View, auth: &Auth, login: &Login, at: Position) -> Effects {
    let known = auth.user(&login.user).is_some_and(|user| !user.no_password);
    let error = match (auth.is_enabled(), known) {
        (false, _) => AuthError::NotEnabled,
        (true, false) => AuthError::LoginFailed,
        (true, true) => {
            let token = Secret::new(format!("{}.{}", login.token_prefix, at.index));
            let mut effects = Effects::nothing(view.revision(), Ok(Response::Login(token.clone())));
            effects.auth = Some(Box::new(AuthEffect::Login { user: login.user.clone(), token }));
            return effects;
        }
    };
    Effects::nothing(view.revision(), Err(Refusal::Auth(error)))
}

/// A change that keeps `enabled` and increments the auth revision.
fn next(auth: &Auth) -> AuthChange {
    AuthChange { enabled: auth.is_enabled(), revision: auth.revision() + 1, ..AuthChange::default() }
}

fn with_user(auth: &Auth, name: &str, user: User) -> AuthChange {
    AuthChange { users: vec![(name.to_owned(), Some(user))], ..next(auth) }
}

fn with_role(auth: &Auth, name: &str, role: Role) -> AuthChange {
    AuthChange { roles: vec![(name.to_owned(), Some(role))], ..next(auth) }
}

fn enable(auth: &Auth) -> Outcome {
    if auth.is_enabled() {
        return Ok(None);
    }
    let root = auth.user(ROOT).ok_or(AuthError::NoRootUser)?;
    if !root.is_root() {
        return Err(AuthError::NoRootRole);
    }
    Ok(Some(AuthChange { enabled: true, revision: auth.revision(), ..AuthChange::default() }))
}

fn disable(auth: &Auth) -> Option<AuthChange> {
    auth.is_enabled().then(|| AuthChange { enabled: false, ..next(auth) })
}

fn user_add(auth: &Auth, new: &NewUser) -> Outcome {
    if new.name.is_empty() {
        return Err(AuthError::UserEmpty);
    }
    if auth.user(&new.name).is_some() {
        return Err(AuthError::UserExists);
    }
    let password = if new.no_password { Secret::default() } else { stored(&new.password_hash) };
    Ok(Some(with_user(auth, &new.name, User { password, no_password: new.no_password, roles: Vec::new() })))
}

fn user_delete(auth: &Auth, name: &str) -> Outcome {
    if auth.is_enabled() && name == ROOT {
        return Err(AuthError::InvalidManagement);
    }
    auth.user(name).ok_or(AuthError::UserNotFound)?;
    let users = vec![(name.to_owned(), None)];
    Ok(Some(AuthChange { users, logged_out: Some(name.to_owned()), ..next(auth) }))
}

/// A user created without a password stays so: only the auth revision changes.
fn user_change_password(auth: &Auth, new: &NewPassword) -> Outcome {
    let mut user = auth.user(&new.user).ok_or(AuthError::UserNotFound)?.clone();
    if !user.no_password {
        user.password = stored(&new.password_hash);
    }
    Ok(Some(AuthChange { logged_out: Some(new.user.clone()), ..with_user(auth, &new.user, user) }))
}

/// Granting a role twice succeeds and changes nothing. The role `root` need not exist.
fn user_grant_role(auth: &Auth, name: &str, role: &str) -> Outcome {
    let mut user = auth.user(name).ok_or(AuthError::UserNotFound)?.clone();
    if role != ROOT {
        auth.role(role).ok_or(AuthError::RoleNotFound)?;
    }
    let Err(place) = user.roles.binary_search_by(|own| own.as_str().cmp(role)) else { return Ok(None) };
    user.roles.insert(place, role.to_owned());
    Ok(Some(with_user(auth, name, user)))
}

fn user_revoke_role(auth: &Auth, name: &str, role: &str) -> Outcome {
    if auth.is_enabled() && name == ROOT && role == ROOT {
        return Err(AuthError::InvalidManagement);
    }
    let user = auth.user(name).ok_or(AuthError::UserNotFound)?;
    let user = without(user, role).ok_or(AuthError::RoleNotGranted)?;
    Ok(Some(with_user(auth, name, user)))
}

/// The user without the role; `None` when it does not have the role.
fn without(user: &User, role: &str) -> Option<User> {
    user.has(role).then(|| {
        let roles = user.roles.iter().filter(|own| *own != role).cloned().collect();
        User { roles, ..user.clone() }
    })
}

fn role_add(auth: &Auth, name: &str) -> Outcome {
    if name.is_empty() {
        return Err(AuthError::RoleEmpty);
    }
    if auth.role(name).is_some() {
        return Err(AuthError::RoleExists);
    }
    Ok(Some(with_role(auth, name, Role::default())))
}

/// Deletes the role and revokes it from every user.
fn role_delete(auth: &Auth, name: &str) -> Outcome {
    if auth.is_enabled() && name == ROOT {
        return Err(AuthError::InvalidManagement);
    }
    auth.role(name).ok_or(AuthError::RoleNotFound)?;
    let users = auth.users().filter_map(|(user, stored)| Some((user.to_owned(), Some(without(stored, name)?))));
    Ok(Some(AuthChange { users: users.collect(), roles: vec![(name.to_owned(), None)], ..next(auth) }))
}

/// Granting the same `key`, `range_end` pair again changes its type. (etcd misses the pair when another permission for
/// the same key comes before it, and then the older, wider type stays in force.)
fn role_grant_permission(auth: &Auth, request: &pb::AuthRoleGrantPermissionRequest) -> Outcome {
    let permission = request.perm.as_ref().ok_or(AuthError::PermissionNotGiven)?;
    if !is_grantable(&permission.key, &permission.range_end) {
        return Err(AuthError::InvalidManagement);
    }
    let mut role = auth.role(&request.name).ok_or(AuthError::RoleNotFound)?.clone();
    match role.permissions.iter_mut().find(|own| is_for(own, &permission.key, &permission.range_end)) {
        Some(own) => own.perm_type = permission.perm_type,
        None => {
            let place = role.permissions.partition_point(|own| own.key <= permission.key);
            role.permissions.insert(place, owned(permission));
        }
    }
    Ok(Some(with_role(auth, &request.name, role)))
}

fn role_revoke_permission(auth: &Auth, request: &pb::AuthRoleRevokePermissionRequest) -> Outcome {
    let role = auth.role(&request.role).ok_or(AuthError::RoleNotFound)?;
    let others = role.permissions.iter().filter(|own| !is_for(own, &request.key, &request.range_end));
    let permissions: Vec<Permission> = others.cloned().collect();
    if permissions.len() == role.permissions.len() {
        return Err(AuthError::PermissionNotGranted);
    }
    Ok(Some(with_role(auth, &request.role, Role { permissions })))
}

fn is_for(permission: &Permission, key: &[u8], range_end: &[u8]) -> bool {
    permission.key == key && permission.range_end == range_end
}

/// Copies the hash: a slice of a log entry would keep the whole entry in memory.
fn stored(hash: &Bytes) -> Secret {
    Secret::new(Bytes::copy_from_slice(hash))
}

fn owned(permission: &Permission) -> Permission {
    Permission {
        perm_type: permission.perm_type,
        key: Bytes::copy_from_slice(&permission.key),
        range_end: Bytes::copy_from_slice(&permission.range_end),
    }
}
