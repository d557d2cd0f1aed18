//! `/v2/stats`: this member, its followers, and counts of operations.
//!
//! Counts are of this member's own answers since it started, as in etcd; exact values are not contract.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use parking_lot::Mutex;

use super::{V2, json, message, render, unix_now};
use crate::api::body::ClientBody;
use crate::model::v2::types::{UnixNanos, Verb};

/// Successes and failures of one kind of operation.
#[derive(Debug, Default)]
pub(super) struct Pair {
    success: AtomicU64,
    fail: AtomicU64,
}

impl Pair {
    pub(super) fn count(&self, success: bool) {
        let counter = if success { &self.success } else { &self.fail };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Operations this member answered.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) gets: Pair,
    sets: Pair,
    deletes: Pair,
    updates: Pair,
    creates: Pair,
    swaps: Pair,
    conditional_deletes: Pair,
}

impl Counters {
    /// Counts a mutation.
    pub(super) fn mutation(&self, verb: Verb, success: bool) {
        match verb {
            Verb::Set => self.sets.count(success),
            Verb::Create | Verb::CreateInOrder => self.creates.count(success),
            Verb::Update => self.updates.count(success),
            Verb::CompareAndSwap => self.swaps.count(success),
            Verb::Delete => self.deletes.count(success),
            Verb::CompareAndDelete => self.conditional_deletes.count(success),
            Verb::Sync | Verb::Expire | Verb::Auth => {}
        }
    }
}

/// `/v2/stats/store`.
pub(super) fn store(v2: &Arc<V2>) -> Response<ClientBody> {
    let counters = &v2.counters;
    let pairs = [
        ("gets", &counters.gets),
        ("sets", &counters.sets),
        ("delete", &counters.deletes),
        ("update", &counters.updates),
        ("create", &counters.creates),
        ("compareAndSwap", &counters.swaps),
        ("compareAndDelete", &counters.conditional_deletes),
    ];
    let mut out = String::from("{");
    for (name, pair) in pairs {
        let (success, fail) = (pair.success.load(Ordering::Relaxed), pair.fail.load(Ordering::Relaxed));
        let _ = write!(out, "\"{name}Success\":{success},\"{name}Fail\":{fail},");
    }
    let hub = v2.hub.stats();
    let (expired, waiting) = (hub.expired.load(Ordering::Relaxed), hub.waiting.load(Ordering::Relaxed));
    let _ = write!(out, "\"expireCount\":{expired},\"watchers\":{waiting}}}");
    json(StatusCode::OK, out)
}

/// Counts of appends when `/v2/stats/self` was last asked for: what its rates are counted from.
#[derive(Debug)]
pub(super) struct Rates(Mutex<Sample>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    sent: [u64; 2],
    received: [u64; 2],
}

/// Shortest time over which a rate is counted.
const RATE_OVER: Duration = Duration::from_secs(1);

impl Rates {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Sample { at: Instant::now(), sent: [0; 2], received: [0; 2] }))
    }

    /// The counts as JSON fields of etcd's: requests, and where they are not zero requests and bytes per second since
    /// the last look that is at least a second old.
    fn fields(&self, now: Sample) -> String {
        let mut last = self.0.lock();
        let seconds = now.at.duration_since(last.at).as_secs_f64();
        let mut out = String::new();
        for (name, counts, before) in [("recv", now.received, last.received), ("send", now.sent, last.sent)] {
            let _ = write!(out, ",\"{name}AppendRequestCnt\":{}", counts[0]);
            let grown = [counts[0] - before[0], counts[1] - before[1]];
            if grown[0] > 0 && seconds > 0.0 {
                let (requests, bytes) = (grown[0] as f64 / seconds, grown[1] as f64 / seconds);
                let _ = write!(out, ",\"{name}PkgRate\":{requests:.6},\"{name}BandwidthRate\":{bytes:.6}");
            }
        }
        if now.at.duration_since(last.at) >= RATE_OVER {
            *last = now;
        }
        out
    }
}

fn appends(v2: &V2) -> Sample {
    let appends = v2.state.consensus.peers().appends();
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Sample {
        at: Instant::now(),
        sent: [read(&appends.sent), read(&appends.sent_bytes)],
        received: [read(&appends.received), read(&appends.received_bytes)],
    }
}

/// `/v2/stats/self`.
pub(super) fn own(v2: &Arc<V2>) -> Response<ClientBody> {
    let status = v2.state.consensus.status();
    let members = v2.state.consensus.members();
    let name = members.iter().find(|info| info.id == status.id).map(|info| info.member.name.clone());
    let since = v2.led_since();
    let mut out = String::from("{\"name\":");
    render::text(&mut out, &name.unwrap_or_default());
    let state = match (status.is_leader, status.is_candidate) {
        (true, _) => "StateLeader",
        (false, true) => "StateCandidate",
        (false, false) => "StateFollower",
    };
    let leader = status.leader.map(|id| format!("{id:x}")).unwrap_or_default();
    let _ = write!(
        out,
        ",\"id\":\"{:x}\",\"state\":\"{state}\",\"startTime\":\"{}\",\"leaderInfo\":{{\"leader\":\"{leader}\",\"uptime\":\"{}\",\"startTime\":\"{}\"}}{}}}",
        status.id,
        render::rfc3339(v2.started),
        go_duration(unix_now().saturating_sub(since)),
        render::rfc3339(since),
        v2.rates.fields(appends(v2)),
    );
    json(StatusCode::OK, out)
}

/// `/v2/stats/leader`, answered by the leader only.
pub(super) fn leader(v2: &Arc<V2>) -> Response<ClientBody> {
    let status = v2.state.consensus.status();
    if !status.is_leader {
        return message(StatusCode::FORBIDDEN, "not current leader");
    }
    let mut out = format!("{{\"leader\":\"{:x}\",\"followers\":{{", status.id);
    let others = v2.state.consensus.members().into_iter().filter(|info| info.id != status.id);
    for (place, info) in others.enumerate() {
        let comma = if place > 0 { "," } else { "" };
        let peer = v2.state.consensus.peers().get(info.id);
        let trips = peer.map(|peer| peer.traffic.trips()).unwrap_or_default();
        let _ = write!(
            out,
            "{comma}\"{:x}\":{{\"latency\":{{\"current\":{:.6},\"average\":{:.6},\"standardDeviation\":{:.6},\"minimum\":{:.6},\"maximum\":{:.6}}},\"counts\":{{\"fail\":{},\"success\":{}}}}}",
            info.id,
            trips.current_ms,
            trips.average_ms(),
            trips.deviation_ms(),
            trips.minimum_ms,
            trips.maximum_ms,
            trips.failures,
            trips.count,
        );
    }
    out.push_str("}}");
    json(StatusCode::OK, out)
}

/// A duration as Go prints it, to the hundredth of a second: `3m12.66s`.
fn go_duration(nanos: UnixNanos) -> String {
    let hundredths = nanos.max(0) / 10_000_000;
    let (hours, minutes) = (hundredths / 360_000, hundredths / 6000 % 60);
    let seconds = format!("{}.{:02}", hundredths / 100 % 60, hundredths % 100);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_counted_since_the_last_look_and_left_out_while_zero() {
        let rates = Rates::new();
        let start = rates.0.lock().at;
        let at = |seconds: u64, sent: u64| Sample {
            at: start + Duration::from_secs(seconds),
            sent: [sent, sent * 100],
            received: [0; 2],
        };
        let none = ",\"recvAppendRequestCnt\":0,\"sendAppendRequestCnt\":0";
        assert_eq!(rates.fields(at(0, 0)), none);
        let some = ",\"recvAppendRequestCnt\":0,\"sendAppendRequestCnt\":20,\"sendPkgRate\":2.000000,\"sendBandwidthRate\":200.000000";
        assert_eq!(rates.fields(at(10, 20)), some);
        assert!(rates.fields(at(12, 30)).contains("\"sendPkgRate\":5.0"));
        assert!(!rates.fields(at(20, 30)).contains("sendPkgRate"));
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        assert_eq!(go_duration(2_030_000_000), "2.03s");
        assert_eq!(go_duration(192_660_000_000), "3m12.66s");
        assert_eq!(go_duration(3_600_000_000_000), "1h0m0.00s");
    }
}
