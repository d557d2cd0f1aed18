//! One measured round, and the medians that are printed.

use std::fs;

use super::cluster::{Cluster, Product};
use super::load::{Load, Seen};
use super::v2;

/// Share of stolen time above which a round does not count, percent.
const STEAL_LIMIT: f64 = 2.0;

/// What one round of one product cost.
pub struct Round {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    server_us: f64,
    client_us: f64,
    written: f64,
    errors: u64,
    steal: f64,
}

struct Reading {
    server_ticks: u64,
    client_ticks: u64,
    written: u64,
    all_ticks: u64,
    steal_ticks: u64,
}

impl Reading {
    fn take(cluster: &Cluster) -> Self {
        let pids = cluster.pids();
        let cpu = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> = cpu
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        Self {
            server_ticks: pids.iter().map(|pid| ticks(&pid.to_string())).sum(),
            client_ticks: ticks("self"),
            written: cluster.device_bytes(),
            all_ticks: fields.iter().take(8).sum(),
            steal_ticks: fields.get(7).copied().unwrap_or(0),
        }
    }
}

/// User and system time of a process, clock ticks of 10 ms.
fn ticks(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split(' ').collect();
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

impl Round {
    pub async fn measure(cluster: &Cluster, load: &Load) -> Result<Self, String> {
        let connections = cluster.connect(load.connections()).await?;
        let mut before = None;
        let seen = load.run(&connections, || before = Some(Reading::take(cluster))).await?;
        Self::of(cluster, &seen, before)
    }

    pub async fn measure_v2(cluster: &Cluster, load: &v2::Load) -> Result<Self, String> {
        let mut before = None;
        let seen = load.run(cluster, || before = Some(Reading::take(cluster))).await?;
        Self::of(cluster, &seen, before)
    }

    fn of(cluster: &Cluster, seen: &Seen, before: Option<Reading>) -> Result<Self, String> {
        const TICK_US: f64 = 10_000.0;
        let (before, after) = (before.ok_or("the measured part never began")?, Reading::take(cluster));
        if seen.operations == 0 {
            return Err(format!("{} completed no operation ({} errors)", cluster.product().name(), seen.errors));
        }
        let operations = seen.operations as f64;
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        Ok(Self {
            per_second: operations / seen.elapsed.as_secs_f64(),
            p50_ms: seen.latency.value_at_quantile(0.5) as f64 / 1000.0,
            p99_ms: seen.latency.value_at_quantile(0.99) as f64 / 1000.0,
            server_us: (after.server_ticks - before.server_ticks) as f64 * TICK_US / operations,
            client_us: (after.client_ticks - before.client_ticks) as f64 * TICK_US / operations,
            written: (after.written - before.written) as f64 / operations,
            errors: seen.errors,
            steal: share(after.steal_ticks - before.steal_ticks, after.all_ticks - before.all_ticks),
        })
    }
}

/// All rounds of one workload.
pub struct Report {
    name: &'static str,
    etcd: Vec<Round>,
    ours: Vec<Round>,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, etcd: Vec::new(), ours: Vec::new() }
    }

    pub fn add(&mut self, product: Product, round: Round) {
        match product {
            Product::Etcd => self.etcd.push(round),
            Product::Ours => self.ours.push(round),
        }
    }

    pub fn print(&self) {
        println!("\n{}", self.name);
        for (product, rounds) in [("etcd", &self.etcd), ("ours", &self.ours)] {
            let errors: u64 = rounds.iter().map(|round| round.errors).sum();
            println!(
                "  {product}: {:>8.0} op/s  p50 {:>7.2} ms  p99 {:>7.2} ms  server CPU {:.4} s per 1,000  client CPU {:.4} s  device {:.0} B/op  errors {errors}",
                median(rounds, |round| round.per_second),
                median(rounds, |round| round.p50_ms),
                median(rounds, |round| round.p99_ms),
                median(rounds, |round| round.server_us) / 1000.0,
                median(rounds, |round| round.client_us) / 1000.0,
                median(rounds, |round| round.written),
            );
        }
        let pairs: Vec<(&Round, &Round)> = self
            .etcd
            .iter()
            .zip(&self.ours)
            .filter(|(etcd, ours)| etcd.steal < STEAL_LIMIT && ours.steal < STEAL_LIMIT)
            .collect();
        let ratio = |field: fn(&Round) -> f64| {
            let mut ratios: Vec<f64> = pairs.iter().map(|(etcd, ours)| field(ours) / field(etcd)).collect();
            ratios.sort_by(f64::total_cmp);
            match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
                (Some(low), Some(middle), Some(high)) => format!("{middle:.2} ({low:.2}..{high:.2})"),
                _ => "no quiet round".to_owned(),
            }
        };
        println!(
            "  ours / etcd: throughput {}  server CPU {}  p50 {}  p99 {}  [{} of {} rounds counted]",
            ratio(|round| round.per_second),
            ratio(|round| round.server_us),
            ratio(|round| round.p50_ms),
            ratio(|round| round.p99_ms),
            pairs.len(),
            self.etcd.len(),
        );
    }
}

fn median(rounds: &[Round], field: fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(field).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
