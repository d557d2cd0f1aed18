//! The rules of the v2 tree, as observed in etcd 3.4.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::types::{Command, Event, Outcome, Verb, code};
use super::*;
use crate::model::effects::{Position, Response};
use crate::model::record::Record;
use crate::model::view::{Alarm, KeyRange, Lease, Visit};

const NOW: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// The v2 part of a store; the v3 part is empty.
#[derive(Default)]
pub(super) struct Space(pub(super) BTreeMap<Bytes, Bytes>);

impl View for Space {
    fn revision(&self) -> i64 {
        1
    }
    fn compacted(&self) -> i64 {
        -1
    }
    fn get(&self, _: &[u8]) -> Result<Option<Record>, ViewError> {
        Ok(None)
    }
    fn get_at(&self, _: &[u8], _: i64) -> Result<Option<Record>, ViewError> {
        Ok(None)
    }
    fn scan(&self, _: &KeyRange, _: &mut Visit<'_>) -> Result<(), ViewError> {
        Ok(())
    }
    fn scan_at(&self, _: &KeyRange, _: i64, _: &mut Visit<'_>) -> Result<(), ViewError> {
        Ok(())
    }
    fn count(&self, _: &KeyRange) -> Result<i64, ViewError> {
        Ok(0)
    }
    fn lease(&self, _: i64) -> Result<Option<Lease>, ViewError> {
        Ok(None)
    }
    fn lease_keys(&self, _: i64) -> Result<Vec<Bytes>, ViewError> {
        Ok(Vec::new())
    }
    fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }
    fn cluster_version(&self) -> String {
        String::new()
    }
    fn auth(&self) -> std::sync::Arc<crate::model::auth::Auth> {
        std::sync::Arc::default()
    }
    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.get(key).cloned())
    }
    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        for (key, value) in
            self.0.range(Bytes::copy_from_slice(prefix)..).take_while(|(key, _)| key.starts_with(prefix))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Space {
    pub(super) fn run(&mut self, command: Command) -> Outcome {
        let effects = apply(self, &command.encode_to_vec().into(), Position { term: 1, index: 1 }).expect("readable");
        for (key, value) in effects.v2 {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
        match effects.outcome {
            Ok(Response::V2(outcome)) => *outcome,
            other => panic!("not a v2 answer: {other:?}"),
        }
    }

    fn event(&mut self, command: Command) -> Event {
        let outcome = self.run(command);
        outcome.event.unwrap_or_else(|| panic!("refused: {:?}", outcome.error))
    }

    fn refusal(&mut self, command: Command) -> (u32, String) {
        let before = self.0.clone();
        let outcome = self.run(command);
        let error = outcome.error.unwrap_or_else(|| panic!("not refused: {:?}", outcome.event));
        assert_eq!(before, self.0, "a refusal changed something");
        assert_eq!(error.index, index(self).expect("readable"));
        (error.code, String::from_utf8_lossy(&error.cause).into_owned())
    }

    fn value(&self, path: &str) -> Option<Bytes> {
        get(self, path.as_bytes(), false, NOW, Budget::NONE)
            .expect("readable")
            .ok()
            .flatten()
            .and_then(|found| found.node.value)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let found =
            get(self, path.as_bytes(), true, NOW, Budget::NONE).expect("readable").expect("found").expect("small");
        found.node.nodes.iter().map(|node| String::from_utf8_lossy(&node.key).into_owned()).collect()
    }
}

fn command(verb: Verb, path: &str, value: &str) -> Command {
    Command {
        verb: verb as i32,
        path: path.to_owned().into(),
        value: value.to_owned().into(),
        now: NOW,
        ..Default::default()
    }
}

#[test]
fn the_golden_sequence_of_a_fresh_server_holds() {
    let mut space = Space::default();
    assert_eq!(index(&space).expect("readable"), 3);
    let first = space.event(command(Verb::Set, "/foo", "bar"));
    assert_eq!((first.index(), first.is_created(), &first.prev_node), (4, true, &None));
    let second = space.event(command(Verb::Set, "/foo", "baz"));
    let node = second.node.clone().expect("a node");
    assert_eq!((node.created, node.modified, second.is_created()), (5, 5, false));
    assert_eq!(second.prev_node.expect("the old node").value, Some("bar".into()));
    let refusal =
        get(&space, b"/foo/x", false, NOW, Budget::NONE).expect("readable").expect_err("a file is in the way");
    assert_eq!((refusal.code, refusal.cause.as_ref(), refusal.index), (code::NOT_DIR, &b"/foo"[..], 5));
    let job = space.event(command(Verb::CreateInOrder, "/q", "job"));
    assert_eq!(job.node.expect("a node").key, "/q/00000000000000000006");
}

#[test]
fn a_missing_key_is_reported_by_its_first_missing_path_component() {
    let space = Space::default();
    let refusal =
        get(&space, b"/no/such/deep", false, NOW, Budget::NONE).expect("readable").expect_err("nothing there");
    assert_eq!((refusal.code, refusal.cause.as_ref()), (code::KEY_NOT_FOUND, &b"/no"[..]));
}

#[test]
fn missing_parents_are_created_with_the_index_of_the_write() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/a/b/c", "1"));
    let found = get(&space, b"/a/b", false, NOW, Budget::NONE).expect("readable").expect("found").expect("small");
    assert!(found.node.dir);
    assert_eq!((found.node.created, found.node.modified), (4, 4));
}

#[test]
fn a_refused_write_creates_no_parents() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/f", "1"));
    assert_eq!(space.refusal(command(Verb::Create, "/f/x/y", "1")), (code::NOT_DIR, "/f".to_owned()));
    assert_eq!(space.refusal(command(Verb::Update, "/g/x", "1")), (code::KEY_NOT_FOUND, "/g".to_owned()));
    assert_eq!(space.names("/"), ["/f"]);
}

#[test]
fn conditions_are_checked_in_etcds_order_and_the_cause_names_the_value_first() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/c", "two"));
    let swap = |value: &str, index: u64| Command {
        prev_value: value.to_owned().into(),
        prev_index: index,
        ..command(Verb::CompareAndSwap, "/c", "x")
    };
    assert_eq!(space.refusal(swap("wrong", 1)), (code::TEST_FAILED, "[wrong != two] [1 != 4]".to_owned()));
    assert_eq!(space.refusal(swap("", 1)), (code::TEST_FAILED, "[1 != 4]".to_owned()));
    assert_eq!(space.refusal(swap("wrong", 4)), (code::TEST_FAILED, "[wrong != two]".to_owned()));
    let event = space.event(swap("two", 4));
    let node = event.node.expect("a node");
    assert_eq!((node.created, node.modified), (4, 5));
    let gone = Command { path: "/none".into(), ..swap("two", 0) };
    assert_eq!(space.refusal(gone).0, code::KEY_NOT_FOUND);
}

#[test]
fn directories_reject_values_and_the_root_rejects_all_but_post() {
    let mut space = Space::default();
    space.event(Command { dir: true, ..command(Verb::Set, "/d", "") });
    assert_eq!(space.refusal(Command { dir: true, ..command(Verb::Set, "/d", "") }), (code::NOT_FILE, "/d".to_owned()));
    assert_eq!(space.refusal(command(Verb::Update, "/d", "v")), (code::NOT_FILE, "/d".to_owned()));
    for verb in [Verb::Set, Verb::Create, Verb::Update, Verb::CompareAndSwap, Verb::Delete] {
        assert_eq!(space.refusal(command(verb, "/", "v")), (code::ROOT_READ_ONLY, "/".to_owned()));
    }
    let conditional = Command { prev_index: 9, ..command(Verb::CompareAndDelete, "/", "") };
    assert_eq!(space.refusal(conditional), (code::NOT_FILE, String::new()));
    assert_eq!(space.event(command(Verb::CreateInOrder, "/", "v")).node.expect("a node").key, "/00000000000000000005");
}

#[test]
fn an_updated_directory_reports_a_new_index_and_keeps_the_old_one() {
    let mut space = Space::default();
    space.event(Command { dir: true, ..command(Verb::Set, "/d", "") });
    let event = space.event(Command { expiration: Some(NOW + 50 * SECOND), ..command(Verb::Update, "/d", "") });
    let node = event.node.expect("a node");
    assert_eq!((node.modified, node.created, node.ttl, node.dir), (5, 4, 50, true));
    let found = get(&space, b"/d", false, NOW, Budget::NONE).expect("readable").expect("found").expect("small");
    assert_eq!(found.node.modified, 4);
}

#[test]
fn deleting_a_directory_deletes_everything_below_in_one_event() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/d/x/1", "v"));
    space.event(command(Verb::Set, "/d/_hidden", "v"));
    assert_eq!(space.refusal(command(Verb::Delete, "/d", "")), (code::NOT_FILE, "/d".to_owned()));
    assert_eq!(
        space.refusal(Command { dir: true, ..command(Verb::Delete, "/d", "") }),
        (code::DIR_NOT_EMPTY, "/d".to_owned())
    );
    let event = space.event(Command { recursive: true, ..command(Verb::Delete, "/d", "") });
    let mut removed = event.removed.clone();
    removed.sort();
    assert_eq!(removed, ["/d/_hidden", "/d/x", "/d/x/1"]);
    assert_eq!(event.node.expect("a node").value, None);
    assert!(space.names("/").is_empty());
    assert_eq!(index(&space).expect("readable"), 6);
}

#[test]
fn hidden_nodes_are_left_out_of_listings_but_readable_by_name() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/_h/a", "1"));
    space.event(command(Verb::Set, "/v/_x", "2"));
    space.event(command(Verb::Set, "/v/y", "3"));
    assert_eq!(space.names("/"), ["/v"]);
    assert_eq!(space.names("/v"), ["/v/y"]);
    assert_eq!(space.names("/_h"), ["/_h/a"]);
    assert_eq!(space.value("/v/_x"), Some("2".into()));
}

#[test]
fn a_refresh_keeps_the_value_takes_an_index_and_is_invisible() {
    let mut space = Space::default();
    space.event(Command { expiration: Some(NOW + 5 * SECOND), ..command(Verb::Set, "/r", "kept") });
    let refresh = Command { refresh: true, expiration: Some(NOW + 90 * SECOND), ..command(Verb::Set, "/r", "") };
    let event = space.event(refresh.clone());
    assert_eq!(event.node.expect("a node").value, Some("kept".into()));
    assert_eq!(index(&space).expect("readable"), 5);
    assert_eq!(event_at(&space, 5).expect("readable"), None);
    let missing = Command { path: "/none".into(), ..refresh };
    assert_eq!(space.refusal(missing).0, code::KEY_NOT_FOUND);
}

#[test]
fn every_write_without_a_ttl_makes_a_node_permanent() {
    let mut space = Space::default();
    space.event(Command { expiration: Some(NOW + SECOND), ..command(Verb::Set, "/k", "1") });
    space.event(Command { prev_value: "1".into(), ..command(Verb::CompareAndSwap, "/k", "2") });
    assert_eq!(next_expiry(&space).expect("readable"), None);
    space.run(Command { now: NOW + 100 * SECOND, ..command(Verb::Expire, "", "") });
    assert_eq!(space.value("/k"), Some("2".into()));
}

#[test]
fn a_sweep_deletes_expired_nodes_in_expiry_order_each_with_its_own_index() {
    let mut space = Space::default();
    space.event(Command { expiration: Some(NOW + 3 * SECOND), ..command(Verb::Set, "/late", "") });
    space.event(Command { expiration: Some(NOW + SECOND), ..command(Verb::Set, "/early", "") });
    space.event(Command { dir: true, expiration: Some(NOW + 2 * SECOND), ..command(Verb::Set, "/dir", "") });
    space.event(Command { expiration: Some(NOW + 2 * SECOND + 1), ..command(Verb::Set, "/dir/child", "") });
    space.event(Command { expiration: Some(NOW + 9 * SECOND), ..command(Verb::Set, "/stays", "") });
    assert_eq!(next_expiry(&space).expect("readable"), Some(NOW + SECOND));
    space.run(Command { now: NOW + 3 * SECOND, ..command(Verb::Expire, "", "") });
    assert_eq!(space.names("/"), ["/stays"]);
    let seen: Vec<_> = (9..=11)
        .map(|index| event_at(&space, index).expect("readable").expect("in the window"))
        .map(|event| (event.action.clone(), event.node.clone().expect("a node").key, event.index()))
        .collect();
    let expire = |key: &'static str, index| ("expire".to_owned(), Bytes::from_static(key.as_bytes()), index);
    assert_eq!(seen, [expire("/early", 9), expire("/dir", 10), expire("/late", 11)]);
}

#[test]
fn a_read_over_its_budget_returns_none() {
    let mut space = Space::default();
    for path in ["/d/a", "/d/b", "/d/_c", "/d/e/f"] {
        space.event(command(Verb::Set, path, ""));
    }
    let nodes = |recursive: bool, budget: usize| {
        let found = get(&space, b"/d", recursive, NOW, Budget(budget)).expect("readable").expect("found");
        found.map(|found| found.node.nodes.len())
    };
    assert_eq!((nodes(false, 4), nodes(false, 3)), (Some(3), None), "hidden nodes cost as much as others");
    assert_eq!((nodes(true, 5), nodes(true, 4)), (Some(3), None));
}

/// A space whose `v2_latest` returns current values with an index reached earlier.
struct Behind<'s>(&'s Space, u64);

impl View for Behind<'_> {
    fn revision(&self) -> i64 {
        self.0.revision()
    }
    fn compacted(&self) -> i64 {
        self.0.compacted()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        self.0.get(key)
    }
    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        self.0.get_at(key, revision)
    }
    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.0.scan(range, visit)
    }
    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.0.scan_at(range, revision, visit)
    }
    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        self.0.count(range)
    }
    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        self.0.lease(id)
    }
    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        self.0.lease_keys(id)
    }
    fn alarms(&self) -> Vec<Alarm> {
        self.0.alarms()
    }
    fn cluster_version(&self) -> String {
        self.0.cluster_version()
    }
    fn auth(&self) -> std::sync::Arc<crate::model::auth::Auth> {
        self.0.auth()
    }
    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.0.v2_get(key)
    }
    fn v2_latest(&self, key: &[u8]) -> Result<Option<(u64, Bytes)>, ViewError> {
        Ok(self.0.v2_get(key)?.map(|row| (self.1, row)))
    }
    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        self.0.v2_scan(prefix, visit)
    }
}

#[test]
fn the_index_of_an_answer_is_never_below_the_modified_index_in_it() {
    let mut space = Space::default();
    let older = space.event(command(Verb::Set, "/k", "old")).index();
    let newer = space.event(command(Verb::Set, "/k", "new")).index();
    let read = |path: &str, reached: u64| {
        get(&Behind(&space, reached), path.as_bytes(), false, NOW, Budget::NONE).expect("readable").map(Option::unwrap)
    };
    let found = read("/k", older).expect("found");
    assert_eq!(
        (found.node.value.as_deref(), found.index),
        (Some(&b"new"[..]), newer),
        "read ahead of what was reached"
    );
    assert_eq!(read("/k", newer + 7).expect("found").index, newer + 7, "others have written since");
    assert_eq!(read("/", older).expect("found").index, newer, "a directory is read at one index");
    assert_eq!(read("/none", older).expect_err("missing").index, newer);
}

#[test]
fn remaining_seconds_are_rounded_up_and_zero_is_not_negative() {
    let mut space = Space::default();
    space.event(Command { expiration: Some(NOW + 5 * SECOND), ..command(Verb::Set, "/k", "") });
    let ttl = |now: i64| {
        get(&space, b"/k", false, now, Budget::NONE).expect("readable").expect("found").expect("small").node.ttl
    };
    assert_eq!((ttl(NOW), ttl(NOW + 1), ttl(NOW + SECOND), ttl(NOW + 5 * SECOND)), (5, 5, 4, 0));
}

#[test]
fn the_window_holds_the_last_thousand_events() {
    let mut space = Space::default();
    for n in 0..1001 {
        space.event(command(Verb::Set, "/k", &n.to_string()));
    }
    let current = index(&space).expect("readable");
    assert_eq!(oldest_event(current), current - 999);
    assert_eq!(event_at(&space, current - 999).expect("readable").expect("in the window").index(), current - 999);
    assert_eq!(event_at(&space, current - 1000).expect("readable"), None);
    let window = window(&space).expect("readable");
    assert_eq!((window.len(), window[0].index, window[999].index), (1000, current - 999, current));
    assert_eq!(space.0.keys().filter(|key| key.starts_with(layout::EVENTS)).count(), 1000);
}

#[test]
fn the_window_is_bounded_in_bytes_too_and_reports_its_first_index() {
    let mut space = Space::default();
    space.event(command(Verb::Set, "/small", "1"));
    assert_eq!(window_begins_at(&space).expect("readable"), 1);
    let large = "x".repeat(1 << 20);
    for _ in 0..200 {
        space.event(command(Verb::Set, "/k", &large));
    }
    let kept: Vec<u64> =
        space.0.iter().filter(|(key, _)| key.starts_with(layout::EVENTS)).map(|(_, row)| row.len() as u64).collect();
    assert!(kept.iter().sum::<u64>() <= LARGE_EVENTS_BYTES && kept.len() > 20, "{kept:?}");
    let current = index(&space).expect("readable");
    let oldest = window_begins_at(&space).expect("readable");
    assert_eq!(oldest, current + 1 - kept.len() as u64);
    assert!(event_at(&space, oldest).expect("readable").is_some());
    assert_eq!(event_at(&space, oldest - 1).expect("readable"), None);
    for n in 0..1500 {
        space.event(command(Verb::Set, "/k", &n.to_string()));
    }
    let current = index(&space).expect("readable");
    assert_eq!(window_begins_at(&space).expect("readable"), current - 999, "by number again");
    assert_eq!(space.0.keys().filter(|key| key.starts_with(layout::EVENTS)).count(), 1000);
}

/// A reference model of the tree: path → value, or `None` for a directory.
#[derive(Default, Clone, PartialEq, Debug)]
struct Plain(BTreeMap<String, Option<String>>);

impl Plain {
    fn set(&mut self, path: &str, value: &str) -> bool {
        let parts: Vec<&str> = path[1..].split('/').collect();
        let parents: Vec<String> = (1..parts.len()).map(|n| format!("/{}", parts[..n].join("/"))).collect();
        if parents.iter().any(|parent| matches!(self.0.get(parent), Some(Some(_)))) || self.0.get(path) == Some(&None) {
            return false;
        }
        parents.into_iter().for_each(|parent| {
            self.0.entry(parent).or_insert(None);
        });
        self.0.insert(path.to_owned(), Some(value.to_owned()));
        true
    }

    fn delete(&mut self, path: &str) -> bool {
        let below = format!("{path}/");
        let there = self.0.contains_key(path);
        self.0.retain(|key, _| key != path && !key.starts_with(&below));
        there
    }
}

fn read_plain(space: &Space) -> Plain {
    fn walk(node: &types::Node, plain: &mut Plain) {
        for child in &node.nodes {
            let value = child.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
            plain.0.insert(String::from_utf8_lossy(&child.key).into_owned(), value);
            walk(child, plain);
        }
    }
    let mut plain = Plain::default();
    walk(
        &get(space, b"/", true, NOW, Budget::NONE).expect("readable").expect("the root").expect("small").node,
        &mut plain,
    );
    plain
}

proptest! {
    #[test]
    fn sets_and_recursive_deletes_match_a_plain_map(
        steps in prop::collection::vec((any::<bool>(), prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 1..4), "[xy]{0,2}"), 1..60),
    ) {
        let (mut space, mut plain) = (Space::default(), Plain::default());
        for (deletes, parts, value) in steps {
            let path = format!("/{}", parts.join("/"));
            let (expected, verb) = if deletes { (plain.delete(&path), Verb::Delete) } else { (plain.set(&path, &value), Verb::Set) };
            let outcome = space.run(Command { recursive: deletes, ..command(verb, &path, &value) });
            prop_assert_eq!(outcome.error.is_none(), expected, "{:?} {}", verb, path);
            prop_assert_eq!(read_plain(&space), plain.clone());
        }
    }
}
