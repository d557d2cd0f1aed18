//! Round trips, and damaged files, which are refused without a panic.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn write(buckets: &[(&str, Rows)]) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("a buffer takes everything");
    for (name, rows) in buckets {
        let mut bucket = writer.bucket(name);
        for (key, value) in rows {
            bucket.put(key, value).expect("rows in order");
        }
        bucket.finish().expect("a bucket");
    }
    let (file, len) = writer.finish().expect("a database");
    let bytes = file.into_inner();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<(String, Rows)>, Error> {
    let mut reader = Reader::open(bytes.to_vec(), bytes.len() as u64)?;
    let mut found = Vec::new();
    for bucket in reader.buckets()? {
        let mut rows = Vec::new();
        reader.walk::<Error>(&bucket, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        found.push((String::from_utf8_lossy(&bucket.name).into_owned(), rows));
    }
    Ok(found)
}

fn numbered(count: u64, value: usize) -> Rows {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; value])).collect()
}

/// Keys and values of all sizes: most small, some larger than a page, some keys of maximum length.
fn rows() -> impl Strategy<Value = Rows> {
    let length = prop_oneof![8 => 1usize..40, 2 => 40usize..6000, 1 => Just(32_768usize)];
    let key = (length, any::<u64>()).prop_map(|(length, seed)| {
        let mut key = seed.to_be_bytes().to_vec();
        key.resize(length.max(1), seed as u8);
        key
    });
    let value = prop_oneof![6 => 0usize..200, 2 => 3000usize..5000, 1 => 9000usize..20_000];
    prop::collection::btree_map(key, value.prop_map(|len| vec![len as u8; len]), 0..300)
        .prop_map(|rows| rows.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_of_any_size_read_back_in_order(first in rows(), second in rows()) {
        let bytes = write(&[("second", second.clone()), ("first", first.clone()), ("empty", Vec::new())]);
        let found = read(&bytes).expect("our own file");
        let wanted = vec![("empty".to_owned(), Vec::new()), ("first".to_owned(), first), ("second".to_owned(), second)];
        prop_assert_eq!(found, wanted);
    }

    /// Whatever bytes change, the reader returns rows or an error.
    #[test]
    fn a_damaged_file_never_panics_loops_or_takes_memory(
        rows in rows(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        heads in any::<bool>(),
    ) {
        let mut bytes = write(&[("a", rows), ("b", numbered(500, 30))]);
        let len = bytes.len();
        for (at, value) in damage {
            // Half of the time only page and element headers are changed, where the references are.
            let at = at.index(len);
            let at = if heads { (at & !4095) + (at % 80) } else { at };
            bytes[at.min(len - 1)] = value;
        }
        let _ = read(&bytes);
    }

    #[test]
    fn a_file_truncated_anywhere_is_refused(cut in any::<prop::sample::Index>()) {
        let bytes = write(&[("a", numbered(2000, 50))]);
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(read(&bytes).is_err());
    }
}

/// etcd's own tools read these files and see the same rows: they print a checksum over all of them.
#[test]
fn etcds_own_tools_read_rows_of_any_size() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let tools = std::env::var("SNAPSHOT_TOOLS").unwrap_or_default();
    let newer = tools.split(':').filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}/etcdutl"));
    let tools: Vec<String> = std::iter::once("/usr/bin/etcdctl".to_owned()).chain(newer).collect();
    if !std::path::Path::new(&tools[0]).is_file() {
        eprintln!("SKIPPED: this machine lacks etcdctl (etcd-client); the test proved nothing");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let mut runner = TestRunner::deterministic();
    for case in 0..12 {
        let first = ("a", rows().new_tree(&mut runner).expect("rows").current());
        let second = ("b", if case % 2 == 0 { numbered(20_000, 40) } else { Vec::new() });
        // etcdutl 3.6 reads a version from this bucket, and panics if there is none.
        let meta = ("meta", Vec::new());
        let sum = [&first, &second, &meta].iter().fold(0, |sum, (name, rows)| {
            rows.iter().fold(crc32c::crc32c_append(sum, name.as_bytes()), |sum, (key, value)| {
                crc32c::crc32c_append(crc32c::crc32c_append(sum, key), value)
            })
        });
        std::fs::write(&file, write(&[first, second, meta])).expect("a file");
        for tool in &tools {
            let mut command = std::process::Command::new(tool);
            let output = command.env("ETCDCTL_API", "3").args(["snapshot", "status"]).arg(&file).output();
            let output = output.expect("the tool starts");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let wanted = format!("{sum:x}, ");
            assert!(said.starts_with(&wanted), "{tool}: {said:?} {output:?}, wanted {wanted:?}");
        }
    }
}

#[test]
fn trees_grow_several_levels_and_every_branch_has_two_children() {
    // Long keys make narrow branches: with 2000-byte keys a branch has two or three children.
    let rows: Rows = (0..3000u32)
        .map(|n| {
            let mut key = n.to_be_bytes().to_vec();
            key.resize(2000, 7);
            (key, vec![1; 100])
        })
        .collect();
    let bytes = write(&[("deep", rows.clone())]);
    assert_eq!(read(&bytes).expect("our own file"), [("deep".to_owned(), rows)]);
    let mut branches = 0;
    for page in bytes.chunks(layout::PAGE) {
        let header = layout::Header::decode(page).expect("a whole page");
        if header.kind == layout::BRANCH {
            branches += 1;
            assert!(header.count >= 2, "{header:?}");
        }
    }
    assert!(branches > 500, "{branches}");
}

#[test]
fn a_database_without_buckets_and_one_with_a_hundred_read_back() {
    assert_eq!(read(&write(&[])).expect("a database"), []);
    let names: Vec<String> = (0..100).map(|n| format!("bucket-{n:03}")).collect();
    let buckets: Vec<(&str, Rows)> = names.iter().map(|name| (name.as_str(), numbered(3, 10))).collect();
    assert_eq!(read(&write(&buckets)).expect("a database").len(), 100);
}

#[test]
fn rows_out_of_order_twice_or_without_a_key_are_refused() {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("a buffer");
    let mut bucket = writer.bucket("b");
    bucket.put(b"m", b"").expect("the first");
    for key in [&b"m"[..], b"a"] {
        assert!(matches!(bucket.put(key, b""), Err(Error::Unsorted { .. })));
    }
    assert!(matches!(bucket.put(b"", b""), Err(Error::KeyLength(0))));
    assert!(matches!(bucket.put(&[0xff; 32_769], b""), Err(Error::KeyLength(32_769))));
    bucket.finish().expect("a bucket");
    writer.bucket("b").finish().expect("the name is looked at in the end");
    assert!(matches!(writer.finish(), Err(Error::Unsorted { .. })), "a bucket twice");
}

/// A page that refers to itself, to the root, to a page outside, and to another page's overflow.
#[test]
fn invalid_page_references_are_refused() {
    let good = write(&[("a", numbered(5000, 100))]);
    let branch = (0..good.len() / layout::PAGE)
        .find(|page| {
            let header = layout::Header::decode(&good[page * layout::PAGE..]).expect("a whole page");
            header.kind == layout::BRANCH
        })
        .expect("so many rows need a branch");
    let child = branch * layout::PAGE + layout::HEADER + layout::ELEMENT + 8;
    let last = (good.len() / layout::PAGE) as u64;
    let sibling = u64::from_le_bytes(good[child + layout::ELEMENT..][..8].try_into().expect("eight bytes"));
    let astray = [branch as u64, last - 1, last, u64::MAX, 0, 1, 2, sibling];
    for target in astray {
        let mut bad = good.clone();
        bad[child..child + 8].copy_from_slice(&target.to_le_bytes());
        assert!(matches!(read(&bad), Err(Error::Damaged { .. })), "a reference to page {target}");
    }
    assert!(read(&good).is_ok());
}

#[test]
fn one_damaged_meta_page_is_tolerated_two_are_not() {
    let good = write(&[("a", numbered(10, 10))]);
    let (first, second) = (layout::HEADER + 20, layout::PAGE + layout::HEADER + 20);
    for at in [first, second] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(read(&bad).is_ok());
    }
    let mut bad = good;
    bad[first] ^= 1;
    bad[second] ^= 1;
    assert!(matches!(read(&bad), Err(Error::NotBbolt(_))));
}
