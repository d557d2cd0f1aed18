//! An HTTP/1.1 client for the v2 API, `/health` and `/version`.
//!
//! One connection to one endpoint, one request at a time. Connecting and waiting for response headers have timeouts;
//! the caller reads the body, chunk by chunk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::{CONNECT_TIMEOUT, ClientError, Target, TlsPem, tls_config};

/// A connection to one endpoint.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// Connects to `endpoint` with the three PEM texts, which `https` needs.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], [`ClientError::Tls`], [`ClientError::Unreachable`].
    pub async fn open(endpoint: &str, tls: Option<&TlsPem>) -> Result<Self, ClientError> {
        let config = tls.map(tls_config).transpose()?.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        });
        Self::open_with(endpoint, config, None).await
    }

    /// As [`Connection::open`], with the caller's own TLS configuration, which must not offer `h2`, and credentials.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_with(
        endpoint: &str,
        config: Option<Arc<rustls::ClientConfig>>,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, ClientError> {
        let target = Target::parse(endpoint)?;
        let config = target.choose(config)?;
        let open = async {
            let stream = target.dial(config).await.map_err(|error| error.to_string())?;
            handshake(TokioIo::new(stream)).await.map_err(|error| super::causes(&error))
        };
        let unreachable = |reason| ClientError::Unreachable(format!("{endpoint}: {reason}"));
        match tokio::time::timeout(CONNECT_TIMEOUT, open).await {
            Ok(Ok((sender, connection))) => {
                // The task ends when the sender is dropped; its error is returned to the pending request.
                tokio::spawn(connection);
                Ok(Self { sender, target, authorization })
            }
            Ok(Err(reason)) => Err(unreachable(reason)),
            Err(_) => Err(unreachable(format!("no answer in {CONNECT_TIMEOUT:?}"))),
        }
    }

    /// The endpoint as given.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.target.text
    }

    /// Sends one request and waits up to `limit` for the response headers. `target` is path and query, already
    /// encoded; `form` is a form body, already encoded.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]: the outcome of a mutation is unknown then.
    pub async fn call(
        &mut self,
        method: Method,
        target: &str,
        form: Option<Bytes>,
        limit: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let failed = |reason: String| ClientError::Unreachable(format!("{}: {reason}", self.target.text));
        let authority = if self.target.host.contains(':') {
            format!("[{}]:{}", self.target.host, self.target.port)
        } else {
            format!("{}:{}", self.target.host, self.target.port)
        };
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, authority);
        if form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let request =
            request.body(Full::new(form.unwrap_or_default())).map_err(|error| failed(super::causes(&error)))?;
        let exchange = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ClientError::Unreachable(format!("{}: {}", self.target.text, super::causes(&error)))),
            Err(_) => Err(ClientError::Unreachable(format!("{}: no answer in {limit:?}", self.target.text))),
        }
    }
}

/// The complete body of a response, at most `most` bytes and received within `limit`.
///
/// # Errors
/// [`ClientError::Unreachable`] when it is incomplete, late or too large.
pub async fn body(response: Response<Incoming>, most: usize, limit: Duration) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(response.into_body(), most);
    match tokio::time::timeout(limit, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(ClientError::Unreachable(format!("the answer broke off: {error}"))),
        Err(_) => Err(ClientError::Unreachable(format!("the answer did not end in {limit:?}"))),
    }
}
