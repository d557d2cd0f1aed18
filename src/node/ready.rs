//! From started to ready: the member publishes itself through the log, then says so to people and to systemd.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::parts::Member;
use crate::corruption::Inconsistent;
use crate::model::command::{self, ClusterVersion, Command};
use crate::model::view::View;
use crate::raft::Consensus;
use crate::settings::CLUSTER_VERSION;
use crate::settings::ids::hex;
use crate::store::Store;

/// Between two tries to publish.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Publishes the member and announces it; then keeps what the cluster must agree on at its start. Never returns before
/// the member is told to stop.
///
/// # Errors
/// This member's data are not the others': it must not serve.
pub async fn make_ready(member: &Member) -> Result<Infallible, Inconsistent> {
    publish(member).await;
    catch_up(member).await;
    // From here on whoever logs in is remembered; older logins are for the members that have served meanwhile.
    member.identities.open();
    if member.settings.feature_gates.enabled("InitialCorruptCheck") {
        member.checker.before_serving().await?;
    }
    member.ready.cancel();
    for address in &member.client_addresses {
        tracing::info!(address, "ready to serve client requests");
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that this member is ready");
    }
    agree_on_version(&member.consensus, &member.store, member.settings.request_timeout()).await;
    std::future::pending().await
}

async fn publish(member: &Member) {
    let client_urls = member.settings.advertise_client_urls.texts();
    loop {
        let deadline = Instant::now() + member.settings.request_timeout();
        let published = member.consensus.publish(member.settings.name.clone(), client_urls.clone(), deadline).await;
        match published {
            Ok(listed) => {
                tracing::info!(
                    local_member_id = hex(listed.affected),
                    name = member.settings.name,
                    client_urls = client_urls.join(","),
                    "published local member to cluster through raft"
                );
                return;
            }
            Err(error) => tracing::warn!(%error, "failed to publish local member to cluster through raft"),
        }
        sleep(RETRY_EVERY).await;
    }
}

/// Applies everything that was committed by now. A restarted member may have answered from a later state than the one it
/// finds on disk, and must not show clients an older one.
async fn catch_up(member: &Member) {
    while let Err(error) = member.consensus.read_barrier(Instant::now() + member.settings.request_timeout()).await {
        tracing::warn!(%error, "this member does not know yet what is committed; it serves no clients before");
        sleep(RETRY_EVERY).await;
    }
}

/// Whoever leads proposes the cluster version once; clients ask for it.
async fn agree_on_version(consensus: &Consensus, store: &Store, patience: Duration) {
    let mut leaders = consensus.leader_watch();
    loop {
        if !store.view().cluster_version().is_empty() {
            tracing::info!(cluster_version = CLUSTER_VERSION, "cluster version is set");
            return;
        }
        if consensus.status().is_leader {
            let command = Command::ClusterVersion(ClusterVersion { version: CLUSTER_VERSION.to_owned() });
            if let Err(error) = consensus.propose(command::encode(command), Instant::now() + patience).await {
                tracing::warn!(%error, "the cluster version was not set; trying again");
            }
        }
        tokio::select! {
            changed = leaders.changed() => if changed.is_err() { return },
            () = sleep(RETRY_EVERY) => {}
        }
    }
}
