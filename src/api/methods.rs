//! Every gRPC method this port serves. One row says all that is to be said of it: service, name, kind, and the paths of
//! the JSON gateway that lead to it. Who may call it stands in [`super::rights`].

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

macro_rules! rpcs {
    ($($rpc:ident: $service:ident, $name:literal, $kind:ident, [$($path:literal),*];)*) => {
        /// A method. As a number it is the index of its counters in `metrics`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Rpc {
            $(#[doc = concat!("`", stringify!($service), ".", $name, "`")] $rpc,)*
        }

        impl Rpc {
            /// Every method. Calls are looked up from the top, so the ones that carry the load come first.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$rpc),*];

            /// Its service.
            pub fn service(self) -> Service {
                match self { $(Self::$rpc => Service::$service,)* }
            }

            /// Its name within the service.
            pub fn name(self) -> &'static str {
                match self { $(Self::$rpc => $name,)* }
            }

            /// How many messages go each way.
            pub fn kind(self) -> Kind {
                match self { $(Self::$rpc => Kind::$kind,)* }
            }

            /// Its paths below `/v3/` in the JSON gateway, all of them POST: etcd's annotations.
            pub fn gateway_paths(self) -> &'static [&'static str] {
                match self { $(Self::$rpc => &[$($path),*],)* }
            }
        }
    };
}

rpcs! {
    Range: Kv, "Range", Unary, ["kv/range"];
    Put: Kv, "Put", Unary, ["kv/put"];
    Txn: Kv, "Txn", Unary, ["kv/txn"];
    DeleteRange: Kv, "DeleteRange", Unary, ["kv/deleterange"];
    Compact: Kv, "Compact", Unary, ["kv/compaction"];
    Watch: Watch, "Watch", BidiStream, ["watch"];
    LeaseKeepAlive: Lease, "LeaseKeepAlive", BidiStream, ["lease/keepalive"];
    LeaseGrant: Lease, "LeaseGrant", Unary, ["lease/grant"];
    LeaseRevoke: Lease, "LeaseRevoke", Unary, ["lease/revoke", "kv/lease/revoke"];
    LeaseTimeToLive: Lease, "LeaseTimeToLive", Unary, ["lease/timetolive", "kv/lease/timetolive"];
    LeaseLeases: Lease, "LeaseLeases", Unary, ["lease/leases", "kv/lease/leases"];
    MemberAdd: Cluster, "MemberAdd", Unary, ["cluster/member/add"];
    MemberRemove: Cluster, "MemberRemove", Unary, ["cluster/member/remove"];
    MemberUpdate: Cluster, "MemberUpdate", Unary, ["cluster/member/update"];
    MemberList: Cluster, "MemberList", Unary, ["cluster/member/list"];
    MemberPromote: Cluster, "MemberPromote", Unary, ["cluster/member/promote"];
    Alarm: Maintenance, "Alarm", Unary, ["maintenance/alarm"];
    Status: Maintenance, "Status", Unary, ["maintenance/status"];
    Defragment: Maintenance, "Defragment", Unary, ["maintenance/defragment"];
    Hash: Maintenance, "Hash", Unary, ["maintenance/hash"];
    HashKv: Maintenance, "HashKV", Unary, ["maintenance/hashkv"];
    Snapshot: Maintenance, "Snapshot", ServerStream, ["maintenance/snapshot"];
    MoveLeader: Maintenance, "MoveLeader", Unary, ["maintenance/transfer-leadership"];
    Downgrade: Maintenance, "Downgrade", Unary, ["maintenance/downgrade"];
    AuthEnable: Auth, "AuthEnable", Unary, ["auth/enable"];
    AuthDisable: Auth, "AuthDisable", Unary, ["auth/disable"];
    AuthStatus: Auth, "AuthStatus", Unary, ["auth/status"];
    Authenticate: Auth, "Authenticate", Unary, ["auth/authenticate"];
    UserAdd: Auth, "UserAdd", Unary, ["auth/user/add"];
    UserGet: Auth, "UserGet", Unary, ["auth/user/get"];
    UserList: Auth, "UserList", Unary, ["auth/user/list"];
    UserDelete: Auth, "UserDelete", Unary, ["auth/user/delete"];
    UserChangePassword: Auth, "UserChangePassword", Unary, ["auth/user/changepw"];
    UserGrantRole: Auth, "UserGrantRole", Unary, ["auth/user/grant"];
    UserRevokeRole: Auth, "UserRevokeRole", Unary, ["auth/user/revoke"];
    RoleAdd: Auth, "RoleAdd", Unary, ["auth/role/add"];
    RoleGet: Auth, "RoleGet", Unary, ["auth/role/get"];
    RoleList: Auth, "RoleList", Unary, ["auth/role/list"];
    RoleDelete: Auth, "RoleDelete", Unary, ["auth/role/delete"];
    RoleGrantPermission: Auth, "RoleGrantPermission", Unary, ["auth/role/grant"];
    RoleRevokePermission: Auth, "RoleRevokePermission", Unary, ["auth/role/revoke"];
    Lock: Lock, "Lock", Unary, ["lock/lock"];
    Unlock: Lock, "Unlock", Unary, ["lock/unlock"];
    Campaign: Election, "Campaign", Unary, ["election/campaign"];
    Proclaim: Election, "Proclaim", Unary, ["election/proclaim"];
    Leader: Election, "Leader", Unary, ["election/leader"];
    Observe: Election, "Observe", ServerStream, ["election/observe"];
    Resign: Election, "Resign", Unary, ["election/resign"];
    HealthCheck: Health, "Check", Unary, [];
    HealthWatch: Health, "Watch", ServerStream, [];
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// A method.
    Found(Rpc),
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
    for rpc in Rpc::ALL {
        if rpc.service().name() == service {
            known = true;
            if rpc.name() == method {
                return Lookup::Found(rpc);
            }
        }
    }
    if known { Lookup::NoMethod(service, method) } else { Lookup::NoService(service) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_own_path_and_numbered_in_order() {
        for (index, rpc) in Rpc::ALL.into_iter().enumerate() {
            assert_eq!(lookup(&format!("/{}/{}", rpc.service().name(), rpc.name())), Lookup::Found(rpc));
            assert_eq!(rpc as usize, index);
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(lookup("/etcdserverpb.KV/RangeStream"), Lookup::NoMethod("etcdserverpb.KV", "RangeStream"));
        assert_eq!(lookup("/v4lockpb.Lock/Lock"), Lookup::NoService("v4lockpb.Lock"));
        assert_eq!(lookup("/"), Lookup::NoService("/"));
    }
}
