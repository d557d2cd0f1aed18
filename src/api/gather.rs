//! Request messages handed on whole.
//!
//! The gRPC framework makes room for as many bytes as a message announces before any of them has come: five bytes of a
//! client would cost two megabytes here, times every stream it opens. [`Gather`] keeps the pieces of a message, which are
//! exactly what the client has sent, until the last one is there. A message that came in one piece, as nearly all do, is
//! passed on untouched; one that announces more than the limit is passed on at once, to be refused.

use std::collections::VecDeque;

use bytes::Bytes;

/// Compression flag and length.
const HEAD: usize = 5;

/// Where a request is in its messages, and the pieces that are kept.
pub struct Gather {
    head: [u8; HEAD],
    have: usize,
    left: usize,
    /// Longest message that is accepted, bytes.
    most: usize,
    pieces: VecDeque<Bytes>,
    /// So many of the pieces end messages, or belong to such: they may go.
    ready: usize,
    /// The client announced too much; the framework ends the call.
    hopeless: bool,
}

impl Gather {
    /// `most`: the longest message that is accepted, bytes.
    pub fn new(most: usize) -> Self {
        Self { head: [0; HEAD], have: 0, left: 0, most, pieces: VecDeque::new(), ready: 0, hopeless: false }
    }

    /// Takes a piece that arrived. One that ends a message, when nothing is kept, comes back at once.
    pub fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let end = self.walk(&piece);
        if end == piece.len() && self.pieces.is_empty() {
            return Some(piece);
        }
        let rest = piece.split_off(end);
        if !piece.is_empty() {
            self.pieces.push_back(piece);
            self.ready = self.pieces.len();
        }
        if !rest.is_empty() {
            self.pieces.push_back(rest);
        }
        None
    }

    /// The next piece that may go.
    pub fn next(&mut self) -> Option<Bytes> {
        self.ready = self.ready.checked_sub(1)?;
        self.pieces.pop_front()
    }

    /// Nothing more will come: what is unfinished may go, to be refused.
    pub fn end(&mut self) {
        self.ready = self.pieces.len();
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Where the last message that ends in `bytes` ends; 0 when none does.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        let (mut at, mut end) = (0, 0);
        while !self.hopeless {
            let head = (HEAD - self.have).min(bytes.len() - at);
            self.head[self.have..self.have + head].copy_from_slice(&bytes[at..at + head]);
            self.have += head;
            at += head;
            if head > 0 && self.have == HEAD {
                self.left = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]) as usize;
                self.hopeless = self.left > self.most;
            }
            let body = if self.have == HEAD { self.left.min(bytes.len() - at) } else { 0 };
            self.left -= body;
            at += body;
            if self.have < HEAD || self.left > 0 {
                break;
            }
            (self.have, end) = (0, at);
            if at == bytes.len() {
                break;
            }
        }
        if self.hopeless { bytes.len() } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.extend((0..length).map(|n| n as u8));
        bytes
    }

    /// What leaves after each piece that arrives.
    fn through(gather: &mut Gather, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut left = Vec::new();
        for piece in pieces {
            let mut out = Vec::new();
            let mut next = gather.take(Bytes::copy_from_slice(piece));
            while let Some(piece) = next {
                out.extend_from_slice(&piece);
                next = gather.next();
            }
            out.extend(std::iter::from_fn(|| gather.next()).flatten());
            left.push(out);
        }
        left
    }

    #[test]
    fn a_message_in_one_piece_passes_untouched() {
        let mut gather = Gather::new(100);
        for length in [0, 1, 100] {
            let whole = Bytes::from(message(length));
            assert_eq!(
                gather.take(whole.clone()).as_ref().map(|taken| taken.as_ptr()),
                Some(whole.as_ptr()),
                "no copy"
            );
            assert!(gather.is_empty());
        }
    }

    #[test]
    fn pieces_wait_for_the_last_one_however_they_are_cut() {
        let (a, b) = (message(20), message(3));
        let both = [a.clone(), b.clone()].concat();
        for cut in 1..both.len() {
            let mut gather = Gather::new(100);
            let left = through(&mut gather, &[&both[..cut], &both[cut..]]);
            assert_eq!(left.concat(), both, "cut at {cut}");
            let first = if cut >= a.len() { a.len() } else { 0 };
            assert_eq!(left[0].len(), first, "a finished message never waits for the next one: cut at {cut}");
            assert!(gather.is_empty());
        }
        let mut gather = Gather::new(100);
        let singles: Vec<&[u8]> = both.chunks(1).collect();
        assert_eq!(through(&mut gather, &singles).concat(), both);
    }

    #[test]
    fn an_announcement_over_the_limit_goes_on_at_once_and_so_does_the_end() {
        let mut gather = Gather::new(10);
        let large = message(11);
        assert_eq!(through(&mut gather, &[&large[..7], &large[7..]]), [large[..7].to_vec(), large[7..].to_vec()]);
        let mut gather = Gather::new(10);
        assert_eq!(gather.take(Bytes::from_static(b"\0\0")), None);
        gather.end();
        assert_eq!(gather.next().as_deref(), Some(&b"\0\0"[..]));
    }
}
