//! Every gRPC method this port serves, by path. The order here is the index of the counters in `metrics`.

/// How many messages go each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One request, one answer.
    Unary,
    /// One request, many answers.
    ServerStream,
    /// Many of both.
    BidiStream,
}

impl Kind {
    /// The metric label etcd uses.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// A gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `etcdserverpb.KV`
    Kv,
    /// `etcdserverpb.Watch`
    Watch,
    /// `etcdserverpb.Lease`
    Lease,
    /// `etcdserverpb.Cluster`
    Cluster,
    /// `etcdserverpb.Maintenance`
    Maintenance,
    /// `etcdserverpb.Auth`
    Auth,
    /// `v3lockpb.Lock`
    Lock,
    /// `v3electionpb.Election`
    Election,
    /// `grpc.health.v1.Health`
    Health,
}

impl Service {
    /// The name in paths and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kv => "etcdserverpb.KV",
            Self::Watch => "etcdserverpb.Watch",
            Self::Lease => "etcdserverpb.Lease",
            Self::Cluster => "etcdserverpb.Cluster",
            Self::Maintenance => "etcdserverpb.Maintenance",
            Self::Auth => "etcdserverpb.Auth",
            Self::Lock => "v3lockpb.Lock",
            Self::Election => "v3electionpb.Election",
            Self::Health => "grpc.health.v1.Health",
        }
    }
}

/// One method: its service, name and kind.
pub type Method = (Service, &'static str, Kind);

/// Every method. Calls are looked up from the top, so the ones that carry the load come first.
pub const METHODS: [Method; 50] = [
    (Service::Kv, "Range", Kind::Unary),
    (Service::Kv, "Put", Kind::Unary),
    (Service::Kv, "Txn", Kind::Unary),
    (Service::Kv, "DeleteRange", Kind::Unary),
    (Service::Kv, "Compact", Kind::Unary),
    (Service::Watch, "Watch", Kind::BidiStream),
    (Service::Lease, "LeaseKeepAlive", Kind::BidiStream),
    (Service::Lease, "LeaseGrant", Kind::Unary),
    (Service::Lease, "LeaseRevoke", Kind::Unary),
    (Service::Lease, "LeaseTimeToLive", Kind::Unary),
    (Service::Lease, "LeaseLeases", Kind::Unary),
    (Service::Cluster, "MemberAdd", Kind::Unary),
    (Service::Cluster, "MemberRemove", Kind::Unary),
    (Service::Cluster, "MemberUpdate", Kind::Unary),
    (Service::Cluster, "MemberList", Kind::Unary),
    (Service::Cluster, "MemberPromote", Kind::Unary),
    (Service::Maintenance, "Alarm", Kind::Unary),
    (Service::Maintenance, "Status", Kind::Unary),
    (Service::Maintenance, "Defragment", Kind::Unary),
    (Service::Maintenance, "Hash", Kind::Unary),
    (Service::Maintenance, "HashKV", Kind::Unary),
    (Service::Maintenance, "Snapshot", Kind::ServerStream),
    (Service::Maintenance, "MoveLeader", Kind::Unary),
    (Service::Maintenance, "Downgrade", Kind::Unary),
    (Service::Auth, "AuthEnable", Kind::Unary),
    (Service::Auth, "AuthDisable", Kind::Unary),
    (Service::Auth, "AuthStatus", Kind::Unary),
    (Service::Auth, "Authenticate", Kind::Unary),
    (Service::Auth, "UserAdd", Kind::Unary),
    (Service::Auth, "UserGet", Kind::Unary),
    (Service::Auth, "UserList", Kind::Unary),
    (Service::Auth, "UserDelete", Kind::Unary),
    (Service::Auth, "UserChangePassword", Kind::Unary),
    (Service::Auth, "UserGrantRole", Kind::Unary),
    (Service::Auth, "UserRevokeRole", Kind::Unary),
    (Service::Auth, "RoleAdd", Kind::Unary),
    (Service::Auth, "RoleGet", Kind::Unary),
    (Service::Auth, "RoleList", Kind::Unary),
    (Service::Auth, "RoleDelete", Kind::Unary),
    (Service::Auth, "RoleGrantPermission", Kind::Unary),
    (Service::Auth, "RoleRevokePermission", Kind::Unary),
    (Service::Lock, "Lock", Kind::Unary),
    (Service::Lock, "Unlock", Kind::Unary),
    (Service::Election, "Campaign", Kind::Unary),
    (Service::Election, "Proclaim", Kind::Unary),
    (Service::Election, "Leader", Kind::Unary),
    (Service::Election, "Observe", Kind::ServerStream),
    (Service::Election, "Resign", Kind::Unary),
    (Service::Health, "Check", Kind::Unary),
    (Service::Health, "Watch", Kind::ServerStream),
];

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// A method, by its index in [`METHODS`].
    Found(usize),
    /// A service of ours without such a method.
    NoMethod(&'a str, &'a str),
    /// Not a service of ours.
    NoService(&'a str),
}

/// Reads a path `/<service>/<method>`.
pub fn lookup(path: &str) -> Lookup<'_> {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return Lookup::NoService(path);
    };
    let mut known = false;
    for (index, (owner, name, _kind)) in METHODS.iter().enumerate() {
        if owner.name() == service {
            known = true;
            if *name == method {
                return Lookup::Found(index);
            }
        }
    }
    if known { Lookup::NoMethod(service, method) } else { Lookup::NoService(service) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_own_path() {
        for (index, (service, method, _)) in METHODS.iter().enumerate() {
            assert_eq!(lookup(&format!("/{}/{method}", service.name())), Lookup::Found(index));
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(lookup("/etcdserverpb.KV/RangeStream"), Lookup::NoMethod("etcdserverpb.KV", "RangeStream"));
        assert_eq!(lookup("/v4lockpb.Lock/Lock"), Lookup::NoService("v4lockpb.Lock"));
        assert_eq!(lookup("/"), Lookup::NoService("/"));
    }
}
