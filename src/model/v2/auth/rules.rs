//! Applies changes of users, roles and the enabled flag, with etcd's order of checks.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;

use super::types::{
    Change, Command, Names, Outcome, Permissions, PutRole, PutUser, Reason, Refusal, Role, Switch, User,
};
use super::{GUEST, ROOT};
use crate::model::v2::layout;
use crate::model::v2::tree::Tree;
use crate::model::view::{View, ViewError};

/// Indexes etcd takes when it first stores auth data: for three directories and the enabled flag.
const FIRST_STEPS: usize = 4;

/// `Ok(Err(_))` refused.
type Done = Result<Result<Outcome, Refusal>, ViewError>;

/// Whether authentication is on.
///
/// # Errors
/// The state cannot be read, as for every function here.
pub fn enabled(view: &impl View) -> Result<bool, ViewError> {
    Ok(switched_on(view.v2_get(layout::AUTH_SWITCH)?.as_ref()))
}

/// Decodes the row of the enabled flag.
pub(in crate::model::v2) fn switched_on(row: Option<&Bytes>) -> bool {
    row.is_some_and(|on| on.as_ref() == ON)
}

/// The user of this name. `root` always has the role root, whatever is stored.
pub fn user(view: &impl View, name: &str) -> Result<Option<User>, ViewError> {
    view.v2_get(&layout::auth_user(name))?.map(|stored| decode(&stored).map(with_root_role)).transpose()
}

/// The role of this name. The role root always exists.
pub fn role(view: &impl View, name: &str) -> Result<Option<Role>, ViewError> {
    if name == ROOT {
        return Ok(Some(everything(ROOT)));
    }
    view.v2_get(&layout::auth_role(name))?.map(|stored| decode(&stored)).transpose()
}

/// All users, by name.
pub fn users(view: &impl View) -> Result<Vec<User>, ViewError> {
    Ok(listed::<User>(view, layout::AUTH_USERS)?.into_iter().map(with_root_role).collect())
}

/// All roles, by name, root among them.
pub fn roles(view: &impl View) -> Result<Vec<Role>, ViewError> {
    let mut roles = listed::<Role>(view, layout::AUTH_ROLES)?;
    let place = roles.partition_point(|role| role.name.as_str() < ROOT);
    roles.insert(place, everything(ROOT));
    Ok(roles)
}

fn listed<M: Message + Default>(view: &impl View, prefix: &[u8]) -> Result<Vec<M>, ViewError> {
    let mut rows = Vec::new();
    view.v2_scan(prefix, &mut |_, value| {
        rows.push(Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    })?;
    rows.iter().map(decode).collect()
}

/// Applies one change, which takes the tree's next index. A refusal changes no user, role or enabled flag.
pub(in crate::model::v2) fn run<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Result<Outcome, ViewError> {
    let done = match &command.change {
        Some(Change::PutUser(put)) => put_user(tree, put)?,
        Some(Change::DeleteUser(name)) => delete_user(tree, name)?,
        Some(Change::PutRole(put)) => put_role(tree, put)?,
        Some(Change::DeleteRole(name)) => delete_role(tree, name)?,
        Some(Change::Switch(Switch { enable: true })) => enable(tree)?,
        Some(Change::Switch(Switch { enable: false })) => disable(tree)?,
        None => return Err(ViewError { what: "a v2 auth command", cause: "it holds no change".to_owned() }),
    };
    Ok(done.unwrap_or_else(|refusal| Outcome { refusal: Some(refusal), ..Outcome::default() }))
}

fn put_user<V: View>(tree: &mut Tree<'_, V>, put: &PutUser) -> Done {
    let before = user(tree.view(), &put.name)?;
    let edits = !put.grant.is_empty() || !put.revoke.is_empty();
    let wants_new = put.roles.as_ref().is_some_and(|roles| !roles.names.is_empty());
    match before {
        Some(before) if edits || !wants_new => change_user(tree, &before, put),
        None if edits => refuse(Reason::NoUser, &put.name),
        _ if put.password.is_empty() => refuse(Reason::EmptyPassword, &put.name),
        Some(_) => refuse(Reason::UserExists, &put.name),
        None => {
            let new = User { name: put.name.clone(), password: put.password.clone(), roles: put.roles.clone() };
            let new = with_root_role(new);
            write(tree, layout::auth_user(&new.name), &new)?;
            // etcd answers 201 only if the request did not say whether the user is new.
            Ok(Ok(Outcome { user: Some(without_hash(new)), created: !wants_new, ..Outcome::default() }))
        }
    }
}

fn change_user<V: View>(tree: &mut Tree<'_, V>, before: &User, put: &PutUser) -> Done {
    let mut roles: BTreeSet<&String> = before.roles().iter().collect();
    let about = |reason: Reason, role: &String| {
        let refusal = Refusal { reason: reason as i32, subject: role.clone(), user: before.name.clone() };
        Ok(Err(refusal))
    };
    for role in &put.grant {
        if !roles.insert(role) {
            return about(Reason::DuplicateRole, role);
        }
    }
    for role in &put.revoke {
        if !roles.remove(role) {
            return about(Reason::UngrantedRole, role);
        }
    }
    let after = User {
        name: before.name.clone(),
        password: if put.password.is_empty() { before.password.clone() } else { put.password.clone() },
        roles: Some(Names { names: roles.into_iter().cloned().collect() }),
    };
    if after == *before {
        return refuse(Reason::UserUnchanged, &before.name);
    }
    write(tree, layout::auth_user(&after.name), &after)?;
    Ok(Ok(Outcome { user: Some(without_hash(after)), ..Outcome::default() }))
}

fn delete_user<V: View>(tree: &mut Tree<'_, V>, name: &str) -> Done {
    if name == ROOT && enabled(tree.view())? {
        return refuse(Reason::RootStays, name);
    }
    remove(tree, layout::auth_user(name), Reason::NoUserToDelete, name)
}

fn put_role<V: View>(tree: &mut Tree<'_, V>, put: &PutRole) -> Done {
    if put.name == ROOT {
        return refuse(Reason::RoleIsRoot, &put.name);
    }
    let given = |permissions: &Option<Permissions>| permissions.clone().unwrap_or_default();
    let (grant, revoke) = (given(&put.grant), given(&put.revoke));
    let before = role(tree.view(), &put.name)?;
    if !grant.is_empty() || !revoke.is_empty() {
        let Some(before) = before else { return refuse(Reason::NoRole, &put.name) };
        return change_role(tree, &before, &grant, &revoke);
    }
    if before.is_some() {
        return refuse(Reason::RoleExists, &put.name);
    }
    let new = Role { name: put.name.clone(), permissions: Some(given(&put.permissions)) };
    write(tree, layout::auth_role(&new.name), &new)?;
    Ok(Ok(Outcome { role: Some(new), created: true, ..Outcome::default() }))
}

fn change_role<V: View>(tree: &mut Tree<'_, V>, before: &Role, grant: &Permissions, revoke: &Permissions) -> Done {
    let old = before.permissions.clone().unwrap_or_default();
    let read = match merge(old.read(), grant.read(), revoke.read()) {
        Ok(read) => read,
        Err(pattern) => return refuse(Reason::DuplicateRead, &pattern),
    };
    let write_to = match merge(old.write(), grant.write(), revoke.write()) {
        Ok(write_to) => write_to,
        Err(pattern) => return refuse(Reason::DuplicateWrite, &pattern),
    };
    let permissions = Permissions { read: Some(read), write: Some(write_to) };
    let after = Role { name: before.name.clone(), permissions: Some(permissions) };
    if after == *before {
        return refuse(Reason::RoleUnchanged, &before.name);
    }
    write(tree, layout::auth_role(&after.name), &after)?;
    Ok(Ok(Outcome { role: Some(after), ..Outcome::default() }))
}

/// The old patterns with `grant` added and `revoke` removed, sorted; the error is a pattern granted twice. Revoking a
/// pattern that was not granted is no error in etcd.
fn merge(old: &[String], grant: &[String], revoke: &[String]) -> Result<Names, String> {
    let mut patterns: BTreeSet<&String> = old.iter().collect();
    for pattern in grant {
        if !patterns.insert(pattern) {
            return Err(pattern.clone());
        }
    }
    for pattern in revoke {
        patterns.remove(pattern);
    }
    Ok(Names { names: patterns.into_iter().cloned().collect() })
}

fn delete_role<V: View>(tree: &mut Tree<'_, V>, name: &str) -> Done {
    if name == ROOT {
        return refuse(Reason::RoleIsRoot, name);
    }
    remove(tree, layout::auth_role(name), Reason::NoRoleToDelete, name)
}

fn enable<V: View>(tree: &mut Tree<'_, V>) -> Done {
    if enabled(tree.view())? {
        return refuse(Reason::AlreadyEnabled, "");
    }
    if user(tree.view(), ROOT)?.is_none() {
        return refuse(Reason::NoRootUser, "");
    }
    // Enabling alone denies guests nothing: that takes a revocation from the guest role.
    if role(tree.view(), GUEST)?.is_none() {
        write(tree, layout::auth_role(GUEST), &everything(GUEST))?;
    }
    switch(tree, ON);
    Ok(Ok(Outcome::default()))
}

fn disable<V: View>(tree: &mut Tree<'_, V>) -> Done {
    if !enabled(tree.view())? {
        return refuse(Reason::AlreadyDisabled, "");
    }
    switch(tree, OFF);
    Ok(Ok(Outcome::default()))
}

const ON: &[u8] = b"1";
const OFF: &[u8] = b"0";

fn switch<V: View>(tree: &mut Tree<'_, V>, to: &'static [u8]) {
    tree.step_unseen();
    tree.put_row(Bytes::from_static(layout::AUTH_SWITCH), Some(Bytes::from_static(to)));
}

fn remove<V: View>(tree: &mut Tree<'_, V>, row: Bytes, missing: Reason, name: &str) -> Done {
    // etcd creates its directories even for a change it then refuses, and later indexes reflect that.
    make_directories(tree)?;
    if tree.view().v2_get(&row)?.is_none() {
        return refuse(missing, name);
    }
    tree.step_unseen();
    tree.put_row(row, None);
    Ok(Ok(Outcome::default()))
}

fn write<V: View>(tree: &mut Tree<'_, V>, row: Bytes, stored: &impl Message) -> Result<(), ViewError> {
    make_directories(tree)?;
    tree.step_unseen();
    tree.put_row(row, Some(stored.encode_to_vec().into()));
    Ok(())
}

/// Takes the indexes that etcd takes before its first write of auth data.
fn make_directories<V: View>(tree: &mut Tree<'_, V>) -> Result<(), ViewError> {
    if !tree.has_row(layout::AUTH_SWITCH)? {
        (0..FIRST_STEPS).for_each(|_| tree.step_unseen());
        tree.put_row(Bytes::from_static(layout::AUTH_SWITCH), Some(Bytes::from_static(OFF)));
    }
    Ok(())
}

fn refuse(reason: Reason, subject: &str) -> Done {
    Ok(Err(Refusal { reason: reason as i32, subject: subject.to_owned(), user: String::new() }))
}

/// A role that permits everything.
fn everything(name: &str) -> Role {
    let all = || Some(Names { names: vec!["/*".to_owned()] });
    Role { name: name.to_owned(), permissions: Some(Permissions { read: all(), write: all() }) }
}

/// The user as returned to clients, without the password hash.
fn without_hash(user: User) -> User {
    User { password: String::new(), ..user }
}

fn with_root_role(mut user: User) -> User {
    if user.name == ROOT && !user.roles().iter().any(|role| role == ROOT) {
        user.roles.get_or_insert_default().names.push(ROOT.to_owned());
    }
    user
}

fn decode<M: Message + Default>(stored: &Bytes) -> Result<M, ViewError> {
    M::decode(stored.clone()).map_err(|error| ViewError { what: "a v2 user or role", cause: error.to_string() })
}
