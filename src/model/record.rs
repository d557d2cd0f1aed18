//! A stored version of a key: the protobuf bytes of its `mvccpb.KeyValue`, ready to send.

use bytes::Bytes;
use prost::Message;

use super::view::ViewError;
use crate::proto::mvccpb::KeyValue;

/// An encoded `mvccpb.KeyValue`. Ranges and watches send it unchanged; the rules decode it only when they need a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Bytes);

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Record {
    /// Encodes a version.
    pub fn new(kv: &KeyValue) -> Self {
        Self(kv.encode_to_vec().into())
    }

    /// Wraps bytes read from the store, encoded earlier by [`Record::new`].
    pub fn from_stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The encoded message.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The encoded message, by value.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_encoded_as_on_the_wire() {
        let kv =
            KeyValue { key: "k".into(), create_revision: 2, mod_revision: 3, version: 2, value: "v".into(), lease: 7 };
        let record = Record::new(&kv);
        // Field by field: key, create_revision, mod_revision, version, value, lease.
        assert_eq!(record.bytes().as_ref(), b"\x0a\x01k\x10\x02\x18\x03\x20\x02\x2a\x01v\x30\x07");
        assert_eq!(Record::from_stored(record.into_bytes()).decode().unwrap(), kv);
    }

    #[test]
    fn a_damaged_record_is_reported() {
        let error = Record::from_stored(Bytes::from_static(b"\x0a\x09k")).decode().unwrap_err();
        assert!(error.to_string().starts_with("read a stored key-value record: "), "{error}");
    }
}
