//! Compiles the `.proto` files of the wire contract without `protoc`: types and services for gRPC, descriptors for the
//! JSON gateway.

use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

/// Fields whose wire types carry encoded records: (message, field, what the bytes are).
const ENCODED: [(&str, &str, &str); 2] =
    [("RangeResponse", "kvs", ".mvccpb.KeyValue"), ("WatchResponse", "events", ".mvccpb.Event")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["rpc.proto", "kv.proto", "auth.proto", "lock.proto", "election.proto", "health.proto", "command.proto"];
    println!("cargo::rerun-if-changed=src/proto");
    let descriptors = protox::compile(files, ["src/proto"])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), readable(descriptors.clone())?.encode_to_vec())?;
    // `bytes` fields decode as slices of the network buffer, without a copy.
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // What can hold a password, its hash or a token prints itself without (`src/proto/redact.rs`).
    config.skip_debug([
        ".authpb.User",
        ".etcdserverpb.AuthenticateRequest",
        ".etcdserverpb.AuthenticateResponse",
        ".etcdserverpb.AuthUserAddRequest",
        ".etcdserverpb.AuthUserChangePasswordRequest",
        ".command.Login",
        ".command.NewUser",
        ".command.NewPassword",
    ]);
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::Codec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// The descriptors with every record shown as what it is. On the wire both forms are the same.
fn readable(mut set: FileDescriptorSet) -> Result<FileDescriptorSet, String> {
    for (message, field, kind) in ENCODED {
        let found = set
            .file
            .iter_mut()
            .flat_map(|file| &mut file.message_type)
            .filter(|found| found.name() == message)
            .flat_map(|found| &mut found.field)
            .find(|found| found.name() == field)
            .ok_or_else(|| format!("{message}.{field} is not in the .proto files"))?;
        found.set_type(Type::Message);
        found.type_name = Some(kind.to_owned());
    }
    for file in &mut set.file {
        file.source_code_info = None;
    }
    Ok(set)
}
