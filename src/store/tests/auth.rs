//! Users, roles and permissions outlive the process and travel with snapshots.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;

use super::snapshots::{build, ship};
use super::{apply, crash_copy, entry, open, put};
use crate::model::auth::{AuthError, Identity};
use crate::model::command::{self, Command};
use crate::model::view::View;
use crate::proto::authpb::Permission;
use crate::proto::command::auth_command::Action;
use crate::proto::command::{AuthCommand, Login, NewUser};
use crate::proto::etcdserverpb as pb;
use crate::raft::types::{Entry, Proposal};
use crate::store::{AuthEvent, Batch, EventSink};

fn auth(action: Action) -> Command {
    Command::Auth(AuthCommand { action: Some(action) })
}

/// Root, ann who may write `k`, authentication on: eight entries.
fn setup() -> Vec<Command> {
    let user = |name: &str| {
        auth(Action::UserAdd(NewUser { name: name.to_owned(), password_hash: "hash".into(), no_password: false }))
    };
    let grant = |user: &str, role: &str| {
        auth(Action::UserGrantRole(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }))
    };
    let perm = Some(Permission { perm_type: 1, key: "k".into(), range_end: "".into() });
    vec![
        user("root"),
        grant("root", "root"),
        user("ann"),
        auth(Action::RoleAdd(pb::AuthRoleAddRequest { name: "r".to_owned() })),
        auth(Action::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm })),
        grant("ann", "r"),
        put(b"before", b""),
        auth(Action::Enable(pb::AuthEnableRequest {})),
    ]
}

fn log(commands: Vec<Command>) -> Vec<Entry> {
    (0..).zip(commands).map(|(index, command)| entry(index, command)).collect()
}

fn as_user(index: u64, user: &str, revision: u64, asked: Command) -> Entry {
    let mut entry = entry(index, put(b"", b""));
    entry.payload = openraft::EntryPayload::Normal(Proposal(command::encode_as(asked, user.to_owned(), revision)));
    entry
}

#[tokio::test]
async fn users_and_roles_are_back_after_a_restart_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    assert!(!store.auth_mark().is_on());
    apply(&mut machine, log(setup())).await;
    assert!(store.auth_mark().is_on());
    let (auth, mark) = (store.auth(), store.auth_mark().state());
    store.shared.database().flush().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    crash_copy(dir.path(), &crashed.path().join("member"));
    let (after, _machine) = open(&crashed.path().join("member"));
    assert_eq!((after.auth(), after.auth_mark().state()), (auth, mark));
    assert_eq!(after.view().auth().user("ann").unwrap().password.expose(), "hash");
    assert_eq!(after.hash().unwrap(), store.hash().unwrap());
}

#[tokio::test]
async fn entries_of_one_batch_see_the_changes_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let mut entries = log(setup());
    entries.push(as_user(8, "ann", 7, put(b"k", b"1")));
    entries.push(as_user(9, "ann", 7, put(b"z", b"1")));
    entries.push(entry(10, put(b"k", b"nobody")));
    let forbid = pb::AuthRoleRevokePermissionRequest { role: "r".to_owned(), key: "k".into(), ..Default::default() };
    entries.push(as_user(11, "root", 7, auth(Action::RoleRevokePermission(forbid))));
    entries.push(as_user(12, "ann", 7, put(b"k", b"late")));
    apply(&mut machine, entries).await;
    let view = store.view();
    assert_eq!(view.get(b"k").unwrap().unwrap().decode().unwrap().value, "1");
    assert!(view.get(b"z").unwrap().is_none());
    assert_eq!(view.revision(), 3);
    let by = Identity { user: "ann".to_owned(), revision: 8 };
    assert_eq!(view.auth().write(&by, b"k", b""), Err(AuthError::Denied));
    assert_eq!(store.hash_kv(0).unwrap().hash_revision, 3, "users and roles are no part of the key hash");
}

#[derive(Default)]
struct Events(Mutex<Vec<AuthEvent>>);

impl EventSink for Events {
    fn publish(&self, batch: &Arc<Batch>) {
        self.0.lock().extend(batch.auth.iter().cloned());
    }
}

#[tokio::test]
async fn logins_are_told_to_the_member_and_leave_no_trace_in_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, log(setup())).await;
    let events = Arc::new(Events::default());
    store.subscribe(events.clone());
    let before = store.hash().unwrap();
    let login = Login { user: "ann".to_owned(), token_prefix: "prefix".to_owned() };
    apply(&mut machine, [entry(8, auth(Action::Login(login)))]).await;
    assert_eq!(store.hash().unwrap(), before);
    let events = std::mem::take(&mut *events.0.lock());
    let [AuthEvent::Login { user, token }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((user.as_str(), token.expose().as_ref()), ("ann", &b"prefix.8"[..]));
}

#[tokio::test]
async fn a_snapshot_brings_the_rules_with_the_data() {
    let (ahead, behind) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, mut leading) = open(ahead.path());
    apply(&mut leading, log(setup())).await;
    let snapshot = build(&mut leading).await;
    let (follower, mut following) = open(behind.path());
    let received = ship(&snapshot, &follower).finish().unwrap();
    following.install_snapshot(&received.meta().clone(), received).await.unwrap();
    assert!(follower.auth_mark().is_on());
    assert_eq!(follower.auth(), leader.auth());
    assert_eq!(follower.hash().unwrap(), leader.hash().unwrap());
    for machine in [&mut leading, &mut following] {
        apply(machine, [as_user(8, "ann", 7, put(b"k", b"1")), entry(9, put(b"k", b"nobody"))]).await;
    }
    assert_eq!(follower.hash_kv(0).unwrap(), leader.hash_kv(0).unwrap());
    assert_eq!(follower.revision(), 3);
}
