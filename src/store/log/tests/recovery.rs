//! What a start makes of files that were cut or damaged.

use super::*;
use crate::raft::types::Vote;
use crate::store::log::mark::{Mark, Place};

/// A closed log of `entries` entries in one segment: its directory and the end of each drain, ascending.
async fn closed_log(entries: u64) -> (tempfile::TempDir, Vec<u64>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = LogOptions { first_segment_bytes: 64 << 10, ..small() };
    let (mut store, _) = open(dir.path(), options).expect("opens");
    let mut ends = vec![marked(dir.path()).offset];
    for index in 0..entries {
        append(&mut store, 1, index..index + 1, 40).await;
        ends.push(marked(dir.path()).offset);
    }
    drop(store);
    (dir, ends)
}

/// What the mark file says. Reads it without the lock.
fn marked(dir: &Path) -> Place {
    let aside = tempfile::tempdir().expect("a temporary directory");
    fs::copy(dir.join("mark"), aside.path().join("mark")).expect("copies");
    Mark::open(aside.path()).expect("opens").1.expect("a place")
}

fn set_mark(dir: &Path, place: Place) {
    fs::remove_file(dir.join("mark")).expect("removes");
    Mark::open(dir).expect("opens").0.write(place).expect("writes");
}

fn truncate_bytes(path: &Path, from: u64) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[from as usize..].fill(0);
    fs::write(path, bytes).expect("writes");
}

fn refused(dir: &Path) -> (PathBuf, u64, String) {
    match open(dir, small()) {
        Err(LogError::Damaged { path, offset, detail }) => (path, offset, detail),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok((store, _)) => panic!("a damaged log opened: {store:?}"),
    }
}

#[tokio::test]
async fn a_tail_cut_at_any_byte_behind_the_mark_is_dropped_and_the_log_goes_on() {
    let (dir, ends) = closed_log(6).await;
    let (first, last) = (ends[3], ends[6]);
    for cut in first..=last {
        let copy = copy(dir.path());
        set_mark(copy.path(), Place { seq: 1, offset: first });
        truncate_bytes(&segments(copy.path())[0], cut);
        let (mut store, _) = open(copy.path(), small()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
        assert_eq!(state(&mut store).await.1.map(|id| id.index), whole.checked_sub(1), "cut at {cut}");
        append(&mut store, 1, whole..whole + 2, 33).await;
        drop(store);
        let (mut store, _) = open(copy.path(), small()).expect("opens again");
        assert_eq!(state(&mut store).await.1, Some(log_id(1, whole + 1)), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_byte_anywhere_before_the_mark_is_refused_by_file_and_offset() {
    let (dir, ends) = closed_log(4).await;
    let end = *ends.last().expect("ends");
    for position in 0..end {
        let copy = copy(dir.path());
        let path = segments(copy.path())[0].clone();
        let mut bytes = fs::read(&path).expect("reads");
        bytes[position as usize] ^= 0x40;
        fs::write(&path, bytes).expect("writes");
        let (named, offset, detail) = refused(copy.path());
        assert_eq!(named, path);
        assert!(offset <= position && detail.contains("synced"), "byte {position}: {offset} {detail}");
    }
}

#[tokio::test]
async fn damage_is_refused_without_the_mark_file_when_a_later_record_says_more_was_synced() {
    let (dir, ends) = closed_log(4).await;
    for position in ends[0]..ends[2] {
        let copy = copy(dir.path());
        fs::remove_file(copy.path().join("mark")).expect("removes");
        let path = segments(copy.path())[0].clone();
        let mut bytes = fs::read(&path).expect("reads");
        bytes[position as usize] ^= 1;
        fs::write(&path, bytes).expect("writes");
        refused(copy.path());
    }
}

#[tokio::test]
async fn a_log_shorter_than_its_mark_is_refused() {
    let (dir, ends) = closed_log(4).await;
    for end in &ends[..4] {
        let copy = copy(dir.path());
        truncate_bytes(&segments(copy.path())[0], *end);
        assert_eq!(refused(copy.path()).1, *end);
    }
    let copy = copy(dir.path());
    fs::remove_file(&segments(copy.path())[0]).expect("removes");
    assert!(refused(copy.path()).2.contains("the file is gone"));
}

#[tokio::test]
async fn a_missing_or_shortened_middle_segment_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..200, 300).await;
    drop(store);
    let files = segments(dir.path());
    for (at, file) in files.iter().enumerate().take(files.len() - 1) {
        let name = file.file_name().expect("a name");
        let gone = copy(dir.path());
        fs::remove_file(gone.path().join(name)).expect("removes");
        assert!(refused(gone.path()).2.contains("gone"), "segment {at}");
        let damaged = copy(dir.path());
        let path = damaged.path().join(name);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[5000] ^= 1;
        fs::write(&path, bytes).expect("writes");
        assert_eq!(refused(damaged.path()).0, path);
    }
}

#[tokio::test]
async fn bytes_of_an_earlier_life_of_a_file_are_never_taken_for_records() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    let mut next = 0;
    // Equal entries at equal offsets: only the chain tells one life from the next.
    for _ in 0..6 {
        append(&mut store, 1, next..next + 120, 300).await;
        next += 120;
        store.purge(log_id(1, next - 1)).await.expect("purges");
        append(&mut store, 1, next..next + 1, 300).await;
        next += 1;
        drop(store);
        (store, _) = open(dir.path(), small()).expect("opens");
        assert_eq!(state(&mut store).await.1, Some(log_id(1, next - 1)));
        let held = read(&mut store, 0..u64::MAX).await;
        assert_eq!(held, [entry(1, next - 1, 300)]);
    }
}

#[tokio::test]
async fn a_tail_cut_at_one_start_does_not_come_back_at_the_next() {
    let (dir, ends) = closed_log(3).await;
    let path = segments(dir.path())[0].clone();
    // The second drain is torn, the third reached the disk: as after a power cut that reordered writes.
    set_mark(dir.path(), Place { seq: 1, offset: ends[1] });
    let mut bytes = fs::read(&path).expect("reads");
    bytes[ends[1] as usize + 4] ^= 1;
    // Without this the third drain's own mark would prove that the second had been synced.
    let third = ends[2] as usize;
    bytes[third..third + 60].fill(0xEE);
    fs::write(&path, bytes).expect("writes");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_eq!(state(&mut store).await.1, Some(log_id(1, 0)));
    append(&mut store, 1, 1..2, 40).await;
    drop(store);
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_holds(&mut store, 1, 0..2, 40).await;
}

#[tokio::test]
async fn a_segment_that_was_begun_but_never_synced_is_dropped() {
    let (dir, _) = closed_log(3).await;
    for content in [vec![0; 4096], Vec::new(), fs::read(&segments(dir.path())[0]).expect("reads")] {
        let copy = copy(dir.path());
        fs::write(copy.path().join(super::super::segment::name(2)), &content).expect("writes");
        let (mut store, _) = open(copy.path(), small()).expect("opens");
        assert_holds(&mut store, 1, 0..3, 40).await;
    }
}

#[tokio::test]
async fn votes_survive_any_cut_behind_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    store.save_vote(&Vote::new(3, 1)).await.expect("saves");
    let synced = marked(dir.path());
    append(&mut store, 1, 0..3, 40).await;
    let end = marked(dir.path()).offset;
    drop(store);
    for cut in synced.offset..end {
        let copy = copy(dir.path());
        set_mark(copy.path(), synced);
        truncate_bytes(&segments(copy.path())[0], cut);
        let (mut store, _) = open(copy.path(), small()).expect("opens");
        assert_eq!(store.read_vote().await.expect("reads"), Some(Vote::new(3, 1)));
    }
}

#[tokio::test]
async fn a_log_of_a_newer_format_is_refused_as_such() {
    let (dir, _) = closed_log(1).await;
    let path = segments(dir.path())[0].clone();
    let mut bytes = fs::read(&path).expect("reads");
    bytes[7] = b'2';
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).expect("writes");
    assert!(matches!(open(dir.path(), small()), Err(LogError::Newer { .. })));
}
