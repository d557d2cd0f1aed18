//! The fuzz target of the tree file format; see `src/fuzzing.rs`.

use super::{FileError, Header, Lines, Node, Part, Writer};

/// Reads the bytes as they are. The nodes before the first error are then written to a new file, which must read back
/// equal.
pub(crate) fn treefile(data: &[u8]) {
    let (header, nodes, fault) = read(data);
    if let Err(fault) = fault {
        assert!(!fault.to_string().is_empty(), "a refusal without a word");
    }
    let Some(header) = header else { return };
    let mut writer = Writer::new(Vec::new(), &header).expect("a header can be written");
    nodes.iter().for_each(|node| writer.node(node).expect("what was read in order can be written"));
    let file = writer.finish().expect("a file in memory");
    let (again, read_back, fault) = read(&file);
    assert_eq!((again, read_back, fault), (Some(header), nodes, Ok(())));
}

fn read(data: &[u8]) -> (Option<Header>, Vec<Node>, Result<(), FileError>) {
    let (mut lines, mut header, mut nodes) = (Lines::default(), None, Vec::new());
    let mut rest = data;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        match lines.take(&rest[..end]) {
            Ok(Part::Header(found)) => header = Some(found),
            Ok(Part::Node(node)) => nodes.push(node),
            Ok(Part::End(totals)) => assert_eq!(totals.nodes(), nodes.len() as u64),
            Err(fault) => return (header, nodes, Err(fault)),
        }
        rest = &rest[end + 1..];
    }
    let fault = if rest.is_empty() { lines.finish() } else { Err(lines.cut()) };
    (header, nodes, fault)
}
