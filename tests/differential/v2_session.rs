//! A whole session with `etcdctl` of API 2: every subcommand, against three members of etcd and three of ours, TLS with
//! client certificates on, through leader and followers. Outputs and exit codes are compared; masked are ids, ports,
//! times to live and what ids put in another order. The indexes of both are made equal first, so they are compared too.

use std::process::Child;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::{Ctl, Said};
use crate::harness::member::Product;
use crate::harness::pem::Authority;
use crate::harness::wait::{PAUSE, turn, until};

/// Asks the one member that it is given, and waits longer than `etcdctl` does by itself: a stalled disk is no difference.
const PATIENT: [&str; 5] = ["--no-sync", "--timeout", "30s", "--total-timeout", "60s"];

/// Every command about keys, below `D`.
const KEYS: &str = "\
mk D/a one
mk D/a two
mk D/t short --ttl 1000
mk --in-order D/q job1
mk --in-order D/q job2
mk --in-order D/a/x no
mkdir D/d
mkdir D/d
mkdir D/dd --ttl 1000
mkdir D/a/no
set D/a two
set D/a three --swap-with-value two
set D/a never --swap-with-value wrong
set D/a never --swap-with-index 1
set D/nope never --swap-with-value x
set D/deep/er/key value --ttl 1000
set D/d value
set D/a
set
get D/a
get D/nope
get D/no/such/deep
get D/a/x
get D/d
get --sort --quorum D/a
-o simple get D/a
-o extended get D/a
-o json get D/a
-o extended set D/a four
-o json set D/a five
-o json mk D/j made
-o json get D/nope
-o extended get D/nope
-o extended get D/t
-o json get D/t
setdir D/e
setdir D/e
setdir D/e2 --ttl 1000
updatedir D/e --ttl 1000
updatedir D/nope
update D/a six
update D/a seven --ttl 1000
update D/nope x
update D/d x
set D/_hidden/x secret
get D/_hidden/x
ls D
ls -p D
ls -r D
ls --sort -r -p D
ls --quorum D/q
ls D/a
ls D/nope
ls D/_hidden
watch D/a --after-index 1
watch -r D/q --after-index 1
rm D/a --with-value wrong
rm D/a --with-index 1
rm D/a --with-value seven
rm D/a
rm D/nope
rm D/d
rm --dir D/d
rm --dir D/q
-o extended rm D/t
-o json rm D/j
rmdir D/e
rmdir D/deep
rmdir D/nope
rm -r D/q
rm --recursive D/deep
rm -r D
ls /
nonsense";

/// Users, roles and the switch. The client certificate names `certuser`.
const AUTH: &str = "\
user list
role list
auth enable
user add root:rootpw
user add alice:alicepw
user add alice:again
user add certuser:x
user get alice
user get nobody
user grant alice --roles r1
user grant alice --roles r1
user grant nobody --roles r1
user get alice
role get r1
role add r1
role add r1
role add root
role get r1
role grant r1 --path /foo/* --read
role grant r1 --path /foo/* --readwrite
role grant r1 --path /bar --write
role grant nope --path /x --read
role revoke r1 --path /bar --write
role revoke r1 --path /never --read
role get r1
role list
user get alice
user list
user grant certuser --roles r1
user revoke alice --roles nope
set /foo/a before
auth enable
-u root:rootpw auth enable
user list
role list
role add r2
auth disable
-u root:rootpw user list
-u alice:alicepw user list
-u root:wrong user list
-u root:rootpw role get guest
-u root:rootpw role revoke guest --path /* --readwrite
-u root:rootpw role get guest
get /foo/a
set /other x
set /foo/b by-certificate
-u alice:again get /foo/a
-u alice:alicepw get /foo/a
-u alice:again set /foo/a after
-u alice:again set /other x
-u alice:again ls /foo
-u alice:again ls -r /foo/
-u alice:again ls /
-u nobody:x get /foo/a
-u root:rootpw set /other x
-u root:rootpw user remove root
-u alice:again member list
-u alice:again member add n http://127.0.0.1:1
-u root:rootpw user revoke alice --roles r1
-u root:rootpw user remove alice
-u root:rootpw user remove alice
-u root:rootpw role remove r1
-u root:rootpw role remove r1
-u root:rootpw role remove root
-u root:rootpw auth disable
auth disable
user remove root
user remove certuser
role remove guest
rm -r /foo
rm /other";

struct Site {
    cluster: Cluster,
    ctls: Vec<Ctl>,
    _pem: TempDir,
}

impl Site {
    async fn start(product: Product) -> Self {
        let pem = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(pem.path(), "ca");
        let (server, client) = (authority.leaf("server"), authority.leaf("certuser"));
        let file = |path: &std::path::Path| path.display().to_string();
        let ca = file(&authority.certificate);
        let (certificate, key) = (file(&server.certificate), file(&server.key));
        let flags = ["--enable-v2=true", "--client-cert-auth", "--trusted-ca-file", &ca];
        let tls = ["--cert-file", &certificate, "--key-file", &key];
        let mut cluster = Cluster::prepare(product, 3, &[&flags[..], &tls[..]].concat());
        for member in &mut cluster.members {
            let (plain, secure) = (member.client_url(), member.client_url().replace("http:", "https:"));
            let flags = member.flags().iter().map(|flag| if *flag == plain { secure.clone() } else { flag.clone() });
            let flags = flags.collect();
            member.set_flags(flags);
            member.start();
        }
        let ctl = |url: String| Ctl::v2(url).with_tls(&authority.certificate, Some(&client));
        let ctls = cluster.members.iter().map(|member| ctl(member.client_url().replace("http:", "https:"))).collect();
        let site = Self { cluster, ctls, _pem: pem };
        until("three members are healthy", START_LIMIT, || async {
            let listed = site.ctls[0].run(&["--no-sync", "member", "list"]);
            let health = site.ctls[0].run(&["cluster-health"]);
            let named = listed.out.matches("name=m").count() == 3 && listed.out.contains("isLeader=true");
            let healthy = health.code == Some(0) && (0..3).all(|n| site.index(n).is_some());
            if named && healthy { Ok(()) } else { Err(format!("{listed:?} {health:?}")) }
        })
        .await;
        site
    }

    /// The index of the keyspace as member `n` has it: that of the error about a missing key.
    fn index(&self, n: usize) -> Option<u64> {
        let said = self.ctls[n].run(&["--no-sync", "get", "--quorum", "/_missing"]);
        said.err.rsplit_once('[')?.1.trim_end().trim_end_matches(']').parse().ok()
    }

    fn run(&self, n: usize, words: &[&str]) -> Said {
        let said = self.ctls[n].run(&[&PATIENT, words].concat());
        Said { code: said.code, out: mask(&said.out), err: mask(&said.err) }
    }

    fn member_id(&self, name: &str) -> String {
        let list = self.ctls[0].run(&["--no-sync", "member", "list"]).ok();
        let line = list.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no {name} in {list}"));
        line.split([':', '[']).next().expect("an id").to_owned()
    }
}

/// Brings both keyspaces to the same index by writes of a hidden key: a cluster takes some indexes for its own affairs.
fn align(sites: &[Site; 2]) {
    for _ in 0..10 {
        let [etcd, ours] = sites.each_ref().map(|site| site.index(0).expect("an index"));
        if etcd == ours {
            return;
        }
        let behind = if etcd < ours { &sites[0] } else { &sites[1] };
        for _ in 0..etcd.abs_diff(ours) {
            behind.ctls[0].run(&[&PATIENT[..], &["set", "/_pad", "x"]].concat()).ok();
        }
    }
    panic!("the indexes of both do not settle");
}

/// Ids become ID, ports N, times to live and expirations T, and lines that ids put in order are put in order of text. Who
/// leads is chance, that one does is not.
fn mask(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(mask_line).collect();
    let leaders = lines.iter().filter(|line| line.contains("isLeader=true")).count();
    if leaders > 0 {
        lines = lines.iter().map(|line| line.replace("isLeader=true", "isLeader=false")).collect();
        lines.push(format!("{leaders} leads"));
    }
    if lines.iter().any(|line| line.starts_with("ID")) || text.contains("member ") {
        lines.sort();
    }
    lines.join("\n")
}

fn mask_line(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        masked += &rest[..start];
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let word = &rest[..end];
        let hex = word.len() >= 14 && word.len() <= 16 && word.chars().all(|c| c.is_ascii_hexdigit());
        masked += match word {
            _ if hex => "ID",
            _ if masked.ends_with("127.0.0.1:") => "N",
            _ if masked.ends_with("TTL: ") || masked.ends_with("\"ttl\":") => "T",
            _ if masked.ends_with("\"expiration\":\"") => "T",
            _ => word,
        };
        rest = &rest[end..];
        if masked.ends_with("\"expiration\":\"T") {
            rest = &rest[rest.find('"').unwrap_or(0)..];
        }
    }
    masked += rest;
    if let Some(list) = masked.strip_prefix("ETCD_INITIAL_CLUSTER=\"") {
        let mut members: Vec<&str> = list.trim_end_matches('"').split(',').collect();
        members.sort_unstable();
        return format!("ETCD_INITIAL_CLUSTER=\"{}\"", members.join(","));
    }
    masked
}

/// What differed, for one report at the end.
#[derive(Default)]
struct Report {
    differences: Vec<String>,
    compared: usize,
}

impl Report {
    fn compare(&mut self, what: &str, expected: &Said, got: &Said) {
        // What timed out may have happened all the same, and everything after it would differ.
        let late = [expected, got].iter().any(|said| said.err.contains("exceeded header timeout"));
        assert!(!late, "{what}: this machine is too busy for etcdctl's limit of two seconds: {expected:?} {got:?}");
        self.compared += 1;
        if expected != got {
            self.differences.push(format!("{what}\netcd: {expected:#?}\nours: {got:#?}"));
        }
    }

    fn script(&mut self, sites: &[Site; 2], n: usize, script: &str) {
        for line in script.lines() {
            let line = line.replace('D', &format!("/m{n}"));
            let words: Vec<&str> = line.split(' ').collect();
            let [mut expected, mut got] = at_both(sites, |site| site.run(n, &words));
            if words.contains(&"ls") && !words.contains(&"--sort") {
                // etcd gives them in any order.
                expected.out = in_order(&expected.out);
                got.out = in_order(&got.out);
            }
            self.compare(&format!("member {n}: etcdctl {line}"), &expected, &got);
        }
    }

    /// Commands that wait for an event: each is given one after another until it ends.
    fn waits(&mut self, sites: &[Site; 2], n: usize) {
        let waits: [&[&str]; 4] = [
            &["watch", "/w/k"],
            &["watch", "-r", "/w"],
            &["-o", "extended", "watch", "/w/k"],
            &["-o", "json", "watch", "-r", "/w"],
        ];
        for words in waits {
            let [expected, got] = at_both(sites, |site| waited(site, n, words, false));
            self.compare(&format!("member {n}: etcdctl {words:?}"), &expected, &got);
            align(sites);
        }
        let show = "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
        let words = ["exec-watch", "-r", "/w", "--", "sh", "-c", show];
        let [expected, got] = at_both(sites, |site| waited(site, n, &words, true));
        self.compare(&format!("member {n}: etcdctl exec-watch"), &expected, &got);
        align(sites);
    }

    fn members(&mut self, sites: &[Site; 2]) {
        let mut each = |what: &str, words: &(dyn Fn(&Site) -> Vec<String> + Sync), n: usize| {
            let [expected, got] = at_both(sites, |site| {
                let words = words(site);
                site.run(n, &words.iter().map(String::as_str).collect::<Vec<_>>())
            });
            self.compare(what, &expected, &got);
        };
        let fixed = |line: &'static str| move |_: &Site| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let of_new = |verb: &'static str, rest: &'static [&'static str]| {
            move |site: &Site| {
                let mut words = vec!["member".to_owned(), verb.to_owned(), site.member_id("unstarted")];
                words.extend(rest.iter().map(|&word| word.to_owned()));
                words
            }
        };
        for n in 0..3 {
            each("member list", &fixed("member list"), n);
            each("cluster-health", &fixed("cluster-health"), n);
        }
        each("bad URL", &fixed("member add n4 ftp://127.0.0.1:9"), 1);
        each("no port", &fixed("member add n4 http://127.0.0.1"), 1);
        let own = |site: &Site| {
            let url = format!("http://127.0.0.1:{}", site.cluster.members[0].peer_port);
            ["member", "add", "n4", &url].map(str::to_owned).to_vec()
        };
        each("a taken URL", &own, 1);
        each("member add", &fixed("member add n4 http://127.0.0.1:9"), 1);
        each("list with a member that has not started", &fixed("member list"), 2);
        each("health with it", &fixed("cluster-health"), 0);
        each("update it", &of_new("update", &["http://127.0.0.1:8"]), 2);
        each("update it to a bad URL", &of_new("update", &["http://127.0.0.1:8/x"]), 2);
        each("remove it", &of_new("remove", &[]), 0);
        each("list again", &fixed("member list"), 1);
        each("remove nobody", &fixed("member remove 1234"), 0);
        each("update nobody", &fixed("member update 1234 http://127.0.0.1:8"), 0);
    }
}

/// Runs a command that waits, and writes until it has said something.
fn waited(site: &Site, n: usize, words: &[&str], goes_on: bool) -> Said {
    let mut child: Child = site.ctls[n].start(&[&["--no-sync"], words].concat());
    let start = std::time::Instant::now();
    let out = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Read};
        let mut out = BufReader::new(out);
        let mut text = String::new();
        if goes_on {
            let _ = out.read_line(&mut text);
        } else {
            let _ = out.read_to_string(&mut text);
        }
        text
    });
    while !reader.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(60), "{words:?} waits for ever");
        site.ctls[n].run(&[&PATIENT[..], &["set", "/w/k", "same"]].concat()).ok();
        std::thread::sleep(PAUSE);
    }
    let out = reader.join().expect("the reader ends");
    if goes_on {
        child.kill().expect("the command can be killed");
    }
    let code = child.wait().expect("the command ends").code();
    // Which of the equal writes it saw is chance.
    Said { code, out: without_indexes(&mask(&out)), err: String::new() }
}

fn without_indexes(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn in_order(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The same at both sites at the same time.
fn at_both(sites: &[Site; 2], work: impl Fn(&Site) -> Said + Sync) -> [Said; 2] {
    std::thread::scope(|scope| {
        let etcd = scope.spawn(|| work(&sites[0]));
        let ours = work(&sites[1]);
        [etcd.join().expect("the command ends"), ours]
    })
}

#[tokio::test]
async fn a_session_with_etcdctl_reads_the_same_through_every_member() {
    let _turn = turn().await;
    let sites = [Site::start(Product::Etcd).await, Site::start(Product::Ours).await];
    let mut report = Report::default();
    for n in 0..3 {
        align(&sites);
        report.script(&sites, n, KEYS);
        report.waits(&sites, n);
        align(&sites);
        report.script(&sites, n, AUTH);
    }
    align(&sites);
    report.members(&sites);
    let Report { differences, compared } = report;
    assert!(
        differences.is_empty(),
        "{} of {compared} commands differ:\n{}",
        differences.len(),
        differences.join("\n\n")
    );
    println!("{compared} commands of etcdctl's API 2 say the same, through each of three members");
}
