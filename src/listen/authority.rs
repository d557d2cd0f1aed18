//! Requests whose `:authority` is not an authority.
//!
//! Go's etcd clients send what they were told to dial: `http://127.0.0.1:2379`, `#initially=[…]`, or the path of a socket
//! (reference: etcd-v3 §9.6). The HTTP/2 stack refuses such requests before anybody sees them. [`Relaxed`] looks at the
//! first request of a connection: a proper authority, which is nearly every one, and the bytes pass untouched from then
//! on. Otherwise every header block of the connection is decoded and written again with `localhost` in its place.
//!
//! Invariant: on a connection that is rewritten, the stack behind sees only blocks written here, so the compression
//! state of the client is followed here and nowhere else.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;
use super::account::Account;

const FRAME_HEAD: usize = 9;
/// Largest frame payload before the peer is told otherwise; also the size of what is written here.
const MAX_PAYLOAD: usize = 16_384;
/// Largest frame with a piece of a header block. The stack behind would refuse larger ones by itself.
const MAX_FRAME: usize = 64 << 10;
/// Largest header block, compressed.
const MAX_BLOCK: usize = 64 << 10;
/// Largest header list, decoded, with [`FIELD_COST`] for each field.
const MAX_LIST: usize = 64 << 10;
/// What HTTP/2 counts for a field beside its bytes (RFC 9113, 6.5.2).
const FIELD_COST: usize = 32;
/// Most fields of a block; hyper takes as many of an HTTP/1.1 head.
const MAX_FIELDS: usize = 100;
/// The table of the client's compression, bytes: what holds while no side says otherwise, and the stack behind does not.
const TABLE: usize = 4096;
/// Bytes read at once while frames are looked at.
const CHUNK: usize = 16 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A connection whose requests always have an authority that HTTP accepts.
pub(super) struct Relaxed<S> {
    inner: S,
    state: State,
    /// Read and not yet looked at.
    unread: BytesMut,
    /// Looked at and not yet taken.
    ready: BytesMut,
    account: Option<Account>,
}

enum State {
    /// Nothing is known of the connection yet.
    New,
    /// HTTP/2, no request seen.
    Looking(Box<Rewriter>),
    /// Every header block is written again.
    Rewriting(Box<Rewriter>),
    /// Bytes pass as they are.
    Passing,
}

impl<S> Relaxed<S> {
    /// `account` is told how many bytes are collected.
    pub(super) fn new(inner: S, account: Option<Account>) -> Self {
        Self { inner, state: State::New, unread: BytesMut::new(), ready: BytesMut::new(), account }
    }

    fn tell(&self) {
        if let Some(account) = &self.account {
            let block = match &self.state {
                State::Looking(rewriter) | State::Rewriting(rewriter) => {
                    rewriter.block.bytes.len() + rewriter.block.raw.len()
                }
                State::New | State::Passing => 0,
            };
            account.collected(self.unread.len() + block);
        }
    }

    /// Moves what can be judged from `unread` to `ready`. `ended`: nothing more will come.
    fn look(&mut self, ended: bool) -> io::Result<()> {
        loop {
            match &mut self.state {
                State::Passing => {
                    self.ready.unsplit(self.unread.split());
                    return Ok(());
                }
                State::New => {
                    let seen = self.unread.len().min(PREFACE.len());
                    if self.unread[..seen] != PREFACE[..seen] || (ended && seen < PREFACE.len()) {
                        self.state = State::Passing;
                    } else if seen < PREFACE.len() {
                        return Ok(());
                    } else {
                        self.ready.unsplit(self.unread.split_to(PREFACE.len()));
                        self.state = State::Looking(Box::default());
                    }
                }
                State::Looking(_) if ended => self.state = State::Passing,
                State::Looking(rewriter) => match rewriter.first_request(&mut self.unread, &mut self.ready)? {
                    Verdict::More => return Ok(()),
                    Verdict::Proper => self.state = State::Passing,
                    Verdict::Improper => {
                        let State::Looking(rewriter) = std::mem::replace(&mut self.state, State::Passing) else {
                            return Ok(());
                        };
                        self.state = State::Rewriting(rewriter);
                    }
                },
                State::Rewriting(rewriter) => return rewriter.rewrite(&mut self.unread, &mut self.ready),
            }
        }
    }
}

enum Verdict {
    More,
    Proper,
    Improper,
}

/// Follows the client's header compression.
struct Rewriter {
    decoder: Decoder<'static>,
    block: Block,
    /// Bytes still to come of a frame that is no piece of a header block: they pass as they come.
    passing: usize,
}

/// A header block that is being collected.
#[derive(Default)]
struct Block {
    bytes: BytesMut,
    /// Its frames as they came.
    raw: BytesMut,
    end_stream: u8,
}

impl Default for Rewriter {
    fn default() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self { decoder, block: Block::default(), passing: 0 }
    }
}

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

impl Rewriter {
    /// Passes frames on until the first request is whole, then judges it and passes it on, as it came or written again.
    fn first_request(&mut self, unread: &mut BytesMut, ready: &mut BytesMut) -> io::Result<Verdict> {
        while let Some(frame) = self.next_piece(unread, ready)? {
            let Some((stream, headers)) = self.take(frame)? else { continue };
            let authority = headers.iter().find(|(name, _)| name == b":authority").map(|(_, value)| value.as_slice());
            if authority.is_none_or(|value| Authority::try_from(value).is_ok()) {
                ready.unsplit(std::mem::take(&mut self.block.raw));
                return Ok(Verdict::Proper);
            }
            self.write(stream, headers, ready);
            return Ok(Verdict::Improper);
        }
        Ok(Verdict::More)
    }

    fn rewrite(&mut self, unread: &mut BytesMut, ready: &mut BytesMut) -> io::Result<()> {
        while let Some(frame) = self.next_piece(unread, ready)? {
            if let Some((stream, headers)) = self.take(frame)? {
                self.write(stream, headers, ready);
            }
        }
        Ok(())
    }

    /// The next whole frame with a piece of a header block; all others pass to `ready` without waiting for their end.
    fn next_piece(&mut self, unread: &mut BytesMut, ready: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        loop {
            let passed = self.passing.min(unread.len());
            ready.unsplit(unread.split_to(passed));
            self.passing -= passed;
            let Some(kind) = unread.get(..FRAME_HEAD).map(|head| head[3]) else { return Ok(None) };
            if kind == HEADERS || kind == CONTINUATION {
                return next_frame(unread);
            }
            self.passing = FRAME_HEAD + payload_length(unread);
        }
    }

    /// Collects header frames. A whole block comes back decoded with its stream.
    fn take(&mut self, frame: BytesMut) -> io::Result<Option<(u32, Headers)>> {
        let (kind, flags) = (frame[3], frame[4]);
        let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
        if kind == HEADERS {
            self.block = Block { end_stream: flags & END_STREAM, ..Block::default() };
        }
        self.block.bytes.extend_from_slice(fragment(&frame, kind, flags)?);
        self.block.raw.unsplit(frame);
        // Frame heads count too: empty continuations would otherwise be collected without end.
        if self.block.bytes.len() > MAX_BLOCK || self.block.raw.len() > 2 * MAX_BLOCK {
            return Err(broken("a header block is larger than 64 KiB, or cut into thousands of frames"));
        }
        if flags & END_HEADERS == 0 {
            return Ok(None);
        }
        Ok(Some((stream, self.decode()?)))
    }

    /// The fields of the collected block. Its references are followed only as far as the limits go: a byte can stand for
    /// 4 KiB of the table, and each compressed string costs the decoder some microseconds however short it is.
    fn decode(&mut self) -> io::Result<Headers> {
        if fields(&self.block.bytes).is_none_or(|count| count > MAX_FIELDS) {
            return Err(broken("a header block has more than 100 fields, or ends within one"));
        }
        let (mut headers, mut cost) = (Headers::new(), 0);
        let each = |name: Cow<'_, [u8]>, value: Cow<'_, [u8]>| {
            cost += name.len() + value.len() + FIELD_COST;
            if cost <= MAX_LIST {
                headers.push((name.into_owned(), value.into_owned()));
            }
        };
        self.decoder.decode_with_cb(&self.block.bytes, each).map_err(|_| broken("a header block does not decode"))?;
        if cost > MAX_LIST {
            return Err(broken("a header block is larger than 64 KiB when it is decoded"));
        }
        Ok(headers)
    }

    /// Writes a block without compression, so that it depends on nothing before it.
    fn write(&mut self, stream: u32, headers: Headers, ready: &mut BytesMut) {
        let mut block = BytesMut::new();
        for (name, value) in &headers {
            let value = if name == b":authority" { b"localhost".as_slice() } else { value };
            block.put_u8(0);
            put_string(name, &mut block);
            put_string(value, &mut block);
        }
        let mut kind = HEADERS;
        let mut first = self.block.end_stream;
        self.block = Block::default();
        loop {
            let part = block.split_to(block.len().min(MAX_PAYLOAD));
            let last = if block.is_empty() { END_HEADERS } else { 0 };
            ready.put_uint(part.len() as u64, 3);
            ready.put_u8(kind);
            ready.put_u8(first | last);
            ready.put_u32(stream);
            ready.unsplit(part);
            if last != 0 {
                return;
            }
            (kind, first) = (CONTINUATION, 0);
        }
    }
}

/// How many fields and size updates a header block has, by its lengths alone; `None` if one ends beyond it (RFC 7541, 6).
fn fields(mut block: &[u8]) -> Option<usize> {
    let mut count = 0;
    while let Some(&first) = block.first() {
        count += 1;
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut block, prefix)?;
        let strings = if !literal {
            0
        } else if index == 0 {
            2
        } else {
            1
        };
        for _ in 0..strings {
            let length = integer(&mut block, 7)?;
            block = block.get(length..)?;
        }
    }
    Some(count)
}

/// Takes an integer off the front, whose first byte has `prefix` bits of it (RFC 7541, 5.1).
fn integer(block: &mut &[u8], prefix: u8) -> Option<usize> {
    let (&first, mut rest) = block.split_first()?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                *block = rest;
                return Some(value);
            }
        }
        return None;
    }
    *block = rest;
    Some(value)
}

/// The next whole frame, head included.
fn next_frame(unread: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    if unread.len() < FRAME_HEAD {
        return Ok(None);
    }
    let length = payload_length(unread);
    if length > MAX_FRAME {
        return Err(broken("a frame of a header block is larger than 64 KiB"));
    }
    Ok((unread.len() >= FRAME_HEAD + length).then(|| unread.split_to(FRAME_HEAD + length)))
}

/// What the head of a frame, which must be there, says of the payload.
fn payload_length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// The part of a frame that belongs to the header block: without padding and priority.
fn fragment(frame: &[u8], kind: u8, flags: u8) -> io::Result<&[u8]> {
    let payload = &frame[FRAME_HEAD..];
    if kind == CONTINUATION {
        return Ok(payload);
    }
    let (mut start, mut padding) = (0, 0);
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first().ok_or_else(|| broken("a padded frame is empty"))?);
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let end = payload.len().checked_sub(padding).ok_or_else(|| broken("a frame is shorter than its padding"))?;
    payload.get(start..end).ok_or_else(|| broken("a frame is shorter than its padding"))
}

/// A string as HPACK writes it without Huffman coding: length with seven bits in the first byte, then the bytes.
fn put_string(text: &[u8], block: &mut BytesMut) {
    const PREFIX: usize = 0x7f;
    if text.len() < PREFIX {
        block.put_u8(text.len() as u8);
    } else {
        block.put_u8(PREFIX as u8);
        let mut rest = text.len() - PREFIX;
        while rest >= 128 {
            block.put_u8((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        block.put_u8(rest as u8);
    }
    block.put_slice(text);
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl<S: AsyncRead + Unpin> AsyncRead for Relaxed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let taken = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..taken]);
                this.ready.advance(taken);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::Passing) {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut chunk = [std::mem::MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            let ended = chunk.filled().is_empty();
            this.unread.extend_from_slice(chunk.filled());
            this.look(ended)?;
            this.tell();
            if ended && this.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Relaxed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A request block: indexed `:method POST`, then literals that enter the dynamic table.
    fn block(authority: &str) -> Vec<u8> {
        let mut bytes = BytesMut::from(&[0x83u8, 0x41][..]);
        put_string(authority.as_bytes(), &mut bytes);
        bytes.to_vec()
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        bytes.put_uint(payload.len() as u64, 3);
        bytes.put_u8(kind);
        bytes.put_u8(flags);
        bytes.put_u32(stream);
        bytes.put_slice(payload);
        bytes.to_vec()
    }

    async fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(step);
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await.expect("the pipe takes it");
        });
        let mut out = Vec::new();
        Relaxed::new(server, None).read_to_end(&mut out).await.expect("readable");
        sending.await.expect("sent");
        out
    }

    #[tokio::test]
    async fn a_proper_authority_leaves_every_byte_alone() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block("127.0.0.1:2379")));
        bytes.extend(frame(0, END_STREAM, 1, b"hello"));
        bytes.extend(frame(HEADERS, END_HEADERS, 3, &[0xbe, 0xff, 0xff]));
        for step in [1, 7, 4096] {
            assert_eq!(through(&bytes, step).await, bytes);
        }
    }

    #[tokio::test]
    async fn plain_http_passes_untouched_and_so_does_a_short_stray() {
        for text in ["GET /health HTTP/1.1\r\n\r\n", "PRI", ""] {
            assert_eq!(through(text.as_bytes(), 5).await, text.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_url_as_authority_is_replaced_in_every_request_of_the_connection() {
        let mut bytes = PREFACE.to_vec();
        let padded = [&[2u8][..], &block("http://127.0.0.1:2379"), &[0, 0]].concat();
        bytes.extend(frame(HEADERS, END_HEADERS | PADDED, 1, &padded));
        bytes.extend(frame(0, END_STREAM, 1, b"hello"));
        // The second request names the authority by its place in the client's table, split over two frames.
        bytes.extend(frame(HEADERS, END_STREAM, 3, &[0x83]));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 3, &[0xbe]));
        for step in [1, 4096] {
            let mut out = BytesMut::from(&through(&bytes, step).await[PREFACE.len()..]);
            let mut seen = Vec::new();
            while let Some(frame) = next_frame(&mut out).expect("frames") {
                if frame[3] == HEADERS {
                    let headers = Decoder::new().decode(&frame[FRAME_HEAD..]).expect("decodes alone");
                    seen.push((frame[4], frame[8], headers[1].clone()));
                }
            }
            let replaced = (b":authority".to_vec(), b"localhost".to_vec());
            assert_eq!(seen, [(END_HEADERS, 1, replaced.clone()), (END_HEADERS | END_STREAM, 3, replaced)]);
        }
    }

    #[tokio::test]
    async fn long_values_keep_their_length() {
        let long = "x".repeat(40_000);
        let mut payload = block("#initially=[http://a]");
        payload.extend_from_slice(&[0x00, 0x01, b'k']);
        let mut value = BytesMut::new();
        put_string(long.as_bytes(), &mut value);
        payload.extend_from_slice(&value);
        let bytes = [PREFACE.to_vec(), frame(HEADERS, END_HEADERS, 1, &payload)].concat();
        let mut out = BytesMut::from(&through(&bytes, 4096).await[PREFACE.len()..]);
        let mut whole = Vec::new();
        while let Some(frame) = next_frame(&mut out).expect("frames") {
            assert!(frame.len() <= FRAME_HEAD + MAX_PAYLOAD);
            whole.extend_from_slice(&frame[FRAME_HEAD..]);
        }
        let headers = Decoder::new().decode(&whole).expect("decodes");
        assert_eq!(headers[2], (b"k".to_vec(), long.into_bytes()));
    }

    #[tokio::test]
    async fn empty_continuations_without_end_are_not_collected() {
        let flood = frame(CONTINUATION, 0, 1, &[]).repeat(100_000);
        let bytes = [PREFACE.to_vec(), frame(HEADERS, 0, 1, &block("127.0.0.1:2379")), flood].concat();
        let mut relaxed = Relaxed::new(&bytes[..], None);
        let error = relaxed.read_to_end(&mut Vec::new()).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(bytes.len() - relaxed.inner.len() < 4 * MAX_BLOCK, "refused before all of it was read");
    }

    /// Sends blocks on a connection whose authority is improper. The error that ends it, or nothing.
    async fn refusal(blocks: &[Vec<u8>]) -> String {
        let mut bytes = [PREFACE.to_vec(), frame(HEADERS, END_HEADERS, 1, &block("http://a"))].concat();
        for (block, stream) in blocks.iter().zip((3..).step_by(2)) {
            bytes.extend(frame(HEADERS, END_HEADERS, stream, block));
        }
        let mut relaxed = Relaxed::new(&bytes[..], None);
        relaxed.read_to_end(&mut Vec::new()).await.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[tokio::test]
    async fn what_a_block_stands_for_is_limited_and_so_is_the_number_of_its_fields_and_the_table() {
        let mut long = BytesMut::from(&[0x40, 1, b'k'][..]);
        put_string(&[b'v'; 4000], &mut long);
        let long = long.to_vec();
        // Each byte names the field of 4 KiB that was put into the table.
        let said = refusal(&[long.clone(), vec![0xbe; 17]]).await;
        assert_eq!(said, "a header block is larger than 64 KiB when it is decoded");
        assert_eq!(refusal(&[long, vec![0xbe; 15]]).await, "");
        // Fields of two bytes each, whose value is an empty compressed string.
        assert_eq!(refusal(&[[0x01, 0x80].repeat(100)]).await, "");
        let said = refusal(&[[0x01, 0x80].repeat(101)]).await;
        assert_eq!(said, "a header block has more than 100 fields, or ends within one");
        // A table of 4096 bytes, then one of 4097.
        assert_eq!(refusal(&[vec![0x3f, 0xe1, 0x1f, 0x83]]).await, "");
        assert_eq!(refusal(&[vec![0x3f, 0xe2, 0x1f, 0x83]]).await, "a header block does not decode");
    }

    #[test]
    fn fields_are_counted_as_the_decoder_reads_them() {
        use rand::rngs::SmallRng;
        use rand::{Rng, SeedableRng};

        let mut random = SmallRng::seed_from_u64(1);
        let mut agreed = 0;
        for _ in 0..200_000 {
            // Mostly fields, some of them broken.
            let block: Vec<u8> = (0..random.random_range(0..4))
                .flat_map(|_| {
                    let text = |random: &mut SmallRng| {
                        let length = random.random_range(0..3u8);
                        [vec![length], vec![b'a'; usize::from(length)]].concat()
                    };
                    match random.random_range(0..5) {
                        0 => vec![random.random_range(0x80..=0xff)],
                        1 => [vec![0x40], text(&mut random), text(&mut random)].concat(),
                        2 => [vec![random.random_range(0..0x10)], text(&mut random)].concat(),
                        3 => [vec![0x3f, random.random_range(0..0x80)], vec![0x83]].concat(),
                        _ => vec![random.random()],
                    }
                })
                .collect();
            let mut seen = 0;
            if Decoder::new().decode_with_cb(&block, |_, _| seen += 1).is_ok() {
                let counted = fields(&block).expect("what decodes is whole");
                assert!(counted >= seen, "{block:x?}: {counted} < {seen}");
                agreed += 1;
            }
        }
        assert!(agreed > 20_000, "{agreed} blocks decode");
    }

    #[tokio::test]
    async fn nothing_is_collected_of_frames_that_are_no_header_blocks() {
        // A frame of 15 MiB before the first request, which the stack behind is to refuse from its head alone.
        let head = [&[0xf0, 0, 0][..], &[0, 0, 0, 0, 0, 1]].concat();
        for improper in [false, true] {
            let before = if improper { frame(HEADERS, END_HEADERS, 1, &block("http://a")) } else { Vec::new() };
            let bytes = [PREFACE, &before, &head, &[7; 200_000]].concat();
            let mut relaxed = Relaxed::new(&bytes[..], None);
            let mut chunk = vec![0; 4096];
            while relaxed.read(&mut chunk).await.expect("readable") > 0 {
                assert!(relaxed.unread.len() + relaxed.ready.len() <= CHUNK, "collected");
            }
        }
    }

    #[tokio::test]
    async fn a_block_that_does_not_decode_ends_the_connection() {
        let bytes = [PREFACE.to_vec(), frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff])].concat();
        let mut out = Vec::new();
        let error = Relaxed::new(&bytes[..], None).read_to_end(&mut out).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
