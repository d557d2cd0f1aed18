//! Reading entries back from segments. Blocking; each record's checksum is verified again.

use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::record::{self, Record};
use super::state::{Point, Stretch, cost};
use super::{LogError, segment::Segment};
use crate::raft::types::Entry;

/// Bytes read at once; more when one record is longer.
const CHUNK: usize = 128 << 10;

/// What was read, and where the entry behind it lies when the budget ended first: the number of a segment and the place.
pub(super) struct Found {
    pub entries: Vec<Entry>,
    pub stopped: Option<(u64, Point)>,
}

/// Reads the entries of `stretches` in order: all of them, or up to `budget` bytes but at least one.
///
/// # Errors
/// The file cannot be read or what it holds is not what was written there.
pub(super) fn read(stretches: &[Stretch], budget: Option<usize>) -> Result<Found, LogError> {
    let mut entries = Vec::new();
    let mut left = budget.unwrap_or(usize::MAX);
    for stretch in stretches {
        if let Some(point) = read_stretch(stretch, &mut left, &mut entries)? {
            return Ok(Found { entries, stopped: Some((stretch.segment.seq, point)) });
        }
    }
    Ok(Found { entries, stopped: None })
}

/// Returns where it stopped before the end of the stretch.
fn read_stretch(stretch: &Stretch, left: &mut usize, entries: &mut Vec<Entry>) -> Result<Option<Point>, LogError> {
    let segment = &*stretch.segment;
    let (mut offset, mut chain, mut next) = (stretch.start.offset, stretch.start.chain, stretch.entries.start);
    let mut chunk = read_chunk(segment, offset, CHUNK)?;
    let mut at = 0;
    while next < stretch.entries.end {
        let Some(found) = record::parse(&chunk, at, chain) else {
            // Either the chunk ends inside a record, or something is wrong with it: then it stays wrong when it is whole.
            let size = record::claimed_size(&chunk[at..]).unwrap_or(0);
            if at == 0 && size <= chunk.len() {
                return Err(changed(segment, offset));
            }
            chunk = read_chunk(segment, offset, size.max(CHUNK))?;
            at = 0;
            if chunk.len() < size {
                return Err(changed(segment, offset));
            }
            continue;
        };
        let here = Point { index: next, offset, chain };
        at += found.size;
        offset += found.size as u64;
        chain = found.chain;
        let record = found.record().map_err(|_| changed(segment, offset))?;
        if let Record::Entry(entry) = record
            && entry.log_id.index == next
        {
            let cost = cost(&entry);
            if cost > *left && !entries.is_empty() {
                return Ok(Some(here));
            }
            *left = left.saturating_sub(cost);
            entries.push(entry);
            next += 1;
        }
    }
    Ok(None)
}

fn read_chunk(segment: &Segment, offset: u64, wanted: usize) -> Result<Bytes, LogError> {
    let mut chunk = vec![0; wanted];
    let mut length = 0;
    while length < wanted {
        match segment.file.read_at(&mut chunk[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LogError::io("read", &segment.path, source)),
        }
    }
    chunk.truncate(length);
    Ok(chunk.into())
}

fn changed(segment: &Segment, offset: u64) -> LogError {
    let detail = "a record that was written here no longer reads back".into();
    LogError::Damaged { path: segment.path.clone(), offset, detail }
}
