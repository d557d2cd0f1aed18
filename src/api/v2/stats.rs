//! `/v2/stats`: this member, its followers, and counts of operations.
//!
//! Counts are of this member's own answers since it started, as in etcd; exact values are not contract.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use http::{Method, Response, StatusCode};

use super::{V2, json, message, only, render, unix_now};
use crate::model::v2::types::{UnixNanos, Verb};

const GET: &[Method] = &[Method::GET];

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
            Verb::Sync | Verb::Expire => {}
        }
    }
}

/// `/v2/stats/store`.
pub(super) fn store(v2: &Arc<V2>, method: &Method) -> Response<Body> {
    only(GET, method, || {
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
        let expired = v2.hub.expired();
        let _ = write!(out, "\"expireCount\":{expired},\"watchers\":{}}}", v2.hub.waiting());
        json(StatusCode::OK, out)
    })
}

/// `/v2/stats/self`.
pub(super) fn own(v2: &Arc<V2>, method: &Method) -> Response<Body> {
    only(GET, method, || {
        let status = v2.state.consensus.status();
        let members = v2.state.consensus.members();
        let name = members.iter().find(|info| info.id == status.id).map(|info| info.member.name.clone());
        let since = v2.led_since();
        let mut out = String::from("{\"name\":");
        render::text(&mut out, &name.unwrap_or_default());
        let state = if status.is_leader { "StateLeader" } else { "StateFollower" };
        let leader = status.leader.map(|id| format!("{id:x}")).unwrap_or_default();
        let _ = write!(
            out,
            ",\"id\":\"{:x}\",\"state\":\"{state}\",\"startTime\":\"{}\",\"leaderInfo\":{{\"leader\":\"{leader}\",\"uptime\":\"{}\",\"startTime\":\"{}\"}},\"recvAppendRequestCnt\":0,\"sendAppendRequestCnt\":0}}",
            status.id,
            render::rfc3339(v2.started),
            go_duration(unix_now().saturating_sub(since)),
            render::rfc3339(since),
        );
        json(StatusCode::OK, out)
    })
}

/// `/v2/stats/leader`, answered by the leader only.
pub(super) fn leader(v2: &Arc<V2>, method: &Method) -> Response<Body> {
    only(GET, method, || {
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
    })
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
    fn durations_read_as_go_prints_them() {
        assert_eq!(go_duration(2_030_000_000), "2.03s");
        assert_eq!(go_duration(192_660_000_000), "3m12.66s");
        assert_eq!(go_duration(3_600_000_000_000), "1h0m0.00s");
    }
}
