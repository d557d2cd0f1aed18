//! What the fuzz target of the gateway does with its bytes; see [`crate::fuzzing`].

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{Code, Status};

use super::requests::{self, Many};
use super::schema::Shape;
use super::{metadata, schema, write};
use crate::api::methods::Rpc;

/// Far above what is fed in.
const LIMIT: usize = 1 << 20;
/// First bytes that choose a method; all others choose headers.
const CHOICES: u8 = 64;
/// Flag and length before a message.
const PREFIX: usize = 5;

type Read = Result<Bytes, (Code, String)>;

/// A body or, where the first byte names no method, headers.
pub(crate) fn gateway(data: &[u8]) {
    let Some((pick, rest)) = data.split_first() else { return };
    let mut paths = Rpc::ALL.into_iter().flat_map(|rpc| rpc.gateway_paths().iter().map(move |_| rpc));
    match paths.nth(usize::from(pick % CHOICES)) {
        Some(rpc) => {
            let shape = schema::shape(rpc.service().name(), rpc.name());
            body(&shape.unwrap_or_else(|| panic!("{rpc:?} has no shape")), rest);
        }
        None => headers(rest),
    }
}

fn body(shape: &Shape, data: &[u8]) {
    let Some((cut, text)) = data.split_first() else { return };
    let (head, tail) = text.split_at(usize::from(*cut).min(text.len()));
    let whole = read(shape, &[text]);
    assert_eq!(read(shape, &[head, tail]), whole, "how the bytes arrive must not matter");
    let Ok(mut framed) = whole else { return };
    while framed.len() >= PREFIX {
        let message = framed.split_to(PREFIX);
        let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]) as usize;
        printed_reads_back(framed.split_to(length), &shape.input);
    }
    assert!(framed.is_empty(), "a message was cut");
}

/// The requests in a body that arrives in these pieces.
fn read(shape: &Shape, pieces: &[&[u8]]) -> Read {
    let frames: Vec<Result<Frame<Bytes>, Infallible>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let body = StreamBody::new(futures::stream::iter(frames));
    let told = |status: Status| (status.code(), status.message().to_owned());
    run(async {
        if shape.takes_stream {
            let many = Many::new(body, shape.input.clone(), LIMIT).collect().await;
            many.map(http_body_util::Collected::to_bytes).map_err(told)
        } else {
            requests::one(body, &shape.input, LIMIT).await.map_err(told)
        }
    })
}

fn printed_reads_back(encoded: Bytes, shape: &MessageDescriptor) {
    if let Err(error) = DynamicMessage::decode(shape.clone(), encoded.clone()) {
        panic!("what was read does not decode: {error}");
    }
    let printer = Printer { lane: Lane::new(1), source: Source::MEMBER };
    let print = |encoded: Bytes| run(write::message(&printer, encoded, shape)).expect("what was read can be printed");
    let printed = print(encoded);
    let alone = Shape { input: shape.clone(), output: shape.clone(), takes_stream: false, gives_stream: false };
    let again = read(&alone, &[printed.as_bytes()]);
    let again = again.unwrap_or_else(|error| panic!("{error:?} in our own print: {printed}"));
    assert_eq!(print(again.slice(PREFIX..)), printed);
}

fn headers(data: &[u8]) {
    let mut map = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    let _translated = metadata::translate(&map);
}

fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
