//! The messages of the gateway as descriptors, so that one piece of code reads and writes all of them.
//!
//! The descriptors come from the same `.proto` files as the types, with one difference made in `build.rs`: where the wire
//! types carry records already encoded (`RangeResponse.kvs`, `WatchResponse.events`), the descriptors say what they hold.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

fn pool() -> Option<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let decode = || {
        DescriptorPool::decode(DESCRIPTORS)
            .inspect_err(|error| tracing::error!(%error, "failed to read the gateway's built-in descriptors"))
            .ok()
    };
    POOL.get_or_init(decode).as_ref()
}

/// What one method takes and gives.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The request.
    pub input: MessageDescriptor,
    /// An answer.
    pub output: MessageDescriptor,
    /// Whether requests are a stream.
    pub takes_stream: bool,
    /// Whether answers are a stream.
    pub gives_stream: bool,
}

/// The shape of a method of a service; `None` when there is no such method.
pub fn shape(service: &str, method: &str) -> Option<Shape> {
    let service = pool()?.get_service_by_name(service)?;
    let method: MethodDescriptor = service.methods().find(|found| found.name() == method)?;
    Some(Shape {
        input: method.input(),
        output: method.output(),
        takes_stream: method.is_client_streaming(),
        gives_stream: method.is_server_streaming(),
    })
}
