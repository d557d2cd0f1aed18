//! Turns the nodes of a file into writes. Pure.
//!
//! A directory is created implicitly by the first node below it, so only an empty one needs a write. Its TTL is
//! set after everything else, not here. Expired nodes, and everything below them, are not written.

use std::collections::VecDeque;

use super::error::MigrateError;
use super::writes::Write;
use crate::treefile::Node;
use crate::treefile::order::is_within;

/// The exported node's path and its new path.
#[derive(Debug, Clone)]
pub struct Moved {
    pub from: String,
    pub to: String,
}

impl Moved {
    /// The new path of a node; empty for the root.
    pub fn key(&self, key: &[u8]) -> Vec<u8> {
        let rest = if self.from == "/" { key } else { key.get(self.from.len()..).unwrap_or_default() };
        let to = if self.to == "/" { "" } else { &self.to };
        [to.as_bytes(), rest].concat()
    }
}

/// What to do for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write this.
    Write(Write),
    /// A directory that was created by a node below it.
    Implied,
    /// Expired.
    Expired,
}

struct Open {
    key: Vec<u8>,
    made: bool,
}

/// The steps; no write depends on another.
pub struct Plan<I> {
    nodes: I,
    moved: Moved,
    now: fn() -> i64,
    open: Vec<Open>,
    expired: Option<Vec<u8>>,
    ready: VecDeque<Step>,
}

impl<I: Iterator<Item = Result<Node, MigrateError>>> Plan<I> {
    /// `now` returns nanoseconds since 1970.
    pub fn new(nodes: I, moved: Moved, now: fn() -> i64) -> Self {
        Self { nodes, moved, now, open: Vec::new(), expired: None, ready: VecDeque::new() }
    }

    /// Closes the directories that do not hold `key`.
    fn close(&mut self, key: Option<&[u8]>) {
        while let Some(last) = self.open.pop_if(|open| !key.is_some_and(|key| is_within(key, &open.key))) {
            if last.made {
                self.ready.push_back(Step::Implied);
            } else {
                self.ready.push_back(Step::Write(Write::Directory(last.key)));
                self.open.iter_mut().for_each(|open| open.made = true);
            }
        }
    }

    fn take(&mut self, node: Node) -> Result<(), MigrateError> {
        let below_expired = self.expired.as_ref().is_some_and(|expired| is_within(&node.key, expired));
        if below_expired || node.expiration.is_some_and(|at| at <= (self.now)()) {
            if !below_expired {
                self.expired = Some(node.key);
            }
            self.ready.push_back(Step::Expired);
            return Ok(());
        }
        let key = self.moved.key(&node.key);
        match node.value {
            // The root always exists.
            None => self.open.push(Open { made: key.is_empty(), key: node.key }),
            Some(_) if key.is_empty() => {
                return Err(MigrateError::Path { flag: "--prefix", path: "/".to_owned() });
            }
            Some(value) => {
                self.open.iter_mut().for_each(|open| open.made = true);
                self.ready.push_back(Step::Write(Write::File(key, value, node.expiration)));
            }
        }
        Ok(())
    }
}

impl<I: Iterator<Item = Result<Node, MigrateError>>> Iterator for Plan<I> {
    type Item = Result<Step, MigrateError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(Ok(match step {
                    Step::Write(Write::Directory(key)) => Step::Write(Write::Directory(self.moved.key(&key))),
                    step => step,
                }));
            }
            let Some(node) = self.nodes.next() else {
                self.close(None);
                let step = self.ready.pop_front()?;
                self.ready.push_front(step);
                continue;
            };
            let taken = node.and_then(|node| {
                self.close(Some(&node.key));
                self.take(node)
            });
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(moved: (&str, &str), nodes: &[(&str, Option<&str>, Option<i64>)]) -> Vec<Step> {
        let nodes = nodes.iter().map(|(key, value, expiration)| {
            let value = value.map(|value| value.as_bytes().to_vec());
            Ok(Node { key: key.as_bytes().to_vec(), value, expiration: *expiration })
        });
        let moved = Moved { from: moved.0.to_owned(), to: moved.1.to_owned() };
        Plan::new(nodes, moved, || 100).map(|step| step.unwrap()).collect()
    }

    fn file(key: &str, value: &str, expiration: Option<i64>) -> Step {
        Step::Write(Write::File(key.into(), value.into(), expiration))
    }

    fn directory(key: &str) -> Step {
        Step::Write(Write::Directory(key.into()))
    }

    #[test]
    fn only_empty_directories_are_created() {
        let steps = plan(
            ("/", "/"),
            &[
                ("/a", None, None),
                ("/a/b", None, None),
                ("/a/c", None, None),
                ("/a/c/f", Some("1"), None),
                ("/z", Some(""), None),
            ],
        );
        assert_eq!(
            steps,
            [directory("/a/b"), file("/a/c/f", "1", None), Step::Implied, Step::Implied, file("/z", "", None)]
        );
    }

    #[test]
    fn expired_nodes_are_dropped_with_their_children_and_the_parent_stays() {
        let steps = plan(
            ("/", "/"),
            &[
                ("/d", None, None),
                ("/d/old", None, Some(100)),
                ("/d/old/x", Some("1"), None),
                ("/d/soon", Some("1"), Some(99)),
                ("/d2", None, Some(101)),
            ],
        );
        assert_eq!(steps, [Step::Expired, Step::Expired, Step::Expired, directory("/d"), directory("/d2")]);
    }

    #[test]
    fn a_tree_is_moved_to_the_new_prefix() {
        let nodes = [("/a/b", None, None), ("/a/b/f", Some("1"), Some(500)), ("/a/b/g", None, None)];
        assert_eq!(plan(("/a/b", "/x"), &nodes), [file("/x/f", "1", Some(500)), directory("/x/g"), Step::Implied]);
        assert_eq!(plan(("/a/b", "/"), &nodes), [file("/f", "1", Some(500)), directory("/g"), Step::Implied]);
        assert_eq!(plan(("/", "/x/y"), &[("/f", Some("1"), None)]), [file("/x/y/f", "1", None)]);
        assert_eq!(plan(("/a", "/"), &[("/a", None, None)]), [Step::Implied]);
    }

    #[test]
    fn a_file_cannot_become_the_root() {
        let nodes = [Ok(Node { key: b"/a".to_vec(), value: Some(Vec::new()), expiration: None })];
        let moved = Moved { from: "/a".to_owned(), to: "/".to_owned() };
        assert!(Plan::new(nodes.into_iter(), moved, || 0).next().unwrap().is_err());
    }
}
