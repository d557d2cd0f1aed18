//! The paths of the gateway: etcd's annotations, all of them POST.

/// (path below `/v3/`, service, method)
pub(super) type Route = (&'static str, &'static str, &'static str);

const KV: &str = "etcdserverpb.KV";
const WATCH: &str = "etcdserverpb.Watch";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";

pub(super) const ROUTES: [Route; 51] = [
    ("kv/range", KV, "Range"),
    ("kv/put", KV, "Put"),
    ("kv/txn", KV, "Txn"),
    ("kv/deleterange", KV, "DeleteRange"),
    ("kv/compaction", KV, "Compact"),
    ("watch", WATCH, "Watch"),
    ("lease/keepalive", LEASE, "LeaseKeepAlive"),
    ("lease/grant", LEASE, "LeaseGrant"),
    ("lease/revoke", LEASE, "LeaseRevoke"),
    ("kv/lease/revoke", LEASE, "LeaseRevoke"),
    ("lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("kv/lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("lease/leases", LEASE, "LeaseLeases"),
    ("kv/lease/leases", LEASE, "LeaseLeases"),
    ("cluster/member/add", CLUSTER, "MemberAdd"),
    ("cluster/member/remove", CLUSTER, "MemberRemove"),
    ("cluster/member/update", CLUSTER, "MemberUpdate"),
    ("cluster/member/list", CLUSTER, "MemberList"),
    ("cluster/member/promote", CLUSTER, "MemberPromote"),
    ("maintenance/alarm", MAINTENANCE, "Alarm"),
    ("maintenance/status", MAINTENANCE, "Status"),
    ("maintenance/defragment", MAINTENANCE, "Defragment"),
    ("maintenance/hash", MAINTENANCE, "Hash"),
    ("maintenance/hashkv", MAINTENANCE, "HashKV"),
    ("maintenance/snapshot", MAINTENANCE, "Snapshot"),
    ("maintenance/transfer-leadership", MAINTENANCE, "MoveLeader"),
    ("maintenance/downgrade", MAINTENANCE, "Downgrade"),
    ("auth/enable", AUTH, "AuthEnable"),
    ("auth/disable", AUTH, "AuthDisable"),
    ("auth/status", AUTH, "AuthStatus"),
    ("auth/authenticate", AUTH, "Authenticate"),
    ("auth/user/add", AUTH, "UserAdd"),
    ("auth/user/get", AUTH, "UserGet"),
    ("auth/user/list", AUTH, "UserList"),
    ("auth/user/delete", AUTH, "UserDelete"),
    ("auth/user/changepw", AUTH, "UserChangePassword"),
    ("auth/user/grant", AUTH, "UserGrantRole"),
    ("auth/user/revoke", AUTH, "UserRevokeRole"),
    ("auth/role/add", AUTH, "RoleAdd"),
    ("auth/role/get", AUTH, "RoleGet"),
    ("auth/role/list", AUTH, "RoleList"),
    ("auth/role/delete", AUTH, "RoleDelete"),
    ("auth/role/grant", AUTH, "RoleGrantPermission"),
    ("auth/role/revoke", AUTH, "RoleRevokePermission"),
    ("lock/lock", LOCK, "Lock"),
    ("lock/unlock", LOCK, "Unlock"),
    ("election/campaign", ELECTION, "Campaign"),
    ("election/proclaim", ELECTION, "Proclaim"),
    ("election/leader", ELECTION, "Leader"),
    ("election/observe", ELECTION, "Observe"),
    ("election/resign", ELECTION, "Resign"),
];

/// The service and method behind a path, which may be written with escapes. `/v3beta/` means `/v3/`.
pub fn find(path: &str) -> Option<(&'static str, &'static str)> {
    let path = unescape(path);
    let rest = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))?;
    let found = ROUTES.iter().find(|(route, _, _)| *route == rest)?;
    Some((found.1, found.2))
}

/// Whether a path belongs to the gateway.
pub fn is_gateway(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

fn unescape(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::gateway::schema;
    use crate::api::methods::{METHODS, Service};

    #[test]
    fn every_route_leads_to_a_method_that_is_served() {
        for (path, service, method) in ROUTES.iter() {
            assert!(schema::shape(service, method).is_some(), "{path} has no description");
            assert!(METHODS.iter().any(|(owner, name, _)| owner.name() == *service && name == method), "{path}");
        }
    }

    #[test]
    fn every_method_but_those_of_the_health_service_has_a_route() {
        for (service, method, _) in METHODS.iter().filter(|(service, _, _)| *service != Service::Health) {
            let routed = ROUTES.iter().any(|(_, owner, name)| *owner == service.name() && name == method);
            assert!(routed, "{} {method}", service.name());
        }
    }

    #[test]
    fn paths_are_found_in_either_prefix_and_with_escapes_and_not_otherwise() {
        assert_eq!(find("/v3/kv/put"), Some((KV, "Put")));
        assert_eq!(find("/v3beta/kv/put"), Some((KV, "Put")));
        assert_eq!(find("/v3/kv/%70ut"), Some((KV, "Put")));
        for path in ["/v3/kv/put/", "/v3/kv", "/v3/", "/v3alpha/kv/put", "/v3/kv/%zzput", "/v3/KV/put"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
