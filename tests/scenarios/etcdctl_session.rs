//! Every subcommand of `etcdctl` against three members of etcd with TLS, then of us on the same ports: member ids follow
//! from the ports, so even they must be the same.
//!
//! `ETCD_CTL` names another client and `ETCD_CONTROL` another server to compare with; [`EXPLAINED`] lists what may differ.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::auth::SESSION;
use super::etcdctl::V3;
use super::etcdctl_words::{ALARMED, AUTH, CLUSTER, DATA, EXPLAINED, LEARNER, OFFLINE, STARTED_LEARNER, UNSTARTED};
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::{Ctl, Said};
use crate::harness::member::Product;
use crate::harness::secure::{Secure, lasting_ports, url};
use crate::harness::wait::{turn, until};

const LINE_LIMIT: Duration = Duration::from_secs(20);
/// What has said everything that it will say was silent for so long.
const PAUSE_AT_END: Duration = Duration::from_secs(2);
/// What is to stay silent was silent for so long.
const SILENCE: Duration = Duration::from_millis(700);

/// Everything `etcdctl` said to one cluster.
struct Session {
    cluster: Secure,
    ctl: Ctl,
    /// Words of the script and what they stand for here.
    names: Vec<(String, String)>,
    said: Vec<(String, Said)>,
}

/// A command that goes on until it is told to end.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LINE_LIMIT).unwrap_or_else(|error| format!("no line: {error}"))
    }

    fn take(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// All lines up to the first pause.
    fn until_silent(&self) -> Vec<String> {
        let mut lines = vec![self.line()];
        while let Ok(line) = self.lines.recv_timeout(PAUSE_AT_END) {
            lines.push(line);
        }
        lines
    }

    fn assert_silent(&self) {
        assert_eq!(self.lines.recv_timeout(SILENCE), Err(RecvTimeoutError::Timeout));
    }

    /// Ctrl-C, then how it ended and what it said before that, after `taken`.
    fn interrupt(self, taken: Vec<String>) -> Said {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).expect("it can be signalled");
        self.end(taken)
    }

    /// Its end by itself.
    fn end(mut self, mut taken: Vec<String>) -> Said {
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > LINE_LIMIT {
                self.child.kill().expect("it can be killed");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let code = self.child.wait().expect("it ended").code();
        taken.extend(self.lines.iter());
        let mut err = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
        Said { code, out: taken.join("\n"), err }
    }
}

impl Session {
    async fn start(product: Product, ports: &[(u16, u16)], extra: &[&str]) -> Self {
        let cluster = Secure::start(product, ports, extra).await;
        let ctl = cluster.ctl(&cluster.endpoints());
        let mut session = Self { ctl, names: Vec::new(), said: Vec::new(), cluster };
        session.name("FOLDER", &session.cluster.folder.path().display().to_string());
        for (n, pair) in ports.iter().enumerate() {
            session.name(&format!("URL{n}"), &url(pair.0));
            session.name(&format!("PEER{n}"), &url(pair.1));
        }
        session.first_leads().await;
        session
    }

    /// Moves the lead to the first member, so that it does not depend on the election whom a command meets.
    async fn first_leads(&self) {
        until("the first member leads", START_LIMIT, || async {
            let status = self.ctl.run(&["endpoint", "status"]).ok();
            let leads = |line: &str| line.split(", ").nth(4) == Some("true");
            if status.lines().next().is_some_and(leads) {
                return Ok(());
            }
            let id = status.lines().next().and_then(|line| line.split(", ").nth(1)).unwrap_or_default();
            Err(format!("{:?}", self.ctl.run(&["move-leader", id])))
        })
        .await;
    }

    fn name(&mut self, name: &str, value: &str) {
        self.names.retain(|(known, _)| known != name);
        self.names.push((name.to_owned(), value.to_owned()));
    }

    fn fill(&self, word: &str) -> String {
        self.names.iter().fold(word.replace("%20", " "), |text, (name, value)| text.replace(name, value))
    }

    /// Who says it and the words; etcdctl does not want its endpoints named twice, so `--endpoints` chooses who.
    fn words(&self, command: &str) -> (Ctl, Vec<String>) {
        let mut words: Vec<String> = command.split(' ').map(|word| self.fill(word)).collect();
        let Some(at) = words.iter().position(|word| word == "--endpoints") else { return (self.ctl.clone(), words) };
        let ctl = self.cluster.ctl(&words[at + 1]);
        words.drain(at..at + 2);
        (ctl, words)
    }

    fn run(&self, command: &str, input: &str) -> Said {
        let (ctl, words) = self.words(command);
        ctl.run_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), &self.fill(&input.replace("\\n", "\n")))
    }

    fn note(&mut self, line: &str, said: Said) {
        // Above its error, etcdctl logs what it tried, with times and random names.
        let err = said.err.lines().filter(|line| !line.starts_with('{') && line.contains("rror"));
        let err = err.collect::<Vec<_>>().join("\n");
        let said =
            Said { code: said.code, out: mask(line, &self.unfill(&said.out)), err: mask(line, &self.unfill(&err)) };
        self.said.push((line.to_owned(), said));
    }

    /// Values back to the names of the script.
    fn unfill(&self, text: &str) -> String {
        let named = self.names.iter().filter(|(name, _)| name != "REV");
        named.fold(text.to_owned(), |text, (name, value)| text.replace(value, name))
    }

    /// One command a line; after ` < ` the standard input. What grants a lease or adds a member names it.
    fn play(&mut self, script: &str) {
        for line in script.lines().filter(|line| !line.is_empty()) {
            let (command, input) = line.split_once(" < ").unwrap_or((line, ""));
            let said = self.run(command, input);
            let second = said.out.split_whitespace().nth(1).unwrap_or("none").to_owned();
            if line.starts_with("lease grant") && !line.contains("-w") && said.code == Some(0) {
                self.name("LEASE", &second);
            }
            self.note(line, said);
        }
    }

    /// Plays one command again until it succeeds: fresh members refuse changes for some seconds.
    async fn settled(&mut self, line: &str) {
        let said = until(line, START_LIMIT, || async {
            let said = self.run(line, "");
            if said.code == Some(0) { Ok(said) } else { Err(said.err) }
        })
        .await;
        if line.starts_with("member add") {
            let id = said.out.split_whitespace().nth(1).expect("Member ID added").to_owned();
            self.name("ADDED", &id);
        }
        self.note(line, said);
    }

    fn running(&self, command: &str) -> Running {
        let (ctl, words) = self.words(command);
        Running::new(ctl.start(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Quietly, for what another command is to notice.
    fn quietly(&self, command: &str) {
        let said = self.run(command, "");
        assert_eq!(said.code, Some(0), "{command}: {said:?}");
    }

    /// The next revision becomes `REV`.
    fn mark_revision(&mut self) {
        let said = self.run("get none -w json", "").out;
        let number = said.split("\"revision\":").nth(1).expect("a header").split([',', '}']).next().expect("a number");
        self.name("REV", &(number.parse::<i64>().expect("a revision") + 1).to_string());
    }

    fn watches(&mut self) {
        self.mark_revision();
        for command in ["put w/1 a", "put w/1 b", "put w/2 c", "del w/1", "put w/3 d", "del w --prefix"] {
            self.quietly(command);
        }
        let watches = [
            "watch w --prefix --rev REV",
            "watch w --prefix --prev-kv --rev REV",
            "watch w/1 --rev REV",
            "watch w/1 w/3 --rev REV",
            "watch w/1 --hex --rev REV",
            "watch w/1 --rev REV -w fields",
            "watch w/1 --rev REV --prev-kv -w json",
            "watch w/1 --rev REV -- sh -c env|grep%20ETCD_WATCH_|sort",
        ];
        for line in watches {
            let running = self.running(line);
            let taken = running.until_silent();
            let said = running.interrupt(taken);
            self.note(line, said);
        }
        let mut child = self.ctl.start_to_talk(&["watch", "-i"]);
        let mut input = child.stdin.take().expect("a pipe");
        let running = Running::new(child);
        let mut taken = Vec::new();
        for words in ["watch w/1 --rev REV", "watch w/2 w/3 --rev REV", "progress"] {
            input.write_all(format!("{}\n", self.fill(words)).as_bytes()).expect("it listens");
            taken.extend(running.until_silent());
        }
        drop(input);
        let said = running.end(taken);
        self.note("watch -i", said);
    }

    fn locks(&mut self) {
        let first = self.running("lock l2 --ttl 5");
        let taken = first.take(1);
        let second = self.running("lock l2");
        second.assert_silent();
        let said = first.interrupt(taken);
        self.note("lock l2 --ttl 5, interrupted", said);
        let taken = second.take(1);
        let said = second.interrupt(taken);
        self.note("lock l2, granted after that", said);

        let first = self.running("elect e one");
        let won = first.take(2);
        let observer = self.running("elect e -l");
        let mut seen = observer.take(2);
        let second = self.running("elect e two");
        second.assert_silent();
        let said = first.interrupt(won);
        self.note("elect e one, interrupted", said);
        let won = second.take(2);
        seen.extend(observer.take(2));
        let said = second.interrupt(won);
        self.note("elect e two, elected after that", said);
        let said = observer.interrupt(seen);
        self.note("elect e -l", said);

        self.play("lease grant 12");
        let alive = self.running("lease keep-alive LEASE");
        let taken = alive.take(2);
        self.quietly("lease revoke LEASE");
        let said = alive.end(taken);
        self.note("lease keep-alive LEASE, revoked", said);
    }

    async fn mirrors(&mut self, ports: (u16, u16)) {
        let other = Secure::start(self.cluster.members[0].product, &[ports], &[]).await;
        let file = |path: &std::path::Path| path.display().to_string();
        let dest = format!(
            "--dest-insecure-transport=false --dest-cacert {} --dest-cert {} --dest-key {} {}",
            file(other.authority()),
            file(&other.client.certificate),
            file(&other.client.key),
            other.endpoint(0)
        );
        self.quietly("put mirror/a 1");
        let there = other.ctl(&other.endpoints());
        for (how, last) in [
            ("--prefix mirror/", "mirror/"),
            ("--prefix mirror/ --no-dest-prefix", ""),
            ("--prefix mirror/ --dest-prefix copy/", "copy/"),
        ] {
            let running = self.running(&format!("make-mirror {how} {dest}"));
            let live = format!("{last}{}", how.len());
            // The first copy, then one while the mirror runs, then a deletion.
            until("a mirrored key", LINE_LIMIT, || async { has(&there, &format!("{last}a"), true) }).await;
            self.quietly(&format!("put mirror/{} 2", how.len()));
            until("a key mirrored live", LINE_LIMIT, || async { has(&there, &live, true) }).await;
            self.quietly(&format!("del mirror/{}", how.len()));
            until("a mirrored deletion", LINE_LIMIT, || async { has(&there, &live, false) }).await;
            let said = running.interrupt(Vec::new());
            self.note(&format!("make-mirror {how}"), said);
        }
        let all = there.run(&["get", "", "--prefix"]);
        self.note("what was mirrored", all);
    }

    /// Members come and go, one of them for real.
    async fn members(&mut self, ports: (u16, u16)) {
        self.name("URL3", &url(ports.0));
        self.name("PEER3", &url(ports.1));
        self.settled("member add m3 --peer-urls https://127.0.0.1:1").await;
        // The same URLs within one second would make the same id, of which etcd speaks first.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.play(UNSTARTED);
        self.settled("member remove ADDED").await;
        self.play("member remove ADDED\nmember update ADDED --peer-urls https://127.0.0.1:3");
        self.settled("member add m3 --learner --peer-urls PEER3").await;
        self.play(LEARNER);
        let initial = ["m0=PEER0", "m1=PEER1", "m2=PEER2", "m3=PEER3"].map(|word| self.fill(word)).join(",");
        self.cluster.add(ports, &initial, "existing").start();
        until("the learner is started", START_LIMIT, || async {
            let listed = self.run("member list", "").out;
            if listed.contains("unstarted") { Err(listed) } else { Ok(()) }
        })
        .await;
        self.play(STARTED_LEARNER);
        self.settled("member promote ADDED").await;
        self.play("member promote ADDED\nmember list");
        self.cluster.healthy().await;
        self.play("get a --endpoints URL3");
        self.settled("member remove ADDED").await;
        self.play("member list");
    }

    /// An alarm as etcdctl meets it; it raises none itself.
    fn alarm(&mut self) {
        let leaf = &self.cluster.client;
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--data"]);
        command.arg(self.fill(r#"{"action":"ACTIVATE","memberID":"DEC0","alarm":"NOSPACE"}"#));
        command.arg("--cacert").arg(self.cluster.authority()).arg("--cert").arg(&leaf.certificate);
        command.arg("--key").arg(&leaf.key).arg(self.fill("URL0/v3/maintenance/alarm"));
        assert!(command.output().expect("curl starts").status.success(), "an alarm is raised");
        self.play(ALARMED);
    }
}

fn has(ctl: &Ctl, key: &str, wanted: bool) -> Result<(), String> {
    let said = ctl.run(&["get", key]).ok();
    if said.is_empty() != wanted { Ok(()) } else { Err(said) }
}

/// All of it against one product.
async fn session(product: Product, ports: &[(u16, u16)]) -> Vec<(String, Said)> {
    let mut session = Session::start(
        product,
        &ports[..3],
        &["--bcrypt-cost", "4", "--heartbeat-interval", "200", "--election-timeout", "2000"],
    )
    .await;
    for n in 0..3 {
        let status = session.run(&format!("endpoint status --endpoints URL{n}"), "").out;
        let id = status.split(", ").nth(1).expect("an id").to_owned();
        let number = u64::from_str_radix(&id, 16).expect("a hexadecimal id");
        session.name(&format!("DEC{n}"), &number.to_string());
        session.name(&format!("ID{n}"), &id);
    }
    session.play(V3);
    session.play(DATA);
    session.watches();
    session.locks();
    session.alarm();
    session.play(CLUSTER);
    session.play("move-leader ID1\nmove-leader ID1\nendpoint status");
    session.play(OFFLINE);
    session.mirrors(ports[3]).await;
    session.members(ports[3]).await;
    session.play(SESSION);
    session.play(AUTH);
    session.said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subcommand_says_the_same_of_three_members_with_tls() {
    let _turn = turn().await;
    let ports = lasting_ports(4);
    let expected = session(Product::Etcd, &ports).await;
    let got = session(Product::Ours, &ports).await;
    let version = Ctl::v3("").run(&["version"]).ok();
    let version = version.lines().next().unwrap_or_default().to_owned();
    assert_eq!(expected.len(), got.len());
    let (mut differences, mut explained) = (Vec::new(), 0);
    for ((line, expected), (_, got)) in expected.iter().zip(&got) {
        if expected == got {
            continue;
        }
        let why = EXPLAINED.iter().find_map(|known| known.explains(line, expected, got));
        if let Some(why) = why {
            explained += 1;
            println!("etcdctl {line}: {why}");
        } else {
            differences.push(format!("etcdctl {line}\netcd: {expected:#?}\nours: {got:#?}"));
        }
    }
    println!("{version}: {} commands, {explained} differ as explained, {} otherwise", got.len(), differences.len());
    assert!(differences.is_empty(), "{} commands differ:\n{}", differences.len(), differences.join("\n\n"));
}

/// The two commands that measure, at their small load, and what they say but for the figures. They judge the machine too:
/// this wants an idle one and an optimised build. `check datascale` reads `/metrics` with the authorities of the system and
/// without a certificate, so with mutual TLS it can only fail, and is made without TLS as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run with --ignored"]
async fn the_checks_of_speed_and_size_pass_as_they_do_with_etcd() {
    const PERF: &str = "check perf --auto-compact --auto-defrag";
    const SCALE: &str = "check datascale --auto-compact --auto-defrag";
    let _turn = turn().await;
    let ports = lasting_ports(3);
    let mut both = Vec::new();
    for product in [Product::Etcd, Product::Ours] {
        let session = Session::start(product, &ports, &[]).await;
        let plain = Cluster::start_in_memory(product, 1, &[]).await;
        let over_plain = Ctl::v3(plain.endpoint(0));
        let mut all = Vec::new();
        for (ctl, line) in [(&session.ctl, PERF), (&session.ctl, SCALE), (&over_plain, SCALE)] {
            let said = ctl.run_long(&line.split(' ').collect::<Vec<_>>());
            println!("{product:?} etcdctl {line}: {}", said.out);
            all.push((line, said.code, verdicts(&said.out), verdicts(&said.err)));
        }
        both.push(all);
    }
    assert_eq!(both[0], both[1]);
}

/// Lines that are not a progress bar, without numbers.
fn verdicts(text: &str) -> Vec<String> {
    let lines = text.split(['\n', '\r']).filter(|line| !line.contains('%') && !line.trim().is_empty());
    lines.map(|line| line.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()).collect()
}

/// Numbers that differ from run to run, by what stands before them.
const CHANGING: &[&str] = &[
    "\"raft_term\":",
    "\"raftTerm\":",
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"member_id\":",
    "\"hash\":",
    "\"totalKey\":",
    "\"totalSize\":",
    "\"ttl\":",
    "\"took\":\"",
    "\"version\":\"",
    "\"lease\":",
    "\"RaftTerm\" : ",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
    "\"DBSize\" : ",
    "\"DBSizeInUse\" : ",
    "\"MemberID\" : ",
    "\"Version\" : \"",
    "\"Hash\" : ",
    "\"Keys\" : ",
    "\"Size\" : ",
    "\"TTL\" : ",
    "\"Lease\" : ",
    "\"Took\" : ",
    "TTL: ",
    "remaining(",
    "took = ",
    "took ",
    "Took ",
];

/// Takes out terms, indexes, sizes, times and leases.
fn mask(command: &str, text: &str) -> String {
    if command.contains("-w protobuf") {
        return format!("binary: {}", !text.is_empty());
    }
    let mut lines: Vec<String> = text.lines().map(|line| mask_line(command, line)).collect();
    if ["member list", "endpoint", "lease list"].iter().any(|start| command.starts_with(start))
        && !command.contains("-w fields")
        || command.starts_with("lease timetolive")
    {
        lines.sort();
    }
    lines.join("\n")
}

fn mask_line(command: &str, line: &str) -> String {
    // Ids are padded in sentences, and one in sixteen is short.
    let mut line = line.replace("Member  ", "Member ").replace("cluster  ", "cluster ");
    for before in CHANGING {
        line = without(&line, before);
    }
    if let Some(list) = line.strip_prefix("ETCD_INITIAL_CLUSTER=") {
        // In the order of ids, and that of a new member follows from the time.
        let mut members: Vec<&str> = list.trim_matches('"').split(',').collect();
        members.sort_unstable();
        line = format!("ETCD_INITIAL_CLUSTER={}", members.join(","));
    }
    if command.starts_with("endpoint") || command.starts_with("snapshot status") {
        line = cells(command, &line);
    }
    leases(&in_key_order(&line))
}

/// The keys of a lease, which etcd names in the order of its map, another one each time.
fn in_key_order(line: &str) -> String {
    for (open, close, between) in [("attached keys([", "])", " "), ("\"keys\":[", "]", ",")] {
        if let Some((before, rest)) = line.split_once(open)
            && let Some((keys, after)) = rest.split_once(close)
        {
            let mut keys: Vec<&str> = keys.split(between).collect();
            keys.sort_unstable();
            return [before, open, &keys.join(between), close, after].concat();
        }
    }
    line.to_owned()
}

/// Every word after `before` becomes `N`.
fn without(line: &str, before: &str) -> String {
    let mut parts = line.split(before);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_alphanumeric() && !".-".contains(c)).unwrap_or(part.len());
        masked = masked + before + if end == 0 { "" } else { "N" } + &part[end..];
    }
    masked
}

/// A line of values, alone or in a table, without those that differ by nature.
fn cells(command: &str, line: &str) -> String {
    if line.starts_with(['+', '┌', '├', '└']) {
        return "+".to_owned();
    }
    let bars = ["|", "│"].into_iter().find(|&bar| line.starts_with(bar));
    let (separator, offset) = bars.map_or((",", 0), |bar| (bar, 1));
    let masked: &[usize] = match command.split(' ').nth(1) {
        // Version, size, term, index, applied index.
        Some("status") if command.starts_with("endpoint") => &[2, 3, 6, 7, 8],
        // Hash, number of all records, size.
        Some("status") => &[0, 2, 3],
        Some("hashkv") => &[1],
        // The time that an answer took.
        Some("health") if offset == 1 => &[2],
        _ => &[],
    };
    let cells = line.split(separator).enumerate().map(|(n, cell)| {
        let cell = cell.trim();
        let changes = masked.contains(&(n.wrapping_sub(offset)))
            && cell.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_hexdigit());
        if changes && cell.contains(|c: char| c.is_ascii_digit()) { "N" } else { cell }
    });
    cells.collect::<Vec<_>>().join(separator)
}

/// Ids of leases, hexadecimal and decimal, wherever they stand.
fn leases(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let digits = word.chars().all(|c| c.is_ascii_digit());
        let hex = word.chars().all(|c| c.is_ascii_hexdigit());
        masked += if (digits && word.len() >= 15) || (hex && word.len() >= 12) { "LONG" } else { word };
        let step = after.chars().next().map_or(0, char::len_utf8);
        masked += &after[..step];
        rest = &after[step..];
    }
    masked
}
