//! Random changes of users, roles and permissions, and accesses by several users, over few names and keys.
//!
//! Left out is what etcd 3.4 gets wrong and etcd 3.6 mended: nested transactions, `prev_kv` and leases of puts inside a
//! transaction, permissions for empty ranges (it grants them), a grant without a permission (it panics), changing a
//! password to nothing, watches "from a key on" (CVE-2026-73499), and lease calls of nobody in particular.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etcd_charm::proto::authpb::{Permission, UserAddOptions};
use etcd_charm::proto::etcdserverpb as pb;
use pb::request_op::Request;
use rand::Rng;
use rand::rngs::SmallRng;

/// One call.
#[derive(Debug, Clone)]
pub enum Call {
    Enable,
    Disable,
    Login(pb::AuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList,
    UserPassword(pb::AuthUserChangePasswordRequest),
    UserGrant(pb::AuthUserGrantRoleRequest),
    UserRevoke(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList,
    RoleGrant(pb::AuthRoleGrantPermissionRequest),
    RoleRevoke(pb::AuthRoleRevokePermissionRequest),
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    Watch(pb::WatchCreateRequest),
    MemberRemove(pb::MemberRemoveRequest),
}

/// With whose token a call is made: none, a user's last one, or a made-up one.
#[derive(Debug, Clone, PartialEq)]
pub enum By {
    Nobody,
    User(&'static str),
    Forged,
}

pub const USERS: [&str; 4] = ["root", "ann", "bob", "eve"];
const ROLES: [&str; 4] = ["root", "r", "s", "t"];

pub struct Generator {
    pub random: SmallRng,
    /// Whether leases are used: with signed tokens etcd 3.4 refuses root's old ones where 3.6 does not.
    pub leases: bool,
    /// Per role, the ranges it may hold, kept loosely: where one key may have two ranges, etcd updates the wrong one.
    ranges: BTreeMap<String, BTreeSet<(Bytes, Bytes)>>,
}

impl Generator {
    pub fn new(random: SmallRng) -> Self {
        Self { random, leases: true, ranges: BTreeMap::new() }
    }

    /// The next call, and who makes it. `enabled`: whether authentication is on.
    pub fn next(&mut self, enabled: bool) -> (By, Call) {
        let by = match self.random.random_range(0..20) {
            0 => By::Nobody,
            1 => By::Forged,
            2..9 => By::User("root"),
            _ => By::User(self.user()),
        };
        let call = match self.random.random_range(0..100) {
            0..3 if !enabled => Call::Enable,
            0 => Call::Disable,
            1..3 => Call::Enable,
            3..8 => self.login(),
            8..50 => self.change(),
            50..58 => self.look(),
            _ => self.access(&by),
        };
        (by, call)
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.random.random_range(0..list.len())].clone()
    }

    fn user(&mut self) -> &'static str {
        self.pick(&USERS)
    }

    fn name(&mut self) -> String {
        if self.chance(25) { self.pick(&["", "nobody"]).to_owned() } else { self.user().to_owned() }
    }

    fn role(&mut self) -> String {
        if self.chance(25) { self.pick(&["", "missing"]).to_owned() } else { self.pick(&ROLES).to_owned() }
    }

    /// One of two passwords.
    fn password(&mut self) -> String {
        self.pick(&["one", "one", "one", "two"]).to_owned()
    }

    fn login(&mut self) -> Call {
        Call::Login(pb::AuthenticateRequest { name: self.name(), password: self.password() })
    }

    fn change(&mut self) -> Call {
        match self.random.random_range(0..30) {
            0..5 => {
                let options = self.chance(8).then_some(UserAddOptions { no_password: true });
                let (name, password) = (self.name(), self.password());
                Call::UserAdd(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
            }
            5 => Call::UserDelete(pb::AuthUserDeleteRequest { name: self.name() }),
            6 => {
                let (name, password) = (self.name(), self.password());
                Call::UserPassword(pb::AuthUserChangePasswordRequest { name, password, ..Default::default() })
            }
            7..12 => Call::UserGrant(pb::AuthUserGrantRoleRequest { user: self.name(), role: self.role() }),
            12..14 => Call::UserRevoke(pb::AuthUserRevokeRoleRequest { name: self.name(), role: self.role() }),
            14..18 => Call::RoleAdd(pb::AuthRoleAddRequest { name: self.role() }),
            18 => Call::RoleDelete(pb::AuthRoleDeleteRequest { role: self.role() }),
            19..26 => self.role_grant(),
            _ => {
                let (key, range_end) = self.grantable();
                Call::RoleRevoke(pb::AuthRoleRevokePermissionRequest { role: self.role(), key, range_end })
            }
        }
    }

    fn role_grant(&mut self) -> Call {
        let (name, (key, range_end)) = (self.role(), self.grantable());
        let known = self.ranges.entry(name.clone()).or_default();
        let other = known.iter().find(|(own, end)| *own == key && *end != range_end);
        let range_end = other.map_or(range_end, |(_, end)| end.clone());
        known.insert((key.clone(), range_end.clone()));
        let perm = Some(Permission { perm_type: self.random.random_range(0..3), key, range_end });
        Call::RoleGrant(pb::AuthRoleGrantPermissionRequest { name, perm })
    }

    fn look(&mut self) -> Call {
        match self.random.random_range(0..6) {
            0..2 => Call::UserGet(pb::AuthUserGetRequest { name: self.name() }),
            2..4 => Call::RoleGet(pb::AuthRoleGetRequest { role: self.role() }),
            4 => Call::UserList,
            _ => Call::RoleList,
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(self.pick(&["a", "b", "c", "d", "e"]).as_bytes())
    }

    fn range_end(&mut self) -> Bytes {
        Bytes::from_static(self.pick(&["", "", "", "b", "c", "e", "f", "\0"]).as_bytes())
    }

    /// A range that can hold a key, as etcd 3.6 lets be granted. What etcd says to an inverted one follows from how its
    /// interval tree is cut.
    fn grantable(&mut self) -> (Bytes, Bytes) {
        loop {
            let (key, end) = (self.key(), self.range_end());
            if end.is_empty() || end == "\0" || key < end {
                return (key, end);
            }
        }
    }

    fn access(&mut self, by: &By) -> Call {
        match self.random.random_range(0..20) {
            0..6 => Call::Put(self.put()),
            6..11 => Call::Range(self.range()),
            11..13 => {
                let ((key, range_end), prev_kv) = (self.grantable(), self.chance(3));
                Call::Delete(pb::DeleteRangeRequest { key, range_end, prev_kv })
            }
            13..17 => Call::Txn(self.txn()),
            17 if self.leases && *by != By::Nobody && *by != By::Forged => {
                let id = self.random.random_range(1..4);
                if self.chance(2) {
                    Call::Grant(pb::LeaseGrantRequest { id, ttl: 100_000 })
                } else {
                    Call::Revoke(pb::LeaseRevokeRequest { id })
                }
            }
            18 => {
                let (key, range_end) = self.grantable();
                let range_end = if range_end == "\0" { Bytes::new() } else { range_end };
                Call::Watch(pb::WatchCreateRequest { key, range_end, ..Default::default() })
            }
            // Unknown or refused, never done.
            19 => Call::MemberRemove(pb::MemberRemoveRequest { id: 123 }),
            _ => Call::Range(self.range()),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key(),
            value: Bytes::from_static(b"v"),
            lease: if self.leases && self.chance(5) { self.random.random_range(1..4) } else { 0 },
            prev_kv: self.chance(3),
            ..Default::default()
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let ((key, range_end), serializable) = (self.grantable(), self.chance(3));
        pb::RangeRequest { key, range_end, serializable, ..Default::default() }
    }

    fn operation(&mut self) -> pb::RequestOp {
        let request = match self.random.random_range(0..5) {
            0..2 => Request::RequestPut(pb::PutRequest { lease: 0, prev_kv: false, ..self.put() }),
            2..4 => Request::RequestRange(self.range()),
            _ => {
                let ((key, range_end), prev_kv) = (self.grantable(), self.chance(3));
                Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv })
            }
        };
        pb::RequestOp { request: Some(request) }
    }

    fn txn(&mut self) -> pb::TxnRequest {
        let (compares, success, failure) =
            (self.random.random_range(0..2), self.random.random_range(0..3), self.random.random_range(0..2));
        let compare = |this: &mut Self| {
            let (key, range_end) = this.grantable();
            pb::Compare { key, range_end, ..Default::default() }
        };
        pb::TxnRequest {
            compare: (0..compares).map(|_| compare(self)).collect(),
            success: (0..success).map(|_| self.operation()).collect(),
            failure: (0..failure).map(|_| self.operation()).collect(),
        }
    }
}
