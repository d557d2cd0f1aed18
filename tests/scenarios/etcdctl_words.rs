//! What [`super::etcdctl_session`] says to etcdctl, and which differences between etcd and us are meant.

use crate::harness::ctl::Said;

/// Keys, transactions and leases in every output format.
pub(super) const DATA: &str = r#"
version
put f/1 one
put f/2 two
put f/1 three
get f --prefix -w json
get f --prefix -w fields
get f --prefix -w table
get f/1 -w protobuf
get f/1 --hex
get f --prefix --count-only
get f --prefix --count-only -w fields
get f/1 f/9
get f --prefix --sort-by MODIFY --order DESCEND
get f --prefix --sort-by CREATE --order ASCEND
get f --prefix --sort-by VERSION
get f --prefix --sort-by KEY --order DESCEND --limit 1
get f --prefix --sort-by nonsense
get f/1 --consistency s
get f/1 --consistency x
get f/1 --endpoints URL1
get f/1 --endpoints URL2 --consistency s
put f/3 < from standard input
put f/3 x --prev-kv -w json
put f/3 x --prev-kv -w fields
put f/3 y --ignore-value
put f/4 x --ignore-lease
del f/3 --prev-kv -w json
del f/9 -w fields
del f f/2 --prev-kv
put f/1 1
del f/1 --from-key
txn -w json < create("t") = "0"\n\nput t 1\n\n\n\n
txn -w fields < create("t") = "0"\n\nput t 1\n\nget t\n\n
txn -w table < create("t") = "0"\n\nput t 1\n\nget t\n\n
txn < lease("t") = "0"\nversion("t") < "5"\n\nput t 2 --prev-kv\nget t\ndel t --prev-kv\n\n\n\n
txn < value("t") = "0"\n\nput t 1\nput t 2\n\nput t 1\nput t 2\n\n
txn < value(t)\n\n
txn < val("t") = "0"\n\n
txn < create("t") = "0"\n\nput\n\n\n
lease grant 400
lease grant 400 -w json
lease grant x
lease grant 0
lease grant -- -1
lease grant 9000000001
lease list
lease list -w json
lease grant 300
put k/1 1 --lease LEASE
put k/2 2 --lease LEASE
lease timetolive LEASE
lease timetolive LEASE --keys
lease timetolive LEASE -w json
lease timetolive LEASE --keys -w json
lease timetolive LEASE --keys -w fields
lease keep-alive LEASE --once
lease keep-alive LEASE --once -w json
lease keep-alive 123 --once
lease keep-alive 123
lease keep-alive xyz
lease revoke LEASE -w json
lease revoke xyz
lease timetolive 123
get k --prefix
compaction 5 --physical
compaction 0
compaction x
compaction -- -1
watch w --rev 2
watch
lock l1 echo held
lock l1 sh -c exit%203
lock l1 sh -c env|grep%20ETCD_LOCK_KEY
lock l1 false
lock
elect
elect e -l x
make-mirror
"#;

/// Members, endpoints and maintenance.
pub(super) const CLUSTER: &str = r#"
member list
member list -w json
member list -w fields
member list -w table
member add
member add m9
member add m9 --peer-urls nonsense
member add m9 --peer-urls PEER0
member remove
member remove xyz
member update ID0
member update ID0 --peer-urls PEER1
member update ID0 --peer-urls nonsense
member update ID0 --peer-urls PEER0
member promote ID0
member promote
member promote xyz
endpoint health
endpoint health -w json --endpoints URL0
endpoint health -w fields --endpoints URL0
endpoint health -w table --endpoints URL0
endpoint health --cluster
endpoint health --endpoints URL0,https://127.0.0.1:1
endpoint status
endpoint status -w json --endpoints URL0
endpoint status -w fields --endpoints URL0
endpoint status -w table
endpoint status --cluster
endpoint status --endpoints URL0,https://127.0.0.1:1
endpoint hashkv
endpoint hashkv -w json --endpoints URL0
endpoint hashkv -w fields --endpoints URL1
endpoint hashkv -w table
endpoint hashkv --cluster
endpoint hashkv --rev 3
endpoint hashkv --rev 20
endpoint hashkv --rev 2000
alarm list
alarm list -w fields
alarm disarm
alarm disarm -w json
defrag
defrag --cluster
defrag --endpoints https://127.0.0.1:1
move-leader
move-leader xyz
move-leader 123
move-leader ID1 --endpoints URL1
move-leader ID0
snapshot save
snapshot save FOLDER/s.db
snapshot save FOLDER/s.db --endpoints URL2
snapshot save FOLDER/missing/s.db --endpoints URL1
"#;

/// While the alarm NOSPACE is up.
pub(super) const ALARMED: &str = r#"
alarm list
alarm list -w json
alarm list -w fields
put a 1
get a
del missing
lease grant 10
endpoint health
endpoint status
alarm disarm
alarm list
put a 1
endpoint health
"#;

/// While a voter was added that has not started.
pub(super) const UNSTARTED: &str = r#"
member list
member add m3 --peer-urls https://127.0.0.1:1
member update ADDED --peer-urls https://127.0.0.1:2
member list
"#;

/// While a learner was added that has not started.
pub(super) const LEARNER: &str = r#"
member promote ADDED
member list
member add m4 --learner --peer-urls https://127.0.0.1:4
"#;

/// While it has started.
pub(super) const STARTED_LEARNER: &str = r#"
member list
get a --endpoints URL3
get a --endpoints URL3 --consistency s
put a 1 --endpoints URL3
move-leader ADDED
endpoint status --endpoints URL3
snapshot save FOLDER/learner.db --endpoints URL3
"#;

/// What needs no server, on the file that the server sent.
pub(super) const OFFLINE: &str = r#"
snapshot status FOLDER/s.db
snapshot status FOLDER/s.db -w json
snapshot status FOLDER/s.db -w fields
snapshot status FOLDER/s.db -w table
snapshot status FOLDER/none.db
snapshot restore FOLDER/s.db --data-dir FOLDER/restored
snapshot restore FOLDER/s.db --data-dir FOLDER/restored
snapshot restore FOLDER/none.db --data-dir FOLDER/other
defrag --data-dir FOLDER/restored
migrate
help
completion
completion bash
completion fish
completion powershell
completion zsh
check
check perf --load huge
check datascale --load huge
put a 1 --endpoints https://127.0.0.1:1 --dial-timeout 300ms --command-timeout 600ms
nonsense
"#;

/// Users and roles once more, in what the session of `scenarios::auth` leaves out: what else a user may and may not do.
/// Streams stay with one member: a token that another one gave is refused where it has not been heard of yet.
pub(super) const AUTH: &str = r#"
user add root:rootword
user add ann:annword
role add root
user grant-role root root
role add low
role grant-permission low readwrite a
role grant-permission low nonsense a
role grant-permission low
role revoke-permission low
user grant-role ann low
user add
user add :x
role add
user list -w json
role list -w json
user get ann -w json
user get ann -w fields
user get ann --detail
role get low -w json
role get low -w fields
role get root
auth status
auth enable
auth status
auth status --user ann:annword
auth status --user root:rootword
user passwd ann --interactive=false --user root:rootword < newword\n
get a --user ann:annword
get a --user ann:newword
get a --user ann --password newword
user passwd ann --interactive=false --user ann:newword < annword\n
user passwd nobody --interactive=false --user root:rootword < annword\n
get a -w json --user ann:newword
watch c --user ann:newword --endpoints URL1
watch a c --user ann:newword --endpoints URL1
lock lk echo held --user ann:newword --endpoints URL1
lock a echo held --user ann:newword --endpoints URL1
elect e x --user ann:newword --endpoints URL1
lease grant 100 --user ann:newword
lease list --user ann:newword
lease revoke LEASE --user ann:newword
lease revoke LEASE --user root:rootword
lease grant 100 --user root:rootword
put z 1 --lease LEASE --user root:rootword
lease timetolive LEASE --user ann:newword
lease timetolive LEASE --keys --user ann:newword
lease keep-alive LEASE --once --user ann:newword --endpoints URL1
put a 1 --lease LEASE --user ann:newword
lease revoke LEASE --user ann:newword
lease revoke LEASE --user root:rootword
compaction 6 --user ann:newword
member list --user ann:newword
member list
member promote ID1 --user ann:newword
member update ID1 --peer-urls PEER1 --user ann:newword
member add x --learner --peer-urls https://127.0.0.1:1 --user ann:newword
move-leader ID1 --user ann:newword
alarm list --user ann:newword
alarm disarm --user ann:newword
alarm list --user root:rootword
defrag --user ann:newword
defrag --user root:rootword
snapshot save FOLDER/a.db --endpoints URL0 --user ann:newword
snapshot save FOLDER/a.db --endpoints URL0 --user root:rootword
endpoint health --user ann:newword
endpoint health
endpoint health --user root:rootword
endpoint status --user ann:newword
endpoint status
endpoint status --user root:rootword
endpoint hashkv --user ann:newword
endpoint hashkv --user root:rootword
make-mirror --user ann:newword --prefix c URL0
user delete ann --user root:rootword
get a --user ann:newword
role delete low --user root:rootword
role get low --user root:rootword
auth disable --user root:rootword
auth status
user delete root
role delete root
"#;

/// A difference that is meant: the commands it concerns, words of etcd's and of our answer, and why.
#[derive(Debug)]
pub(super) struct Explained {
    command: &'static str,
    etcd: &'static str,
    ours: &'static str,
    why: &'static str,
}

impl Explained {
    /// Why they differ, when it is this difference.
    pub(super) fn explains(&self, line: &str, etcd: &Said, ours: &Said) -> Option<&'static str> {
        let all = |said: &Said| format!("{:?} {} {}", said.code, said.out, said.err);
        let this = line.starts_with(self.command) && all(etcd).contains(self.etcd) && all(ours).contains(self.ours);
        this.then_some(self.why)
    }
}

const fn differs(command: &'static str, etcd: &'static str, ours: &'static str, why: &'static str) -> Explained {
    Explained { command, etcd, ours, why }
}

const DENIED: &str = "etcdserver: permission denied";
const KEYS_OF_LEASES: &str = "3.4.23 shows and renews a lease without a look at its keys; 3.5.30 and 3.6 do as we do";
const ADMINISTRATION: &str = "3.4.23 lets everybody compact and move the lead; 3.5.30 and 3.6 want root, as we do";
const WRAPPED: &str = "up to 3.5 the refusal of maintenance leaves without its code; since 3.6 as here";
const STATUS: &str = "3.5 wants root, 3.6.12 somebody, as here, and 3.4 nobody: clients check versions by it";

/// We are a 3.6 to clients; controls are older.
pub(super) const EXPLAINED: &[Explained] = &[
    differs("auth status", "unknown method AuthStatus", "", "3.4 does not know this call yet"),
    differs("alarm list -w json", "{\"alarms\":", "{\"header\":", "3.4 answers about alarms without a header"),
    differs("alarm list -w fields", "nil pointer", "ClusterID", "etcdctl stumbles over that missing header"),
    differs(
        "member add m3",
        "unhealthy cluster",
        "Peer URLs already exists",
        "3.4 wants every voter connected, later a quorum",
    ),
    differs("snapshot save FOLDER/learner.db", "Some(124)", "Snapshot saved", "a learner of 3.4 serves no snapshot"),
    differs("role get root", "KV Read:", "<open ended>", "since 3.6 the role root shows what it may"),
    differs("lease timetolive LEASE --keys --user ann", "attached keys", DENIED, KEYS_OF_LEASES),
    differs("lease keep-alive LEASE --once --user ann", "keepalived", DENIED, KEYS_OF_LEASES),
    differs("compaction 6 --user ann", "compacted", DENIED, ADMINISTRATION),
    differs("move-leader ID1 --user ann", "", DENIED, ADMINISTRATION),
    differs("defrag --user ann", "desc = auth: permission denied", "Some(1)", WRAPPED),
    differs("snapshot save FOLDER/a.db", "desc = auth: permission denied", DENIED, WRAPPED),
    differs("endpoint hashkv --user ann", "desc = auth: permission denied", DENIED, WRAPPED),
    differs("endpoint status", "Some(1)", "Some(0)", STATUS),
];
