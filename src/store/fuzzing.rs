//! What the fuzz targets of snapshot files do with their bytes, and of the list that a peer's snapshot begins with; see
//! `src/fuzzing.rs`.

use std::collections::{BTreeMap, btree_map::Entry};
use std::io::Cursor;

use super::backup::{self, Import};
use super::snapshot::{decode_manifest, encode_manifest};
use crate::bbolt::{self, Reader, Writer};
use crate::raft::types::Member;

/// The buckets that rows go to, by number. The last is none of etcd's.
const BUCKETS: [&str; 11] = [
    "key",
    "meta",
    "lease",
    "alarm",
    "auth",
    "authUsers",
    "authRoles",
    "members",
    "members_removed",
    "cluster",
    "other",
];

/// A snapshot file. Most bytes are no database because of a checksum, so they are also tried with it made right.
pub(crate) fn snapshot(data: &[u8]) {
    status(data.to_vec());
    status(bbolt::fuzzing::sealed(data.to_vec()));
}

fn status(file: Vec<u8>) -> bool {
    let len = file.len() as u64;
    let read = Reader::open(file, len).map_err(Into::into).and_then(backup::file_status);
    read.inspect_err(|refusal| assert!(!refusal.to_string().is_empty())).is_ok()
}

/// Rows one after another: a byte that chooses the bucket, one of length and the key, two of length and the value. They
/// are written as a database, which is taken in as a new member's state, with a raised revision where the first byte is
/// odd.
pub(crate) fn restore(data: &[u8]) {
    let Some((&first, rows)) = data.split_first() else { return };
    let file = database(rows);
    let readable = status(file.clone());
    let dir = tempfile::tempdir().expect("a folder");
    let member = Member { name: "m".to_owned(), peer_urls: vec!["http://h:1".to_owned()], client_urls: Vec::new() };
    let bump = (first % 2 == 1).then_some(i64::from(first) << 32);
    let how = Import { members: BTreeMap::from([(7, member)]), applied: (1, 1), bump };
    let len = file.len() as u64;
    let mut reader = Reader::open(file, len).expect("our own file");
    if let Ok(taken) = backup::import(&mut reader, dir.path(), &how) {
        assert!(readable, "a file was taken in whose status cannot be told");
        assert!((1..=1 << 62).contains(&taken.revision) && taken.compacted <= taken.revision, "{taken:?}");
    }
}

fn database(mut rows: &[u8]) -> Vec<u8> {
    let mut buckets: BTreeMap<&str, BTreeMap<&[u8], &[u8]>> = BTreeMap::new();
    for needed in &BUCKETS[..2] {
        buckets.entry(needed).or_default();
    }
    while let [bucket, key, rest @ ..] = rows {
        let (key, rest) = rest.split_at(usize::from(*key).min(rest.len()));
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { break };
        let (value, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        rows = rest;
        let bucket = buckets.entry(BUCKETS[usize::from(*bucket) % BUCKETS.len()]).or_default();
        if let (false, Entry::Vacant(place)) = (key.is_empty(), bucket.entry(key)) {
            place.insert(value);
        }
    }
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("room");
    for (name, rows) in buckets {
        let mut bucket = writer.bucket(name);
        rows.into_iter().for_each(|(key, value)| bucket.put(key, value).expect("a row in order"));
        bucket.finish().expect("room");
    }
    let (file, _) = writer.finish().expect("a database");
    file.into_inner()
}

/// The list that a peer's snapshot begins with, its checksum made right.
pub(crate) fn manifest(row: &[u8]) {
    let sealed = |row: &[u8]| [row, &crc32c::crc32c(row).to_be_bytes()].concat();
    let Ok((meta, files)) = decode_manifest(&sealed(row)) else { return };
    let _bytes: u64 = files.iter().map(|file| file.size).sum();
    let again = decode_manifest(&encode_manifest(&meta, &files)).expect("our own manifest");
    assert_eq!(again, (meta, files));
}
