//! The auth store on disk (rows of `meta`), and the mark that tells every request at no cost whether it is looked at.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use rocksdb::WriteBatch;

use super::database::{Database, walk};
use super::error::StoreError;
use super::keys::{self, Damaged, META, meta};
use crate::model::auth::{Auth, AuthChange, Role, Secret, User};
use crate::proto::authpb;

/// What a request must know of the auth store before anything else, in one number.
#[derive(Debug, Default)]
pub struct AuthMark(AtomicU64);

impl AuthMark {
    pub(super) fn of(auth: &Auth) -> Self {
        Self(AtomicU64::new(Self::number(auth)))
    }

    pub(super) fn set(&self, auth: &Auth) {
        self.0.store(Self::number(auth), Ordering::SeqCst);
    }

    fn number(auth: &Auth) -> u64 {
        auth.revision() << 1 | u64::from(auth.is_enabled())
    }

    /// Whether authentication is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) & 1 == 1
    }

    /// A number that differs after every change of the auth store and of the switch.
    pub fn state(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Adds a change to the write batch.
pub(super) fn put(database: &Database, change: &AuthChange, batch: &mut WriteBatch) {
    let family = database.family(META);
    let mut head = [u8::from(change.enabled); 9];
    head[1..].copy_from_slice(&change.revision.to_be_bytes());
    batch.put_cf(family, meta::AUTH, head);
    for (name, user) in &change.users {
        let key = [meta::AUTH_USER, name.as_bytes()].concat();
        match user {
            Some(user) => batch.put_cf(family, key, encode_user(name, user)),
            None => batch.delete_cf(family, key),
        }
    }
    for (name, role) in &change.roles {
        let key = [meta::AUTH_ROLE, name.as_bytes()].concat();
        match role {
            Some(role) => batch.put_cf(family, key, encode_role(name, role)),
            None => batch.delete_cf(family, key),
        }
    }
}

/// Reads the whole store.
pub(super) fn load(database: &Database) -> Result<Auth, StoreError> {
    let Some(head) = database.get(META, meta::AUTH)? else { return Ok(Auth::default()) };
    let (enabled, revision) = match head.split_first() {
        Some((enabled @ (0 | 1), revision)) => (*enabled == 1, keys::numbers_of::<1>(revision, "auth")?[0]),
        _ => return Err(Damaged("auth").into()),
    };
    let users = rows(database, meta::AUTH_USER, decode_user)?;
    let roles = rows(database, meta::AUTH_ROLE, decode_role)?;
    Ok(Auth::new(enabled, revision, users, roles))
}

/// Every row whose name starts with `prefix`: the rest of its name, and what it holds.
fn rows<T>(
    database: &Database,
    prefix: &[u8],
    decode: impl Fn(&[u8]) -> Result<(String, T), Damaged>,
) -> Result<Vec<(String, T)>, StoreError> {
    let end = keys::after_prefix(prefix);
    let (mut found, mut damaged) = (Vec::new(), None);
    walk(database.rows(META, prefix, end.as_deref()), &mut |_, row| match decode(row) {
        Ok(read) => {
            found.push(read);
            ControlFlow::Continue(())
        }
        Err(error) => {
            damaged = Some(error);
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(found), |error| Err(error.into()))
}

fn encode_user(name: &str, user: &User) -> Vec<u8> {
    let row = authpb::User {
        name: name.to_owned().into(),
        password: user.password.expose().clone(),
        roles: user.roles.clone(),
        options: Some(authpb::UserAddOptions { no_password: user.no_password }),
    };
    row.encode_to_vec()
}

fn decode_user(row: &[u8]) -> Result<(String, User), Damaged> {
    let row = authpb::User::decode(row).map_err(|_| Damaged("user"))?;
    let no_password = row.options.is_some_and(|options| options.no_password);
    Ok((name(&row.name, "user")?, User { password: Secret::new(row.password), no_password, roles: row.roles }))
}

fn encode_role(name: &str, role: &Role) -> Vec<u8> {
    authpb::Role { name: name.to_owned().into(), key_permission: role.permissions.clone() }.encode_to_vec()
}

fn decode_role(row: &[u8]) -> Result<(String, Role), Damaged> {
    let row = authpb::Role::decode(row).map_err(|_| Damaged("role"))?;
    Ok((name(&row.name, "role")?, Role { permissions: row.key_permission }))
}

fn name(bytes: &[u8], what: &'static str) -> Result<String, Damaged> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Damaged(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::authpb::Permission;

    #[test]
    fn users_and_roles_read_back_whole() {
        let user = User { password: Secret::new("hash"), no_password: false, roles: vec!["r".into(), "root".into()] };
        let bare = User { no_password: true, ..User::default() };
        for user in [user, bare] {
            assert_eq!(decode_user(&encode_user("ann", &user)), Ok(("ann".to_owned(), user)));
        }
        let permission = Permission { perm_type: 2, key: "a".into(), range_end: "\0".into() };
        let role = Role { permissions: vec![permission] };
        assert_eq!(decode_role(&encode_role("r", &role)), Ok(("r".to_owned(), role)));
        assert_eq!(decode_user(&[0xff]).err(), Some(Damaged("user")));
    }

    #[test]
    fn the_mark_tells_on_from_off_and_one_change_from_the_next() {
        let mark = AuthMark::of(&Auth::default());
        assert!(!mark.is_on());
        let mut seen = vec![mark.state()];
        for auth in [Auth::new(true, 1, [], []), Auth::new(true, 2, [], []), Auth::new(false, 3, [], [])] {
            mark.set(&auth);
            assert_eq!(mark.is_on(), auth.is_enabled());
            assert!(!seen.contains(&mark.state()));
            seen.push(mark.state());
        }
    }
}
