//! Plain HTTP/1.1 requests, one after another on one connection.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub struct Http {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Http {
    /// Speaks to `http://host:port`.
    pub fn new(endpoint: &str) -> Self {
        Self { address: endpoint.trim_start_matches("http://").to_owned(), sender: None }
    }

    pub async fn send(&mut self, method: Method, target: &str, form: Option<Vec<u8>>) -> Reply {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.address).await.expect("the server accepts");
            stream.set_nodelay(true).expect("a TCP stream");
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("the server speaks HTTP");
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().expect("a connection was just opened");
        let mut request = Request::builder().method(method).uri(target).header("host", &self.address);
        if form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(form.unwrap_or_default().into())).expect("a request");
        sender.ready().await.expect("a free connection");
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Reply { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&mut self, target: &str) -> Reply {
        self.send(Method::GET, target, None).await
    }

    /// PUT that must succeed.
    pub async fn put(&mut self, target: &str, form: &[u8]) -> Reply {
        let reply = self.send(Method::PUT, target, Some(form.to_vec())).await;
        assert!(reply.status.is_success(), "PUT {target}: {} {}", reply.status, reply.body);
        reply
    }
}
