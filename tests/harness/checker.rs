//! Judges a history: were all acknowledged writes kept, each done once, and did every answer fit one order of all
//! operations that agrees with real time?
//!
//! The store's revisions are that order: a write stands at the revision it got, a read at the revision its answer names.
//! So nothing has to be searched: what each answer shows is compared with the versions at its place, and one sweep along
//! the clock finds an operation whose place lies before that of another which had ended before it began. Revisions are
//! one order for all keys, so this asks for more than linearizability of each key. O(n log n).

use std::collections::HashMap;
use std::time::Duration;

use super::history::{Kind, Operation, Outcome, Version, Versions};

/// What is wrong with a history. Numbers are places in the list of operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An acknowledged write is not at the revision its answer named.
    Lost { operation: usize, revision: i64 },
    /// A write happened at two revisions.
    Twice { key: String, value: String },
    /// Nobody wrote this.
    Phantom { key: String, version: Version },
    /// An answer that does not show the state at the revision it names.
    Wrong { operation: usize, expected: Option<Version> },
    /// A swap that matched although the key was at another revision, or the other way round.
    Swapped { operation: usize, actual: i64 },
    /// An answer, or a write, from before something that had ended when the operation began.
    Stale { operation: usize, place: i64, ended_before: i64 },
}

/// Finds the first fault of each operation. `versions` is everything that ever happened to the keys.
pub fn faults(operations: &[Operation], versions: &Versions) -> Vec<Fault> {
    let mut faults = Vec::new();
    let written = places_of_writes(versions, &mut faults);
    find_phantoms(operations, versions, &mut faults);
    let mut places = Vec::new();
    for (n, operation) in operations.iter().enumerate() {
        let place = operation.value().and_then(|value| written.get(&(operation.key.as_str(), value.as_str()))).copied();
        match &operation.outcome {
            Outcome::Written { revision, ended } => {
                if place != Some(*revision) {
                    faults.push(Fault::Lost { operation: n, revision: *revision });
                }
                check_swap(n, operation, *revision, true, versions, &mut faults);
                places.push(Placed { operation: n, place: *revision, ended: Some(*ended), writes: true });
            }
            Outcome::Saw { ended, revision, state } => {
                let expected = before(versions, &operation.key, revision + 1);
                if expected != state.as_ref() {
                    faults.push(Fault::Wrong { operation: n, expected: expected.cloned() });
                }
                if let Some(place) = place {
                    // The server said that it did not match, and yet it was written.
                    faults.push(Fault::Swapped { operation: n, actual: place });
                }
                check_swap(n, operation, revision + 1, false, versions, &mut faults);
                places.push(Placed { operation: n, place: *revision, ended: Some(*ended), writes: false });
            }
            Outcome::Unknown => {
                if let Some(place) = place {
                    check_swap(n, operation, place, true, versions, &mut faults);
                    places.push(Placed { operation: n, place, ended: None, writes: true });
                }
            }
        }
    }
    find_stale(operations, &places, &mut faults);
    faults
}

struct Placed {
    operation: usize,
    place: i64,
    ended: Option<Duration>,
    writes: bool,
}

/// The newest version of `key` below `revision`.
fn before<'a>(versions: &'a Versions, key: &str, revision: i64) -> Option<&'a Version> {
    let list = versions.get(key)?;
    let count = list.partition_point(|version| version.revision < revision);
    count.checked_sub(1).map(|last| &list[last])
}

fn places_of_writes<'a>(versions: &'a Versions, faults: &mut Vec<Fault>) -> HashMap<(&'a str, &'a str), i64> {
    let mut places = HashMap::new();
    for (key, list) in versions {
        for version in list {
            if places.insert((key.as_str(), version.value.as_str()), version.revision).is_some() {
                faults.push(Fault::Twice { key: key.clone(), value: version.value.clone() });
            }
        }
    }
    places
}

fn find_phantoms(operations: &[Operation], versions: &Versions, faults: &mut Vec<Fault>) {
    let tried: std::collections::HashSet<(&str, &str)> =
        operations.iter().filter_map(|operation| Some((operation.key.as_str(), operation.value()?.as_str()))).collect();
    for (key, list) in versions {
        for version in list.iter().filter(|version| !tried.contains(&(key.as_str(), version.value.as_str()))) {
            faults.push(Fault::Phantom { key: key.clone(), version: version.clone() });
        }
    }
}

fn check_swap(
    n: usize,
    operation: &Operation,
    place: i64,
    matched: bool,
    versions: &Versions,
    faults: &mut Vec<Fault>,
) {
    let Kind::Swap { expected, .. } = operation.kind else { return };
    let actual = before(versions, &operation.key, place).map_or(0, |version| version.revision);
    if (actual == expected) != matched {
        faults.push(Fault::Swapped { operation: n, actual });
    }
}

fn find_stale(operations: &[Operation], places: &[Placed], faults: &mut Vec<Fault>) {
    let mut beginnings: Vec<&Placed> = places.iter().collect();
    beginnings.sort_by_key(|placed| operations[placed.operation].begun);
    let mut endings: Vec<(Duration, i64)> =
        places.iter().filter_map(|placed| Some((placed.ended?, placed.place))).collect();
    endings.sort();
    let (mut next, mut ended_before) = (0, 0);
    for placed in beginnings {
        while next < endings.len() && endings[next].0 < operations[placed.operation].begun {
            ended_before = endings[next].1.max(ended_before);
            next += 1;
        }
        // A write makes a revision of its own, so it must be above; a read may share one.
        if placed.place < ended_before + i64::from(placed.writes) {
            faults.push(Fault::Stale { operation: placed.operation, place: placed.place, ended_before });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: i64 = 3;

    /// A correct history: operations of one after another, each known to have ended before the next began, over a few keys.
    fn honest() -> (Vec<Operation>, Versions) {
        let (mut operations, mut versions, mut revision) = (Vec::new(), Versions::new(), 1);
        for n in 0..90i64 {
            let key = format!("k{}", n % KEYS);
            let state = versions.get(&key).and_then(|list: &Vec<Version>| list.last()).cloned();
            let (begun, ended) = (Duration::from_millis(n as u64 * 10), Duration::from_millis(n as u64 * 10 + 5));
            let current = state.as_ref().map_or(0, |version| version.revision);
            let (kind, writes) = match n / KEYS % 4 {
                0 => (Kind::Put { value: n.to_string() }, true),
                1 => (Kind::Swap { value: n.to_string(), expected: current }, true),
                2 => (Kind::Swap { value: n.to_string(), expected: current - 1 }, false),
                _ => (Kind::Read, false),
            };
            let outcome = if writes {
                revision += 1;
                versions.entry(key.clone()).or_default().push(Version { revision, value: n.to_string() });
                Outcome::Written { ended, revision }
            } else {
                Outcome::Saw { ended, revision, state }
            };
            operations.push(Operation { key, kind, begun, outcome });
        }
        (operations, versions)
    }

    fn last(operations: &[Operation], which: impl Fn(&Operation) -> bool) -> usize {
        operations.iter().rposition(which).expect("the history has one")
    }

    fn is_read(operation: &Operation) -> bool {
        matches!(operation.kind, Kind::Read)
    }

    #[test]
    fn an_honest_history_has_no_fault() {
        let (mut operations, versions) = honest();
        assert_eq!(faults(&operations, &versions), []);
        // Not knowing is not a fault either.
        let write = last(&operations, |operation| matches!(operation.outcome, Outcome::Written { .. }));
        operations[write].outcome = Outcome::Unknown;
        assert_eq!(faults(&operations, &versions), []);
    }

    #[test]
    fn a_read_of_an_older_state_is_stale() {
        let (mut operations, versions) = honest();
        let read = last(&operations, is_read);
        let older = versions[&operations[read].key][0].clone();
        if let Outcome::Saw { revision, state, .. } = &mut operations[read].outcome {
            (*revision, *state) = (older.revision, Some(older));
        }
        assert!(matches!(faults(&operations, &versions)[..], [Fault::Stale { operation, .. }] if operation == read));
    }

    #[test]
    fn a_read_that_names_a_new_revision_and_shows_an_old_state_is_wrong() {
        let (mut operations, versions) = honest();
        let read = last(&operations, is_read);
        let older = versions[&operations[read].key][0].clone();
        if let Outcome::Saw { state, .. } = &mut operations[read].outcome {
            *state = Some(older);
        }
        assert!(matches!(faults(&operations, &versions)[..], [Fault::Wrong { operation, .. }] if operation == read));
    }

    #[test]
    fn an_acknowledged_write_that_is_not_in_the_end_is_lost() {
        let (operations, mut versions) = honest();
        let gone = versions.get_mut("k1").expect("the key has versions").pop().expect("a version");
        let found = faults(&operations, &versions);
        assert!(
            found.iter().any(|fault| matches!(fault, Fault::Lost { revision, .. } if *revision == gone.revision)),
            "{found:?}"
        );
    }

    #[test]
    fn a_write_done_twice_is_found() {
        let (operations, mut versions) = honest();
        let list = versions.get_mut("k2").expect("the key has versions");
        let value = list[0].value.clone();
        list.push(Version { revision: 1_000, value });
        assert!(faults(&operations, &versions).iter().any(|fault| matches!(fault, Fault::Twice { .. })));
    }

    #[test]
    fn a_swap_that_matched_another_revision_is_found() {
        let (mut operations, versions) = honest();
        let written = |operation: &Operation| matches!(operation.outcome, Outcome::Written { .. });
        let swap = last(&operations, |operation| matches!(operation.kind, Kind::Swap { .. }) && written(operation));
        if let Kind::Swap { expected, .. } = &mut operations[swap].kind {
            *expected -= 1;
        }
        assert!(matches!(faults(&operations, &versions)[..], [Fault::Swapped { operation, .. }] if operation == swap));
    }

    #[test]
    fn a_write_nobody_tried_is_a_phantom() {
        let (operations, mut versions) = honest();
        versions.entry("k0".to_owned()).or_default().push(Version { revision: 1_000, value: "ghost".to_owned() });
        assert!(faults(&operations, &versions).iter().any(|fault| matches!(fault, Fault::Phantom { .. })));
    }
}
