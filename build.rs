//! Compiles the `.proto` files of the wire contract without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["rpc.proto", "kv.proto", "auth.proto", "lock.proto", "election.proto", "health.proto", "command.proto"];
    println!("cargo::rerun-if-changed=src/proto");
    let descriptors = protox::compile(files, ["src/proto"])?;
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
