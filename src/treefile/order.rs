//! Checks depth-first order with names in byte order, using a stack as deep as the tree.

use std::cmp::Ordering;

/// Maximum number of path components in a file: the maximum that this project's servers accept.
pub const MAX_DEPTH: usize = 256;

/// Why a node is out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not an absolute path without empty, `.` or `..` parts.
    #[error("{0:?} is no path of a node")]
    NoPath(String),
    /// Its parent is not in the file, or is not a directory.
    #[error("{0:?} comes without its directory")]
    Orphan(String),
    /// Its name sorts before its preceding sibling's.
    #[error("{0:?} is out of order")]
    Disorder(String),
    /// Its name equals its preceding sibling's.
    #[error("{0:?} comes twice")]
    Twice(String),
}

/// The path of the previous node.
#[derive(Debug, Clone)]
pub struct Order {
    prefix: Vec<u8>,
    names: Vec<Vec<u8>>,
    /// How many of the names are directories above the prefix, which have no line.
    given: usize,
    /// Whether the previous node is a directory.
    open: bool,
}

impl Order {
    /// Expects the nodes at and below `prefix`; the root itself is never among them.
    #[must_use]
    pub fn new(prefix: &[u8]) -> Self {
        let mut names: Vec<Vec<u8>> = parts(prefix).unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect();
        names.pop();
        Self { prefix: prefix.to_vec(), given: names.len(), names, open: true }
    }

    /// Checks the next node.
    ///
    /// # Errors
    /// It is out of order.
    pub fn admit(&mut self, key: &[u8], is_dir: bool) -> Result<(), OrderError> {
        let shown = || String::from_utf8_lossy(key).into_owned();
        let parts = parts(key).ok_or_else(|| OrderError::NoPath(shown()))?;
        let (depth, known) = (parts.len() - 1, self.names.len());
        let has_parent = depth >= self.given
            && depth <= known
            && self.names.iter().zip(&parts[..depth]).all(|(name, part)| name == part)
            && (depth < known || self.open);
        if !has_parent || !is_within(key, &self.prefix) {
            return Err(OrderError::Orphan(shown()));
        }
        match self.names.get(depth).map(|elder| elder.as_slice().cmp(parts[depth])) {
            Some(Ordering::Equal) => return Err(OrderError::Twice(shown())),
            Some(Ordering::Greater) => return Err(OrderError::Disorder(shown())),
            Some(Ordering::Less) | None => {}
        }
        self.names.truncate(depth);
        self.names.push(parts[depth].to_vec());
        self.open = is_dir;
        Ok(())
    }
}

/// The names of an absolute, clean path that is not the root.
fn parts(key: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = key.strip_prefix(b"/")?.split(|&byte| byte == b'/').collect();
    let good = parts.len() <= MAX_DEPTH && parts.iter().all(|part| !matches!(*part, b"" | b"." | b".."));
    good.then_some(parts)
}

/// The order of two paths in a file: a directory before its children, siblings by their bytes.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.split(|&byte| byte == b'/').cmp(right.split(|&byte| byte == b'/'))
}

/// Whether `key` is `directory` or below it.
#[must_use]
pub fn is_within(key: &[u8], directory: &[u8]) -> bool {
    directory == b"/" || key.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
