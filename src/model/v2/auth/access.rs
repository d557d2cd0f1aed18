//! Permission checks: matches paths against the path patterns of roles.

use super::types::{Role, User};
use super::{GUEST, ROOT, rules};
use crate::model::view::{View, ViewError};

/// The access a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want<'r> {
    /// The clean path below `/v2/keys`, with a trailing slash if the request had one; empty for the bare root. etcd
    /// compares it this way: `/foo/*` permits `/foo/` but not `/foo`.
    pub path: &'r str,
    /// Whether the request is recursive.
    pub recursive: bool,
    /// True for anything but a read or a watch.
    pub write: bool,
}

/// Whether `user`, or the guest role when there is no user, has this access while authentication is on. One role that
/// permits it suffices; permissions of several roles are not combined.
///
/// # Errors
/// The state cannot be read.
pub fn may(view: &impl View, user: Option<&User>, want: Want<'_>) -> Result<bool, ViewError> {
    let Some(user) = user else {
        // etcd ignores `recursive` for guests.
        let guest = rules::role(view, GUEST)?;
        return Ok(guest.is_some_and(|role| permits(&role, Want { recursive: false, ..want })));
    };
    for name in user.roles() {
        if rules::role(view, name)?.is_some_and(|role| permits(&role, want)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn permits(role: &Role, want: Want<'_>) -> bool {
    if role.name == ROOT {
        return true;
    }
    let Some(permissions) = &role.permissions else { return false };
    let patterns = if want.write { permissions.write() } else { permissions.read() };
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => want.path.starts_with(prefix),
        None => !want.recursive && want.path == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::super::types::{Names, Permissions};
    use super::*;

    fn reads(pattern: &str, path: &str, recursive: bool) -> bool {
        let names = Names { names: vec![pattern.to_owned()] };
        let permissions = Permissions { read: Some(names), write: None };
        let role = Role { name: "r".to_owned(), permissions: Some(permissions) };
        assert!(!permits(&role, Want { path, recursive, write: true }), "a permission to read lets nobody write");
        permits(&role, Want { path, recursive, write: false })
    }

    #[test]
    fn a_trailing_star_matches_any_suffix_and_all_else_is_exact() {
        assert!(reads("/foo/*", "/foo/a", false) && reads("/foo/*", "/foo/", false));
        assert!(!reads("/foo/*", "/foo", false), "etcd keeps the trailing slash of the request");
        assert!(reads("/foo*", "/foobar", false));
        assert!(reads("/foo", "/foo", false) && !reads("/foo", "/foo/a", false) && !reads("/foo", "/foo/", false));
        assert!(reads("*", "", false) && !reads("/*", "", false));
        assert!(!reads("", "/a", false), "an empty pattern permits nothing");
    }

    #[test]
    fn a_recursive_request_needs_a_pattern_with_a_star() {
        assert!(reads("/foo/*", "/foo/a", true));
        assert!(!reads("/foo", "/foo", true));
    }
}
