//! The commands of the replicated log and their encoding.
//!
//! A command is one [`Envelope`] in protobuf (`src/proto/command.proto`). Everything that changes replicated state is a
//! command, except membership, which is openraft's own entry kind.

use bytes::Bytes;
use prost::Message;

pub use crate::proto::command::envelope::Command;
pub use crate::proto::command::{
    AuthCommand, ClusterVersion, Envelope, LeaseCheckpoints, LeaseGrant, LeaseRemaining, LeaseRevoke,
};

/// The envelope format this program writes, and the newest it reads.
pub const ENVELOPE_VERSION: u32 = 1;

/// Why a log entry is not a command this program knows. Fatal: skipping an unknown command would diverge.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not protobuf, or truncated.
    #[error("a log entry does not decode as a command: {0}; the log is damaged, replace this member")]
    Malformed(#[from] prost::DecodeError),
    /// Written by a newer program.
    #[error("a log entry has command format {0}, this program knows up to {ENVELOPE_VERSION}; upgrade this member")]
    Newer(u32),
    /// An envelope whose command this program does not know.
    #[error("a log entry carries a command this program does not know; upgrade this member")]
    Unknown,
}

/// Encodes a log entry for `command` with no user (authentication off).
pub fn encode(command: Command) -> Bytes {
    encode_as(command, String::new(), 0)
}

/// Encodes a log entry for `command`, requested by `user`, authenticated at `auth_revision`.
pub fn encode_as(command: Command, user: String, auth_revision: u64) -> Bytes {
    let envelope = Envelope { version: ENVELOPE_VERSION, user, auth_revision, command: Some(command) };
    envelope.encode_to_vec().into()
}

/// Decodes a log entry. Byte fields of the result are slices of `bytes`.
pub fn decode(bytes: Bytes) -> Result<(Envelope, Command), CommandError> {
    let mut envelope = Envelope::decode(bytes)?;
    if envelope.version > ENVELOPE_VERSION {
        return Err(CommandError::Newer(envelope.version));
    }
    match envelope.command.take() {
        None | Some(Command::Auth(AuthCommand { action: None })) => Err(CommandError::Unknown),
        Some(command) => Ok((envelope, command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;

    fn put() -> Command {
        Command::Put(PutRequest { key: "k".into(), value: "value".into(), ..PutRequest::default() })
    }

    #[test]
    fn a_decoded_command_carries_its_user() {
        let (envelope, command) = decode(encode_as(put(), "ann".into(), 3)).unwrap();
        assert_eq!(command, put());
        assert_eq!((envelope.user.as_str(), envelope.auth_revision, envelope.version), ("ann", 3, ENVELOPE_VERSION));
    }

    #[test]
    fn byte_fields_are_slices_of_the_entry() {
        let bytes = encode(put());
        let entry = bytes.as_ptr_range();
        let (_, Command::Put(read)) = decode(bytes.clone()).unwrap() else { panic!() };
        assert!(entry.contains(&read.value.as_ptr()) && entry.contains(&read.key.as_ptr()));
    }

    #[test]
    fn damage_a_newer_format_and_an_unknown_command_are_distinguished() {
        let cut = encode(put()).slice(..6);
        assert!(matches!(decode(cut), Err(CommandError::Malformed(_))));
        let newer = Envelope { version: ENVELOPE_VERSION + 1, command: Some(put()), ..Envelope::default() };
        assert!(matches!(decode(newer.encode_to_vec().into()), Err(CommandError::Newer(2))));
        let unknown = Envelope { version: ENVELOPE_VERSION, ..Envelope::default() };
        assert!(matches!(decode(unknown.encode_to_vec().into()), Err(CommandError::Unknown)));
        assert!(matches!(decode(Bytes::new()), Err(CommandError::Unknown)));
        let unknown_change = encode(Command::Auth(AuthCommand { action: None }));
        assert!(matches!(decode(unknown_change), Err(CommandError::Unknown)));
    }
}
