//! What the fuzz target of the peer port does with its bytes; see `src/fuzzing.rs`.

use bytes::{BufMut, Bytes, BytesMut};

use super::http;
use super::message::{Answer, Request, append_result, put_append_result};
use super::wire::{Frame, HELLO_BYTES, Hello, decode_welcome, encode_welcome, put_frame, take_frame};
use crate::raft::codec::{CodecError, Reader, vote};
use crate::store::fuzzing::manifest;

/// The first byte says what is sent, the second, where there are kinds, of which kind.
pub(crate) fn peer(data: &[u8]) {
    let Some((pick, rest)) = data.split_first() else { return };
    match pick % 8 {
        0 => stream(rest),
        1 => handshake(Bytes::copy_from_slice(rest)),
        2 => snapshot_start(Bytes::copy_from_slice(rest)),
        3 => drop(http::parse(rest)),
        4 => {
            let read = |bytes: Bytes| append_result(&mut Reader::new(bytes));
            settles(read, put_append_result, Bytes::copy_from_slice(rest));
        }
        5 => {
            let Some((kind, body)) = frame(rest) else { return };
            settles(|body| Answer::decode(Frame { kind, id: 1, body }), |out, answer| answer.put(out), body);
        }
        _ => {
            let Some((kind, body)) = frame(rest) else { return };
            settles(|body| Request::decode(Frame { kind, id: 1, body }), |out, request| request.put(out), body);
        }
    }
}

/// Kind and contents, after they travelled in a frame.
fn frame(data: &[u8]) -> Option<(u8, Bytes)> {
    let (&kind, body) = data.split_first()?;
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, kind, 7, |out| out.put_slice(body));
    let frame = take_frame(&mut buffer).expect("our own frame").expect("a whole frame");
    assert!(buffer.is_empty() && (frame.kind, frame.id) == (kind, 7) && frame.body == body);
    Some((kind, frame.body))
}

/// What was read can be written, what was written reads back, and to the same bytes.
fn settles<T>(read: impl Fn(Bytes) -> Result<T, CodecError>, put: impl Fn(&mut BytesMut, &T), bytes: Bytes) {
    let write = |value: &T| {
        let mut out = BytesMut::new();
        put(&mut out, value);
        out.freeze()
    };
    let Ok(value) = read(bytes) else { return };
    let written = write(&value);
    let again = read(written.clone()).unwrap_or_else(|error| panic!("{error} in our own bytes"));
    assert_eq!(write(&again), written);
}

/// Frames out of bytes that arrive at once, and one by one.
fn stream(data: &[u8]) {
    let (whole, single) = (frames(&[data]), frames(&data.chunks(1).collect::<Vec<_>>()));
    assert_eq!(whole, single, "how the bytes arrive must not matter");
}

fn frames(pieces: &[&[u8]]) -> (Vec<(u8, u64, Bytes)>, Option<String>) {
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match take_frame(&mut buffer) {
                Ok(Some(frame)) => found.push((frame.kind, frame.id, frame.body)),
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

fn handshake(bytes: Bytes) {
    if let Ok(Ok(hello)) = Hello::decode(bytes.clone()) {
        assert_eq!(hello.encode(), bytes[..HELLO_BYTES]);
    }
    if let Ok(welcome) = decode_welcome(bytes) {
        let written = encode_welcome(&welcome).freeze();
        decode_welcome(written).expect("our own bytes").unwrap_or_else(|refusal| drop(refusal.to_string()));
    }
}

fn snapshot_start(bytes: Bytes) {
    let mut reader = Reader::new(bytes);
    if vote(&mut reader).is_ok() {
        manifest(&reader.rest());
    }
}
