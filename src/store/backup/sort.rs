//! Puts records into the order of their revisions, in bounded memory: what does not fit waits in files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Runs that are merged at once; more are joined into one first.
const MAX_RUNS: usize = 64;
/// Buffer for each run, bytes.
const BUFFER: usize = 64 << 10;

/// Collects records.
pub(super) struct Sorter {
    folder: PathBuf,
    budget: usize,
    data: Vec<u8>,
    /// Revision, place and length of each record in `data`.
    records: Vec<(i64, usize, usize)>,
    runs: Vec<File>,
    /// Bytes that were written to files, for the caller's account of the disk.
    pub spilled: u64,
}

impl Sorter {
    /// Keeps up to `budget` bytes of records in memory, and files without names in `folder`.
    pub fn new(folder: &Path, budget: usize) -> Self {
        let folder = folder.to_owned();
        Self { folder, budget, data: Vec::new(), records: Vec::new(), runs: Vec::new(), spilled: 0 }
    }

    /// Adds a record. Those of one revision keep the order in which they come.
    pub fn push(&mut self, revision: i64, record: &[u8]) -> io::Result<()> {
        let taken = self.data.len() + self.records.len() * size_of::<(i64, usize, usize)>();
        if taken + record.len() > self.budget && !self.records.is_empty() {
            self.spill()?;
        }
        self.records.push((revision, self.data.len(), record.len()));
        self.data.extend_from_slice(record);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.runs.len() == MAX_RUNS {
            let runs = std::mem::take(&mut self.runs);
            let mut joined = Merge::of(runs)?;
            let mut out = BufWriter::with_capacity(BUFFER, tempfile_in(&self.folder)?);
            while let Some((revision, record)) = joined.next()? {
                put(&mut out, revision, &record)?;
                self.spilled += (HEAD + record.len()) as u64;
            }
            self.runs.push(rewound(out)?);
        }
        self.records.sort_by_key(|(revision, ..)| *revision);
        let mut out = BufWriter::with_capacity(BUFFER, tempfile_in(&self.folder)?);
        for (revision, at, len) in self.records.drain(..) {
            put(&mut out, revision, &self.data[at..at + len])?;
            self.spilled += (HEAD + len) as u64;
        }
        self.data.clear();
        self.runs.push(rewound(out)?);
        Ok(())
    }

    /// Everything, by ascending revision.
    pub fn finish(mut self) -> io::Result<Merge> {
        if self.runs.is_empty() {
            self.records.sort_by_key(|(revision, ..)| *revision);
            return Ok(Merge { source: Source::Memory { data: self.data, records: self.records.into_iter() } });
        }
        if !self.records.is_empty() {
            self.spill()?;
        }
        Merge::of(self.runs)
    }
}

/// Bytes before each record in a file: revision i64, length u32.
const HEAD: usize = 12;

fn put(out: &mut impl Write, revision: i64, record: &[u8]) -> io::Result<()> {
    let len = u32::try_from(record.len()).map_err(|_| io::Error::other("a record of more than 4 GiB"))?;
    out.write_all(&revision.to_le_bytes())?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(record)
}

fn rewound(out: BufWriter<File>) -> io::Result<File> {
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A file that is gone when it is closed, also after a crash.
pub(super) fn tempfile_in(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!("run-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Records in order.
pub(super) struct Merge {
    source: Source,
}

enum Source {
    Memory { data: Vec<u8>, records: std::vec::IntoIter<(i64, usize, usize)> },
    Runs { runs: Vec<BufReader<File>>, heads: BinaryHeap<Reverse<(i64, usize)>> },
}

impl Merge {
    fn of(files: Vec<File>) -> io::Result<Self> {
        let mut runs: Vec<BufReader<File>> =
            files.into_iter().map(|file| BufReader::with_capacity(BUFFER, file)).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(head(run)?.map(|revision| Reverse((revision, number))));
        }
        Ok(Self { source: Source::Runs { runs, heads } })
    }

    /// The next record and its revision.
    pub fn next(&mut self) -> io::Result<Option<(i64, Vec<u8>)>> {
        match &mut self.source {
            Source::Memory { data, records } => {
                Ok(records.next().map(|(revision, at, len)| (revision, data[at..at + len].to_vec())))
            }
            Source::Runs { runs, heads } => {
                // Runs were cut in the order of arrival, so of equal revisions the lower run comes first.
                let Some(Reverse((revision, number))) = heads.pop() else { return Ok(None) };
                let run = &mut runs[number];
                let mut len = [0; 4];
                run.read_exact(&mut len)?;
                let mut record = vec![0; u32::from_le_bytes(len) as usize];
                run.read_exact(&mut record)?;
                heads.extend(head(run)?.map(|revision| Reverse((revision, number))));
                Ok(Some((revision, record)))
            }
        }
    }
}

/// The revision of a run's next record; `None` at its end.
fn head(run: &mut BufReader<File>) -> io::Result<Option<i64>> {
    use std::io::BufRead;
    if run.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut revision = [0; 8];
    run.read_exact(&mut revision)?;
    Ok(Some(i64::from_le_bytes(revision)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(records: &[(i64, Vec<u8>)], budget: usize) -> Vec<(i64, Vec<u8>)> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sorter = Sorter::new(folder.path(), budget);
        for (revision, record) in records {
            sorter.push(*revision, record).expect("a record");
        }
        let mut merge = sorter.finish().expect("a merge");
        let mut found = Vec::new();
        while let Some(record) = merge.next().expect("a record") {
            found.push(record);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// With 64 bytes of memory every second record is a run of its own, and runs are joined many times.
        #[test]
        fn records_come_in_the_order_of_revisions_and_of_arrival_whatever_the_memory(
            records in prop::collection::vec((1i64..50, prop::collection::vec(any::<u8>(), 0..60)), 0..400),
            budget in prop_oneof![Just(64usize), Just(4096), Just(1 << 20)],
        ) {
            let mut wanted = records.clone();
            wanted.sort_by_key(|(revision, _)| *revision);
            prop_assert_eq!(sorted(&records, budget), wanted);
        }
    }
}
