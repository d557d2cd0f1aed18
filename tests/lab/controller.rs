//! The background process that is the lab: owns the world, the machines and the control socket.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use serde_json::Value;

use crate::home::{Home, write_pid};
use crate::hub::Hub;
use crate::machine::Provider;
use crate::requests::{self, Request};
use crate::wire;
use crate::world::{Options, World};

/// Runs until asked to stop. Cleans what an earlier controller of the same lab left behind.
pub fn run(home: Home, options: Options, force_process: bool) -> Result<(), String> {
    let io = |error: std::io::Error| format!("cannot start the controller in {}: {error}", home.root().display());
    write_pid(&home.root().join("controller.pid"), std::process::id()).map_err(io)?;
    let say = |text: &str| eprintln!("{text}");
    let provider = Provider::prepare(&home, force_process, &say)?;
    let uuid = uuid_of(&home, options.seed);
    let hub = Hub::new(home.clone(), provider, World::new(options, uuid));
    hub.keep_leases();
    let listener = UnixListener::bind(home.control_socket()).map_err(io)?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Ok(request) = wire::receive::<Request>(&mut stream) else { continue };
        if matches!(request, Request::Stop) {
            hub.stop();
            let answer: Result<Value, String> = Ok(Value::Null);
            // The client may have gone; the lab ends all the same.
            let _ = wire::send(&mut stream, &answer);
            return Ok(());
        }
        let hub = Arc::clone(&hub);
        std::thread::spawn(move || {
            let answer = requests::answer(&hub, request);
            let _ = wire::send(&mut stream, &answer);
        });
    }
    Ok(())
}

/// A UUID that is the same for the same lab and seed.
fn uuid_of(home: &Home, seed: u64) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{} {seed}", home.root().display()));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
