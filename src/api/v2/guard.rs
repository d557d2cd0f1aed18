//! Who may use v2: the rights of `api::rights` under the two access controls that there are, v2's own and v3's. The only
//! place of v2 that knows of both.
//!
//! With v3's on and v2's off the operator believes his cluster closed, so nothing under `/v2/` answers but to v3's root,
//! who may also switch v2's on. With both on, v2's rules hold for what is v2's; the member list is v3's, as it is the same
//! list. etcd 3.4 leaves the keys of v2 open while only v3 is guarded, and refuses every change of members by v2 then.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::auth::{Asker, failed};
use super::propose::Failure;
use super::{V2, keys, message};
use crate::api::body::ClientBody;
use crate::api::rights::Right;
use crate::api::routes::Route;
use crate::model::v2::auth::Want;
use crate::model::v2::types::{Error, code};

/// What is said where v2 has no access control of its own while v3's is on.
pub(in crate::api) const CLOSED: &str = "authentication is on, and /v2 has none of its own: send the name and password of a v3 user with the role root (HTTP basic), \
     who may also switch it on for /v2: PUT /v2/auth/users/root, then PUT /v2/auth/enable";

/// What is said to whoever would change members by v2's rights while v3's access control is on.
pub(in crate::api) const MEMBERS_ARE_GUARDED_BY_V3: &str =
    "authentication is on: members are changed with the name and password of a v3 user with the role root (HTTP basic)";

const INSUFFICIENT: &str = "Insufficient credentials";

/// Why a request is not carried out.
pub(super) enum Refusal {
    /// The caller may not; this is what he hears.
    Denied(&'static str),
    /// Nobody could find out.
    Unknown(Failure),
}

impl Refusal {
    /// The answer as this route gives its errors; without the cluster's id where etcd has none.
    pub(super) fn response(self, route: Route) -> Response<ClientBody> {
        match self {
            Self::Denied(cause) if route == Route::V2Keys => {
                keys::refused(&Error { code: code::UNAUTHORIZED, cause: cause.into(), index: 0 })
            }
            Self::Denied(cause) => message(StatusCode::UNAUTHORIZED, cause),
            Self::Unknown(failure) if route == Route::V2Keys => keys::refused(&keys::raft_error(&failure.to_string())),
            Self::Unknown(failure) => *failed(failure),
        }
    }
}

/// Which access controls are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    Neither,
    V2,
    V3,
    Both,
}

impl Controls {
    /// As the switches stand.
    pub(super) fn now(v2: &V2) -> Self {
        match (v2.state.store.v2_auth_is_on(), v2.state.store.auth_mark().is_on()) {
            (false, false) => Self::Neither,
            (true, false) => Self::V2,
            (false, true) => Self::V3,
            (true, true) => Self::Both,
        }
    }
}

/// Lets pass who has the right. Of [`Right::Keys`] under v2's rules only [`touches`] knows, once the path is read.
pub(super) async fn admit(v2: &Arc<V2>, right: Right, asker: &Asker) -> Result<(), Refusal> {
    let (is_root, otherwise) = match (right, Controls::now(v2)) {
        (Right::Open, _) | (_, Controls::Neither) => return Ok(()),
        (Right::About | Right::Keys, Controls::V2 | Controls::Both) => return Ok(()),
        (Right::Admin, Controls::V2 | Controls::Both) | (Right::Members, Controls::V2) => {
            (asker.is_v2_root(v2).await, INSUFFICIENT)
        }
        (Right::Members, Controls::Both) => (asker.is_v3_root(v2).await, MEMBERS_ARE_GUARDED_BY_V3),
        // Rights of v3's methods are no way into v2.
        (_, Controls::V3) | (Right::Known | Right::Root | Right::Named, _) => (asker.is_v3_root(v2).await, CLOSED),
    };
    match is_root {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::Denied(otherwise)),
        Err(failure) => Err(Refusal::Unknown(failure)),
    }
}

/// Lets pass who may touch these keys. Judged anew when the request is whole: the switches may have moved meanwhile.
pub(super) async fn touches(v2: &Arc<V2>, asker: &Asker, want: Want<'_>) -> Result<(), Refusal> {
    match Controls::now(v2) {
        Controls::Neither => Ok(()),
        Controls::V3 => admit(v2, Right::Keys, asker).await,
        Controls::V2 | Controls::Both => match asker.may_touch(v2, want).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Denied(INSUFFICIENT)),
            Err(failure) => Err(Refusal::Unknown(failure)),
        },
    }
}
