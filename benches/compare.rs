//! Side by side with Debian's etcd: the same topology, the same client, interleaved rounds on one machine.
//!
//! `make bench` runs it. `BENCH_ROUNDS`, `BENCH_SECONDS`, `BENCH_ONLY` (a part of a workload's name) and `BENCH_TLS`
//! (`off`, `on`, or `auth`: on, and v3's authentication too) narrow it. Every figure that is quoted anywhere comes from
//! this program's output.

mod side;

use std::time::Duration;

use side::cluster::{Cluster, Mode, Product};
use side::load::{Load, Operation};
use side::report::{Report, Round};
use side::v2;

struct Workload {
    name: &'static str,
    operation: Operation,
    clients: usize,
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "put, 1 client", operation: Operation::Put, clients: 1 },
    Workload { name: "put, 64 clients", operation: Operation::Put, clients: 64 },
    Workload { name: "put, 512 clients", operation: Operation::Put, clients: 512 },
    Workload { name: "linearizable get, 512 clients", operation: Operation::LinearizableGet, clients: 512 },
    Workload { name: "serializable get, 512 clients", operation: Operation::SerializableGet, clients: 512 },
];

/// A workload of the v2 API: each connection sends one request after another.
struct V2Workload {
    name: &'static str,
    operation: v2::Operation,
    connections: usize,
}

const V2_WORKLOADS: &[V2Workload] = &[
    V2Workload { name: "v2 set, 64 connections", operation: v2::Operation::Set, connections: 64 },
    V2Workload { name: "v2 set, 512 connections", operation: v2::Operation::Set, connections: 512 },
    V2Workload { name: "v2 get, 64 connections", operation: v2::Operation::Get, connections: 64 },
    V2Workload { name: "v2 get, 512 connections", operation: v2::Operation::Get, connections: 512 },
    V2Workload { name: "v2 quorum get, 512 connections", operation: v2::Operation::QuorumGet, connections: 512 },
];

fn main() {
    // `cargo bench` passes `--bench`; nothing here is a flag.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for the client");
    let outcome = runtime.block_on(async {
        for mode in modes()? {
            compare(mode).await?;
        }
        Ok::<(), String>(())
    });
    if let Err(error) = outcome {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

fn modes() -> Result<Vec<Mode>, String> {
    let Ok(wanted) = std::env::var("BENCH_TLS") else { return Ok(Mode::ALL.to_vec()) };
    let mode = Mode::ALL.into_iter().find(|mode| mode.name() == wanted);
    mode.map(|mode| vec![mode]).ok_or_else(|| format!("BENCH_TLS={wanted}: it is off, on or auth"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn compare(mode: Mode) -> Result<(), String> {
    let rounds = number("BENCH_ROUNDS", 5);
    let length = Duration::from_secs(number("BENCH_SECONDS", 5));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    println!("\n== three members on loopback, TLS {} ==", mode.description());
    let etcd = Cluster::start(Product::Etcd, mode).await?;
    let ours = Cluster::start(Product::Ours, mode).await?;
    for workload in WORKLOADS.iter().filter(|workload| workload.name.contains(&only)) {
        let mut report = Report::new(workload.name);
        for round in 0..rounds {
            let order = if round % 2 == 0 { [&etcd, &ours] } else { [&ours, &etcd] };
            for cluster in order {
                let load = Load { operation: workload.operation, clients: workload.clients, length };
                report.add(cluster.product(), Round::measure(cluster, &load).await?);
            }
        }
        report.print();
    }
    // v2 has users of its own, and asks them for their password with every request.
    if mode != Mode::Auth {
        compare_v2(&etcd, &ours, rounds, length, &only).await?;
    }
    for cluster in [&etcd, &ours] {
        println!("{}", side::syncs::count(cluster).await?);
    }
    for cluster in [&etcd, &ours] {
        println!(
            "{:>5}: peak memory per member {:?} MiB, database directories {:?} MiB",
            cluster.product().name(),
            cluster.peak_mib(),
            cluster.disk_mib()
        );
    }
    Ok(())
}

async fn compare_v2(etcd: &Cluster, ours: &Cluster, rounds: u64, length: Duration, only: &str) -> Result<(), String> {
    let workloads: Vec<_> = V2_WORKLOADS.iter().filter(|workload| workload.name.contains(only)).collect();
    if workloads.is_empty() {
        return Ok(());
    }
    for cluster in [etcd, ours] {
        v2::fill(cluster).await.map_err(|error| format!("{}: {error}", cluster.product().name()))?;
    }
    for workload in workloads {
        let mut report = Report::new(workload.name);
        for round in 0..rounds {
            let order = if round % 2 == 0 { [etcd, ours] } else { [ours, etcd] };
            for cluster in order {
                let load = v2::Load { operation: workload.operation, connections: workload.connections, length };
                report.add(cluster.product(), Round::measure_v2(cluster, &load).await?);
            }
        }
        report.print();
    }
    Ok(())
}
