//! The answers of a gRPC call made in this process: messages out of frames, the status out of headers or trailers.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tonic::{Code, Status};

use crate::api::body::ClientBody;
use crate::work::Grant;

/// Bytes in front of every gRPC message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Reads one call's answers. Dropping it gives the call up.
pub struct Answers {
    body: ClientBody,
    held: BytesMut,
    /// A status that came with the headers.
    refused: Option<Status>,
}

impl Answers {
    /// The answers of this response.
    pub fn new(response: Response<ClientBody>) -> Self {
        let (head, body) = response.into_parts();
        Self { body, held: BytesMut::new(), refused: status_of(&head.headers) }
    }

    /// What pays for them, for what is made of them.
    pub fn take_grant(&self) -> Option<Grant> {
        self.body.take_grant()
    }

    /// The next message; `None` when the call ended well.
    ///
    /// # Errors
    /// The status the call ended with.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(status) = self.refused.take() {
            return if status.code() == Code::Ok { Ok(None) } else { Err(status) };
        }
        loop {
            if let Some(message) = self.whole() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| Status::internal(error.to_string()))?;
            match frame.into_data() {
                Ok(data) => self.held.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(status_of);
                    return status.filter(|status| status.code() != Code::Ok).map_or(Ok(None), Err);
                }
            }
        }
    }

    /// The one message of a call that has one, once the call has ended: it counts as answered only then.
    ///
    /// # Errors
    /// The status the call ended with; no message at all.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        let message = self.next().await?.ok_or_else(|| Status::internal("the call had no answer"))?;
        while self.next().await?.is_some() {}
        Ok(message)
    }

    fn whole(&mut self) -> Option<Bytes> {
        let prefix: [u8; 4] = self.held.get(1..PREFIX_BYTES)?.try_into().ok()?;
        let length = usize::try_from(u32::from_be_bytes(prefix)).ok()?;
        if self.held.len() < PREFIX_BYTES + length {
            return None;
        }
        self.held.advance(PREFIX_BYTES);
        Some(self.held.split_to(length).freeze())
    }
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}
