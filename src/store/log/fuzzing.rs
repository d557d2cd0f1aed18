//! What the fuzz target of the Raft log does with its bytes; see `src/fuzzing.rs`.

use std::path::Path;

use bytes::{BufMut, BytesMut};

use super::segment::{self, Header};
use super::{LogError, LogOptions, record, recover};
use crate::raft::types::LogId;

/// Sealed records, then the rest as it is: bytes behind the last record, where there is damage or an old life.
pub(crate) fn log(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let (start, mut chain) = Header { seq: 1, nonce: 3, previous_end: 0, previous_chain: 0 }.encode();
    let mut file = BytesMut::from(&start[..]);
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length));
        if length == 0 || length > behind.len() {
            break;
        }
        let (body, behind) = behind.split_at(length);
        let at = file.len();
        file.put_bytes(0, record::HEADER);
        file.put_slice(body);
        chain = record::seal(&mut file, at, chain);
        rest = behind;
    }
    file.put_slice(rest);
    std::fs::write(dir.path().join(segment::name(1)), &file).expect("a file");
    let Ok(first) = recovered(dir.path()) else { return };
    assert_eq!(recovered(dir.path()).expect("what was read once reads again"), first);
}

type Bounds = (Option<LogId>, Option<LogId>);

fn recovered(dir: &Path) -> Result<Bounds, LogError> {
    let options = LogOptions { first_segment_bytes: 4096, segment_bytes: 65_536, ..LogOptions::default() };
    let read = recover::recover(dir, None, &options)?;
    let (present, bounds) = (read.state.present(), read.state.bounds());
    let found = read.state.read(present.clone(), None)?;
    let on_disk: u64 = found.disk.iter().map(|stretch| stretch.entries.end - stretch.entries.start).sum();
    assert_eq!(on_disk + found.memory.len() as u64, present.end - present.start, "an entry is missing");
    Ok(bounds)
}
