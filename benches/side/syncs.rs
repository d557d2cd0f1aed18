//! Proof that both products sync before they answer: system calls counted while one client puts.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::cluster::Cluster;
use super::load::{Load, Operation};

/// Counts `fsync` and `fdatasync` of every member over two seconds of puts by one client, with strace.
///
/// # Errors
/// strace is missing or may not attach; without it durability is not shown and the benchmark says so by failing.
pub async fn count(cluster: &Cluster) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut tracers = Vec::new();
    for pid in cluster.pids() {
        let output = folder.path().join(pid.to_string());
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range", "-p", &pid.to_string(), "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("start strace to count syncs: {error}; install strace"))?;
        tracers.push((tracer, output));
    }
    let load = Load { operation: Operation::Put, clients: 1, length: Duration::from_secs(2) };
    let connections = cluster.connect(1).await?;
    let seen = load.run(&connections, || {}).await?;
    let mut counts = Vec::new();
    for (mut tracer, output) in tracers {
        // strace detaches on SIGINT and leaves the member running.
        let pid = nix::unistd::Pid::from_raw(tracer.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).map_err(|error| error.to_string())?;
        tracer.wait().map_err(|error| error.to_string())?;
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        counts.push(
            text.lines().filter(|line| line.contains("sync(") && !line.contains("unfinished")).count()
                + text.lines().filter(|line| line.contains("sync resumed")).count(),
        );
    }
    let total: usize = counts.iter().sum();
    let name = cluster.product().name();
    if total == 0 {
        return Err(format!("{name}: strace saw no sync at all while {} puts were answered", seen.operations));
    }
    let quorum = counts.iter().filter(|&&syncs| syncs as u64 >= seen.operations).count();
    Ok(format!(
        "{name:>5}: {} puts one after another under strace, syncs per member {counts:?}; {quorum} of 3 members synced at least once per put",
        seen.operations
    ))
}
