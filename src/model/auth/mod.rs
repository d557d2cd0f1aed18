//! Users, roles and permissions: what they are ([`state`]), which ranges they open ([`grants`]), who may have what done
//! ([`check`]), and what the commands that change them do ([`rules`]).
//!
//! The auth store is replicated state like any other and is small, so it travels as one shared value. Its revision is
//! its own: it starts at 1, moves with every change of users, roles and permissions and when authentication is switched
//! off, and an [`Identity`] carries the revision it was established at. Whether an identity is still good is decided at
//! apply, on replicated data alone; what is asked before proposing only keeps hopeless commands out of the log.
//! Behaviour: reference etcd-v3 §7; deviations: `docs/decisions/030-auth-is-checked-twice.md`.

pub mod check;
mod grants;
pub mod rules;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use state::{Auth, AuthChange, AuthEffect, Identity, ROOT, Role, Secret, User};

/// Why somebody may not, or why users and roles do not change. The texts are etcd's, without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nobody asked, where somebody must; or a user without a name.
    #[error("user name is empty")]
    UserEmpty,
    /// The asker was identified before the auth store changed.
    #[error("revision of auth store is old")]
    OldRevision,
    /// The asker may not.
    #[error("permission denied")]
    Denied,
    /// Authentication cannot be switched on without a root user.
    #[error("root user does not exist")]
    NoRootUser,
    /// Nor with one that has not the root role.
    #[error("root user does not have root role")]
    NoRootRole,
    /// A new user has a taken name.
    #[error("user name already exists")]
    UserExists,
    /// No such user.
    #[error("user name not found")]
    UserNotFound,
    /// A role without a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// A new role has a taken name.
    #[error("role name already exists")]
    RoleExists,
    /// No such role.
    #[error("role name not found")]
    RoleNotFound,
    /// The user does not have the role that is to be taken away.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// A grant without a permission.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The role does not have exactly the range that is to be taken away.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Root's own standing while authentication is on, or a permission for no key.
    #[error("invalid auth management")]
    InvalidManagement,
    /// A login while authentication is off.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// A login of nobody known, or with a wrong password.
    #[error("authentication failed, invalid user ID or password")]
    LoginFailed,
    /// A login with a password of a user that has none.
    #[error("authentication failed, password was given for no password user")]
    NoPasswordUser,
}
