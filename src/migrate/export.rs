//! `export`: from a server to a file.
//!
//! A server of this project returns the file itself. Any other is asked for one recursive listing, which is a
//! consistent snapshot like the file; hidden nodes are in no listing, so each one given is listed separately and merged
//! in order. Those are read slightly later than the rest.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::access::{Access, LISTING_LIMIT, Said, cluster, encode, encode_directory, index, judge, unexpected};
use super::error::MigrateError;
use super::listing::Listing;
use super::options::{Export, Tree};
use super::report;
use super::spool::{Pending, is_dash};
use crate::client::http::Connection;
use crate::treefile::order::{compare, is_within};
use crate::treefile::{Header, Lines, MAX_LINE_BYTES, Node, Part, Totals, WriteError, Writer};

/// Idle timeout within a response body.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Clock skew above which the user is told, in nanoseconds.
const SKEW_LIMIT: i64 = 2_000_000_000;

type Answer = Pin<Box<dyn AsyncRead>>;

/// The result of an export.
pub struct Exported {
    pub header: Header,
    pub totals: Totals,
    pub endpoint: String,
    /// How far the source's clock is ahead of ours, in nanoseconds, if the source reported it.
    pub ahead: Option<i64>,
}

/// Runs the command.
pub async fn run(options: &Export) -> Result<(), MigrateError> {
    let access = Access::new(&options.server)?;
    let exported = if is_dash(&options.file) {
        let mut out = BufWriter::new(io::stdout());
        let exported = export(&access, &options.tree, &mut out).await?;
        out.flush().map_err(|error| MigrateError::Write(WriteError::Output(error)))?;
        exported
    } else {
        let mut out = Pending::begin(&options.file)?;
        let exported = export(&access, &options.tree, &mut out).await?;
        out.finish()?;
        exported
    };
    report::exported(&exported, &options.file);
    Ok(())
}

/// Writes the tree of a server to `out`.
pub async fn export<'a>(access: &'a Access, tree: &Tree, out: &'a mut dyn Write) -> Result<Exported, MigrateError> {
    let prefix = super::access::clean("--prefix", &tree.prefix)?;
    let hidden = hidden_paths(&prefix, &tree.hidden)?;
    let mut connection = access.open_any().await?;
    let own = format!("/v2/export{}", encode(prefix.as_bytes()));
    let response = connection.call(Method::GET, &own, None, LISTING_LIMIT).await?;
    if gives_the_file(&response) {
        return take_the_file(connection.endpoint(), response, out).await;
    }
    match judge(response).await? {
        // Another server implementation; or this user may perhaps read the keys, but not export everything.
        Said::Other(StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED) => {}
        said => return Err(unexpected(said, connection.endpoint(), &format!("an export of {prefix}"))),
    }
    let (headers, listing) = list(&mut connection, prefix.as_bytes()).await?;
    let Some(cut) = index(&headers) else {
        let reason = "it has no X-Etcd-Index".to_owned();
        return Err(MigrateError::Answer { endpoint: connection.endpoint().to_owned(), reason });
    };
    // Compute the skew now: reading the body may take minutes.
    let said = date(&headers);
    let ahead = said.map(|said| said - now());
    let names = hidden.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    let time = said.unwrap_or_else(now);
    let header = Header { hidden: names, ..Header::new(&prefix, cut, cluster(&headers), time) };
    let endpoint = connection.endpoint().to_owned();
    let mut listed = Listed { access, writer: Writer::new(out, &header)?, totals: Totals::default(), hidden, endpoint };
    listed.drain(listing).await?;
    listed.hidden_before(None).await?;
    listed.writer.finish()?;
    let (totals, endpoint) = (listed.totals, listed.endpoint);
    Ok(Exported { header, totals, endpoint, ahead })
}

/// Whether the response is the export file of a server of this project.
pub fn gives_the_file(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    response.status() == StatusCode::OK && kind == Some("application/x-ndjson")
}

async fn take_the_file(
    endpoint: &str,
    response: Response<Incoming>,
    out: &mut dyn Write,
) -> Result<Exported, MigrateError> {
    let answer = |reason: String| MigrateError::Answer { endpoint: endpoint.to_owned(), reason };
    let output = |error: io::Error| MigrateError::Write(WriteError::Output(error));
    let ahead = date(response.headers()).map(|said| said - now());
    let mut body = response.into_body();
    let (mut lines, mut line) = (Lines::default(), Vec::new());
    let (mut header, mut totals) = (None, Totals::default());
    while let Some(chunk) = piece(&mut body).await.map_err(|error| answer(error.to_string()))? {
        let mut rest = chunk.as_ref();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            match lines.take(&line).map_err(|error| answer(error.to_string()))? {
                Part::Header(first) => header = Some(first),
                Part::End(counted) => totals = counted,
                Part::Node(_) => {}
            }
            line.push(b'\n');
            out.write_all(&line).map_err(output)?;
            line.clear();
        }
        line.extend_from_slice(rest);
        if line.len() > MAX_LINE_BYTES {
            return Err(answer("it has a line that is longer than any can be".to_owned()));
        }
    }
    let finished = if line.is_empty() { lines.finish() } else { Err(lines.cut()) };
    finished.map_err(|error| answer(error.to_string()))?;
    let header = header.ok_or_else(|| answer("it is empty".to_owned()))?;
    Ok(Exported { header, totals, endpoint: endpoint.to_owned(), ahead })
}

/// The next chunk of a body, with an idle timeout.
pub async fn piece(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(SILENCE_LIMIT, body.frame()).await;
        match frame.map_err(|_| io::Error::other(format!("nothing came for {SILENCE_LIMIT:?}")))? {
            None => return Ok(None),
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn list(connection: &mut Connection, path: &[u8]) -> Result<(HeaderMap, Listing<Answer>), MigrateError> {
    let target = format!("/v2/keys{}?recursive=true&sorted=true&quorum=true", encode_directory(path));
    let response = connection.call(Method::GET, &target, None, LISTING_LIMIT).await?;
    if response.status() != StatusCode::OK {
        let what = format!("a listing of {}", String::from_utf8_lossy(path));
        return Err(unexpected(judge(response).await?, connection.endpoint(), &what));
    }
    let (head, body) = response.into_parts();
    let pieces = stream::unfold(body, |mut body| async move { Some((piece(&mut body).await.transpose()?, body)) });
    let answer: Answer = Box::pin(StreamReader::new(Box::pin(pieces)));
    Ok((head.headers, Listing::new(answer)))
}

/// A tree merged from one listing and the given hidden nodes.
struct Listed<'a> {
    access: &'a Access,
    writer: Writer<&'a mut dyn Write>,
    totals: Totals,
    /// Hidden nodes still to be listed, in file order.
    hidden: VecDeque<Vec<u8>>,
    endpoint: String,
}

impl Listed<'_> {
    async fn drain(&mut self, mut listing: Listing<Answer>) -> Result<(), MigrateError> {
        loop {
            let next = listing.next().await;
            let next = next.map_err(|error| self.bad_answer(error.to_string()))?;
            let Some(node) = next else { return Ok(()) };
            self.hidden_before(Some(&node.key)).await?;
            self.put(&node)?;
        }
    }

    fn put(&mut self, node: &Node) -> Result<(), MigrateError> {
        self.writer.node(node)?;
        self.totals.count(node);
        Ok(())
    }

    /// Lists the hidden nodes that sort before `key`, or all remaining ones.
    async fn hidden_before(&mut self, key: Option<&[u8]>) -> Result<(), MigrateError> {
        while let Some(path) = self.hidden.front() {
            if key.is_some_and(|key| compare(path, key).is_gt()) {
                return Ok(());
            }
            let Some(path) = self.hidden.pop_front() else { return Ok(()) };
            let mut connection = self.access.open_any().await?;
            let (_, listing) = list(&mut connection, &path).await?;
            // There may be other given hidden nodes below this one.
            Box::pin(self.drain(listing)).await?;
        }
        Ok(())
    }

    fn bad_answer(&self, reason: String) -> MigrateError {
        MigrateError::Answer { endpoint: self.endpoint.clone(), reason }
    }
}

/// The given hidden nodes below the prefix, with the hidden directories above them, in file order.
pub fn hidden_paths(prefix: &str, given: &[String]) -> Result<VecDeque<Vec<u8>>, MigrateError> {
    let mut paths: Vec<Vec<u8>> = Vec::new();
    for path in given {
        let path = super::access::clean("--hidden", path)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        if !name.starts_with('_') || path == prefix || !is_within(path.as_bytes(), prefix.as_bytes()) {
            return Err(MigrateError::NotHidden(path));
        }
        let ends = path.match_indices('/').map(|(end, _)| end).filter(|&end| end > prefix.len().max(1));
        let above = ends
            .map(|end| &path[..end])
            .filter(|above| above.rsplit('/').next().is_some_and(|name| name.starts_with('_')));
        paths.extend(above.map(|above| above.as_bytes().to_vec()));
        paths.push(path.into_bytes());
    }
    paths.sort_by(|left, right| compare(left, right));
    paths.dedup();
    Ok(paths.into())
}

/// The server's clock from the `Date` header, in whole seconds.
fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let moment = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    moment.unix_timestamp().checked_mul(1_000_000_000)
}

/// This machine's clock, nanoseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Exported {
    /// Whole seconds that the source's clock is ahead, if above [`SKEW_LIMIT`].
    pub fn skew_seconds(&self) -> Option<i64> {
        let ahead = self.ahead?;
        (self.totals.expiring > 0 && ahead.abs() > SKEW_LIMIT).then_some(ahead / 1_000_000_000)
    }
}
