//! Page layout: headers, elements, meta pages. No I/O.

/// First number of a meta page's contents.
pub(super) const MAGIC: u32 = 0xED0C_DAED;
/// bbolt's file version since 2014.
pub(super) const VERSION: u32 = 2;
/// Page size of [`Writer`](super::Writer), in bytes: etcd's on x86 and most other architectures.
pub(super) const PAGE: usize = 4096;
/// Accepted page sizes.
pub(super) const PAGE_SIZES: std::ops::RangeInclusive<usize> = 512..=65_536;
/// Free list page number of a file without a free list.
pub(super) const NO_FREE_LIST: u64 = u64::MAX;
/// Longest key that bbolt stores.
pub(super) const MAX_KEY: usize = 32_768;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREE_LIST: u16 = 0x10;
/// Flag of a leaf element whose value is a bucket.
pub(super) const BUCKET: u32 = 0x01;

/// Bytes of a page header: number u64, kind u16, elements u16, overflow pages u32.
pub(super) const HEADER: usize = 16;
/// Bytes of an element header. Leaf: flags, position, key length, value length. Branch: position, key length, page
/// u64. Positions are relative to the element header.
pub(super) const ELEMENT: usize = 16;
/// Bytes of a bucket's value before an inline page: root page u64 (0 = inline), sequence u64.
pub(super) const BUCKET_HEAD: usize = 16;
/// Bytes of a meta page's contents, the last eight of which are the checksum.
pub(super) const META_LEN: usize = 64;

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub id: u64,
    pub kind: u16,
    pub count: u16,
    pub overflow: u32,
}

impl Header {
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }

    /// `None` when there are too few bytes.
    pub fn decode(page: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64_at(page, 0)?,
            kind: u16::from_le_bytes(page.get(8..10)?.try_into().ok()?),
            count: u16::from_le_bytes(page.get(10..12)?.try_into().ok()?),
            overflow: u32_at(page, 12)?,
        })
    }
}

/// A meta page's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_size: u32,
    /// First page of the root bucket.
    pub root: u64,
    pub free_list: u64,
    /// Number of pages: every used page number is below it.
    pub pages: u64,
    /// Transaction id: the valid meta page with the higher one is used.
    pub transaction: u64,
}

impl Meta {
    pub fn encode(self, out: &mut Vec<u8>) {
        let start = out.len();
        for number in [MAGIC, VERSION, self.page_size, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.root, 0, self.free_list, self.pages, self.transaction] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = fnv1a(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// Decodes the bytes after a meta page's header, if magic, version and checksum are valid.
    pub fn decode(contents: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is cut short";
        let contents = contents.get(..META_LEN).ok_or(SHORT)?;
        if u32_at(contents, 0) != Some(MAGIC) {
            return Err("its magic number is not bbolt's");
        }
        if u32_at(contents, 4) != Some(VERSION) {
            return Err("its file version is not 2");
        }
        if u64_at(contents, 56) != Some(fnv1a(&contents[..56])) {
            return Err("its checksum does not match");
        }
        Ok(Self {
            page_size: u32_at(contents, 8).ok_or(SHORT)?,
            root: u64_at(contents, 16).ok_or(SHORT)?,
            free_list: u64_at(contents, 32).ok_or(SHORT)?,
            pages: u64_at(contents, 40).ok_or(SHORT)?,
            transaction: u64_at(contents, 48).ok_or(SHORT)?,
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The 64-bit FNV-1a hash, the checksum of meta pages.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_page_decodes_and_every_flipped_bit_is_detected() {
        let meta = Meta { page_size: 4096, root: 9, free_list: 2, pages: 10, transaction: 3 };
        let mut bytes = Vec::new();
        meta.encode(&mut bytes);
        assert_eq!((bytes.len(), Meta::decode(&bytes)), (META_LEN, Ok(meta)));
        for bit in 0..META_LEN * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}
