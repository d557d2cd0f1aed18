//! A stored version of a key: the protobuf bytes of its `mvccpb.KeyValue`, ready to send.

use bytes::Bytes;
use prost::Message;

use super::view::ViewError;
use crate::proto::mvccpb::KeyValue;

/// An encoded `mvccpb.KeyValue`. Ranges and watches pass it on as it is; the rules decode it when they must look inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Bytes);

impl Record {
    /// Encodes a version.
    pub fn new(kv: &KeyValue) -> Self {
        Self(kv.encode_to_vec().into())
    }

    /// Takes bytes that [`Record::new`] made earlier, read back from the store.
    pub fn from_stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The encoded message.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The encoded message, given away.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The message; its byte fields are slices of the record.
    ///
    /// # Errors
    /// The stored bytes are damaged.
    pub fn decode(&self) -> Result<KeyValue, ViewError> {
        KeyValue::decode(self.0.clone())
            .map_err(|error| ViewError { what: "a stored key-value record", cause: error.to_string() })
    }
}
