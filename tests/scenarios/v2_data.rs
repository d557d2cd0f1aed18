//! Moving v2 data: out of real etcd, into us, and back, and what must change nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::cluster::Cluster;
use crate::harness::ctl::Ctl;
use crate::harness::http::Http;
use crate::harness::member::Product;
use crate::harness::pem::Authority;
use crate::harness::raw::Raw;
use crate::harness::tool::{start_v2, v2, v2_memory, word};
use crate::harness::wait::{setting, until};

const LIMIT: Duration = Duration::from_secs(60);
/// Parts of names that a path, a URL, JSON or a sort could trip over.
const ODD: &[&str] = &[
    "a b",
    "100%",
    "?q=1",
    "#",
    "a+b",
    "\"",
    "\\",
    "<&>",
    "\n",
    "ü",
    "日本語",
    "\u{2028}",
    "🦀",
    "!",
    "~",
    "a=b;c",
    "...",
];

async fn one(product: Product) -> (Cluster, Http) {
    let cluster = Cluster::start_in_memory(product, 1, &["--enable-v2=true"]).await;
    let http = Http::new(&cluster.endpoint(0));
    (cluster, http)
}

fn escape(text: &str) -> String {
    let escaped: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    escaped.replace('+', "%20")
}

fn path(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("/{}", escape(part))).collect()
}

/// `files` files and as many other nodes of every kind.
async fn fill(http: &mut Http, seed: u64, files: usize) {
    let mut random = SmallRng::seed_from_u64(seed);
    for n in 0..files {
        let depth = random.random_range(1..5);
        let parts: Vec<String> = (0..depth)
            .map(|_| format!("{}{}", ODD[random.random_range(0..ODD.len())], random.random_range(0..6)))
            .chain([format!("file {n}")])
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let value = match n % 4 {
            0 => String::new(),
            1 => ODD.concat(),
            2 => format!("value {n}"),
            _ => "x".repeat(random.random_range(0..4_000)),
        };
        let ttl = if n % 5 == 0 { format!("&ttl={}", random.random_range(5_000..9_000_000)) } else { String::new() };
        http.put(&format!("/v2/keys{}", path(&parts)), format!("value={}{ttl}", escape(&value)).as_bytes()).await;
    }
    for n in 0..50 {
        http.put(&format!("/v2/keys/empty/{n}?dir=true"), b"").await;
        http.put(&format!("/v2/keys/leases/{n}/{n}"), b"value=1").await;
        http.put(&format!("/v2/keys/leases/{n}?dir=true&prevExist=true"), format!("ttl={}", 7_000 + n).as_bytes())
            .await;
        let reply = http.send(Method::POST, "/v2/keys/queue", Some(format!("value=job{n}").into_bytes())).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }
    for (name, bytes) in [("one", 1 << 20), ("three", 3 << 20)] {
        http.put(&format!("/v2/keys/big/{name}"), format!("value={}", "ü".repeat(bytes / 2)).as_bytes()).await;
    }
    for hidden in HIDDEN_FILES {
        http.put(&format!("/v2/keys{hidden}"), b"value=secret").await;
    }
}

const HIDDEN_FILES: &[&str] = &["/_top/a", "/_top/b/c", "/queue/_lock", "/deep/down/_in/side/_more/x", "/deep/_e/f"];
/// What names them all; `_in` comes along with `_more`, which it holds.
const HIDDEN: &[&str] =
    &["--hidden", "/_top", "--hidden", "/queue/_lock", "--hidden", "/deep/down/_in/side/_more", "--hidden", "/deep/_e"];

/// What the server itself shows of a directory, without indexes and times, sorted.
async fn shown(http: &mut Http, path: &str) -> Value {
    fn strip(node: &mut Value) {
        for name in ["createdIndex", "modifiedIndex", "ttl"] {
            node.as_object_mut().expect("a node").remove(name);
        }
        if let Some(expiration) = node.get_mut("expiration") {
            *expiration = Value::Bool(true);
        }
        if let Some(nodes) = node.get_mut("nodes").and_then(Value::as_array_mut) {
            nodes.iter_mut().for_each(strip);
        }
    }
    let reply = http.get(&format!("/v2/keys{path}?recursive=true&sorted=true&quorum=true")).await;
    let mut node = reply.json()["node"].clone();
    strip(&mut node);
    node
}

async fn index(http: &mut Http) -> String {
    let reply = http.get("/v2/keys?quorum=true").await;
    reply.headers["x-etcd-index"].to_str().expect("a number").to_owned()
}

fn export(endpoint: &str, file: &Path, more: &[&str]) -> String {
    let said = v2(&[&["export", "--endpoints", endpoint][..], more, &[word(file)]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.err
}

fn import(endpoint: &str, file: &Path, more: &[&str]) -> crate::harness::ctl::Said {
    v2(&[&["import", "--endpoints", endpoint][..], more, &[word(file)]].concat())
}

fn assert_same(left: &Path, right: &Path) {
    // How late a write comes on a busy machine moves its expiry.
    let said = v2(&["compare", "--ttl-tolerance", "120", word(left), word(right)]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// An export made by hand: a header and these lines, with the right trailer.
fn forge(folder: &Path, name: &str, header: &str, lines: &[&str]) -> PathBuf {
    let text: String = [header].iter().chain(lines).map(|line| format!("{line}\n")).collect();
    let sum: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.join(name);
    fs::write(&file, format!("{text}{{\"end\":{{\"nodes\":{},\"sha256\":\"{sum}\"}}}}\n", lines.len()))
        .expect("written");
    file
}

const HEADER: &str = r#"{"format":"etcd-v2-tree","version":1,"prefix":"/","index":9,"cluster":"c","time":"2026-01-01T00:00:00Z","all_hidden":true}"#;

#[tokio::test]
async fn a_tree_of_real_etcd_moves_here_and_back_and_is_the_same_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let ((old, mut from), (new, mut to)) = (one(Product::Etcd).await, one(Product::Ours).await);
    fill(&mut from, 1, 2_000).await;

    let said = export(&old.endpoint(0), &file("1"), HIDDEN);
    assert!(said.contains("any others are NOT") && said.contains("/deep/down/_in"), "{said}");
    let said = import(&new.endpoint(0), &file("1"), &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // Not only by our own measure: both servers show the same.
    for path in ["/", "/_top", "/deep/down/_in", "/deep/down/_in/side/_more", "/deep/_e", "/queue/_lock"] {
        assert_eq!(shown(&mut from, path).await, shown(&mut to, path).await, "{path}");
    }

    // Ours needs no names to find hidden nodes.
    let said = export(&new.endpoint(0), &file("2"), &[]);
    assert!(said.contains("hidden nodes: all included"), "{said}");
    assert_same(&file("1"), &file("2"));
    assert!(fs::read_to_string(file("2")).expect("text").lines().count() > 2_500);

    let (back, mut again) = one(Product::Etcd).await;
    assert_eq!(import(&back.endpoint(0), &file("2"), &[]).code, Some(0));
    assert_eq!(shown(&mut from, "/").await, shown(&mut again, "/").await);
    export(&back.endpoint(0), &file("3"), HIDDEN);
    assert_same(&file("1"), &file("3"));
}

/// A million nodes (`V2_NODES`): a thousand directories of files, a hundredth of them with a time to live.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run with --ignored"]
async fn a_tree_larger_than_the_tools_memory_moves_here_and_is_the_same() {
    /// Most memory that a tool or our member may take, KiB. The tree alone is more: real etcd takes 1.6 GiB for it.
    const MEMORY: u64 = 400 << 10;
    const DIRECTORIES: u64 = 1_000;
    const WRITERS: u64 = 64;
    let nodes = setting("V2_NODES", 1_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let old = Cluster::start_in_memory(Product::Etcd, 1, &["--enable-v2=true"]).await;
    let new = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let address = old.endpoint(0).trim_start_matches("http://").to_owned();
    let files = nodes.saturating_sub(DIRECTORIES);
    let writing = (0..WRITERS).map(|writer| {
        let address = address.clone();
        tokio::spawn(async move {
            let mut raw = Raw::open(&address).await.expect("a connection");
            for n in (writer..files).step_by(WRITERS as usize) {
                let ttl = if n.is_multiple_of(100) { format!("&ttl={}", 500_000 + n) } else { String::new() };
                let target = format!("/v2/keys/dir{:03}/file{n:07}", n % DIRECTORIES);
                let answer = raw.ask("PUT", &target, Some(&format!("value=value{n}{ttl}"))).await.expect("an answer");
                assert_eq!(answer.head.status, 201, "{}", answer.body);
            }
        })
    });
    futures::future::try_join_all(writing.collect::<Vec<_>>()).await.expect("all writers end");
    println!("{files} files in {DIRECTORIES} directories written");
    let mut peaks = Vec::new();
    let (from, to, first, second) = (old.endpoint(0), new.endpoint(0), file("1"), file("2"));
    for words in [
        ["export", "--endpoints", &from, word(&first)],
        ["import", "--endpoints", &to, word(&first)],
        ["export", "--endpoints", &to, word(&second)],
        ["compare", "--ttl-tolerance=3600", word(&first), word(&second)],
    ] {
        let begun = Instant::now();
        peaks.push(v2_memory(&words).await);
        println!("{} took {:?} and {} KiB", words[0], begun.elapsed(), peaks[peaks.len() - 1]);
    }
    let lines = BufReader::new(fs::File::open(&second).expect("the export")).lines().count() as u64;
    assert!(lines >= files + DIRECTORIES, "{lines} lines for {nodes} nodes");
    let servers = [&old, &new].map(|cluster| cluster.members[0].process_figure("VmHWM:"));
    println!("{lines} lines; peak memory of etcd {} KiB, of ours {} KiB", servers[0], servers[1]);
    assert!(peaks.iter().chain([&servers[1]]).all(|peak| *peak < MEMORY), "{peaks:?}, our member {}", servers[1]);
}

#[tokio::test]
async fn a_comparison_finds_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name, lines: &[&str]| forge(folder.path(), name, HEADER, lines);
    let first = make(
        "1",
        &[
            r#"{"key":"/a","value":"1"}"#,
            r#"{"key":"/b","value":"1","expiration":"2100-01-01T00:00:00Z"}"#,
            r#"{"key":"/c","dir":true}"#,
            r#"{"key":"/d","value":""}"#,
        ],
    );
    let second = make(
        "2",
        &[
            r#"{"key":"/a","value":"2"}"#,
            r#"{"key":"/b","value":"1","expiration":"2100-01-01T00:00:03Z"}"#,
            r#"{"key":"/c","value":""}"#,
            r#"{"key":"/e","value":""}"#,
        ],
    );
    assert_same(&first, &first);
    let said = v2(&["compare", word(&first), word(&second)]);
    assert_eq!(said.code, Some(1));
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(
        lines,
        [
            "/a has two values",
            "/b expires at two times",
            "/c is a file in one and a directory in the other",
            "only in the first: /d",
            "only in the second: /e"
        ]
    );
}

#[tokio::test]
async fn bad_files_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let ((old, mut from), (new, mut to)) = (one(Product::Etcd).await, one(Product::Ours).await);
    fill(&mut from, 2, 300).await;
    export(&old.endpoint(0), &file("good"), &[]);
    let good = fs::read(file("good")).expect("the export");
    let before = index(&mut to).await;
    let mut random = SmallRng::seed_from_u64(2);
    let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
    for _ in 0..20 {
        let end = random.random_range(0..good.len());
        bad.push((format!("cut at {end}"), good[..end].to_vec()));
        let (at, bit) = (random.random_range(0..good.len()), random.random_range(0..8));
        let mut flipped = good.clone();
        flipped[at] ^= 1 << bit;
        bad.push((format!("bit {bit} of byte {at} flipped"), flipped));
    }
    let lines: Vec<&[u8]> = good.split_inclusive(|&byte| byte == b'\n').collect();
    for _ in 0..10 {
        let (left, right) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
        if left != right {
            let mut swapped = lines.clone();
            swapped.swap(left, right);
            bad.push((format!("lines {left} and {right} swapped"), swapped.concat()));
        }
    }
    let text = String::from_utf8(good.clone()).expect("text");
    bad.push(("another version".to_owned(), text.replacen("\"version\":1", "\"version\":7", 1).into_bytes()));
    bad.push(("another format".to_owned(), text.replacen("etcd-v2-tree", "etcd-v9-tree", 1).into_bytes()));
    bad.push(("a listing".to_owned(), br#"{"action":"get","node":{"dir":true}}"#.to_vec()));
    bad.push(("nothing".to_owned(), Vec::new()));
    for (what, bytes) in &bad {
        fs::write(file("bad"), bytes).expect("written");
        let said = import(&new.endpoint(0), &file("bad"), &["--overwrite"]);
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        assert!(said.err.contains("nothing was written"), "{what}: {said:?}");
        assert_eq!(index(&mut to).await, before, "{what}");
    }
    // A right checksum does not help a wrong tree.
    for (what, lines) in [
        ("a child before its directory", vec![r#"{"key":"/a/b","value":"1"}"#, r#"{"key":"/a","dir":true}"#]),
        ("a path that climbs", vec![r#"{"key":"/..","value":"1"}"#]),
        ("a file and a directory in one", vec![r#"{"key":"/a","value":"1","dir":true}"#]),
    ] {
        let said = import(&new.endpoint(0), &forge(folder.path(), "forged", HEADER, &lines), &[]);
        assert!(said.code == Some(1) && said.err.contains("nothing was written"), "{what}: {said:?}");
        assert_eq!(index(&mut to).await, before, "{what}");
    }
    assert_eq!(import(&new.endpoint(0), &file("good"), &[]).code, Some(0), "and the good one is taken");
}

#[tokio::test]
async fn an_import_that_was_killed_is_resumed_and_a_target_with_data_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let ((old, mut from), (new, mut to)) = (one(Product::Etcd).await, one(Product::Ours).await);
    fill(&mut from, 3, 300).await;
    export(&old.endpoint(0), &file("1"), &[]);
    let endpoint = new.endpoint(0);
    let begun: u64 = index(&mut to).await.parse().expect("a number");
    let mut tool = start_v2(&["import", "--parallel", "1", "--endpoints", &endpoint, word(&file("1"))]);
    while index(&mut to).await.parse::<u64>().expect("a number") < begun + 100 {
        assert!(matches!(tool.try_wait(), Ok(None)), "the tool ended before it could be killed");
    }
    tool.kill().expect("the tool is killed");
    tool.wait().expect("it ends");
    // The last request of the tool may still be on its way.
    let mut half = index(&mut to).await;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = index(&mut to).await;
        if std::mem::replace(&mut half, now.clone()) == now {
            break;
        }
    }

    let said = import(&endpoint, &file("1"), &[]);
    assert!(said.code == Some(1) && said.err.contains("is not empty"), "{said:?}");
    assert_eq!(index(&mut to).await, half);
    let said = import(&endpoint, &file("1"), &["--resume"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    export(&endpoint, &file("2"), &[]);
    assert_same(&file("1"), &file("2"));

    // Once more: everything is there, nothing changes but the TTLs of directories.
    let said = import(&endpoint, &file("1"), &["--resume"]);
    assert!(said.code == Some(0) && !said.err.contains("conflict"), "{said:?}");

    // What somebody else put there stays, and is named.
    to.put("/v2/keys/empty/3/mine", b"value=1").await;
    to.put("/v2/keys/big/one", b"value=changed").await;
    let said = import(&endpoint, &file("1"), &["--resume"]);
    assert!(said.code == Some(1) && said.err.contains("/big/one has another value in the target"), "{said:?}");
    assert_eq!(to.get("/v2/keys/big/one").await.json()["node"]["value"], "changed");
    let said = import(&endpoint, &file("1"), &["--overwrite"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_ne!(to.get("/v2/keys/big/one").await.json()["node"]["value"], "changed");
}

#[tokio::test]
async fn times_to_live_go_on_and_what_has_expired_stays_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = forge(
        folder.path(),
        "1",
        HEADER,
        &[
            r#"{"key":"/d","dir":true,"expiration":"2100-01-01T00:00:00Z"}"#,
            r#"{"key":"/d/empty","dir":true,"expiration":"2099-01-01T00:00:00Z"}"#,
            r#"{"key":"/d/f","value":"1"}"#,
            r#"{"key":"/d/old","value":"1","expiration":"2001-01-01T00:00:00Z"}"#,
            r#"{"key":"/old","dir":true,"expiration":"2001-01-01T00:00:00Z"}"#,
            r#"{"key":"/old/f","value":"1"}"#,
            r#"{"key":"/only","dir":true}"#,
            r#"{"key":"/only/old","value":"1","expiration":"2001-01-01T00:00:00Z"}"#,
        ],
    );
    for product in [Product::Ours, Product::Etcd] {
        let (cluster, mut http) = one(product).await;
        let said = import(&cluster.endpoint(0), &file, &[]);
        assert!(said.code == Some(0) && said.err.contains("4 had expired"), "{said:?}");
        let tree = shown(&mut http, "/").await;
        let expected = serde_json::json!({"dir": true, "nodes": [
            {"key": "/d", "dir": true, "expiration": true, "nodes": [
                {"key": "/d/empty", "dir": true, "expiration": true},
                {"key": "/d/f", "value": "1"},
            ]},
            {"key": "/only", "dir": true},
        ]});
        assert_eq!(tree, expected, "{product:?}");
        let expiration = http.get("/v2/keys/d").await.json()["node"]["expiration"].as_str().expect("a time").to_owned();
        assert!(expiration.starts_with("2100-01-01T00:0"), "{product:?}: {expiration}");
    }
}

#[tokio::test]
async fn a_part_of_a_tree_moves_to_another_place_through_a_pipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, mut http) = one(Product::Ours).await;
    http.put("/v2/keys/a/b/c", b"value=1").await;
    http.put("/v2/keys/a/b/_h/x", b"value=2").await;
    http.put("/v2/keys/a/bc", b"value=3").await;
    let endpoint = cluster.endpoint(0);
    let said = v2(&["export", "--endpoints", &endpoint, "--prefix", "/a/b", "-"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let file = folder.path().join("part");
    fs::write(&file, &said.out).expect("written");
    let said = import(&endpoint, &file, &["--prefix", "/x/y"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(http.get("/v2/keys/x/y/c").await.json()["node"]["value"], "1");
    assert_eq!(http.get("/v2/keys/x/y/_h/x").await.json()["node"]["value"], "2");
    assert_eq!(http.get("/v2/keys/x/bc").await.status, StatusCode::NOT_FOUND);
    // A hidden node is data too, although no listing shows it.
    http.put("/v2/keys/z/_h", b"value=1").await;
    let said = import(&endpoint, &file, &["--prefix", "/z"]);
    assert!(said.code == Some(1) && said.err.contains("it holds /z/_h"), "{said:?}");
    let said = v2(&["export", "--endpoints", &endpoint, "--prefix", "/none", word(&folder.path().join("none"))]);
    assert!(said.code == Some(1) && said.err.contains("100: Key not found (/none)"), "{said:?}");
    assert!(!folder.path().join("none").exists() && !folder.path().join("none.part").exists());
}

#[tokio::test]
async fn with_access_control_on_only_root_gets_the_file_and_a_guest_what_listings_show() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cluster, mut http) = one(Product::Ours).await;
    http.put("/v2/keys/a", b"value=1").await;
    http.put("/v2/keys/_h", b"value=2").await;
    http.put("/v2/auth/users/root", br#"{"user":"root","password":"secret"}"#).await;
    http.put("/v2/auth/enable", b"").await;
    assert_eq!(http.get("/v2/export/").await.status, StatusCode::UNAUTHORIZED);
    let (endpoint, file) = (cluster.endpoint(0), folder.path().join("tree"));
    let said = export(&endpoint, &file, &["--user", "root:secret"]);
    assert!(said.contains("exported 2 nodes") && said.contains("hidden nodes: all included"), "{said}");
    // The role guest may read everything that listings show.
    let said = export(&endpoint, &file, &[]);
    assert!(said.contains("exported 1 nodes") && said.contains("any others are NOT"), "{said}");
    let said = v2(&["export", "--endpoints", &endpoint, "--user", "root:wrong", word(&file)]);
    assert!(said.code == Some(1) && said.err.contains("110: The request requires user authentication"), "{said:?}");
}

#[tokio::test]
async fn an_export_goes_through_mutual_tls_and_says_what_is_wrong_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "clients");
    let (server, client) = (authority.leaf("server"), authority.leaf("client"));
    let mut member = super::bad_tls::member(folder.path(), &authority.certificate, &server);
    member.start();
    let endpoint = member.client_url().replace("http:", "https:");
    let file = folder.path().join("tree");
    let tls =
        ["--cacert", word(&authority.certificate), "--cert", word(&client.certificate), "--key", word(&client.key)];
    let words = [&["export", "--endpoints", endpoint.as_str()][..], &tls[..], &[word(&file)][..]].concat();
    until("an export over TLS", LIMIT, || async {
        let said = v2(&words);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
    let without = v2(&["export", "--endpoints", &endpoint, "--cacert", word(&authority.certificate), word(&file)]);
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(
        without.err.contains("none of the endpoints works") || without.err.contains("no etcd endpoint"),
        "{without:?}"
    );
}

#[tokio::test]
async fn v2_files_become_v3_keys_and_nothing_that_exists_is_replaced() {
    let ((old, mut from), (new, _)) = (one(Product::Etcd).await, one(Product::Ours).await);
    for (target, form) in [
        ("/v2/keys/a/1", "value=one"),
        ("/v2/keys/a/2", "value="),
        ("/v2/keys/a/ttl", "value=t&ttl=5000"),
        ("/v2/keys/a/_h", "value=hidden"),
        ("/v2/keys/b", "value=other"),
        ("/v2/keys/d/f", "value=below"),
    ] {
        from.put(target, form.as_bytes()).await;
    }
    from.put("/v2/keys/a/empty?dir=true", b"").await;
    from.put("/v2/keys/d?dir=true&prevExist=true", b"ttl=4000").await;
    for target in [&new, &old] {
        let (endpoint, source) = (target.endpoint(0), old.endpoint(0));
        let ctl = Ctl::v3(&endpoint);
        let base =
            ["copy-to-v3", "--endpoints", &source, "--to-endpoints", &endpoint, "--hidden", "/a/_h", "--prefix", "/"];
        let copy = |more: &[&str]| v2(&[&base[..], more].concat());
        let keys = || {
            ctl.run(&["get", "", "--prefix", "--keys-only"])
                .ok()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };

        ctl.run(&["put", "/b", "mine"]).ok();
        ctl.run(&["put", "/a/1", "one"]).ok();
        let said = copy(&["--dry-run"]);
        assert!(
            said.code == Some(1)
                && said.err.contains("4 keys are new, 1 are there already with the same value, 1 stand"),
            "{said:?}"
        );
        let said = copy(&[]);
        assert!(said.code == Some(1) && said.err.contains("conflict: /b exists in v3 with another value"), "{said:?}");
        let said = copy(&["--ttl=refuse", "--skip-conflicts"]);
        assert!(said.code == Some(1) && said.err.contains("2 files have a TTL"), "{said:?}");
        let said = copy(&["--dry-run", "--skip-conflicts"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(keys(), ["/a/1", "/b"], "so far nothing was written");

        let said = copy(&["--skip-conflicts"]);
        assert!(said.code == Some(1) && said.err.contains("copied 4 keys"), "{said:?}");
        assert_eq!(keys(), ["/a/1", "/a/2", "/a/_h", "/a/ttl", "/b", "/d/f"]);
        assert_eq!(ctl.run(&["get", "/b", "--print-value-only"]).ok(), "mine\n");
        assert_eq!(ctl.run(&["get", "/d/f", "--print-value-only"]).ok(), "below\n");
        let leases = ctl.run(&["lease", "list"]).ok();
        assert!(leases.contains("found 2 leases"), "{leases}");
        for lease in leases.lines().skip(1) {
            let lives = ctl.run(&["lease", "timetolive", lease, "--keys"]).ok();
            let granted = lives.split("TTL(").nth(1).and_then(|rest| rest.split('s').next()?.parse::<u64>().ok());
            let granted = granted.unwrap_or_else(|| panic!("{lives}"));
            let full = if lives.contains("[/a/ttl]") { 5_000 } else { 4_000 };
            assert!(lives.contains("[/a/ttl]") || lives.contains("[/d/f]"), "{lives}");
            assert!((full - 600..=full).contains(&granted), "{lives}");
        }
        // Again: all the same, nothing is written.
        ctl.run(&["del", "/b"]).ok();
        let said = copy(&["--ttl=drop"]);
        assert!(
            said.code == Some(0) && said.err.contains("copied 1 keys") && said.err.contains("5 were there"),
            "{said:?}"
        );
    }
}
