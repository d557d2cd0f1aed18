//! Authentication: random changes of users and roles, and accesses by several users, answered as etcd answers them.
//!
//! `DIFF_AUTH_OPS` sets how many operations, `DIFF_AUTH_SEED` which; the seed of a failure is printed. Each server gives
//! its own tokens; a user's newest one is used until it is worth nothing, and then goes on being used, since that has an
//! answer too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use etcd_charm::proto::etcdserverpb as pb;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::generate_auth::{By, Call, Generator};
use super::mask;
use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

struct Server {
    auth: AuthClient<Channel>,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    cluster: ClusterClient<Channel>,
    tokens: BTreeMap<String, String>,
}

/// An answer with everything that may differ taken out: what was said, or the refusal.
type Answer = Result<String, (i32, String)>;

/// Keeps of an answer with a header what two servers share of it.
macro_rules! masked {
    ($answer:expr) => {{
        let mut answer = $answer.await?.into_inner();
        mask::header(&mut answer.header);
        said(&answer)
    }};
}

fn said(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

impl Server {
    async fn connect(cluster: &Cluster) -> Self {
        let channel = cluster.channel(0).await.expect("the server accepts");
        Self {
            auth: AuthClient::new(channel.clone()),
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            cluster: ClusterClient::new(channel),
            tokens: BTreeMap::new(),
        }
    }

    async fn ask(&mut self, by: &By, call: &Call) -> Answer {
        self.call(by, call).await.map_err(|status| (status.code() as i32, status.message().to_owned()))
    }

    fn signed<T>(&self, by: &By, message: T) -> Request<T> {
        let token = match by {
            By::Nobody => None,
            By::User(name) => self.tokens.get(*name).map(String::as_str),
            By::Forged => Some("abcdefghijklmnop.1"),
        };
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("metadata"));
        }
        request
    }

    async fn call(&mut self, by: &By, call: &Call) -> Result<String, Status> {
        Ok(match call.clone() {
            Call::Enable => masked!(self.auth.auth_enable(self.signed(by, pb::AuthEnableRequest {}))),
            Call::Disable => masked!(self.auth.auth_disable(self.signed(by, pb::AuthDisableRequest {}))),
            Call::Login(request) => {
                let answer = self.auth.authenticate(request.clone()).await?.into_inner();
                assert!(!answer.token.is_empty());
                self.tokens.insert(request.name, answer.token);
                "a token".to_owned()
            }
            Call::UserAdd(request) => masked!(self.auth.user_add(self.signed(by, request))),
            Call::UserDelete(request) => masked!(self.auth.user_delete(self.signed(by, request))),
            Call::UserGet(request) => masked!(self.auth.user_get(self.signed(by, request))),
            Call::UserList => masked!(self.auth.user_list(self.signed(by, pb::AuthUserListRequest {}))),
            Call::UserPassword(request) => masked!(self.auth.user_change_password(self.signed(by, request))),
            Call::UserGrant(request) => masked!(self.auth.user_grant_role(self.signed(by, request))),
            Call::UserRevoke(request) => masked!(self.auth.user_revoke_role(self.signed(by, request))),
            Call::RoleAdd(request) => masked!(self.auth.role_add(self.signed(by, request))),
            Call::RoleDelete(request) => masked!(self.auth.role_delete(self.signed(by, request))),
            Call::RoleGet(request) => masked!(self.auth.role_get(self.signed(by, request))),
            Call::RoleList => masked!(self.auth.role_list(self.signed(by, pb::AuthRoleListRequest {}))),
            Call::RoleGrant(request) => masked!(self.auth.role_grant_permission(self.signed(by, request))),
            Call::RoleRevoke(request) => masked!(self.auth.role_revoke_permission(self.signed(by, request))),
            Call::Put(request) => masked!(self.kv.put(self.signed(by, request))),
            Call::Range(request) => masked!(self.kv.range(self.signed(by, request))),
            Call::Delete(request) => masked!(self.kv.delete_range(self.signed(by, request))),
            Call::Txn(request) => {
                let mut answer = self.kv.txn(self.signed(by, request.clone())).await?.into_inner();
                mask::txn(&request, &mut answer);
                said(&answer)
            }
            Call::Grant(request) => masked!(self.lease.lease_grant(self.signed(by, request))),
            Call::Revoke(request) => masked!(self.lease.lease_revoke(self.signed(by, request))),
            Call::MemberRemove(request) => masked!(self.cluster.member_remove(self.signed(by, request))),
            Call::Watch(request) => self.first_of_watch(by, request).await?,
        })
    }

    async fn first_of_watch(&mut self, by: &By, create: pb::WatchCreateRequest) -> Result<String, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        sender.send(create).await.expect("an open stream");
        let request = self.signed(by, tokio_stream::wrappers::ReceiverStream::new(receiver));
        let mut answers = self.watch.watch(request).await?.into_inner();
        let mut first = answers.message().await?.expect("an open stream");
        mask::header(&mut first.header);
        Ok(said(&first))
    }
}

async fn compare(flags: &[&str], leases: bool, operations: u64, seed: u64) {
    let (etcd, ours) = (
        Cluster::start_in_memory(Product::Etcd, 1, flags).await,
        Cluster::start_in_memory(Product::Ours, 1, flags).await,
    );
    let (mut etcd_server, mut our_server) = (Server::connect(&etcd).await, Server::connect(&ours).await);
    let mut generator = Generator::new(SmallRng::seed_from_u64(seed));
    generator.leases = leases;
    let (mut enabled, mut while_on, mut refused) = (false, 0u64, BTreeMap::<String, u64>::new());
    for n in 0..operations {
        let (by, call) = generator.next(enabled);
        // While authentication is off, etcd 3.4 refuses a token it does not know; 3.5 (seen: 3.5.30) and we ignore it.
        let by = if enabled { by } else { By::Nobody };
        // Leases of nobody in particular: etcd 3.4 does not ask.
        let known = matches!(&by, By::User(name) if our_server.tokens.contains_key(*name));
        if enabled && !known && matches!(call, Call::Grant(_) | Call::Revoke(_)) {
            continue;
        }
        // Since 3.5 the role `root` shows that it may do everything; 3.4 shows what was granted to it besides.
        if matches!(&call, Call::RoleGet(request) if request.role == "root") {
            continue;
        }
        let expected = etcd_server.ask(&by, &call).await;
        let got = our_server.ask(&by, &call).await;
        assert!(
            expected == got,
            "operation {n} of seed {seed} by {by:?}, on: {enabled}: {call:#?}\netcd: {expected:#?}\nours: {got:#?}"
        );
        match (&call, &got) {
            (Call::Enable, Ok(_)) => enabled = true,
            (Call::Disable, Ok(_)) => enabled = false,
            _ => {}
        }
        while_on += u64::from(enabled);
        if let Err((_, message)) = got {
            *refused.entry(message).or_default() += 1;
        }
    }
    println!(
        "{operations} auth operations of seed {seed} answered alike, {while_on} with authentication on; refusals:"
    );
    refused.iter().for_each(|(message, count)| println!("  {count:6} {message}"));
    let total: u64 = refused.values().sum();
    assert!(total < operations * 9 / 10, "enough operations must succeed for the comparison to mean something");
    assert!(while_on > operations / 4, "authentication must be on for long enough");
    assert!(refused.contains_key("etcdserver: permission denied"), "somebody must have been denied");
    let log = ours.members[0].log();
    assert!(!log.contains("$2a$") && !log.contains("password_hash"), "a hash in the log");
}

#[tokio::test]
async fn random_auth_operations_answer_as_etcd_answers_them() {
    let _turn = turn().await;
    let (operations, seed) = (setting("DIFF_AUTH_OPS", 4_000), setting("DIFF_AUTH_SEED", 1));
    compare(&["--bcrypt-cost", "4"], true, operations, seed).await;
}

#[tokio::test]
async fn signed_tokens_answer_as_etcds_do() {
    let _turn = turn().await;
    let (operations, seed) = (setting("DIFF_AUTH_JWT_OPS", 1_500), setting("DIFF_AUTH_SEED", 1) + 1000);
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key.pem");
    rsa_key(&key);
    let token = format!("jwt,sign-method=RS256,priv-key={0},pub-key={0}.pub,ttl=10m", key.display());
    compare(&["--bcrypt-cost", "4", "--auth-token", &token], false, operations, seed).await;
}

/// An RSA pair in two files, as etcd's documentation makes them.
fn rsa_key(path: &Path) {
    let run = |words: &[&str]| {
        let done = std::process::Command::new("openssl").args(words).output().expect("openssl starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let path = path.to_str().expect("a plain path");
    run(&["genrsa", "-out", path, "2048"]);
    run(&["rsa", "-in", path, "-pubout", "-out", &format!("{path}.pub")]);
}
