//! Tests that need no server.

use super::access::{clean, encode, form};
use super::export::hidden_paths;
use super::listing::Listing;
use super::options::{Command, Ttl, read};
use crate::treefile::Node;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The nodes of a response that arrives in chunks of `piece` bytes.
fn listed(answer: &str, piece: usize) -> Result<Vec<Node>, String> {
    let pieces: Vec<_> = answer
        .as_bytes()
        .chunks(piece)
        .map(|chunk| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(chunk)))
        .collect();
    let mut listing = Listing::new(tokio_util::io::StreamReader::new(futures::stream::iter(pieces)));
    runtime().block_on(async {
        let mut nodes = Vec::new();
        while let Some(node) = listing.next().await.map_err(|error| error.to_string())? {
            nodes.push(node);
        }
        Ok(nodes)
    })
}

fn node(key: &str, value: Option<&str>, expiration: Option<i64>) -> Node {
    Node { key: key.into(), value: value.map(Into::into), expiration }
}

#[test]
fn a_recursive_response_is_parsed_in_chunks_of_any_size() {
    let answer = concat!(
        r#"{"action":"get","node":{"dir":true,"nodes":["#,
        r#"{"key":"/a","dir":true,"expiration":"2017-07-14T02:40:00.5Z","ttl":5,"nodes":[{"key":"/a/b","value":"x\u003c\"ü","modifiedIndex":7,"createdIndex":7}],"modifiedIndex":6,"createdIndex":6},"#,
        r#"{"key":"/e","dir":true,"modifiedIndex":8,"createdIndex":8},"#,
        r#"{"key":"/f","value":"","future":{"x":[1,{"y":null}]},"modifiedIndex":9,"createdIndex":9}]}}"#,
        "\n"
    );
    let expected = vec![
        node("/a", None, Some(1_500_000_000_500_000_000)),
        node("/a/b", Some("x<\"ü"), None),
        node("/e", None, None),
        node("/f", Some(""), None),
    ];
    for piece in [1, 2, 7, 64, 4096] {
        assert_eq!(listed(answer, piece).as_ref(), Ok(&expected), "pieces of {piece}");
    }
    for end in (1..answer.len() - 2).filter(|&end| answer.is_char_boundary(end)) {
        assert!(listed(&answer[..end], 64).is_err(), "cut at {end}");
    }
}

#[test]
fn an_empty_root_has_no_nodes_and_a_file_is_one() {
    assert_eq!(listed(r#"{"action":"get","node":{"dir":true}}"#, 8), Ok(Vec::new()));
    assert_eq!(listed(r#"{"action":"get","node":{"key":"/f","value":"1"}}"#, 8), Ok(vec![node("/f", Some("1"), None)]));
}

#[test]
fn a_response_that_is_no_listing_is_refused() {
    for bad in [
        "",
        "[]",
        "404 page not found",
        r#"{"node":3}"#,
        r#"{"node":{"key":3}}"#,
        r#"{"node":{"key":"/a","expiration":"soon"}}"#,
        r#"{"node":{"nodes":[],"key":"/late"}}"#,
        r#"{"node":{"nodes":[3]}}"#,
    ] {
        assert!(listed(bad, 8).is_err(), "{bad}");
    }
}

#[test]
fn hidden_nodes_are_listed_with_their_hidden_directories_in_file_order() {
    let paths = |prefix: &str, given: &[&str]| {
        let given: Vec<String> = given.iter().map(|path| (*path).to_owned()).collect();
        hidden_paths(prefix, &given)
            .map(|paths| paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>())
            .map_err(|error| error.to_string())
    };
    assert_eq!(paths("/", &["/a/_b/c/_d", "/_x", "/a/_b"]).unwrap(), ["/_x", "/a/_b", "/a/_b/c/_d"]);
    assert_eq!(paths("/_x/y", &["/_x/y/_z/"]).unwrap(), ["/_x/y/_z"]);
    for bad in ["/a", "/a/_b/c", "/_x/y", "/other/_z", "_z", "/_x/y/../_z"] {
        assert!(paths("/_x/y", &[bad]).is_err(), "{bad}");
    }
}

#[test]
fn paths_and_values_are_escaped_only_where_necessary() {
    assert_eq!(encode("/a b/ü%?#+".as_bytes()), "/a%20b/%C3%BC%25%3F%23%2B");
    assert_eq!(form("a=b&c+d;e%ü\n".as_bytes(), Some(9)), "ttl=9&value=a=b%26c%2Bd%3Be%25ü\n");
    assert_eq!(form(b"", None), "value=");
}

#[test]
fn command_line_paths_must_be_absolute_and_clean() {
    assert_eq!(clean("--prefix", "/a/b/").unwrap(), "/a/b");
    assert_eq!(clean("--prefix", "/").unwrap(), "/");
    for bad in ["", "a", "///", "/a//b", "/a/./b", "/.."] {
        let error = clean("--prefix", bad).unwrap_err().to_string();
        assert!(error.contains("--prefix") && error.contains("begins with /"), "{error}");
    }
}

fn words(line: &str) -> Result<Command, (String, u8)> {
    read(line.split_whitespace().map(Into::into))
}

#[test]
fn command_lines_parse_and_bad_ones_exit_with_two() {
    let Ok(Command::Export(export)) =
        words("export --endpoints http://a:1,http://b:2 --hidden /_x --hidden /a/_y t.json")
    else {
        panic!("export")
    };
    assert_eq!((export.server.endpoints.len(), export.tree.hidden.len(), export.tree.prefix.as_str()), (2, 2, "/"));
    let Ok(Command::CopyToV3(copy)) = words("copy-to-v3 --ttl=refuse --dry-run --endpoints http://a:1") else {
        panic!("copy")
    };
    assert_eq!((copy.ttl, copy.dry_run, copy.target().endpoints), (Ttl::Refuse, true, vec!["http://a:1".to_owned()]));
    for bad in ["", "nothing", "export", "export --cert x f", "import --resume --overwrite f", "copy-to-v3 --ttl=maybe"]
    {
        assert_eq!(words(bad).map(drop).map_err(|(_, code)| code), Err(2), "{bad}");
    }
    for help in ["--help", "export --help", "copy-to-v3 -h"] {
        let (text, code) = words(help).map(drop).unwrap_err();
        assert!(code == 0 && text.contains("Usage: etcd v2"), "{help}: {text}");
    }
}
