//! What a snapshot file holds, without restoring it: the numbers of `etcdutl snapshot status`.

use prost::Message;

use super::ImportError;
use super::rows::{self, Revision};
use crate::bbolt::{ReadAt, Reader};
use crate::proto::mvccpb::KeyValue;

/// A look into a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// CRC-32C over names, keys and values of all buckets, as etcd's tools print it.
    pub hash: u32,
    /// Revision of the last change.
    pub revision: i64,
    /// Changes that are kept, deletions included; etcdutl 3.5 prints these as keys, 3.6 counts live keys.
    pub changes: u64,
    /// Bytes of the database, without the checksum behind it.
    pub size: u64,
    /// Version of the layout; empty before etcd 3.6.
    pub version: String,
}

/// Reads all of a database, and so checks all of it.
///
/// # Errors
/// See [`ImportError`].
pub fn file_status<F: ReadAt>(mut reader: Reader<F>) -> Result<FileStatus, ImportError> {
    let mut status = FileStatus { hash: 0, revision: 0, changes: 0, size: reader.size(), version: String::new() };
    for bucket in reader.buckets()? {
        let mut hash = crc32c::crc32c_append(status.hash, &bucket.name);
        let (is_keys, is_meta) = (bucket.name == rows::KEY.as_bytes(), bucket.name == rows::META.as_bytes());
        reader.walk::<ImportError>(&bucket, &mut |key, value| {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
            if is_keys {
                let bad = || ImportError::Contents("a row of bucket \"key\" does not decode".to_owned());
                status.revision = Revision::decode(key).ok_or_else(bad)?.main;
                KeyValue::decode(value).map_err(|_| bad())?;
                status.changes += 1;
            } else if is_meta && key == rows::STORAGE_VERSION {
                status.version = String::from_utf8_lossy(value).into_owned();
            }
            Ok(())
        })?;
        status.hash = hash;
    }
    Ok(status)
}
