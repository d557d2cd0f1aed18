//! Users, roles and permissions, tested through apply.

use super::*;
use crate::model::command::Command;
use crate::model::effects::{Refusal, Response};
use crate::model::memory::MemoryView;
use crate::model::tests::world::{World, put};
use crate::model::view::View;
use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;
use crate::proto::command::auth_command::Action;
use crate::proto::command::{AuthCommand, Login, NewPassword, NewUser};
use crate::proto::etcdserverpb as pb;

fn auth(action: Action) -> Command {
    Command::Auth(AuthCommand { action: Some(action) })
}

fn user(name: &str) -> Command {
    let password_hash = format!("hash of {name}").into();
    auth(Action::UserAdd(NewUser { name: name.to_owned(), password_hash, no_password: false }))
}

fn role(name: &str) -> Command {
    auth(Action::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() }))
}

fn give_role(user: &str, role: &str) -> Command {
    auth(Action::UserGrantRole(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }))
}

fn take_role(name: &str, role: &str) -> Command {
    auth(Action::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name: name.to_owned(), role: role.to_owned() }))
}

fn allow(role: &str, kind: Type, key: &str, range_end: &str) -> Command {
    let perm =
        Permission { perm_type: kind.into(), key: key.to_owned().into(), range_end: range_end.to_owned().into() };
    auth(Action::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }))
}

fn forbid(role: &str, key: &str, range_end: &str) -> Command {
    auth(Action::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
        role: role.to_owned(),
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
    }))
}

fn drop_user(name: &str) -> Command {
    auth(Action::UserDelete(pb::AuthUserDeleteRequest { name: name.to_owned() }))
}

fn drop_role(role: &str) -> Command {
    auth(Action::RoleDelete(pb::AuthRoleDeleteRequest { role: role.to_owned() }))
}

fn login(user: &str) -> Command {
    auth(Action::Login(Login { user: user.to_owned(), token_prefix: "prefix".to_owned() }))
}

fn new_password(user: &str) -> Command {
    auth(Action::UserChangePassword(NewPassword { user: user.to_owned(), password_hash: "new hash".into() }))
}

fn enable() -> Command {
    auth(Action::Enable(pb::AuthEnableRequest {}))
}

fn disable() -> Command {
    auth(Action::Disable(pb::AuthDisableRequest {}))
}

/// Authentication is on, with root and ann, whose role `low` has no permissions.
pub(crate) fn secured() -> World {
    let mut world = World::default();
    for command in [user(ROOT), give_role(ROOT, ROOT), user("ann"), role("low"), give_role("ann", "low"), enable()] {
        world.done(&command);
    }
    world
}

/// Grants ann's role one more permission.
pub(crate) fn grant(world: &mut World, kind: Type, key: &str, range_end: &str) {
    world.as_root(&allow("low", kind, key, range_end)).unwrap();
}

pub(crate) fn ann(view: &MemoryView) -> Identity {
    Identity { user: "ann".to_owned(), revision: view.auth().revision() }
}

#[test]
fn authentication_needs_a_root_user_with_the_root_role_and_starts_at_revision_one() {
    let mut world = World::default();
    assert_eq!(world.view.auth().revision(), 1);
    assert_eq!(world.refused(&enable()), Refusal::Auth(AuthError::NoRootUser));
    world.done(&user(ROOT));
    assert_eq!(world.refused(&enable()), Refusal::Auth(AuthError::NoRootRole));
    world.done(&give_role(ROOT, ROOT));
    assert_eq!(world.view.auth().revision(), 3);
    world.done(&enable());
    assert!(world.view.auth().is_enabled());
    assert_eq!(world.view.auth().revision(), 3, "switching on is no change of the store");
    world.as_root(&enable()).unwrap();
    world.as_root(&disable()).unwrap();
    assert_eq!((world.view.auth().is_enabled(), world.view.auth().revision()), (false, 4));
    world.done(&disable());
    assert_eq!(world.view.auth().revision(), 4, "off already");
    assert_eq!(world.view.revision(), 1, "none of this is a key change");
}

#[test]
fn every_change_moves_the_auth_revision_and_a_repeated_grant_does_not() {
    let mut world = World::default();
    let steps = [
        user("u"),
        role("r"),
        give_role("u", "r"),
        allow("r", Type::Read, "k", ""),
        allow("r", Type::Write, "k", ""),
        new_password("u"),
        forbid("r", "k", ""),
        take_role("u", "r"),
        drop_role("r"),
        drop_user("u"),
    ];
    for (n, step) in steps.iter().enumerate() {
        assert_eq!(world.done(step), Response::Auth);
        assert_eq!(world.view.auth().revision(), n as u64 + 2, "{step:?}");
    }
    for command in [user("u"), role("r"), give_role("u", "r")] {
        world.done(&command);
    }
    let before = world.view.clone();
    world.done(&give_role("u", "r"));
    assert_eq!(world.view, before);
}

#[test]
fn errors_are_etcds() {
    let mut world = World::default();
    for command in [user("u"), role("r"), role("s"), give_role("u", "s"), allow("s", Type::Read, "k", "m")] {
        world.done(&command);
    }
    let missing = pb::AuthRoleGrantPermissionRequest { name: "nobody".to_owned(), perm: None };
    let table = [
        (user(""), AuthError::UserEmpty),
        (user("u"), AuthError::UserExists),
        (drop_user("x"), AuthError::UserNotFound),
        (new_password("x"), AuthError::UserNotFound),
        (give_role("x", "x"), AuthError::UserNotFound),
        (give_role("u", "x"), AuthError::RoleNotFound),
        (take_role("x", "r"), AuthError::UserNotFound),
        (take_role("u", "r"), AuthError::RoleNotGranted),
        (role(""), AuthError::RoleEmpty),
        (role("r"), AuthError::RoleExists),
        (drop_role("x"), AuthError::RoleNotFound),
        (auth(Action::RoleGrantPermission(missing)), AuthError::PermissionNotGiven),
        (allow("x", Type::Read, "", ""), AuthError::InvalidManagement),
        (allow("x", Type::Read, "b", "a"), AuthError::InvalidManagement),
        (allow("x", Type::Read, "b", ""), AuthError::RoleNotFound),
        (forbid("x", "k", ""), AuthError::RoleNotFound),
        (forbid("s", "k", ""), AuthError::PermissionNotGranted),
        (forbid("s", "l", "m"), AuthError::PermissionNotGranted),
        (login("u"), AuthError::NotEnabled),
    ];
    for (command, error) in table {
        assert_eq!(world.refused(&command), Refusal::Auth(error), "{command:?}");
    }
}

#[test]
fn root_cannot_be_removed_while_authentication_is_on_but_can_while_it_is_off() {
    let mut world = secured();
    world.as_root(&role(ROOT)).unwrap();
    for command in [drop_user(ROOT), take_role(ROOT, ROOT), drop_role(ROOT)] {
        assert_eq!(world.as_root(&command), Err(Refusal::Auth(AuthError::InvalidManagement)), "{command:?}");
    }
    world.as_root(&take_role("ann", ROOT)).unwrap_err();
    world.as_root(&disable()).unwrap();
    for command in [take_role(ROOT, ROOT), drop_role(ROOT), drop_user(ROOT)] {
        world.done(&command);
    }
}

#[test]
fn only_root_manages_users_and_a_lost_root_role_is_refused_at_apply() {
    let mut world = secured();
    for (by, error) in [
        (Identity::nobody(), AuthError::UserEmpty),
        (ann(&world.view), AuthError::Denied),
        (Identity { user: "bob".to_owned(), revision: 9 }, AuthError::UserNotFound),
    ] {
        assert_eq!(world.run_as(&by, &user("eve")).outcome, Err(Refusal::Auth(error)), "{by:?}");
    }
    world.as_root(&give_role("ann", ROOT)).unwrap();
    let by = ann(&world.view);
    assert_eq!(world.run_as(&by, &user("eve")).outcome, Ok(Response::Auth));
    world.as_root(&take_role("ann", ROOT)).unwrap();
    assert_eq!(world.run_as(&by, &drop_user("eve")).outcome, Err(Refusal::Auth(AuthError::Denied)));
}

#[test]
fn a_write_proposed_before_a_revoke_and_applied_after_it_is_refused() {
    let mut world = secured();
    grant(&mut world, Type::Readwrite, "k", "");
    let by = ann(&world.view);
    assert!(world.run_as(&by, &Command::Put(put("k", "1"))).outcome.is_ok());
    world.as_root(&forbid("low", "k", "")).unwrap();
    let late = world.run_as(&by, &Command::Put(put("k", "2"))).outcome;
    assert_eq!(late, Err(Refusal::Auth(AuthError::OldRevision)));
    let again = ann(&world.view);
    assert_eq!(world.run_as(&again, &Command::Put(put("k", "2"))).outcome, Err(Refusal::Auth(AuthError::Denied)));
    assert_eq!(world.refused(&Command::Put(put("k", "2"))), Refusal::Auth(AuthError::UserEmpty));
    assert_eq!(world.kv("k").unwrap().value, "1");
}

#[test]
fn a_deleted_role_is_revoked_from_every_user_and_lists_stay_sorted() {
    let mut world = World::default();
    for command in [role("m"), role("a"), role("z"), user("u"), user("b")] {
        world.done(&command);
    }
    for name in ["z", "a", "m", ROOT] {
        world.done(&give_role("u", name));
    }
    world.done(&give_role("b", "m"));
    assert_eq!(world.view.auth().user("u").unwrap().roles, ["a", "m", ROOT, "z"]);
    world.done(&drop_role("m"));
    let auth = world.view.auth();
    assert_eq!(auth.user("u").unwrap().roles, ["a", ROOT, "z"]);
    assert!(auth.user("b").unwrap().roles.is_empty());
    assert_eq!(auth.users().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "u"]);
    assert_eq!(auth.roles().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "z"]);
}

#[test]
fn permissions_are_sorted_by_key_and_regranting_a_range_changes_its_type() {
    let mut world = World::default();
    world.done(&role("r"));
    for (key, end) in [("m", ""), ("b", ""), ("m", "n"), ("a", "\0")] {
        world.done(&allow("r", Type::Readwrite, key, end));
    }
    world.done(&allow("r", Type::Read, "m", "n"));
    let auth = world.view.auth();
    let shown: Vec<_> = auth
        .role("r")
        .unwrap()
        .permissions
        .iter()
        .map(|own| (own.key.as_ref(), own.range_end.as_ref(), own.perm_type))
        .collect();
    let expected: [(&[u8], &[u8], i32); 4] = [(b"a", b"\0", 2), (b"b", b"", 2), (b"m", b"", 2), (b"m", b"n", 0)];
    assert_eq!(shown, expected);
}

#[test]
fn passwords_change_only_for_users_that_have_one() {
    let mut world = World::default();
    world.done(&user("u"));
    let no_password = NewUser { name: "n".to_owned(), password_hash: "ignored".into(), no_password: true };
    world.done(&auth(Action::UserAdd(no_password)));
    world.done(&new_password("u"));
    world.done(&new_password("n"));
    let auth = world.view.auth();
    assert_eq!(auth.user("u").unwrap().password.expose(), "new hash");
    assert!(auth.user("n").unwrap().password.expose().is_empty());
    assert!(auth.user("n").unwrap().no_password);
}

#[test]
fn a_login_returns_a_token_that_names_its_log_entry_and_changes_no_state() {
    let mut world = secured();
    let before = world.view.clone();
    let effects = world.run(&login("ann"));
    assert_eq!(world.view, before);
    let Ok(Response::Login(token)) = effects.outcome else { panic!("{effects:?}") };
    assert_eq!(token.expose(), "prefix.7");
    assert_eq!(effects.auth, Some(Box::new(AuthEffect::Login { user: "ann".to_owned(), token })));
    assert_eq!(world.refused(&login("bob")), Refusal::Auth(AuthError::LoginFailed));
}

#[test]
fn deleting_a_user_or_changing_its_password_revokes_its_tokens() {
    let mut world = World::default();
    for name in ["u", "v"] {
        world.done(&user(name));
    }
    for command in [new_password("u"), drop_user("v")] {
        let effects = world.run(&command);
        let Some(AuthEffect::Changed(change)) = effects.auth.as_deref() else { panic!("{effects:?}") };
        let name = change.users[0].0.clone();
        assert_eq!(change.logged_out, Some(name));
    }
}
