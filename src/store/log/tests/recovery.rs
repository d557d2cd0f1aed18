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
async fn a_missing_or_shortened_older_segment_is_refused_and_nothing_is_removed() {
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
        fs::copy(file, gone.path().join(name)).expect("is found and brought back");
        let (mut store, _) = open(gone.path(), small()).expect("opens");
        assert_holds(&mut store, 1, 0..200, 300).await;
        let shortened = copy(dir.path());
        let path = shortened.path().join(name);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(5000)).expect("is cut");
        assert_eq!(refused(shortened.path()).0, path);
        let headless = copy(dir.path());
        let path = headless.path().join(name);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("writes");
        assert_eq!(refused(headless.path()).0, path);
    }
}

#[tokio::test]
async fn a_start_reads_no_older_segment_and_damage_there_is_told_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..20, 300).await;
    store.save_vote(&Vote::new_committed(1, 3)).await.expect("saves");
    append(&mut store, 1, 20..200, 300).await;
    let newest = newest_entries(&mut store).await;
    drop(store);
    let files = segments(dir.path());
    assert!(files.len() > 3);
    for file in &files[..files.len() - 1] {
        let mut bytes = fs::read(file).expect("reads");
        bytes[super::super::segment::HEADER..].fill(0xAA);
        fs::write(file, bytes).expect("writes");
    }
    let (mut store, watermark) = open(dir.path(), small()).expect("opens without a look into older segments");
    assert_eq!(state(&mut store).await, (None, Some(log_id(1, 199))));
    assert_eq!(store.read_vote().await.expect("reads"), Some(Vote::new_committed(1, 3)));
    assert_eq!(watermark.durable(), 199);
    assert_holds_part(&mut store, newest..200).await;
    let refusal = store.try_get_log_entries(0..1).await.expect_err("is damaged").to_string();
    assert!(refusal.contains("no longer reads back"), "{refusal}");
    append(&mut store, 1, 200..210, 300).await;
    assert_holds_part(&mut store, newest..210).await;
}

/// The first entry of the newest segment.
async fn newest_entries(store: &mut LogStore) -> u64 {
    let places = store.wal().state().places();
    places.last().expect("entries").entries.start
}

async fn assert_holds_part(store: &mut LogStore, range: std::ops::Range<u64>) {
    let expected: Vec<Entry> = range.clone().map(|index| entry(1, index, 300)).collect();
    assert_eq!(read(store, range).await, expected);
}

#[tokio::test]
async fn a_reader_that_goes_on_where_it_stopped_need_not_begin_at_the_front_of_a_segment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = LogOptions { segment_bytes: 1 << 20, first_segment_bytes: 1 << 20, ..small() };
    let (mut store, _) = open(dir.path(), options.clone()).expect("opens");
    append(&mut store, 1, 0..400, 4000).await;
    drop(store);
    let (mut store, _) = open(dir.path(), options).expect("opens");
    let before = store.wal().state().points();
    let mut next = 0;
    while next < 250 {
        next += store.limited_get_log_entries(next, 250).await.expect("reads").len() as u64;
    }
    let after = store.wal().state().points();
    assert!(after > before + 10 && after < 100, "{before} places to begin at before, {after} after");
    assert_holds(&mut store, 1, 0..400, 4000).await;
}

#[tokio::test]
async fn a_value_that_looks_like_a_mark_is_never_believed() {
    use super::super::record::{self, Life, Record};
    for seq in 1..4 {
        let mut forged = bytes::BytesMut::new();
        record::push(&mut forged, 0, Life { seq, nonce: 0 }, &Record::Mark { opening: 0, durable: 60_000 });
        let payload = Payload::Normal(Proposal(forged.freeze()));
        let (dir, ends) = closed_log(3).await;
        let (mut store, _) = open(dir.path(), small()).expect("opens");
        store.blocking_append([Entry { log_id: log_id(1, 3), payload }]).await.expect("appends");
        drop(store);
        let path = segments(dir.path())[0].clone();
        set_mark(dir.path(), Place { seq: 1, offset: ends[3] });
        let mut bytes = fs::read(&path).expect("reads");
        bytes[ends[3] as usize] ^= 1;
        fs::write(&path, bytes).expect("writes");
        let (mut store, _) = open(dir.path(), small()).unwrap_or_else(|error| panic!("segment {seq}: {error}"));
        assert_holds(&mut store, 1, 0..3, 40).await;
    }
}

/// Writes a segment as programs wrote it before there were layouts, and returns where it ends.
fn old_segment(dir: &Path, seq: u64, previous: (u64, u32), records: &[super::super::record::Record]) -> (u64, u32) {
    use super::super::record::{self, Life};
    use super::super::segment::{Header, name};
    let header = Header { seq, nonce: seq * 7, previous_end: previous.0, previous_chain: previous.1 };
    let (start, mut chain) = header.encode();
    let mut bytes = bytes::BytesMut::from(&start[..]);
    for record in records {
        chain = record::push(&mut bytes, chain, Life { seq, nonce: seq * 7 }, record);
    }
    let end = bytes.len() as u64;
    bytes.resize(bytes.len() + 100, 0);
    fs::write(dir.join(name(seq)), bytes).expect("writes");
    (end, chain)
}

#[tokio::test]
async fn a_log_from_before_there_were_layouts_is_sound_wherever_its_tail_was_cut_back_to() {
    use super::super::record::Record;
    let entries = |term, range: std::ops::Range<u64>| range.map(move |index| Record::Entry(entry(term, index, 40)));
    for (purged, kept, last_purged) in [(Some(3), 4, 6), (None, 4, 4), (Some(3), 12, 20), (Some(9), 9, 9)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // The first segment held entries up to 9 and is gone; the second goes on at 10.
        let mut records: Vec<Record> = purged.map(|index| Record::Purged(log_id(1, index))).into_iter().collect();
        records.extend(entries(1, 10..20));
        records.push(Record::Truncated(Some(log_id(1, kept))));
        records.extend(entries(2, kept + 1..30));
        let end = old_segment(dir.path(), 2, (777, 7), &records);
        let mut records: Vec<Record> = entries(2, 30..40).collect();
        records.push(Record::Purged(log_id(2, last_purged)));
        old_segment(dir.path(), 3, end, &records);
        let (mut store, _) = open(dir.path(), small()).unwrap_or_else(|error| panic!("{purged:?} {kept}: {error}"));
        let held: Vec<u64> = read(&mut store, 0..u64::MAX).await.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(held, (last_purged + 1..40).collect::<Vec<_>>(), "{purged:?} {kept}");
        append(&mut store, 2, 40..120, 300).await;
        drop(store);
        let (mut store, _) = open(dir.path(), small()).expect("opens again, from a layout");
        assert_eq!(state(&mut store).await.1, Some(log_id(2, 119)));
    }
    // What was cut back below everything that is left, and never purged, is missing.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut records: Vec<Record> = vec![Record::Purged(log_id(1, 3))];
    records.extend(entries(1, 10..20));
    records.push(Record::Truncated(Some(log_id(1, 6))));
    records.extend(entries(2, 7..30));
    old_segment(dir.path(), 2, (777, 7), &records);
    assert!(refused(dir.path()).2.contains("entries 4 to 6"));
}

#[tokio::test]
async fn a_hint_of_what_was_cut_away_is_forgotten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..10, 40).await;
    store.save_committed(Some(log_id(1, 8))).await.expect("saves");
    store.truncate_after(Some(log_id(1, 4))).await.expect("truncates");
    append(&mut store, 2, 5..20, 40).await;
    assert_eq!(store.read_committed().await.expect("reads"), None);
    drop(store);
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_eq!(store.read_committed().await.expect("reads"), None);
}

#[tokio::test]
async fn a_log_tells_what_it_takes_and_what_has_to_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..200, 300).await;
    let meter = store.meter();
    let on_disk: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    assert_eq!(meter.bytes(), on_disk);
    assert!(meter.bytes_behind(0) > 199 * 300 && meter.bytes_behind(0) < 250 * 400, "{}", meter.bytes_behind(0));
    let half = meter.bytes_behind(99);
    assert!(half > 100 * 300 && half < 150 * 400, "{half}");
    assert_eq!(meter.bytes_behind(199), 0);
    assert_eq!(meter.surplus(u64::MAX, usize::MAX), None);
    for (bytes, files) in [(80_000, usize::MAX), (u64::MAX, 2), (0, 0)] {
        let upto = meter.surplus(bytes, files).expect("there is more");
        store.purge(log_id(1, upto)).await.expect("purges");
        store.save_vote(&Vote::new(2, 1)).await.expect("waits for the purge");
        assert!(meter.bytes() <= bytes.max(20_000), "{} bytes of {bytes}", meter.bytes());
        assert_eq!(meter.surplus(bytes, files), None, "what is left fits");
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

/// Its layout alone may have reached the disk whole: then the vote and the purge are in the segment before.
#[tokio::test]
async fn the_first_write_of_a_segment_may_be_torn_anywhere_and_nothing_of_before_is_lost() {
    let options = || LogOptions { segment_bytes: 4 << 10, first_segment_bytes: 4 << 10, ..small() };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), options()).expect("opens");
    store.save_vote(&Vote::new(3, 1)).await.expect("saves");
    append(&mut store, 3, 0..2, 1000).await;
    store.purge(log_id(3, 0)).await.expect("purges");
    let (mut next, mut torn) = (2, 0);
    // Layouts of one run to 34: with 10 the vote stands across the border of a sector, with 9 the purge.
    while segments(dir.path()).len() < 35 {
        let (before, count) = (marked(dir.path()), segments(dir.path()).len());
        append(&mut store, 3, next..next + 1, 1000).await;
        next += 1;
        let begun = segments(dir.path());
        if begun.len() == count || !(9..=11).contains(&count) && count != 33 {
            continue;
        }
        let (newest, end) = (begun.last().expect("a segment"), marked(dir.path()).offset);
        for cut in (0..end).step_by(5) {
            let copy = copy(dir.path());
            set_mark(copy.path(), before);
            truncate_bytes(&copy.path().join(newest.file_name().expect("a name")), cut);
            let (mut store, _) = open(copy.path(), options()).expect("opens");
            assert_eq!(store.read_vote().await.expect("reads"), Some(Vote::new(3, 1)), "{count} runs, cut at {cut}");
            let (purged, last) = state(&mut store).await;
            assert_eq!((purged, last), (Some(log_id(3, 0)), Some(log_id(3, next - 2))), "{count} runs, cut at {cut}");
            torn += 1;
        }
    }
    assert!(torn > 1000, "{torn} torn writes");
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
