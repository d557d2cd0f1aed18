//! The demo's etcdctl part, with Debian's own etcdctl: API 2 with the variables of the product's
//! documentation, then API 3.

use std::path::Path;
use std::time::{Duration, Instant};

use super::steps::Shell;

/// How long a watch may take to show a change.
const WATCH_LIMIT: Duration = Duration::from_secs(20);

/// How long one change is given before it is made again; a watch started a moment ago may not be registered yet.
const WATCH_STEP: Duration = Duration::from_secs(2);

/// Members, health, keys and a watch over HTTP.
pub fn api_2(dir: &Path, addresses: &[String]) -> Result<(), String> {
    println!("== etcdctl, API 2 ==\n");
    let mut shell = Shell::new(dir);
    shell.export("ETCDCTL_KEY_FILE", "clientkey.pem");
    shell.export("ETCDCTL_CERT_FILE", "clientcert.pem");
    shell.export("ETCDCTL_CA_FILE", "ca.pem");
    shell.export("ETCDCTL_ENDPOINT", &format!("https://{}:2379", addresses.first().ok_or("there are no units")?));
    shell.export("ETCDCTL_API", "2");
    println!();
    let members = shell.run("etcdctl member list", None)?;
    expect("member list", &members, "name=", addresses.len())?;
    expect("member list", &members, "isLeader=true", 1)?;
    let health = shell.run("etcdctl cluster-health", None)?;
    expect("cluster-health", &health, "is healthy", addresses.len() + 1)?;
    expect("set", &shell.run("etcdctl set /demo/greeting \"hello from API 2\"", None)?, "hello from API 2", 1)?;
    expect("get", &shell.run("etcdctl get /demo/greeting", None)?, "hello from API 2", 1)?;
    shell.run("etcdctl set /demo/second 2", None)?;
    expect("ls", &shell.run("etcdctl ls --recursive /demo", None)?, "/demo/", 2)?;
    watch(&shell, "etcdctl watch /demo/watched", "etcdctl set /demo/watched fired", "fired")
}

/// Keys, transactions, watches, leases and members over gRPC.
pub fn api_3(dir: &Path, addresses: &[String]) -> Result<(), String> {
    println!("== etcdctl, API 3 ==\n");
    let endpoints: Vec<String> = addresses.iter().map(|address| format!("https://{address}:2379")).collect();
    let mut shell = Shell::new(dir);
    shell.export("ETCDCTL_API", "3");
    shell.export("ETCDCTL_KEY", "clientkey.pem");
    shell.export("ETCDCTL_CERT", "clientcert.pem");
    shell.export("ETCDCTL_CACERT", "ca.pem");
    shell.export("ETCDCTL_ENDPOINTS", &endpoints.join(","));
    println!();
    for key in ["one", "two"] {
        expect("put", &shell.run(&format!("etcdctl put demo/{key} {key}"), None)?, "OK", 1)?;
    }
    expect("get", &shell.run("etcdctl get --prefix demo/", None)?, "demo/", 2)?;
    let transaction = "value(\"demo/one\") = \"one\"\n\nput demo/one changed\n\nput demo/one unexpected\n\n";
    expect("txn", &shell.run("etcdctl txn", Some(transaction))?, "SUCCESS", 1)?;
    expect("get", &shell.run("etcdctl get demo/one", None)?, "changed", 1)?;
    watch(&shell, "etcdctl watch --prefix demo/watched", "etcdctl put demo/watched/it fired", "fired")?;
    lease(&shell)?;
    let table = shell.run("etcdctl member list -w table", None)?;
    expect("member list", &table, "started", addresses.len())?;
    let health = shell.run("etcdctl endpoint health --cluster", None)?;
    expect("endpoint health", &health, "is healthy", addresses.len())
}

fn lease(shell: &Shell) -> Result<(), String> {
    let granted = shell.run("etcdctl lease grant 60", None)?;
    let id = granted.split_whitespace().nth(1).filter(|word| word.len() >= 8);
    let id = id.ok_or_else(|| format!("lease grant gave no id: {granted}"))?;
    expect("put", &shell.run(&format!("etcdctl put --lease={id} demo/leased here"), None)?, "OK", 1)?;
    let alive = shell.run(&format!("etcdctl lease keep-alive --once {id}"), None)?;
    expect("lease keep-alive", &alive, "keepalived with TTL(60)", 1)?;
    let left = shell.run(&format!("etcdctl lease timetolive --keys {id}"), None)?;
    expect("lease timetolive", &left, "demo/leased", 1)?;
    expect("lease revoke", &shell.run(&format!("etcdctl lease revoke {id}"), None)?, "revoked", 1)?;
    let gone = shell.run("etcdctl get demo/leased", None)?;
    if gone.trim().is_empty() { Ok(()) } else { Err(format!("the key outlived its lease: {gone}")) }
}

/// Starts a watch, changes the key until the watch shows it.
fn watch(shell: &Shell, watcher: &str, change: &str, sign: &str) -> Result<(), String> {
    let mut running = shell.background(watcher)?;
    let deadline = Instant::now() + WATCH_LIMIT;
    running.collect(Duration::from_millis(500));
    while !running.output.contains(sign) {
        if Instant::now() > deadline {
            return Err(format!("`{watcher}` showed nothing within {} s", WATCH_LIMIT.as_secs()));
        }
        shell.run(change, None)?;
        running.collect(WATCH_STEP);
    }
    println!("the watch shows:\n{}", running.output);
    Ok(())
}

/// `output` must hold `text` exactly `times` times.
fn expect(step: &str, output: &str, text: &str, times: usize) -> Result<(), String> {
    let found = output.matches(text).count();
    if found == times {
        Ok(())
    } else {
        Err(format!("`{step}`: expected {text:?} {times} times, found it {found} times"))
    }
}
