//! Helper of the snapshot file fuzz target; see `src/fuzzing.rs`.

use super::layout::{HEADER, META_LEN, Meta, PAGE_SIZES, u32_at, u64_at};

/// The file with valid magic, version and checksum in both meta pages, so that the reader goes on past them.
pub(crate) fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let size = seal(&mut file, 0);
    let second = size.filter(|size| PAGE_SIZES.contains(size)).unwrap_or(*PAGE_SIZES.start());
    seal(&mut file, second);
    file
}

/// Seals the meta page at `at` and returns the page size that it names.
fn seal(file: &mut [u8], at: usize) -> Option<usize> {
    let contents = file.get_mut(at + HEADER..at + HEADER + META_LEN)?;
    let number = |place| u64_at(contents, place);
    let meta = Meta {
        page_size: u32_at(contents, 8)?,
        root: number(16)?,
        free_list: number(32)?,
        pages: number(40)?,
        transaction: number(48)?,
    };
    let mut encoded = Vec::with_capacity(META_LEN);
    meta.encode(&mut encoded);
    contents.copy_from_slice(&encoded);
    Some(meta.page_size as usize)
}
