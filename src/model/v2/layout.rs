//! Key layout of the v2 part of the store.
//!
//! | key | value |
//! | --- | --- |
//! | `i` | current index, u64 BE |
//! | `n` parent `00 01` name | a node; the children of a directory are adjacent, in name order |
//! | `t` expiration `00 01`-free path | empty; nodes with a TTL in the order they expire |
//! | `e` index | an event of the window |
//! | `w` | first index of the window, and its large events; absent until there was a large event |
//! | `au` name, `ar` name | a user, a role |
//! | `as` | whether authentication is enabled: `0` or `1`; absent until any auth data is stored |
//!
//! Zero bytes inside paths are written `00 ff`, so that the separator is never part of a name.

use bytes::{BufMut, Bytes, BytesMut};

use super::types::UnixNanos;

pub(super) const INDEX: &[u8] = b"i";
pub(super) const TTLS: &[u8] = b"t";
pub(super) const EVENTS: &[u8] = b"e";
pub(super) const WINDOW: &[u8] = b"w";

pub(super) const AUTH_SWITCH: &[u8] = b"as";
pub(super) const AUTH_USERS: &[u8] = b"au";
pub(super) const AUTH_ROLES: &[u8] = b"ar";

const NODES: u8 = b'n';
const SEPARATOR: [u8; 2] = [0, 1];
const ESCAPED_ZERO: [u8; 2] = [0, 0xff];

/// Parent and name of a path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"/", path),
    }
}

/// `parent` and `name` as one path.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Bytes {
    let mut path = BytesMut::with_capacity(parent.len() + 1 + name.len());
    if parent != b"/" {
        path.put_slice(parent);
    }
    path.put_u8(b'/');
    path.put_slice(name);
    path.freeze()
}

/// Key of a node; the root has none.
pub(super) fn node(path: &[u8]) -> Bytes {
    let (parent, name) = split(path);
    let mut key = BytesMut::from(&children(parent)[..]);
    escape(name, &mut key);
    key.freeze()
}

/// Prefix of the keys of a directory's children.
pub(super) fn children(path: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(path.len() + 4);
    key.put_u8(NODES);
    escape(path, &mut key);
    key.put_slice(&SEPARATOR);
    key.freeze()
}

/// Name of a child from its key.
pub(super) fn child_name(prefix: &[u8], key: &[u8]) -> Bytes {
    let escaped = key.get(prefix.len()..).unwrap_or_default();
    let mut name = BytesMut::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, tail)) = rest.split_first() {
        name.put_u8(byte);
        rest = if byte == 0 { tail.get(1..).unwrap_or_default() } else { tail };
    }
    name.freeze()
}

/// Key of a node in the expiry order.
pub(super) fn ttl(expiration: UnixNanos, path: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + path.len());
    key.put_slice(TTLS);
    key.put_u64(order(expiration));
    key.put_slice(path);
    key.freeze()
}

/// Expiration and path from a key made by [`ttl`].
pub(super) fn read_ttl(key: &[u8]) -> Option<(UnixNanos, Bytes)> {
    let order = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some(((order ^ (1 << 63)) as i64, Bytes::copy_from_slice(&key[9..])))
}

/// Maps a signed time to an unsigned number whose big-endian bytes sort in time order.
fn order(time: UnixNanos) -> u64 {
    (time as u64) ^ (1 << 63)
}

/// Key of an event in the window.
pub(super) fn event(index: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_slice(EVENTS);
    key.put_u64(index);
    key.freeze()
}

/// Key of a user.
pub(super) fn auth_user(name: &str) -> Bytes {
    [AUTH_USERS, name.as_bytes()].concat().into()
}

/// Key of a role.
pub(super) fn auth_role(name: &str) -> Bytes {
    [AUTH_ROLES, name.as_bytes()].concat().into()
}

fn escape(path: &[u8], key: &mut BytesMut) {
    for &byte in path {
        if byte == 0 {
            key.put_slice(&ESCAPED_ZERO);
        } else {
            key.put_u8(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_byte_in_a_name_is_never_taken_for_a_separator() {
        assert_ne!(node(b"/a\x00\x01b"), node(b"/a/b"));
        let prefix = children(b"/a");
        assert_eq!(child_name(&prefix, &node(b"/a/x\x00y")), &b"x\x00y"[..]);
        assert!(!node(b"/a\x00/c").starts_with(&prefix));
    }

    #[test]
    fn expirations_sort_by_time_also_before_1970() {
        let keys = [ttl(-5, b"/z"), ttl(0, b"/y"), ttl(7, b"/x")];
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(read_ttl(&keys[0]), Some((-5, Bytes::from_static(b"/z"))));
    }

    #[test]
    fn paths_split_into_parent_and_name_and_join_back() {
        for (path, parent, name) in [("/a", "/", "a"), ("/a/b", "/a", "b"), ("/a/b/c", "/a/b", "c")] {
            assert_eq!(split(path.as_bytes()), (parent.as_bytes(), name.as_bytes()));
            assert_eq!(join(parent.as_bytes(), name.as_bytes()), path);
        }
    }
}
