//! Depth first, names in byte order: checked with a stack as deep as the tree.

use std::cmp::Ordering;

/// Deepest path, in parts, that a file may hold: the deepest this project's servers take.
pub const MAX_DEPTH: usize = 256;

/// Why a node cannot stand where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not an absolute path without empty, `.` or `..` parts.
    #[error("{0:?} is no path of a node")]
    NoPath(String),
    /// Below something that is not in the file, or not a directory.
    #[error("{0:?} comes without its directory")]
    Orphan(String),
    /// Smaller than its elder sibling.
    #[error("{0:?} is out of order")]
    Disorder(String),
    /// Equal to its elder sibling.
    #[error("{0:?} comes twice")]
    Twice(String),
}

/// The path from the root to the node before.
#[derive(Debug, Clone)]
pub struct Order {
    prefix: Vec<u8>,
    names: Vec<Vec<u8>>,
    /// How many of the names are directories that hold the prefix and come in no line.
    given: usize,
    /// Whether the node before is a directory.
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

    /// Takes the next node.
    ///
    /// # Errors
    /// It cannot come here.
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

/// The order of two paths in a file: a directory before what it holds, siblings by their bytes.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.split(|&byte| byte == b'/').cmp(right.split(|&byte| byte == b'/'))
}

/// Whether `key` is `directory` or below it.
#[must_use]
pub fn is_within(key: &[u8], directory: &[u8]) -> bool {
    directory == b"/" || key.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
