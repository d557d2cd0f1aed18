//! `compare`: whether two exports hold the same tree.

use std::cmp::Ordering;

use super::error::MigrateError;
use super::options::Compare;
use super::report::{self, MAX_NAMED};
use super::spool::Spool;
use crate::treefile::Node;
use crate::treefile::order::compare;

/// Runs the command.
pub fn run(options: &Compare) -> Result<(), MigrateError> {
    let (mut left, mut right) = (Spool::open(&options.left)?, Spool::open(&options.right)?);
    let tolerance = i64::from(options.ttl_tolerance) * 1_000_000_000;
    let counted = left.totals;
    let mut differences = 0u64;
    each_pair(left.nodes()?, right.nodes()?, |pair| {
        if let Some(difference) = difference(&pair, tolerance) {
            differences += 1;
            if differences <= MAX_NAMED {
                println!("{difference}");
            }
        }
    })?;
    if differences > 0 {
        return Err(MigrateError::Differ(differences));
    }
    eprintln!("the trees are the same: {}", report::totals(&counted));
    Ok(())
}

/// The nodes at one path, in one export or both.
enum Pair {
    Left(Node),
    Right(Node),
    Both(Node, Node),
}

type Nodes = Result<Node, MigrateError>;

/// Merges both exports in their common order.
fn each_pair(
    mut left: impl Iterator<Item = Nodes>,
    mut right: impl Iterator<Item = Nodes>,
    mut visit: impl FnMut(Pair),
) -> Result<(), MigrateError> {
    let (mut a, mut b) = (left.next().transpose()?, right.next().transpose()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare(&a.key, &b.key),
        };
        let taken = (
            if order.is_le() { std::mem::replace(&mut a, left.next().transpose()?) } else { None },
            if order.is_ge() { std::mem::replace(&mut b, right.next().transpose()?) } else { None },
        );
        match taken {
            (Some(a), Some(b)) => visit(Pair::Both(a, b)),
            (Some(a), None) => visit(Pair::Left(a)),
            (None, Some(b)) => visit(Pair::Right(b)),
            (None, None) => {}
        }
    }
}

fn difference(pair: &Pair, tolerance: i64) -> Option<String> {
    let shown = |node: &Node| String::from_utf8_lossy(&node.key).into_owned();
    match pair {
        Pair::Left(node) => Some(format!("only in the first: {}", shown(node))),
        Pair::Right(node) => Some(format!("only in the second: {}", shown(node))),
        Pair::Both(a, b) => {
            let what = match (&a.value, &b.value) {
                (Some(_), None) | (None, Some(_)) => "is a file in one and a directory in the other",
                (Some(a), Some(b)) if a != b => "has two values",
                _ => match (a.expiration, b.expiration) {
                    (Some(a), Some(b)) if a.abs_diff(b) > tolerance.unsigned_abs() => "expires at two times",
                    (Some(_), None) | (None, Some(_)) => "expires in one only",
                    _ => return None,
                },
            };
            Some(format!("{} {what}", shown(a)))
        }
    }
}
