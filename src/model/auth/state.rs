//! The auth store as one value, the identity of a request, and the changes a command can make.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::AuthError;
use super::grants::Grants;
use crate::proto::authpb::Permission;

/// The name of the user that must exist, and of the role that may do everything.
pub const ROOT: &str = "root";

/// Bytes that must never be logged.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<Bytes>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The user behind a request, and the auth revision at which it was authenticated. An anonymous identity has no name
/// and revision 0; commands that members propose themselves are anonymous.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Auth revision when the user was identified.
    pub revision: u64,
}

impl Identity {
    /// The anonymous identity.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Whether the request is anonymous.
    pub fn is_nobody(&self) -> bool {
        self.revision == 0
    }
}

/// A user as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The password's bcrypt hash; empty when there is none, and then no password matches.
    pub password: Secret,
    /// Whether the user was created without a password, to authenticate by client certificate only.
    pub no_password: bool,
    /// Names of its roles, in order.
    pub roles: Vec<String>,
}

impl User {
    /// Whether it may do everything.
    pub fn is_root(&self) -> bool {
        self.has(ROOT)
    }

    /// Whether it has the role.
    pub fn has(&self, role: &str) -> bool {
        self.roles.binary_search_by(|own| own.as_str().cmp(role)).is_ok()
    }
}

/// A role as stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Role {
    /// Its permissions, by key.
    pub permissions: Vec<Permission>,
}

/// The effect of a command on the auth store, besides its response.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthEffect {
    /// The store changes.
    Changed(AuthChange),
    /// A user has a new token. Members keep it in memory; it is not part of the replicated state.
    Login {
        /// User name.
        user: String,
        /// The complete token.
        token: Secret,
    },
}

/// The difference between two auth stores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthChange {
    /// Whether authentication is on afterwards.
    pub enabled: bool,
    /// The auth revision afterwards.
    pub revision: u64,
    /// Users by name; `None` = deleted.
    pub users: Vec<(String, Option<User>)>,
    /// Roles by name; `None` = deleted.
    pub roles: Vec<(String, Option<Role>)>,
    /// A user whose tokens are revoked by this change.
    pub logged_out: Option<String>,
}

/// The auth store. It is cloned on change, which is rare.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
    /// Merged permissions per user, derived from the two fields above.
    grants: BTreeMap<String, Arc<Grants>>,
}

impl Default for Auth {
    /// The auth store of a new cluster: no users, authentication off, revision 1.
    fn default() -> Self {
        let (users, roles, grants) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { enabled: false, revision: 1, users, roles, grants }
    }
}

impl Auth {
    /// An auth store with these parts.
    pub fn new(
        enabled: bool,
        revision: u64,
        users: impl IntoIterator<Item = (String, User)>,
        roles: impl IntoIterator<Item = (String, Role)>,
    ) -> Self {
        let change = AuthChange {
            enabled,
            revision,
            users: users.into_iter().map(|(name, user)| (name, Some(user))).collect(),
            roles: roles.into_iter().map(|(name, role)| (name, Some(role))).collect(),
            logged_out: None,
        };
        Self::default().after(&change)
    }

    /// This store with `change` applied.
    pub fn after(&self, change: &AuthChange) -> Self {
        let mut next = self.clone();
        (next.enabled, next.revision) = (change.enabled, change.revision);
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for (name, user) in &change.users {
            touched.insert(name);
            set(&mut next.users, name, user);
        }
        for (name, role) in &change.roles {
            set(&mut next.roles, name, role);
        }
        for (name, user) in &next.users {
            if change.roles.iter().any(|(role, _)| user.has(role)) {
                touched.insert(name);
            }
        }
        for name in touched {
            let grants = next.users.get(name).map(|user| {
                let roles = user.roles.iter().filter_map(|role| next.roles.get(role));
                Grants::of(roles.flat_map(|role| &role.permissions))
            });
            set(&mut next.grants, name, &grants);
        }
        next
    }

    /// Whether authentication is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The auth revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(Arc::as_ref)
    }

    /// Every user, by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user.as_ref()))
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(Arc::as_ref)
    }

    /// Every role, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (name.as_str(), role.as_ref()))
    }

    /// Checks that `by` has the root role. Always succeeds while authentication is off.
    ///
    /// # Errors
    /// `UserEmpty`, `UserNotFound`, `Denied`. The identity's auth revision is not checked, as in etcd: current roles
    /// decide.
    pub fn admin(&self, by: &Identity) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        if by.user.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        let user = self.user(&by.user).ok_or(AuthError::UserNotFound)?;
        if user.is_root() { Ok(()) } else { Err(AuthError::Denied) }
    }

    /// Checks that `by` is not anonymous. Always succeeds while authentication is off.
    ///
    /// # Errors
    /// `UserEmpty`.
    pub fn somebody(&self, by: &Identity) -> Result<(), AuthError> {
        if self.enabled && by.is_nobody() { Err(AuthError::UserEmpty) } else { Ok(()) }
    }

    /// Checks whether `by` may read all of etcd's pair `key`, `range_end`.
    ///
    /// # Errors
    /// `UserEmpty`, `OldRevision`, `Denied`.
    pub fn read(&self, by: &Identity, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.allowed(by, |grants| grants.may_read(key, range_end))
    }

    /// Checks whether `by` may write all of it.
    ///
    /// # Errors
    /// `UserEmpty`, `OldRevision`, `Denied`.
    pub fn write(&self, by: &Identity, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.allowed(by, |grants| grants.may_write(key, range_end))
    }

    /// Checks whether the user may read the range now, whatever its identity's auth revision.
    ///
    /// # Errors
    /// `Denied`.
    pub fn still_reads(&self, user: &str, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.read(&Identity { user: user.to_owned(), revision: self.revision }, key, range_end)
    }

    fn allowed(&self, by: &Identity, granted: impl Fn(&Grants) -> bool) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        if by.is_nobody() {
            return Err(AuthError::UserEmpty);
        }
        if by.revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.user(&by.user).ok_or(AuthError::Denied)?;
        let open = user.is_root() || self.grants.get(&by.user).is_some_and(|grants| granted(grants));
        if open { Ok(()) } else { Err(AuthError::Denied) }
    }
}

fn set<T: Clone>(map: &mut BTreeMap<String, Arc<T>>, name: &str, value: &Option<T>) {
    match value {
        Some(value) => drop(map.insert(name.to_owned(), Arc::new(value.clone()))),
        None => drop(map.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::authpb::permission::Type;

    fn role(kind: Type, key: &'static str, range_end: &'static str) -> Role {
        let permission = Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() };
        Role { permissions: vec![permission] }
    }

    fn user(roles: &[&str]) -> User {
        User { roles: roles.iter().map(|&role| role.to_owned()).collect(), ..User::default() }
    }

    fn store() -> Auth {
        let users = [("ann".to_owned(), user(&["left", "right"])), (ROOT.to_owned(), user(&[ROOT]))];
        let roles =
            [("left".to_owned(), role(Type::Read, "a", "c")), ("right".to_owned(), role(Type::Readwrite, "c", "e"))];
        Auth::new(true, 7, users, roles)
    }

    fn by(user: &str, revision: u64) -> Identity {
        Identity { user: user.to_owned(), revision }
    }

    #[test]
    fn permissions_of_all_roles_are_joined_and_root_passes_everything() {
        let auth = store();
        assert_eq!(auth.read(&by("ann", 7), b"b", b"d"), Ok(()), "adjacent ranges of two roles");
        assert_eq!(auth.write(&by("ann", 7), b"b", b"d"), Err(AuthError::Denied));
        assert_eq!(auth.write(&by("ann", 7), b"d", b""), Ok(()));
        assert_eq!(auth.write(&by(ROOT, 7), b"\0", b"\0"), Ok(()));
        assert_eq!(auth.read(&by("bob", 7), b"b", b""), Err(AuthError::Denied), "an unknown user is not told apart");
    }

    #[test]
    fn an_anonymous_and_an_old_identity_are_refused_before_permissions_are_checked() {
        let auth = store();
        assert_eq!(auth.read(&Identity::nobody(), b"b", b""), Err(AuthError::UserEmpty));
        assert_eq!(auth.read(&by(ROOT, 6), b"b", b""), Err(AuthError::OldRevision));
        assert_eq!(auth.read(&by("ann", 8), b"b", b""), Ok(()), "a member that lags");
        assert_eq!(auth.still_reads("ann", b"b", b""), Ok(()));
        assert_eq!(auth.still_reads("bob", b"b", b""), Err(AuthError::Denied));
    }

    #[test]
    fn admins_need_the_root_role_now_whatever_their_auth_revision() {
        let auth = store();
        assert_eq!(auth.admin(&by(ROOT, 1)), Ok(()));
        assert_eq!(auth.admin(&by("ann", 7)), Err(AuthError::Denied));
        assert_eq!(auth.admin(&by("bob", 7)), Err(AuthError::UserNotFound));
        assert_eq!(auth.admin(&Identity::nobody()), Err(AuthError::UserEmpty));
        assert_eq!(auth.somebody(&Identity::nobody()), Err(AuthError::UserEmpty));
        assert_eq!(auth.somebody(&by("bob", 7)), Ok(()));
    }

    #[test]
    fn with_authentication_off_everything_is_allowed() {
        let auth = Auth::default();
        let nobody = Identity::nobody();
        let answers = [auth.admin(&nobody), auth.somebody(&nobody), auth.read(&nobody, b"a", b"\0")];
        assert_eq!(answers, [Ok(()); 3]);
    }

    #[test]
    fn a_changed_role_changes_its_users_permissions_and_a_deleted_user_has_none() {
        let auth = store();
        let change = AuthChange {
            enabled: true,
            revision: 8,
            roles: vec![("left".to_owned(), None), ("right".to_owned(), Some(role(Type::Write, "a", "")))],
            ..AuthChange::default()
        };
        let next = auth.after(&change);
        assert_eq!(next.read(&by("ann", 8), b"b", b""), Err(AuthError::Denied));
        assert_eq!(next.write(&by("ann", 8), b"a", b""), Ok(()));
        let gone =
            AuthChange { enabled: true, revision: 9, users: vec![("ann".to_owned(), None)], ..AuthChange::default() };
        assert_eq!(next.after(&gone).write(&by("ann", 9), b"a", b""), Err(AuthError::Denied));
        assert_eq!(auth.read(&by("ann", 7), b"b", b""), Ok(()), "the old value is untouched");
    }

    #[test]
    fn a_hash_is_not_printed() {
        let user = User { password: Secret::new("hash"), ..User::default() };
        assert!(!format!("{user:?}").contains("hash\""), "{user:?}");
        assert!(format!("{user:?}").contains("***"));
    }
}
