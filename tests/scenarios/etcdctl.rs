//! Debian's `etcdctl` against Debian's etcd and against us: same words in, same words out but for ids and times.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::ctl::{Ctl, Said};
use crate::harness::member::Product;
use crate::harness::wait::turn;

const WATCH_LIMIT: Duration = Duration::from_secs(20);

/// API 3, one command a line; `LEASE` stands for the id that the last grant gave. After `<` the standard input.
pub(super) const V3: &str = r#"
put a 1
put a 2 --prev-kv
put a/b 3
put --ignore-value a
put --ignore-value missing
get a
get a --prefix
get a --prefix --keys-only
get a --from-key --limit 1
get a --print-value-only
get a --rev 2
get a --rev 100
get missing
get a --prefix -w json
get a -w fields
get a --prefix --sort-by VALUE --order DESCEND
put b 1
put c 1
del c --prev-kv
del missing
del b --prefix
txn < value("a") = "2"\n\nput a 4\nget a\n\nput a 5\n\n
txn < version("a") > "100"\n\nput a 6\n\nget a\ndel a/b\n\n
txn < mod("a") = "x"\n\n\n\n
lease grant 500
lease list
put l 1 --lease LEASE
lease timetolive LEASE --keys
lease keep-alive LEASE --once
get l
lease revoke LEASE
get l
lease revoke LEASE
lease timetolive LEASE
put l 1 --lease 123
compaction 4
compaction 4
compaction 1000
get a --rev 2
put w 1
put w 2
del w
endpoint health
endpoint hashkv
member list
member list -w json
member remove 123
member update 123 --peer-urls http://127.0.0.1:1
member promote 123
move-leader 123
alarm list
alarm disarm
defrag
auth status
get
put x
compaction
"#;

/// API 2.
const V2: &str = r#"
set /a 1
set /a 2
get /a
get /missing
get -o extended /a
get -o json /a
mk /m 1
mk /m 1
mk --in-order /queue job
mkdir /d
mkdir /d
setdir /e
set /d/x 1
set /d/y 2
ls --sort
ls --sort /d
ls -r -p --sort /
ls /missing
update /a 3
update /missing 1
updatedir --ttl=1000 /d
set --swap-with-value=3 /a 4
set --swap-with-value=wrong /a 5
set --swap-with-index=1 /a 5
rm /d
rmdir /d
rm --with-value=7 /d/x
rm --with-value=1 /d/x
rm -r /d
rmdir /e
rm /missing
set --ttl=1000 /t 1
get /t
watch --after-index=3 /a
watch -r --after-index=8 /
member list
cluster-health
"#;

#[tokio::test]
async fn etcdctl_of_api_3_says_the_same_of_both() {
    let _turn = turn().await;
    let (etcd, ours) = both().await;
    compare(V3, [Ctl::v3(etcd.endpoint(0)), Ctl::v3(ours.endpoint(0))]);
    let status = |cluster: &Cluster| {
        let line = Ctl::v3(cluster.endpoint(0)).run(&["endpoint", "status"]).ok();
        let fields: Vec<String> = line.split(", ").map(str::to_owned).collect();
        // Version, size, term and indexes differ; leader, learner and errors do not.
        (fields.len(), fields[4].clone(), fields[5].clone(), fields[9].clone())
    };
    assert_eq!(status(&etcd), status(&ours));
    let watched = |cluster: &Cluster| {
        let words = ["watch", "w", "--rev", "11", "--prev-kv"];
        let ctl = Ctl::v3(cluster.endpoint(0));
        first_lines(ctl.start(&words), 12)
    };
    let expected = watched(&etcd);
    assert!(expected.contains(&"DELETE".to_owned()), "{expected:?}");
    assert_eq!(expected, watched(&ours));
}

#[tokio::test]
async fn etcdctl_of_api_2_says_the_same_of_both() {
    let _turn = turn().await;
    let (etcd, ours) = both().await;
    compare(V2, [Ctl::v2(etcd.endpoint(0)), Ctl::v2(ours.endpoint(0))]);
}

async fn both() -> (Cluster, Cluster) {
    let flags = ["--enable-v2=true"];
    (Cluster::start_in_memory(Product::Etcd, 1, &flags).await, Cluster::start_in_memory(Product::Ours, 1, &flags).await)
}

/// Runs every line of `script` against both and collects all differences, so that one run shows them all.
pub(super) fn compare(script: &str, both: [Ctl; 2]) {
    let mut leases = ["0".to_owned(), "0".to_owned()];
    let (mut differences, mut lines) = (Vec::new(), 0);
    for line in script.lines().filter(|line| !line.is_empty()) {
        let mut said = both.iter().zip(&mut leases).map(|(ctl, lease)| say(ctl, line, lease));
        let (expected, got) = (said.next().expect("etcd's words"), said.next().expect("our words"));
        drop(said);
        if expected != got {
            differences.push(format!("etcdctl {line}\netcd: {expected:#?}\nours: {got:#?}"));
        }
        lines += 1;
    }
    assert!(differences.is_empty(), "{} of {lines} commands differ:\n{}", differences.len(), differences.join("\n\n"));
    println!("{lines} commands of etcdctl say the same");
}

fn say(ctl: &Ctl, line: &str, lease: &mut String) -> Said {
    let (command, input) = line.split_once(" < ").unwrap_or((line, ""));
    let words: Vec<&str> = command.split(' ').map(|word| if word == "LEASE" { lease.as_str() } else { word }).collect();
    let said = ctl.run_with(&words, &input.replace("\\n", "\n"));
    if line.starts_with("lease grant") {
        let id = said.out.split(' ').nth(1).unwrap_or("0").to_owned();
        *lease = id;
    }
    // Above its error, etcdctl logs what it tried, with times and random names.
    let err = said.err.lines().rfind(|line| !line.starts_with('{') && line.contains("rror")).unwrap_or_default();
    Said { code: said.code, out: mask(&said.out), err: mask(err) }
}

/// Takes out ids, hashes, addresses, times and terms.
fn mask(text: &str) -> String {
    text.lines().map(mask_line).collect::<Vec<_>>().join("\n")
}

fn mask_line(line: &str) -> String {
    let line = line.split("took = ").next().unwrap_or(line);
    let mut masked = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        masked += mask_word(word, &masked);
        let step = after.chars().next().map_or(0, char::len_utf8);
        masked += &after[..step];
        rest = &after[step..];
    }
    masked
}

fn mask_word<'a>(word: &'a str, before: &str) -> &'a str {
    let digits = word.chars().all(|c| c.is_ascii_digit());
    // After a masked address stands a hash, which may be a short number.
    let changing = ["127.0.0.1:", "127.0.0.1:N, ", "raft_term\":", "RaftTerm\" : ", "remaining(", "\"ttl\":", "TTL: "];
    match word {
        "" => "",
        _ if digits && (word.len() >= 9 || changing.iter().any(|name| before.ends_with(name))) => "N",
        _ if word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit()) => "ID",
        // A date as in `expiration`.
        _ if before.ends_with("expiration\":\"") => "TIME",
        _ => word,
    }
}

/// The first `count` lines that a command writes before it is killed.
fn first_lines(mut child: Child, count: usize) -> Vec<String> {
    let (sender, receiver) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let lines = (0..count).map_while(|_| receiver.recv_timeout(WATCH_LIMIT).ok()).collect();
    child.kill().expect("the command can be killed");
    child.wait().expect("the command can be waited for");
    drop(receiver);
    let _ = reader.join();
    lines
}

#[test]
fn masking_hides_ids_and_keeps_words() {
    assert_eq!(mask("8e9e05c52164694d, started, m0, http://127.0.0.1:2380"), "ID, started, m0, http://127.0.0.1:N");
    assert_eq!(mask("http://127.0.0.1:2379, 70943194"), "http://127.0.0.1:N, N");
    assert_eq!(mask("lease 694d77aa granted with TTL(500s)"), "lease 694d77aa granted with TTL(500s)");
}
