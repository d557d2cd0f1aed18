//! Reading an untrusted database: everything is validated before it is used.
//!
//! Every page is read with bounds checks (no memory map, so a file that shrinks is an error, not a signal), may be
//! reached only once (so there are no cycles), must have the kind and number by which it was referenced, and its rows
//! must be inside it and in order. In memory at a time are one leaf and the branches above it, each of limited size.

use std::fs::File;
use std::io;
use std::iter;
use std::os::unix::fs::FileExt;

use super::Error;
use super::layout::{
    BRANCH, BUCKET, BUCKET_HEAD, ELEMENT, HEADER, Header, LEAF, META, META_LEN, Meta, NO_FREE_LIST, PAGE_SIZES, u32_at,
    u64_at,
};

/// Maximum leaf size with overflow pages: far above two requests of the largest size that etcd can be set to accept.
const MAX_LEAF: u64 = 256 << 20;
/// Maximum branch size: keys are at most 32 KiB long, and a branch that holds more than two of them is split.
const MAX_BRANCH: u64 = 1 << 20;
/// Maximum tree depth. With two children per branch such a tree has more pages than any file.
const MAX_DEPTH: usize = 40;
/// Maximum number of buckets. etcd has eleven.
const MAX_BUCKETS: usize = 1024;

/// Random-access reads of a file, or of bytes in memory.
pub trait ReadAt {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// An I/O error; `UnexpectedEof` when the file is too short.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let found = usize::try_from(offset).ok().and_then(|at| self.get(at..at.checked_add(buffer.len())?));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// One bucket of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: Vec<u8>,
    root: Root,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    Page(u64),
    /// A small bucket, whose leaf is stored inline in its parent.
    Inline(Vec<u8>),
}

/// An open database.
#[derive(Debug)]
pub struct Reader<F> {
    file: F,
    meta: Meta,
    /// Bitmap of the pages that were reached.
    seen: Vec<u64>,
}

impl<F: ReadAt> Reader<F> {
    /// Opens the database in the first `len` bytes of `file`.
    ///
    /// # Errors
    /// No valid header, one that contradicts the file's length, or a file that cannot be read.
    pub fn open(file: F, len: u64) -> Result<Self, Error> {
        let meta = find_meta(&file, len)?;
        let size = u64::from(meta.page_size);
        let refuse = |why: String| Err(Error::NotBbolt(why));
        if meta.pages.checked_mul(size).is_none_or(|bytes| bytes > len) {
            return refuse(format!("it should have {} pages of {size} bytes, and has {len} bytes", meta.pages));
        }
        if meta.root < 2 || meta.root >= meta.pages {
            return refuse(format!("its root, page {}, is not one of its {} pages", meta.root, meta.pages));
        }
        if meta.free_list != NO_FREE_LIST && (meta.free_list < 2 || meta.free_list >= meta.pages) {
            return refuse(format!("its free list, page {}, is not one of its {} pages", meta.free_list, meta.pages));
        }
        // At most one bit per 512 bytes of file.
        let seen = vec![0; (meta.pages / 64 + 1) as usize];
        Ok(Self { file, meta, seen })
    }

    /// Size of all pages, in bytes.
    pub fn size(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_size)
    }

    /// The top-level buckets, ordered by name.
    ///
    /// # Errors
    /// A damaged page.
    pub fn buckets(&mut self) -> Result<Vec<Bucket>, Error> {
        let mut found = Vec::new();
        self.rows::<Error>(Root::Page(self.meta.root), &mut |page, flags, name, value| {
            if flags != BUCKET {
                return Err(Error::damaged(page, "the root holds a row that is no bucket"));
            }
            if found.len() == MAX_BUCKETS {
                return Err(Error::TooLarge(format!("more than {MAX_BUCKETS} buckets")));
            }
            let root = u64_at(value, 0).ok_or_else(|| Error::damaged(page, "a bucket without a root"))?;
            let root = match root {
                0 => {
                    let inline = value.get(BUCKET_HEAD..).unwrap_or_default();
                    Root::Inline(inline.to_vec())
                }
                root => Root::Page(root),
            };
            found.push(Bucket { name: name.to_vec(), root });
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `visit` with each row of a bucket, keys ascending. A bucket can be walked once.
    ///
    /// # Errors
    /// A damaged page, or the error of `visit`. Earlier rows have been visited.
    pub fn walk<E: From<Error>>(
        &mut self,
        bucket: &Bucket,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.rows(bucket.root.clone(), &mut |page, flags, key, value| {
            if flags != 0 {
                return Err(Error::damaged(page, "a bucket inside a bucket, which etcd never makes").into());
            }
            visit(key, value)
        })
    }

    fn rows<E: From<Error>>(
        &mut self,
        root: Root,
        visit: &mut dyn FnMut(u64, u32, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let root = match root {
            Root::Page(page) => self.node(page)?,
            Root::Inline(bytes) => Node::inline(bytes)?,
        };
        let mut order = Order::default();
        let mut path: Vec<Node> = vec![root];
        while let Some(node) = path.last_mut() {
            if node.next == node.count {
                path.pop();
            } else if node.leaf {
                while let Some((flags, key, value)) = node.row()? {
                    order.at_row(node.page, key)?;
                    visit(node.page, flags, key, value)?;
                    node.next += 1;
                }
            } else {
                let (key, child) = node.child()?;
                order.at_branch(node.page, key)?;
                node.next += 1;
                if path.len() == MAX_DEPTH {
                    return Err(Error::damaged(child, "the tree is too deep").into());
                }
                path.push(self.node(child)?);
            }
        }
        Ok(())
    }

    /// Reads a page of a tree with its overflow pages.
    fn node(&mut self, page: u64) -> Result<Node, Error> {
        let damaged = |why: String| Error::damaged(page, why);
        if page < 2 || page >= self.meta.pages {
            return Err(damaged(format!("a reference leads outside the {} pages", self.meta.pages)));
        }
        let size = u64::from(self.meta.page_size);
        let mut head = [0; HEADER];
        self.file.read_exact_at(&mut head, page * size).map_err(Error::io("read"))?;
        let header = Header::decode(&head).ok_or_else(|| damaged("no header".to_owned()))?;
        if header.id != page {
            return Err(damaged(format!("it says it is page {}", header.id)));
        }
        if header.kind != LEAF && header.kind != BRANCH {
            return Err(damaged(format!("it is neither leaf nor branch (kind {:#x})", header.kind)));
        }
        let pages = u64::from(header.overflow) + 1;
        if page + pages > self.meta.pages {
            return Err(damaged(format!("it overflows into {pages} pages, beyond the end")));
        }
        let limit = if header.kind == LEAF { MAX_LEAF } else { MAX_BRANCH };
        if pages > 1 && pages * size > limit {
            return Err(Error::TooLarge(format!("page {page} has {} bytes", pages * size)));
        }
        for each in page..page + pages {
            self.mark(each)?;
        }
        let mut bytes = vec![0; (pages * size) as usize];
        self.file.read_exact_at(&mut bytes, page * size).map_err(Error::io("read"))?;
        Node::new(page, header, bytes)
    }

    /// Marks a page as reached; an error if it was already.
    fn mark(&mut self, page: u64) -> Result<(), Error> {
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        let seen = self.seen.get_mut(word).ok_or_else(|| Error::damaged(page, "it is beyond the end"))?;
        if *seen & bit != 0 {
            return Err(Error::damaged(page, "two references lead to it"));
        }
        *seen |= bit;
        Ok(())
    }
}

/// The valid meta page with the highest transaction.
fn find_meta(file: &impl ReadAt, len: u64) -> Result<Meta, Error> {
    let first = meta_at(file, len, 0);
    // If the first meta page is damaged, the page size and so the offset of the second are unknown.
    let sizes: Vec<usize> = match &first {
        Ok(meta) => vec![meta.page_size as usize],
        Err(_) => iter::successors(Some(*PAGE_SIZES.start()), |size| Some(size * 2))
            .take_while(|size| PAGE_SIZES.contains(size))
            .collect(),
    };
    let second = sizes.into_iter().find_map(|size| {
        let meta = meta_at(file, len, size as u64).ok()?;
        (meta.page_size as usize == size).then_some(meta)
    });
    match (first, second) {
        (Ok(first), Some(second)) => Ok(if second.transaction > first.transaction { second } else { first }),
        (Ok(meta), None) | (Err(_), Some(meta)) => Ok(meta),
        (Err(error), None) => Err(error),
    }
}

fn meta_at(file: &impl ReadAt, len: u64, offset: u64) -> Result<Meta, Error> {
    let refuse = |why: &str| Error::NotBbolt(format!("its header is not valid: {why}"));
    let mut page = [0; HEADER + META_LEN];
    if len < offset + page.len() as u64 {
        return Err(refuse("it is cut short"));
    }
    file.read_exact_at(&mut page, offset).map_err(Error::io("read"))?;
    let meta = Meta::decode(&page[HEADER..]).map_err(refuse)?;
    let size = meta.page_size as usize;
    if !size.is_power_of_two() || !PAGE_SIZES.contains(&size) {
        return Err(refuse("no machine has such pages"));
    }
    match Header::decode(&page) {
        Some(header) if header.kind == META => Ok(meta),
        _ => Err(refuse("it is not marked as one")),
    }
}

/// Checks that keys are ascending and consistent with the keys in branches.
#[derive(Default)]
struct Order {
    last: Vec<u8>,
    /// Lower bound of the next key, from the branches.
    least: Vec<u8>,
}

impl Order {
    fn at_branch(&mut self, page: u64, key: &[u8]) -> Result<(), Error> {
        // The first key of a tree may be empty, meaning "everything below the second".
        if !self.last.is_empty() && key <= self.last.as_slice() {
            return Err(Error::damaged(page, "its keys are out of order"));
        }
        self.least.clear();
        self.least.extend_from_slice(key);
        Ok(())
    }

    fn at_row(&mut self, page: u64, key: &[u8]) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::damaged(page, "a row has no key"));
        }
        if key <= self.last.as_slice() || key < self.least.as_slice() {
            return Err(Error::damaged(page, "its keys are out of order"));
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }
}

/// A page in memory, with the position of the next element.
struct Node {
    page: u64,
    leaf: bool,
    count: usize,
    next: usize,
    bytes: Vec<u8>,
}

impl Node {
    fn new(page: u64, header: Header, bytes: Vec<u8>) -> Result<Self, Error> {
        let (leaf, count) = (header.kind == LEAF, usize::from(header.count));
        if HEADER + count * ELEMENT > bytes.len() {
            return Err(Error::damaged(page, format!("{count} rows do not fit into it")));
        }
        if !leaf && count == 0 {
            return Err(Error::damaged(page, "a branch without children"));
        }
        Ok(Self { page, leaf, count, next: 0, bytes })
    }

    fn inline(bytes: Vec<u8>) -> Result<Self, Error> {
        match Header::decode(&bytes) {
            Some(header) if header.kind == LEAF && header.overflow == 0 => Self::new(0, header, bytes),
            _ => Err(Error::damaged(0, "an inline bucket that is no leaf")),
        }
    }

    /// The next row of a leaf: flags, key, value. The caller advances.
    fn row(&self) -> Result<Option<(u32, &[u8], &[u8])>, Error> {
        if self.next == self.count {
            return Ok(None);
        }
        let head = HEADER + self.next * ELEMENT;
        let number = |at| u32_at(&self.bytes, head + at).unwrap_or(u32::MAX);
        let (flags, position, key, value) = (number(0), number(4), number(8), number(12));
        let (key, rest) = self.data(head, position, key)?;
        let value = rest.get(..value as usize).ok_or_else(|| self.outside())?;
        Ok(Some((flags, key, value)))
    }

    /// The next child of a branch: its first key and page.
    fn child(&self) -> Result<(&[u8], u64), Error> {
        let head = HEADER + self.next * ELEMENT;
        let number = |at| u32_at(&self.bytes, head + at).unwrap_or(u32::MAX);
        let (key, _) = self.data(head, number(0), number(4))?;
        let page = u64_at(&self.bytes, head + 8).ok_or_else(|| self.outside())?;
        Ok((key, page))
    }

    /// The key of the element whose header is at `head`, and the bytes after it.
    fn data(&self, head: usize, position: u32, key: u32) -> Result<(&[u8], &[u8]), Error> {
        let start = head.saturating_add(position as usize);
        if start < HEADER + self.count * ELEMENT {
            return Err(self.outside());
        }
        let rest = self.bytes.get(start..).ok_or_else(|| self.outside())?;
        rest.split_at_checked(key as usize).ok_or_else(|| self.outside())
    }

    fn outside(&self) -> Error {
        Error::damaged(self.page, "a row lies outside of it")
    }
}
