//! The permission table: which right each method and each route asks for. Both matches are exhaustive without a
//! wildcard, so a method or route without a row does not build; [`super::access`] enforces what stands here before any
//! handler runs. What a right means depends on which of the two access controls are on:
//!
//! | right | neither | v2 only | v3 only | both |
//! | --- | --- | --- | --- | --- |
//! | [`Right::Open`] | anybody | anybody | anybody | anybody |
//! | [`Right::Known`] | anybody | anybody | any v3 user | any v3 user |
//! | [`Right::Root`] | anybody | anybody | v3's root | v3's root |
//! | [`Right::Named`] | anybody | anybody | whoever may touch what the message names | the same |
//! | [`Right::Keys`] | anybody | v2's rules on the path | v3's root | v2's rules on the path |
//! | [`Right::About`] | anybody | anybody | v3's root | anybody |
//! | [`Right::Admin`] | anybody | v2's root | v3's root | v2's root |
//! | [`Right::Members`] | anybody | v2's root | v3's root | v3's root |
//!
//! "Root" is whoever has the role `root` there. The peer port is not in this table: mutual TLS lets in members, and what
//! it says to others without TLS is in `raft::network::http`.

use http::Method;

use super::methods::Rpc;
use super::routes::Route;

/// What a caller must be able to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing.
    Open,
    /// That he is a user of v3.
    Known,
    /// The root role of v3.
    Root,
    /// A permission for what the message names: keys, leases, a user, a role. Its method asks [`super::access`] when it
    /// has read that.
    Named,
    /// A permission for the path in the v2 tree. `api::v2::keys` asks again when it has read the request.
    Keys,
    /// Nothing while v2 is meant to be reached: members, statistics, the switch's position.
    About,
    /// The root role of v2: users, roles, the switch, and the tree with its hidden nodes.
    Admin,
    /// The root role of whichever access control guards the member list: v3's where it is on, since the list is one for
    /// both APIs and a new member gets every key of both.
    Members,
}

impl Rpc {
    /// The right that a call needs.
    pub fn right(self) -> Right {
        match self {
            Self::Authenticate | Self::HealthCheck | Self::HealthWatch => Right::Open,
            Self::LeaseGrant | Self::MemberList | Self::Status => Right::Known,
            Self::Compact
            | Self::MemberAdd
            | Self::MemberRemove
            | Self::MemberUpdate
            | Self::MemberPromote
            | Self::Defragment
            | Self::Hash
            | Self::HashKv
            | Self::Snapshot
            | Self::MoveLeader
            | Self::Downgrade
            | Self::AuthEnable
            | Self::AuthDisable
            | Self::AuthStatus
            | Self::UserAdd
            | Self::UserList
            | Self::UserDelete
            | Self::UserChangePassword
            | Self::UserGrantRole
            | Self::UserRevokeRole
            | Self::RoleAdd
            | Self::RoleList
            | Self::RoleDelete
            | Self::RoleGrantPermission
            | Self::RoleRevokePermission => Right::Root,
            Self::Range
            | Self::Put
            | Self::Txn
            | Self::DeleteRange
            | Self::Watch
            | Self::LeaseKeepAlive
            | Self::LeaseRevoke
            | Self::LeaseTimeToLive
            | Self::LeaseLeases
            | Self::Alarm
            | Self::UserGet
            | Self::RoleGet
            | Self::Lock
            | Self::Unlock
            | Self::Campaign
            | Self::Proclaim
            | Self::Leader
            | Self::Observe
            | Self::Resign => Right::Named,
        }
    }
}

impl Route {
    /// The right that a request with this method needs.
    pub fn right(self, method: &Method) -> Right {
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        match self {
            // Behind the gateway stands a method, which has a row of its own.
            Self::Gateway | Self::GatewayFolder => Right::Open,
            Self::Health | Self::Livez | Self::Readyz | Self::Metrics | Self::Version | Self::Debug => Right::Open,
            Self::V2Keys => Right::Keys,
            Self::V2Machines | Self::V2StatsSelf | Self::V2StatsLeader | Self::V2StatsStore => Right::About,
            Self::V2Members | Self::V2Member if changes => Right::Members,
            Self::V2Members | Self::V2Member => Right::About,
            Self::V2AuthEnable if !changes => Right::About,
            Self::V2AuthEnable
            | Self::V2AuthUsers
            | Self::V2AuthUser
            | Self::V2AuthRoles
            | Self::V2AuthRole
            | Self::V2Export => Right::Admin,
        }
    }
}
