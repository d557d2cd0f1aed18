//! The format: files round-trip, and anything else is refused.

use proptest::prelude::*;

use super::order::{Order, OrderError, compare};
use super::*;

fn file(key: &str, value: &str) -> Node {
    Node { key: key.into(), value: Some(value.into()), expiration: None }
}

fn directory(key: &str) -> Node {
    Node { key: key.into(), value: None, expiration: None }
}

fn sample() -> Vec<Node> {
    vec![
        directory("/a"),
        Node { expiration: Some(1_500_000_000_123_456_789), ..file("/a/b", "1") },
        file("/a/b!", "\u{1}<\"ü\u{2028}"),
        Node { key: b"/a/\xff".to_vec(), value: Some(b"\x00\xfe".to_vec()), expiration: None },
        directory("/a!"),
        file("/b", ""),
    ]
}

fn write(header: &Header, nodes: &[Node]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    nodes.iter().for_each(|node| writer.node(node).unwrap());
    writer.finish().unwrap()
}

fn header() -> Header {
    Header { hidden: vec!["/a/_h".to_owned()], ..Header::new("/", 77, "cdf8".to_owned(), 1_500_000_000_000_000_000) }
}

/// The nodes of a complete file, or the error.
fn read(bytes: &[u8]) -> Result<(Header, Vec<Node>, Totals), FileError> {
    let (mut lines, mut nodes, mut found, mut totals) = (Lines::default(), Vec::new(), None, None);
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        match lines.take(&rest[..end])? {
            Part::Header(header) => found = Some(header),
            Part::Node(node) => nodes.push(node),
            Part::End(counted) => totals = Some(counted),
        }
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        return Err(lines.cut());
    }
    lines.finish()?;
    Ok((found.unwrap(), nodes, totals.unwrap()))
}

#[test]
fn files_round_trip_to_the_byte_and_the_nanosecond() {
    let (found, nodes, totals) = read(&write(&header(), &sample())).unwrap();
    assert_eq!((found, nodes), (header(), sample()));
    assert_eq!(totals, Totals { directories: 2, files: 4, expiring: 1, replaced: 0 });
    assert_eq!(read(&write(&header(), &[])).unwrap().1, []);
}

#[test]
fn a_file_truncated_anywhere_is_refused() {
    let bytes = write(&header(), &sample());
    for end in 0..bytes.len() {
        assert!(read(&bytes[..end]).is_err(), "cut at {end}: {:?}", String::from_utf8_lossy(&bytes[..end]));
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = write(&header(), &sample());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn reordered_missing_and_repeated_lines_are_refused() {
    let bytes = write(&header(), &sample());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    for left in 0..lines.len() {
        for right in left + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(left, right);
            assert!(read(&swapped.concat()).is_err(), "{left} and {right}");
        }
        let mut without = lines.clone();
        without.remove(left);
        assert!(read(&without.concat()).is_err(), "without {left}");
        let mut twice = lines.clone();
        twice.insert(left, lines[left]);
        assert!(read(&twice.concat()).is_err(), "twice {left}");
    }
}

#[test]
fn foreign_files_and_other_versions_are_distinguished() {
    assert_eq!(read(b""), Err(FileError::Foreign));
    assert_eq!(read(b"{\"action\":\"get\"}\n"), Err(FileError::Foreign));
    assert_eq!(read(b"\x7fELF\n"), Err(FileError::Foreign));
    let newer = String::from_utf8(write(&header(), &[])).unwrap().replace("\"version\":1", "\"version\":2");
    assert_eq!(read(newer.as_bytes()), Err(FileError::Version(2)));
    assert!(FileError::Version(2).to_string().contains("version 2; this program reads version 1"));
}

#[test]
fn data_after_the_trailer_is_refused() {
    let bytes = write(&header(), &sample());
    assert_eq!(read(&[&bytes[..], b"\n"].concat()), Err(FileError::Trailing(sample().len() as u64 + 3)));
    assert!(read(&[&bytes[..], b"x"].concat()).is_err());
}

fn admit(prefix: &str, keys: &[&str]) -> Result<(), OrderError> {
    let mut order = Order::new(prefix.as_bytes());
    // Names that start with f are files.
    keys.iter().try_for_each(|key| order.admit(key.as_bytes(), !key.rsplit('/').next().unwrap().starts_with('f')))
}

#[test]
fn only_depth_first_byte_order_is_accepted() {
    assert_eq!(admit("/", &["/a", "/a/b", "/a/b/f", "/a/b!", "/a!", "/b"]), Ok(()));
    assert_eq!(admit("/", &["/a/b"]), Err(OrderError::Orphan("/a/b".into())));
    assert_eq!(admit("/", &["/a", "/b/c"]), Err(OrderError::Orphan("/b/c".into())));
    assert_eq!(admit("/", &["/f", "/f/c"]), Err(OrderError::Orphan("/f/c".into())));
    assert_eq!(admit("/", &["/a", "/a/f", "/a/b"]), Err(OrderError::Disorder("/a/b".into())));
    assert_eq!(admit("/", &["/a", "/b", "/a"]), Err(OrderError::Disorder("/a".into())));
    assert_eq!(admit("/", &["/a", "/a"]), Err(OrderError::Twice("/a".into())));
    for bad in ["", "/", "a", "//", "/a/", "/a//b", "/.", "/a/.."] {
        assert_eq!(admit("/", &[bad]), Err(OrderError::NoPath(bad.into())), "{bad}");
    }
}

#[test]
fn a_file_of_a_prefix_holds_only_nodes_at_or_below_it() {
    assert_eq!(admit("/a/b", &["/a/b", "/a/b/c", "/a/b/c/d"]), Ok(()));
    assert_eq!(admit("/a/b", &["/a/b/c"]), Err(OrderError::Orphan("/a/b/c".into())));
    assert_eq!(admit("/a/b", &["/a"]), Err(OrderError::Orphan("/a".into())));
    assert_eq!(admit("/a/b", &["/a/b", "/a/c"]), Err(OrderError::Orphan("/a/c".into())));
    assert_eq!(admit("/a/b", &["/a/b", "/a/bc"]), Err(OrderError::Orphan("/a/bc".into())));
    assert_eq!(admit("/a/f", &["/a/f", "/a/f/x"]), Err(OrderError::Orphan("/a/f/x".into())));
}

proptest! {
    #[test]
    fn sorted_paths_with_all_parents_pass_and_any_other_order_fails(
        paths in proptest::collection::btree_set("(/[a-c!~]{1,2}){1,4}", 1..20), swap in any::<(usize, usize)>()
    ) {
        let mut keys: Vec<String> = paths.iter().flat_map(|path| {
            path.match_indices('/').skip(1).map(|(end, _)| path[..end].to_owned()).chain([path.clone()]).collect::<Vec<_>>()
        }).collect();
        keys.sort_by(|left, right| compare(left.as_bytes(), right.as_bytes()));
        keys.dedup();
        let run = |keys: &[String]| {
            let mut order = Order::new(b"/");
            keys.iter().try_for_each(|key| order.admit(key.as_bytes(), true))
        };
        prop_assert_eq!(run(&keys), Ok(()));
        let (left, right) = (swap.0 % keys.len(), swap.1 % keys.len());
        if left != right {
            keys.swap(left, right);
            prop_assert!(run(&keys).is_err());
        }
    }
}
