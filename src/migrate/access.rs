//! Access to a v2 API server: endpoints, TLS, credentials, and decoding of responses.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use rustls::ClientConfig;
use serde::Deserialize;

use super::error::MigrateError;
use super::options::Server;
use crate::client::http::{Connection, body};
use crate::client::{Client, ClientError};
use crate::tls;

/// Timeout of a small request: a server gives up on a proposal after 7 s.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Timeout for the response headers of a recursive read, which etcd builds in memory first.
pub const LISTING_LIMIT: Duration = Duration::from_secs(600);
/// Maximum response size of a small request, in bytes: a value of 10 MiB with escapes.
const MAX_ANSWER_BYTES: usize = 80 << 20;

/// Validated access to a server.
pub struct Access {
    pub endpoints: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<HeaderValue>,
}

/// An error of the v2 API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    #[serde(rename = "errorCode")]
    pub code: u32,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub cause: String,
}

/// The response to a small request.
#[derive(Debug)]
pub enum Said {
    /// 200 or 201.
    Done(HeaderMap, Bytes),
    /// An error of the v2 API.
    Refused(Refusal),
    /// Any other response.
    Other(StatusCode),
}

impl Access {
    /// Loads the certificates.
    pub fn new(server: &Server) -> Result<Self, MigrateError> {
        let tls = config(server, b"http/1.1")?;
        let authorization = credentials(server.user.as_deref())?.map(|(name, password)| {
            let text = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
            HeaderValue::from_str(&format!("Basic {text}")).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization = authorization.transpose().map_err(|_| MigrateError::Password("name".to_owned()))?;
        Ok(Self { endpoints: server.endpoints.clone(), tls, authorization })
    }

    /// A connection to one endpoint, chosen round-robin by `turn`.
    pub async fn open(&self, turn: usize) -> Result<Connection, ClientError> {
        let endpoint = &self.endpoints[turn % self.endpoints.len()];
        Connection::open_with(endpoint, self.tls.clone(), self.authorization.clone()).await
    }

    /// A connection to the first endpoint that answers.
    pub async fn open_any(&self) -> Result<Connection, MigrateError> {
        let mut reasons = Vec::new();
        for turn in 0..self.endpoints.len() {
            match self.open(turn).await {
                Ok(connection) => return Ok(connection),
                Err(ClientError::Unreachable(reason)) => reasons.push(reason),
                Err(error) => return Err(error.into()),
            }
        }
        Err(MigrateError::Endpoints(reasons.join("; ")))
    }
}

/// A client of the v3 API of `server`.
pub async fn v3(server: &Server) -> Result<Client, MigrateError> {
    let client = Client::connect_with(&server.endpoints, config(server, b"h2")?).await?;
    match credentials(server.user.as_deref())? {
        None => Ok(client),
        Some((name, password)) => Ok(client.log_in(&name, &password).await?),
    }
}

fn config(server: &Server, protocol: &[u8]) -> Result<Option<Arc<ClientConfig>>, MigrateError> {
    let needed = server.cacert.is_some()
        || server.cert.is_some()
        || server.endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    if !needed {
        return Ok(None);
    }
    let pair = server.cert.as_deref().zip(server.key.as_deref());
    Ok(Some(tls::one_shot(server.cacert.as_deref(), pair, &[protocol])?))
}

fn credentials(user: Option<&str>) -> Result<Option<(String, String)>, MigrateError> {
    let Some(user) = user else { return Ok(None) };
    if let Some((name, password)) = user.split_once(':') {
        return Ok(Some((name.to_owned(), password.to_owned())));
    }
    let password = std::env::var("ETCDCTL_PASSWORD").map_err(|_| MigrateError::Password(user.to_owned()))?;
    Ok(Some((user.to_owned(), password)))
}

/// Sends a small request and reads the whole response.
pub async fn ask(
    connection: &mut Connection,
    method: Method,
    target: &str,
    form: Option<Bytes>,
) -> Result<Said, ClientError> {
    let response = connection.call(method, target, form, CALL_LIMIT).await?;
    judge(response).await
}

/// Reads and decodes a whole response.
pub async fn judge(response: Response<Incoming>) -> Result<Said, ClientError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = body(response, MAX_ANSWER_BYTES, CALL_LIMIT).await?;
    if matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Ok(Said::Done(headers, bytes));
    }
    Ok(serde_json::from_slice(&bytes).map_or(Said::Other(status), Said::Refused))
}

/// The error for an unexpected response.
pub fn unexpected(said: Said, endpoint: &str, what: &str) -> MigrateError {
    let (endpoint, what) = (endpoint.to_owned(), what.to_owned());
    match said {
        Said::Refused(Refusal { code, message, cause }) => {
            MigrateError::Refused { endpoint, what, code, message, cause }
        }
        Said::Other(status) => MigrateError::NoV2 { endpoint, what, status: status.as_u16() },
        Said::Done(..) => MigrateError::NoV2 { endpoint, what, status: 200 },
    }
}

/// `X-Etcd-Index` of a response.
pub fn index(headers: &HeaderMap) -> Option<u64> {
    headers.get("x-etcd-index")?.to_str().ok()?.parse().ok()
}

/// `X-Etcd-Cluster-Id` of a response.
pub fn cluster(headers: &HeaderMap) -> String {
    headers.get("x-etcd-cluster-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

/// Percent-encodes a key for a request path: everything but `/` and unreserved characters.
pub fn encode(key: &[u8]) -> String {
    let mut path = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// Request path of a directory, with a trailing slash: the v2 permission `/app/*` does not match the path `/app`.
pub fn encode_directory(key: &[u8]) -> String {
    let mut path = encode(key);
    if !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// A form with a value of up to 10 MiB: only what must be is escaped, because servers limit the size of forms.
pub fn form(value: &[u8], ttl: Option<i64>) -> Bytes {
    let mut form = Vec::with_capacity(value.len() + 32);
    if let Some(ttl) = ttl {
        form.extend_from_slice(format!("ttl={ttl}&").as_bytes());
    }
    form.extend_from_slice(b"value=");
    for &byte in value {
        match byte {
            b'%' | b'&' | b'+' | b';' => form.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => form.push(byte),
        }
    }
    form.into()
}

/// Validates a path from the command line. A trailing slash is accepted.
pub fn clean(flag: &'static str, path: &str) -> Result<String, MigrateError> {
    let trimmed = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    let good = trimmed == "/"
        || trimmed.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if good { Ok(trimmed.to_owned()) } else { Err(MigrateError::Path { flag, path: path.to_owned() }) }
}
