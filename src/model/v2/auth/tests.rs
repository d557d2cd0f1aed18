//! The rules of users and roles, as observed in etcd 3.4.23.

use super::types::{Change, Command, Names, Outcome, Permissions, PutRole, PutUser, Reason, Switch};
use super::*;
use crate::model::v2::tests::Space;
use crate::model::v2::types::{Command as Mutation, Verb};
use crate::model::v2::{event_at, index, window};

fn names(list: &[&str]) -> Option<Names> {
    Some(Names { names: list.iter().map(|&name| name.to_owned()).collect() })
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn patterns(read: &[&str], write: &[&str]) -> Option<Permissions> {
    Some(Permissions { read: names(read), write: names(write) })
}

fn change(space: &mut Space, change: Change) -> Outcome {
    let auth = Some(Command { change: Some(change) });
    space.run(Mutation { verb: Verb::Auth as i32, auth, ..Mutation::default() }).auth.expect("an answer about auth")
}

fn put(space: &mut Space, user: PutUser) -> Outcome {
    change(space, Change::PutUser(user))
}

fn user_named(name: &str) -> PutUser {
    PutUser { name: name.to_owned(), ..PutUser::default() }
}

fn with_password(name: &str) -> PutUser {
    PutUser { password: "hash".to_owned(), ..user_named(name) }
}

fn reason(space: &mut Space, wanted: Change) -> Reason {
    let before = space.0.clone();
    let refusal = change(space, wanted).refusal.expect("a refusal");
    assert_eq!(before, space.0, "a refusal changed something");
    refusal.reason()
}

#[test]
fn the_first_write_takes_five_indexes_and_later_ones_one_each() {
    let mut space = Space::default();
    put(&mut space, with_password("alice"));
    assert_eq!(index(&space).expect("readable"), 8);
    put(&mut space, user_named("alice"));
    assert_eq!(index(&space).expect("readable"), 9, "a user without a list of roles gets an empty one");
    assert_eq!(reason(&mut space, Change::PutUser(user_named("alice"))), Reason::UserUnchanged);
    assert_eq!(index(&space).expect("readable"), 9);
    let mut fresh = Space::default();
    assert!(change(&mut fresh, Change::DeleteUser("nobody".into())).refusal.is_some());
    assert_eq!(index(&fresh).expect("readable"), 7, "as etcd, which makes its directories first");
    assert!(window(&space).expect("readable").is_empty(), "nobody is shown who was made a user");
    assert_eq!(event_at(&space, 9).expect("readable"), None);
}

#[test]
fn a_user_is_created_with_or_without_roles_and_changed_by_grants() {
    let mut space = Space::default();
    let made = put(&mut space, with_password("a"));
    assert!(made.created && made.user.as_ref().is_some_and(|user| user.roles.is_none()));
    assert_eq!(made.user.expect("a user").password, "", "no hash leaves the state");
    let bob = PutUser { roles: names(&["b", "a", "b"]), ..with_password("bob") };
    let made = put(&mut space, bob.clone());
    assert!(!made.created, "etcd answers 200 here");
    assert_eq!(made.user.expect("a user").roles, names(&["b", "a", "b"]));
    assert_eq!(reason(&mut space, Change::PutUser(bob)), Reason::UserExists);
    let granted = put(&mut space, PutUser { grant: strings(&["z"]), ..user_named("bob") });
    assert_eq!(granted.user.expect("a user").roles, names(&["a", "b", "z"]));
    let again = PutUser { grant: strings(&["z"]), revoke: strings(&["z"]), ..user_named("bob") };
    assert_eq!(reason(&mut space, Change::PutUser(again)), Reason::DuplicateRole);
    let never = PutUser { revoke: strings(&["no"]), ..user_named("bob") };
    assert_eq!(reason(&mut space, Change::PutUser(never)), Reason::UngrantedRole);
    let nobody = PutUser { grant: strings(&["z"]), ..user_named("carl") };
    assert_eq!(reason(&mut space, Change::PutUser(nobody)), Reason::NoUser);
    assert_eq!(reason(&mut space, Change::PutUser(user_named("carl"))), Reason::EmptyPassword);
    assert_eq!(reason(&mut space, Change::DeleteUser("carl".into())), Reason::NoUserToDelete);
    assert_eq!(change(&mut space, Change::DeleteUser("bob".into())).refusal, None);
    assert_eq!(user(&space, "bob").expect("readable"), None);
}

#[test]
fn root_has_its_role_whatever_is_stored() {
    let mut space = Space::default();
    assert_eq!(put(&mut space, with_password("root")).user.expect("a user").roles, names(&["root"]));
    let revoked = put(&mut space, PutUser { revoke: strings(&["root"]), ..user_named("root") });
    assert_eq!(revoked.user.expect("a user").roles, names(&[]));
    assert_eq!(user(&space, "root").expect("readable").expect("a user").roles, names(&["root"]));
    for wanted in
        [Change::DeleteRole("root".into()), Change::PutRole(PutRole { name: "root".into(), ..PutRole::default() })]
    {
        assert_eq!(reason(&mut space, wanted), Reason::RoleIsRoot);
    }
}

#[test]
fn a_role_is_created_then_changed_by_grants_and_sorted_from_then_on() {
    let mut space = Space::default();
    let role_named = |name: &str| PutRole { name: name.to_owned(), ..PutRole::default() };
    let bare = change(&mut space, Change::PutRole(role_named("r")));
    assert_eq!((bare.created, bare.role.expect("a role").permissions), (true, Some(Permissions::default())));
    assert_eq!(reason(&mut space, Change::PutRole(role_named("r"))), Reason::RoleExists);
    let grant = PutRole { grant: patterns(&["/foo/*", "/b"], &["/foo/*"]), ..role_named("r") };
    let granted = change(&mut space, Change::PutRole(grant.clone()));
    assert_eq!(granted.role.expect("a role").permissions, patterns(&["/b", "/foo/*"], &["/foo/*"]));
    assert_eq!(reason(&mut space, Change::PutRole(grant)), Reason::DuplicateRead);
    let write_again = PutRole { grant: patterns(&[], &["/foo/*"]), ..role_named("r") };
    assert_eq!(reason(&mut space, Change::PutRole(write_again)), Reason::DuplicateWrite);
    let absent = PutRole { revoke: patterns(&["/nix"], &[]), ..role_named("r") };
    assert_eq!(reason(&mut space, Change::PutRole(absent)), Reason::RoleUnchanged);
    let nobody = PutRole { grant: patterns(&["/x"], &[]), ..role_named("none") };
    assert_eq!(reason(&mut space, Change::PutRole(nobody)), Reason::NoRole);
    assert_eq!(reason(&mut space, Change::DeleteRole("none".into())), Reason::NoRoleToDelete);
    let listed: Vec<String> = roles(&space).expect("readable").into_iter().map(|role| role.name).collect();
    assert_eq!(listed, ["r", "root"]);
}

#[test]
fn enabling_needs_root_and_guests_keep_full_access_until_it_is_revoked() {
    let mut space = Space::default();
    let switch = |enable| Change::Switch(Switch { enable });
    assert_eq!(reason(&mut space, switch(true)), Reason::NoRootUser);
    assert_eq!(reason(&mut space, switch(false)), Reason::AlreadyDisabled);
    put(&mut space, with_password("root"));
    assert_eq!(change(&mut space, switch(true)).refusal, None);
    assert_eq!(index(&space).expect("readable"), 10, "guest and the switch");
    assert!(enabled(&space).expect("readable"));
    assert_eq!(reason(&mut space, switch(true)), Reason::AlreadyEnabled);
    assert_eq!(reason(&mut space, Change::DeleteUser("root".into())), Reason::RootStays);
    let want = Want { path: "/k", recursive: true, write: true };
    assert!(may(&space, None, want).expect("readable"));
    change(&mut space, Change::DeleteRole("guest".into()));
    assert!(!may(&space, None, want).expect("readable"));
    let root = user(&space, "root").expect("readable");
    assert!(may(&space, root.as_ref(), want).expect("readable"));
    assert_eq!(change(&mut space, switch(false)).refusal, None);
    assert!(!enabled(&space).expect("readable"));
    assert_eq!(change(&mut space, Change::DeleteUser("root".into())).refusal, None);
}
