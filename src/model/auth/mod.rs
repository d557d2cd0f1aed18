//! Users, roles and permissions: the auth store ([`state`]), granted key ranges ([`grants`]), permission checks
//! ([`check`]), and the commands that change users and roles ([`rules`]).
//!
//! The auth store is replicated and small, so it is shared as one value. It has its own auth revision: it starts at 1,
//! increases with every change of users, roles and permissions and when authentication is disabled, and an
//! [`Identity`] carries the auth revision at which it was authenticated. Whether an identity is still valid is decided
//! at apply, from replicated data alone; the check before proposing only keeps doomed commands out of the log.
//! Behaviour: reference etcd-v3 §7; deviations: `docs/decisions/030-auth-is-checked-twice.md`.

pub mod check;
mod grants;
pub mod rules;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use state::{Auth, AuthChange, AuthEffect, Identity, ROOT, Role, Secret, User};

/// Why a request was not permitted, or a change of users or roles was refused. etcd's texts, without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// An anonymous request where a user is required, or an empty user name.
    #[error("user name is empty")]
    UserEmpty,
    /// The user was authenticated before the auth store changed.
    #[error("revision of auth store is old")]
    OldRevision,
    /// The user lacks the permission.
    #[error("permission denied")]
    Denied,
    /// Enabling authentication without a root user.
    #[error("root user does not exist")]
    NoRootUser,
    /// Enabling authentication when the root user lacks the root role.
    #[error("root user does not have root role")]
    NoRootRole,
    /// Adding a user whose name is taken.
    #[error("user name already exists")]
    UserExists,
    /// No such user.
    #[error("user name not found")]
    UserNotFound,
    /// A role without a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// Adding a role whose name is taken.
    #[error("role name already exists")]
    RoleExists,
    /// No such role.
    #[error("role name not found")]
    RoleNotFound,
    /// Revoking a role that the user does not have.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// A grant without a permission.
    #[error("permission not given")]
    PermissionNotGiven,
    /// Revoking a range that the role does not have exactly.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Removing root or its role while authentication is on, or granting a permission for an empty range.
    #[error("invalid auth management")]
    InvalidManagement,
    /// A login while authentication is off.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// A login with an unknown user or a wrong password.
    #[error("authentication failed, invalid user ID or password")]
    LoginFailed,
    /// A password login of a user created without a password.
    #[error("authentication failed, password was given for no password user")]
    NoPasswordUser,
}
