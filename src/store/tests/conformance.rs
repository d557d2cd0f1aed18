//! openraft's storage suite on the real log and the real state machine.

use std::io;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::small;
use crate::raft::types::TypeConfig;
use crate::store::log::{self, LogOptions, LogStore};
use crate::store::{Machine, Watermark};

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let failed = |error: io::Error| {
            StorageError::from_io_error(openraft::ErrorSubject::Store, openraft::ErrorVerb::Read, error)
        };
        let dir = tempfile::tempdir().map_err(failed)?;
        let options = LogOptions { segment_bytes: 1 << 20, first_segment_bytes: 1 << 16, ..LogOptions::default() };
        let (log, _watermark) =
            log::open(&dir.path().join("wal"), options).map_err(|error| failed(io::Error::other(error)))?;
        // The suite applies entries that it never appends, so nothing may wait for the log here.
        let (_store, machine) = super::super::open(dir.path(), small(), Watermark::already_durable())
            .map_err(|error| failed(io::Error::other(error)))?;
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn the_storage_suite_of_openraft_passes_on_our_log_and_state_machine() {
    Suite::test_all(Fresh).await.unwrap();
}
