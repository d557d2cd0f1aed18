//! etcd's wire contract and our own log format, generated from the `.proto` files beside this one by `build.rs`.
//!
//! Field names and numbers follow etcd 3.6; see `docs/ARCHITECTURE.md` for which message travels where.

/// The codec of every service.
pub mod codec;
mod redact;

/// Key-value records and events.
#[allow(missing_docs, clippy::all)]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// Users, roles, permissions.
#[allow(missing_docs, clippy::all)]
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// The client services: KV, Watch, Lease, Cluster, Maintenance, Auth.
#[allow(missing_docs, clippy::all)]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// The lock service.
#[allow(missing_docs, clippy::all)]
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
/// The election service.
#[allow(missing_docs, clippy::all)]
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
/// The standard health service.
#[allow(missing_docs, clippy::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
/// What a Raft log entry carries.
#[allow(missing_docs, clippy::all)]
pub mod command {
    tonic::include_proto!("command");
}
