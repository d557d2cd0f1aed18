//! The v2 key space. Its rules are not part of this program yet, and nothing proposes a v2 command.

use bytes::Bytes;

use super::effects::{Effects, Position};
use super::view::{View, ViewError};

/// What a v2 mutation does.
///
/// # Errors
/// Always, so far: a v2 command in the log was written by a newer program, and a member that skipped it would diverge
/// from those that know it. Apply stops the process on it.
pub fn apply(_view: &impl View, _command: &Bytes, at: Position) -> Result<Effects, ViewError> {
    Err(ViewError {
        what: "a v2 command",
        cause: format!("log entry {} carries one and this program has no v2 rules; upgrade this member", at.index),
    })
}
