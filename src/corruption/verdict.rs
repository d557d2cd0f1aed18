//! Compares the members' hashes. Pure.
//!
//! Hashes are comparable only at the same revision and compaction revision. Members are grouped by hash. If one group
//! is a majority of all members, the others are corrupt; if none is, the corrupt members are unknown.

use std::collections::BTreeMap;

use crate::settings::ids::hex;

/// A member's HashKV answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Member id.
    pub member: u64,
    /// HashKV.
    pub hash: u32,
    /// Compaction revision when the hash was computed.
    pub compacted: i64,
    /// Last revision included in the hash.
    pub hash_revision: i64,
    /// The member's revision when it answered.
    pub current: i64,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All comparable hashes are equal.
    Equal {
        /// Number of other members compared.
        compared: usize,
        /// Number of others that did not answer, or have another compaction revision.
        missing: usize,
    },
    /// The hashes differ.
    Differ {
        /// The corrupt members; 0 when unknown.
        named: Vec<u64>,
        /// Every hash and its members, for the log.
        by_hash: Vec<(u32, String)>,
    },
}

/// The others whose hashes are comparable with `own`.
fn comparable<'a>(own: &'a Reading, others: &'a [Option<Reading>]) -> impl Iterator<Item = &'a Reading> {
    let same = |other: &&Reading| other.compacted == own.compacted && other.hash_revision == own.hash_revision;
    others.iter().flatten().filter(same)
}

fn majority(others: &[Option<Reading>]) -> usize {
    let members = others.len() + 1;
    members / 2 + 1
}

/// Compares `own` with the others' answers. `others` has one element for every other member.
pub fn judge(own: &Reading, others: &[Option<Reading>]) -> Verdict {
    let mut groups: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(own.hash, vec![own.member])]);
    let mut compared = 0;
    for other in comparable(own, others) {
        groups.entry(other.hash).or_default().push(other.member);
        compared += 1;
    }
    if groups.len() == 1 {
        return Verdict::Equal { compared, missing: others.len() - compared };
    }
    let names = |members: &Vec<u64>| members.iter().map(|id| hex(*id)).collect::<Vec<_>>().join(", ");
    let by_hash = groups.iter().map(|(hash, members)| (*hash, names(members))).collect();
    let named = match groups.iter().find(|(_, members)| members.len() >= majority(others)) {
        Some((right, _)) => {
            groups.iter().filter(|(hash, _)| *hash != right).flat_map(|(_, members)| members.clone()).collect()
        }
        None => vec![0],
    };
    Verdict::Differ { named, by_hash }
}

/// The members whose hash differs from `own`, unless a majority of all members agrees with `own`.
pub fn stands_alone(own: &Reading, others: &[Option<Reading>]) -> Vec<u64> {
    let (equal, different): (Vec<&Reading>, Vec<&Reading>) =
        comparable(own, others).partition(|other| other.hash == own.hash);
    if equal.len() + 1 >= majority(others) {
        return Vec::new();
    }
    different.into_iter().map(|other| other.member).collect()
}

/// Members with a revision or compaction revision above the leader's, although the leader has applied every entry they
/// can have: they have changes that are not in the log. If a majority is ahead, the leader has lost data.
pub fn ahead(leader: u64, revision: i64, compacted: i64, others: &[Option<Reading>]) -> Vec<u64> {
    let ahead = |other: &&Reading| other.current > revision || other.compacted > compacted;
    let ahead: Vec<u64> = others.iter().flatten().filter(ahead).map(|other| other.member).collect();
    if ahead.len() >= majority(others) { vec![leader] } else { ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(member: u64, hash: u32) -> Reading {
        Reading { member, hash, compacted: 5, hash_revision: 9, current: 9 }
    }

    fn named(verdict: Verdict) -> Vec<u64> {
        match verdict {
            Verdict::Differ { named, .. } => named,
            Verdict::Equal { .. } => Vec::new(),
        }
    }

    #[test]
    fn the_minority_is_reported_whoever_it_is() {
        let judged =
            |own: u32, second: u32, third: u32| named(judge(&at(1, own), &[Some(at(2, second)), Some(at(3, third))]));
        assert_eq!(judged(7, 7, 7), [0u64; 0]);
        assert_eq!(judged(7, 7, 8), [3]);
        assert_eq!(judged(7, 8, 7), [2]);
        assert_eq!(judged(8, 7, 7), [1], "the leader itself");
        assert_eq!(judged(7, 8, 9), [0], "three opinions");
        let five = [Some(at(2, 7)), Some(at(3, 8)), Some(at(4, 9)), Some(at(5, 7))];
        assert_eq!(named(judge(&at(1, 7), &five)), [3, 4]);
    }

    #[test]
    fn without_a_majority_no_member_is_reported() {
        assert_eq!(named(judge(&at(1, 7), &[Some(at(2, 8))])), [0], "one against one");
        assert_eq!(named(judge(&at(1, 7), &[Some(at(2, 8)), None])), [0], "the third does not answer");
        assert_eq!(named(judge(&at(1, 7), &[Some(at(2, 7)), None])), [0u64; 0]);
    }

    #[test]
    fn only_hashes_at_equal_revisions_and_compactions_are_compared() {
        let elsewhere = Reading { compacted: 6, ..at(2, 8) };
        let verdict = judge(&at(1, 7), &[Some(elsewhere), Some(at(3, 7)), None]);
        assert_eq!(verdict, Verdict::Equal { compared: 1, missing: 2 });
        let earlier = Reading { hash_revision: 8, ..at(2, 8) };
        assert_eq!(judge(&at(1, 7), &[Some(earlier)]), Verdict::Equal { compared: 0, missing: 1 });
    }

    #[test]
    fn a_member_starts_when_a_majority_agrees_with_it_or_no_member_differs() {
        let alone = |others: &[Option<Reading>]| stands_alone(&at(1, 7), others);
        assert_eq!(alone(&[Some(at(2, 7)), Some(at(3, 8))]), [0u64; 0]);
        assert_eq!(alone(&[Some(at(2, 8)), Some(at(3, 8))]), [2, 3]);
        assert_eq!(alone(&[Some(at(2, 8)), None]), [2]);
        assert_eq!(alone(&[None, None]), [0u64; 0]);
        assert_eq!(alone(&[]), [0u64; 0]);
    }

    #[test]
    fn members_ahead_of_the_log_are_reported_or_the_leader_if_most_are() {
        let ahead_by = |revision| Reading { current: revision, ..at(2, 7) };
        assert_eq!(ahead(1, 9, 5, &[Some(ahead_by(9)), None]), [0u64; 0]);
        assert_eq!(ahead(1, 9, 5, &[Some(ahead_by(10)), None]), [2]);
        assert_eq!(ahead(1, 9, 4, &[Some(ahead_by(9)), None]), [2], "a compaction ahead");
        assert_eq!(ahead(1, 9, 5, &[Some(ahead_by(10)), Some(Reading { member: 3, ..ahead_by(11) })]), [1]);
    }
}
