//! Writing a database in one pass: rows arrive in order, pages are written in order, and the header is written last.

use std::io::{BufWriter, Seek, SeekFrom, Write};

use super::Error;
use super::layout::{BRANCH, BUCKET, BUCKET_HEAD, ELEMENT, FREE_LIST, HEADER, Header, LEAF, MAX_KEY, META, Meta, PAGE};

/// Size of the write buffer, in bytes.
const BUFFER: usize = 1 << 20;
/// Page of the free list; trees start after it.
const FREE_LIST_PAGE: u64 = 2;
/// Transaction number of the first of the two meta pages, which must be even.
const TRANSACTION: u64 = 2;

/// A database being written. It is invalid until [`finish`](Self::finish).
pub struct Writer<W: Write + Seek> {
    out: Pages<W>,
    /// Name and root page of each bucket.
    buckets: Vec<(Vec<u8>, u64)>,
}

/// Sequential output of pages.
struct Pages<W: Write + Seek> {
    out: BufWriter<W>,
    next: u64,
}

impl<W: Write + Seek> Pages<W> {
    /// Writes a page (with overflow pages) of `kind` with these contents and returns its number.
    fn put(&mut self, kind: u16, count: usize, contents: &[u8]) -> Result<u64, Error> {
        let len = HEADER + contents.len();
        let pages = len.div_ceil(PAGE);
        let too_large = |what: &str| Error::TooLarge(format!("a page has {what}"));
        let header = Header {
            id: self.next,
            kind,
            count: u16::try_from(count).map_err(|_| too_large("more than 65535 rows"))?,
            overflow: u32::try_from(pages - 1).map_err(|_| too_large("more than 16 TiB"))?,
        };
        let mut head = Vec::with_capacity(HEADER);
        header.encode(&mut head);
        let padding = [0; PAGE];
        let write = |out: &mut BufWriter<W>| {
            out.write_all(&head)?;
            out.write_all(contents)?;
            out.write_all(&padding[..pages * PAGE - len])
        };
        write(&mut self.out).map_err(Error::io("write"))?;
        self.next += pages as u64;
        Ok(header.id)
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Starts a database at the beginning of `out`, which should be empty.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(out: W) -> Result<Self, Error> {
        let mut out = Pages { out: BufWriter::with_capacity(BUFFER, out), next: 0 };
        // The header is written last; until then its pages are invalid to any reader.
        out.put(META, 0, &[])?;
        out.put(META, 0, &[])?;
        out.put(FREE_LIST, 0, &[])?;
        Ok(Self { out, buckets: Vec::new() })
    }

    /// Starts a bucket. Buckets may be written in any order, each once, one at a time.
    pub fn bucket(&mut self, name: &str) -> BucketWriter<'_, W> {
        BucketWriter { tree: Tree::new(name, &mut self.out), buckets: &mut self.buckets }
    }

    /// Bytes written so far, those of the bucket being written included.
    pub fn written(&self) -> u64 {
        self.out.next * PAGE as u64
    }

    /// Completes the database and returns the file, not synced, and its length in bytes.
    ///
    /// # Errors
    /// The file cannot be written; a bucket was written twice.
    pub fn finish(mut self) -> Result<(W, u64), Error> {
        self.buckets.sort_unstable();
        let mut root = Tree::new("(root)", &mut self.out);
        for (name, page) in &self.buckets {
            let mut value = Vec::with_capacity(BUCKET_HEAD);
            value.extend_from_slice(&page.to_le_bytes());
            value.extend_from_slice(&0u64.to_le_bytes());
            root.put(BUCKET, name, &value)?;
        }
        let root = root.finish()?;
        let mut header = Vec::with_capacity(2 * PAGE);
        for number in [0, 1] {
            let meta = Meta {
                page_size: PAGE as u32,
                root,
                free_list: FREE_LIST_PAGE,
                pages: self.out.next,
                transaction: TRANSACTION + number,
            };
            Header { id: number, kind: META, count: 0, overflow: 0 }.encode(&mut header);
            meta.encode(&mut header);
            header.resize((number as usize + 1) * PAGE, 0);
        }
        let len = self.written();
        let Pages { mut out, .. } = self.out;
        out.seek(SeekFrom::Start(0)).map_err(Error::io("seek in"))?;
        out.write_all(&header).map_err(Error::io("write"))?;
        let out = out.into_inner().map_err(|error| Error::io("write")(error.into_error()))?;
        Ok((out, len))
    }
}

/// A bucket being written.
pub struct BucketWriter<'a, W: Write + Seek> {
    tree: Tree<'a, W>,
    buckets: &'a mut Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> BucketWriter<'_, W> {
    /// Adds a row. Keys must be ascending.
    ///
    /// # Errors
    /// Out of order; a key that bbolt cannot hold; the file cannot be written.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.tree.put(0, key, value)
    }

    /// Bytes written to the file so far.
    pub fn written(&self) -> u64 {
        self.tree.out.next * PAGE as u64
    }

    /// Completes the bucket.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), Error> {
        let name = self.tree.name.clone().into_bytes();
        let root = self.tree.finish()?;
        self.buckets.push((name, root));
        Ok(())
    }
}

/// A B+ tree built by appending at its right edge.
struct Tree<'a, W: Write + Seek> {
    name: String,
    out: &'a mut Pages<W>,
    leaf: Leaf,
    /// Unfinished branches by level, the one above the leaves first.
    branches: Vec<Branch>,
    last: Vec<u8>,
    started: bool,
}

impl<'a, W: Write + Seek> Tree<'a, W> {
    fn new(name: &str, out: &'a mut Pages<W>) -> Self {
        let (leaf, branches) = (Leaf::default(), Vec::new());
        Self { name: name.to_owned(), out, leaf, branches, last: Vec::new(), started: false }
    }

    fn put(&mut self, flags: u32, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::KeyLength(key.len()));
        }
        if self.started && key <= self.last.as_slice() {
            return Err(Error::Unsorted { bucket: self.name.clone() });
        }
        if !self.leaf.fits(key, value) {
            self.end_leaf()?;
        }
        self.leaf.push(flags, key, value)?;
        self.started = true;
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }

    fn end_leaf(&mut self) -> Result<(), Error> {
        let first = self.leaf.first.clone();
        let contents = self.leaf.take();
        let page = self.out.put(LEAF, contents.count, &contents.bytes)?;
        self.grow(0, first, page)
    }

    /// Adds a page to the branch at `level`, and writes the branch's full pages.
    fn grow(&mut self, level: usize, first: Vec<u8>, page: u64) -> Result<(), Error> {
        if self.branches.len() == level {
            self.branches.push(Branch::default());
        }
        let branch = &mut self.branches[level];
        branch.push(first, page);
        match branch.full() {
            0 => Ok(()),
            count => self.end_branch(level, count),
        }
    }

    /// Writes the first `count` entries of the branch at `level` as a page.
    fn end_branch(&mut self, level: usize, count: usize) -> Result<(), Error> {
        let (first, contents) = self.branches[level].take(count)?;
        let page = self.out.put(BRANCH, count, &contents)?;
        self.grow(level + 1, first, page)
    }

    /// Writes the remaining pages and returns the root page. A tree without rows is one empty leaf.
    fn finish(mut self) -> Result<u64, Error> {
        if self.leaf.count > 0 || self.branches.is_empty() {
            self.end_leaf()?;
        }
        let mut level = 0;
        loop {
            if let [(_, root)] = self.branches[level].entries.as_slice()
                && level + 1 == self.branches.len()
            {
                return Ok(*root);
            }
            loop {
                match self.branches[level].rest() {
                    0 => break,
                    count => self.end_branch(level, count)?,
                }
            }
            level += 1;
        }
    }
}

/// Rows of one leaf page.
#[derive(Default)]
struct Leaf {
    heads: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
    first: Vec<u8>,
    count: usize,
}

struct Contents {
    count: usize,
    bytes: Vec<u8>,
}

impl Leaf {
    fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        let rows = self.data.len() + key.len() + value.len() + ELEMENT * (self.count + 1);
        self.count == 0 || HEADER + rows <= PAGE
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let value_len =
            u32::try_from(value.len()).map_err(|_| Error::TooLarge(format!("a value of {} bytes", value.len())))?;
        if self.count == 0 {
            self.first = key.to_vec();
        }
        self.heads.push((flags, key.len() as u32, value_len));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        self.count += 1;
        Ok(())
    }

    fn take(&mut self) -> Contents {
        let mut bytes = Vec::with_capacity(ELEMENT * self.count + self.data.len());
        let mut at = ELEMENT * self.count;
        for (n, (flags, key, value)) in self.heads.drain(..).enumerate() {
            let position = (at - n * ELEMENT) as u32;
            for number in [flags, position, key, value] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            at += (key + value) as usize;
        }
        bytes.append(&mut self.data);
        Contents { count: std::mem::take(&mut self.count), bytes }
    }
}

/// Unwritten entries of a branch: first key and page of each child. Two are always held back, so that no branch page
/// ends up with a single child.
#[derive(Default)]
struct Branch {
    entries: Vec<(Vec<u8>, u64)>,
    bytes: usize,
}

impl Branch {
    fn push(&mut self, first: Vec<u8>, page: u64) {
        self.bytes += ELEMENT + first.len();
        self.entries.push((first, page));
    }

    /// Number of entries to write as a full page now; 0 = none yet.
    fn full(&self) -> usize {
        let held: usize = self.entries.iter().rev().take(2).map(|(key, _)| ELEMENT + key.len()).sum();
        if self.entries.len() < 4 || HEADER + self.bytes - held <= PAGE { 0 } else { self.fitting() }
    }

    /// Number of entries that fit one page: at least two, leaving at least two.
    fn fitting(&self) -> usize {
        let mut bytes = HEADER;
        let fit = self.entries.iter().take_while(|(key, _)| {
            bytes += ELEMENT + key.len();
            bytes <= PAGE
        });
        fit.count().clamp(2, self.entries.len() - 2)
    }

    /// Number of entries for the next page once there are no more rows; 0 = none left.
    fn rest(&self) -> usize {
        let count = self.entries.len();
        if count < 4 || HEADER + self.bytes <= PAGE { count } else { self.fitting() }
    }

    fn take(&mut self, count: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let taken: Vec<_> = self.entries.drain(..count).collect();
        let data: usize = taken.iter().map(|(key, _)| key.len()).sum();
        let mut bytes = Vec::with_capacity(ELEMENT * count + data);
        let mut at = ELEMENT * count;
        for (n, (key, page)) in taken.iter().enumerate() {
            bytes.extend_from_slice(&((at - n * ELEMENT) as u32).to_le_bytes());
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&page.to_le_bytes());
            at += key.len();
        }
        for (key, _) in &taken {
            bytes.extend_from_slice(key);
        }
        self.bytes -= bytes.len();
        let first = taken.into_iter().next().map(|(key, _)| key);
        let first = first.ok_or_else(|| Error::TooLarge("a branch without children".to_owned()))?;
        Ok((first, bytes))
    }
}
