//! The lines of the file: header, node, trailer.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Name of the format, in every header.
pub const FORMAT: &str = "etcd-v2-tree";

/// The version this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// First line: the tree and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Path of the exported node: every node is at or below it.
    pub prefix: String,
    /// `X-Etcd-Index` of the source at the snapshot: a watch from this index plus one misses nothing.
    pub index: u64,
    /// Cluster id of the source, bare hexadecimal.
    pub cluster: String,
    /// The source's clock at the snapshot, RFC 3339.
    pub time: String,
    /// Whether it includes all hidden nodes (names starting with `_`). Only a server of this project can list them.
    pub all_hidden: bool,
    /// The hidden paths that were requested by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
}

impl Header {
    /// A header of this version.
    #[must_use]
    pub fn new(prefix: &str, index: u64, cluster: String, time: i64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            prefix: prefix.to_owned(),
            index,
            cluster,
            time: show_time(time),
            all_hidden: false,
            hidden: Vec::new(),
        }
    }
}

/// A file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute path.
    pub key: Vec<u8>,
    /// `None` is a directory.
    pub value: Option<Vec<u8>>,
    /// When it expires, nanoseconds since 1970 by the source's clock.
    pub expiration: Option<i64>,
}

/// The fields needed to recognise a foreign file or another version.
#[derive(Deserialize)]
pub(super) struct Probe {
    pub format: Option<String>,
    pub version: Option<u64>,
}

/// Text if it is UTF-8, otherwise base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeLine<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dir: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<Cow<'a, str>>,
}

/// Last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trailer {
    pub end: End,
}

/// The contents of the trailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// Nodes in the file.
    pub nodes: u64,
    /// SHA-256 of every byte before this line, lower-case hexadecimal.
    pub sha256: String,
}

/// Prefix of every trailer, and of no other line.
pub(super) const TRAILER_START: &[u8] = b"{\"end\":";

impl Node {
    /// Writes the node as one line, with the newline.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let (key, key64) = split(&self.key);
        let (value, value64) = self.value.as_deref().map_or((None, None), split);
        let expiration = self.expiration.map(|at| show_time(at).into());
        let line = NodeLine { key, key64, dir: self.value.is_none(), value, value64, expiration };
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
        Ok(())
    }

    /// Parses a line without its newline; the error says what is wrong with it.
    pub(super) fn read(line: &[u8]) -> Result<Self, String> {
        let line: NodeLine<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let key = join(line.key, line.key64)?.ok_or("it has no key")?;
        let value = join(line.value, line.value64)?;
        if line.dir == value.is_some() {
            return Err("it is neither a file nor a directory".to_owned());
        }
        let expiration = line.expiration.map(|text| parse_time(&text).ok_or(format!("{text:?} is no time")));
        Ok(Self { key, value, expiration: expiration.transpose()? })
    }
}

fn split(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes).into())),
    }
}

fn join(text: Option<Cow<'_, str>>, coded: Option<Cow<'_, str>>) -> Result<Option<Vec<u8>>, String> {
    match (text, coded) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_owned().into_bytes())),
        (None, Some(coded)) => STANDARD.decode(coded.as_bytes()).map(Some).map_err(|error| error.to_string()),
        (Some(_), Some(_)) => Err("it says the same thing twice".to_owned()),
    }
}

/// Formats a time as RFC 3339 in UTC, with as many fractional digits as needed.
#[must_use]
pub fn show_time(nanos: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos))
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Nanoseconds since 1970 of an RFC 3339 time, saturating.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    Some(i64::try_from(nanos).unwrap_or(if nanos > 0 { i64::MAX } else { i64::MIN }))
}
