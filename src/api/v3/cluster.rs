//! The Cluster service: who the members are. The rules of safe change live with the leader (`raft`). Callers have been
//! judged before they come here (`api::rights`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tonic::{Request, Response as Reply, Status};
use url::Url;

use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::proto::etcdserverpb as pb;
use crate::raft::MemberInfo;

/// etcd leaves the revision out of this service's headers.
const NO_REVISION: i64 = 0;

/// Adds a member, by default with a vote.
///
/// # Errors
/// Malformed or known URLs, an unsafe change, proposal errors.
pub async fn add(state: &State, call: &Call, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, ApiError> {
    let urls = peer_urls(&request.peer_ur_ls)?;
    let added = state.consensus.member_add(urls, request.is_learner, call.deadline()).await?;
    let members = describe_all(added.members);
    let member = members.iter().find(|member| member.id == added.affected).cloned();
    Ok(pb::MemberAddResponse { header: state.header(NO_REVISION), member, members })
}

/// Removes a member; its id is never accepted again.
///
/// # Errors
/// Unknown member, an unsafe change, proposal errors.
pub async fn remove(
    state: &State,
    call: &Call,
    request: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, ApiError> {
    let after = state.consensus.member_remove(request.id, call.deadline()).await?;
    Ok(pb::MemberRemoveResponse { header: state.header(NO_REVISION), members: describe_all(after.members) })
}

/// Changes a member's peer URLs and nothing else of it.
///
/// # Errors
/// Unknown member, URLs of another, proposal errors.
pub async fn update(
    state: &State,
    call: &Call,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, ApiError> {
    let after = state.consensus.member_update(request.id, request.peer_ur_ls, call.deadline()).await?;
    Ok(pb::MemberUpdateResponse { header: state.header(NO_REVISION), members: describe_all(after.members) })
}

/// Gives a learner that has caught up its vote.
///
/// # Errors
/// Unknown member, a voter, a learner that lags, proposal errors.
pub async fn promote(
    state: &State,
    call: &Call,
    request: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, ApiError> {
    let after = state.consensus.member_promote(request.id, call.deadline()).await?;
    state.metrics.promotions.fetch_add(1, Relaxed);
    Ok(pb::MemberPromoteResponse { header: state.header(NO_REVISION), members: describe_all(after.members) })
}

/// The members, by id. Linearizable when the client asks for that, as etcd's own client does.
///
/// # Errors
/// Barrier errors.
pub async fn list(
    state: &State,
    call: &Call,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, ApiError> {
    if request.linearizable {
        call.read_barrier(state).await?;
    }
    Ok(pb::MemberListResponse { header: state.header(NO_REVISION), members: describe_all(state.consensus.members()) })
}

fn describe_all(members: Vec<MemberInfo>) -> Vec<pb::Member> {
    members.into_iter().map(describe).collect()
}

fn describe(info: MemberInfo) -> pb::Member {
    pb::Member {
        id: info.id,
        name: info.member.name,
        peer_ur_ls: info.member.peer_urls,
        client_ur_ls: info.member.client_urls,
        is_learner: info.is_learner,
    }
}

/// A new member's peer URLs, sorted as etcd sorts them.
fn peer_urls(texts: &[String]) -> Result<Vec<String>, ApiError> {
    if texts.is_empty() || !texts.iter().all(|text| is_peer_url(text)) {
        return Err(ApiError::BadMemberUrls);
    }
    let mut urls: Vec<String> = texts.iter().map(|text| text.trim().to_owned()).collect();
    urls.sort();
    Ok(urls)
}

/// `http(s)://host:port` or `unix(s)://path`, nothing after it.
fn is_peer_url(text: &str) -> bool {
    let text = text.trim();
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    match url.scheme() {
        "unix" | "unixs" => true,
        // The port must be spelled out: `Url::port` hides the scheme's own, so the text is asked.
        "http" | "https" => {
            let authority = text.split_once("://").map_or("", |(_, rest)| rest);
            let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
            url.host().is_some() && !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
        }
        _ => false,
    }
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Cluster(pub Arc<State>);

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Result<Reply<pb::MemberAddResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(add(&self.0, &call, request.into_inner()).await?))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Reply<pb::MemberRemoveResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(remove(&self.0, &call, request.into_inner()).await?))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Reply<pb::MemberUpdateResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(update(&self.0, &call, request.into_inner()).await?))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Reply<pb::MemberListResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(list(&self.0, &call, request.into_inner()).await?))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Reply<pb::MemberPromoteResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(promote(&self.0, &call, request.into_inner()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_need_a_known_scheme_a_host_a_port_and_no_path() {
        let good = ["http://10.0.0.1:2380", "https://a.example:443", "http://[fd00::1]:80", "unix://sock:1"];
        for text in good {
            assert!(is_peer_url(text), "{text}");
        }
        let bad = [
            "",
            "nope",
            "http://10.0.0.1",
            "http://10.0.0.1:2380/",
            "http://10.0.0.1:2380/x",
            "ftp://a:1",
            "http://:2380",
            "http://a:b",
            "a:2380",
        ];
        for text in bad {
            assert!(!is_peer_url(text), "{text}");
        }
        assert_eq!(peer_urls(&[]), Err(ApiError::BadMemberUrls));
    }

    #[test]
    fn peer_urls_are_sorted() {
        let urls = peer_urls(&["http://b:1".into(), "http://a:1".into()]);
        assert_eq!(urls, Ok(vec!["http://a:1".to_owned(), "http://b:1".to_owned()]));
    }
}
