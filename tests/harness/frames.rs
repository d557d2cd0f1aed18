//! HTTP/2 by hand: frames that no well-behaved client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 4;

const LIMIT: Duration = Duration::from_secs(30);

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The header block of a gRPC call, without compression.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Opens a connection and says the preface and empty settings.
pub async fn open(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the port accepts");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sent");
    stream
}

/// Sends `bytes` as far as the other side takes them; a flood need not get through.
pub async fn flood(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    matches!(timeout(LIMIT, stream.write_all(bytes)).await, Ok(Ok(())))
}

/// Every frame until the other side closes, or until `enough` says so: kind, stream, payload.
pub async fn read(
    stream: &mut TcpStream,
    mut enough: impl FnMut(&(u8, u32, Vec<u8>)) -> bool,
) -> (Vec<(u8, u32, Vec<u8>)>, bool) {
    let mut frames = Vec::new();
    loop {
        let mut head = [0; 9];
        let next = async {
            stream.read_exact(&mut head).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await?;
            std::io::Result::Ok(payload)
        };
        match timeout(LIMIT, next).await {
            Ok(Ok(payload)) => {
                let frame = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload);
                let done = enough(&frame);
                frames.push(frame);
                if done {
                    return (frames, false);
                }
            }
            Ok(Err(_)) => return (frames, true),
            Err(_) => {
                panic!("the connection was neither answered nor closed within {LIMIT:?}: {} frames", frames.len())
            }
        }
    }
}
