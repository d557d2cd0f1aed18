//! Which events a waiting client receives (reference: etcd-v2 §5).
//!
//! The four quirks of etcd's event history that the reference lists are not copied: past events are filtered exactly as
//! live ones are, by path component and without hidden nodes (docs/decisions/043).

use bytes::Bytes;

use super::types::Event;

/// The parts of an event that decide whether it matches a watcher; small enough to keep a whole window in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// Index of the event.
    pub index: u64,
    /// Path of its node.
    pub key: Bytes,
    /// Whether a directory was deleted, and everything below it.
    pub took_along: bool,
}

impl Brief {
    /// `None` for an event that is in the window but invisible to clients.
    pub fn of(event: &Event) -> Option<Self> {
        let node = event.node.as_ref().filter(|_| !event.refresh)?;
        let took_along = node.dir && matches!(event.action.as_str(), "delete" | "expire");
        // A slice would keep the whole event in memory.
        Some(Self { index: node.modified, key: Bytes::copy_from_slice(&node.key), took_along })
    }

    /// Whether a client that watches `watched` receives the event.
    pub fn concerns(&self, watched: &[u8], recursive: bool) -> bool {
        if self.key == watched {
            return true;
        }
        if let Some(below) = below(&self.key, watched) {
            return recursive && !below.split(|&byte| byte == b'/').any(|part| part.starts_with(b"_"));
        }
        self.took_along && below(watched, &self.key).is_some()
    }
}

/// `path` relative to `parent` when it is below it.
fn below<'p>(path: &'p [u8], parent: &[u8]) -> Option<&'p [u8]> {
    if parent == b"/" {
        return path.strip_prefix(b"/").filter(|rest| !rest.is_empty());
    }
    path.strip_prefix(parent)?.strip_prefix(b"/")
}

/// The path and every directory above it, the root first.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|&(at, &byte)| byte == b'/' && at > 0).map(|(at, _)| at);
    let parents = ends.map(move |end| &path[..end]);
    let own = (path != b"/").then_some(path);
    std::iter::once(&b"/"[..]).chain(parents).chain(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(key: &str, took_along: bool) -> Brief {
        Brief { index: 9, key: key.to_owned().into(), took_along }
    }

    #[test]
    fn a_plain_watch_sees_its_own_path_only() {
        assert!(brief("/a/b", false).concerns(b"/a/b", false));
        assert!(!brief("/a/b/c", false).concerns(b"/a/b", false));
        assert!(!brief("/a/bc", false).concerns(b"/a/b", true));
        assert!(brief("/a/b/c", false).concerns(b"/a", true));
        assert!(brief("/a", false).concerns(b"/", true));
    }

    #[test]
    fn hidden_parts_below_the_watched_path_stay_hidden() {
        assert!(!brief("/a/_h/c", false).concerns(b"/a", true));
        assert!(brief("/a/_h/c", false).concerns(b"/a/_h", true));
        assert!(brief("/a/_h", false).concerns(b"/a/_h", false));
    }

    #[test]
    fn deleting_a_directory_notifies_watchers_below_it_by_path_component() {
        assert!(brief("/y", true).concerns(b"/y/deep/er", false));
        assert!(!brief("/y", true).concerns(b"/yfoo", false));
        assert!(!brief("/y", false).concerns(b"/y/z", false));
    }

    #[test]
    fn ancestors_come_from_the_root_down() {
        let all: Vec<&[u8]> = ancestors(b"/a/b").collect();
        assert_eq!(all, [&b"/"[..], b"/a", b"/a/b"]);
        assert_eq!(ancestors(b"/").count(), 1);
    }
}
