//! A gRPC client with as little of its own as possible: frames on an HTTP/2 connection, no channel, no codec layers.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// TLS of the client side: trusts the benchmark's authority and shows its certificate.
pub type Tls = Option<Arc<rustls::ClientConfig>>;

/// One connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: h2::client::SendRequest<Bytes>,
    scheme: &'static str,
    token: Option<HeaderValue>,
}

/// Stream and connection windows, bytes: never the limit here.
const WINDOW: u32 = 16 << 20;

impl Connection {
    pub async fn open(address: SocketAddr, tls: &Tls) -> Result<Self, String> {
        let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_reset_streams(1024);
        match tls {
            None => {
                let (sender, connection) = builder.handshake(tcp).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self { sender, scheme: "http", token: None })
            }
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
                let connector = tokio_rustls::TlsConnector::from(config.clone());
                let stream =
                    connector.connect(name, tcp).await.map_err(|error| format!("TLS to {address}: {error}"))?;
                let (sender, connection) = builder.handshake(stream).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self { sender, scheme: "https", token: None })
            }
        }
    }

    /// The same connection, showing who calls with every call.
    pub fn with_token(self, token: &str) -> Result<Self, String> {
        let token = HeaderValue::from_str(token).map_err(|error| error.to_string())?;
        Ok(Self { token: Some(token), ..self })
    }

    /// One unary call with an already framed body. Returns the framed answer.
    pub async fn call(&self, path: &'static str, body: Bytes) -> Result<Bytes, String> {
        let mut request = http::Request::post(format!("{}://localhost{path}", self.scheme))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        if let Some(token) = &self.token {
            request.headers_mut().insert("token", token.clone());
        }
        let mut sender = self.sender.clone().ready().await.map_err(|error| error.to_string())?;
        let (response, mut send) = sender.send_request(request, false).map_err(|error| error.to_string())?;
        send.send_data(body, true).map_err(|error| error.to_string())?;
        let response = response.await.map_err(|error| error.to_string())?;
        check_status(response.headers())?;
        let mut stream = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.map_err(|error| error.to_string())?;
            let _ = stream.flow_control().release_capacity(chunk.len());
            answer.extend_from_slice(&chunk);
        }
        if let Some(trailers) = stream.trailers().await.map_err(|error| error.to_string())? {
            check_status(&trailers)?;
        }
        Ok(answer.freeze())
    }

    /// One unary call of typed messages.
    pub async fn unary<T: Message, U: Message + Default>(&self, path: &'static str, request: &T) -> Result<U, String> {
        let answer = self.call(path, frame(request)).await?;
        let message = answer.get(5..).ok_or("an answer without a message")?;
        U::decode(message).map_err(|error| error.to_string())
    }
}

fn check_status(headers: &http::HeaderMap) -> Result<(), String> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let message = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
            Err(format!("grpc status {}: {message}", status.to_str().unwrap_or_default()))
        }
        _ => Ok(()),
    }
}

/// The gRPC frame of a message: not compressed, its length, its bytes.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(length as u32);
    message.encode(&mut framed).expect("the buffer grows as needed");
    framed.freeze()
}
