//! Opening the state of a member: which directory counts, what is refused, what is cleaned up.
//!
//! ```text
//! <member>/state/ACTIVE          name of the generation that counts
//! <member>/state/g-00000001/     a RocksDB
//! <member>/snap/<index>-<term>/  a complete snapshot
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use super::auth::AuthMark;
use super::database::Database;
use super::error::StoreError;
use super::files;
use super::housekeeper::Housekeeper;
use super::machine::Machine;
use super::options::StoreOptions;
use super::reader::{Shared, Store};
use super::snapshot::Snapshots;
use super::view::Era;
use super::watermark::Watermark;

const STATE: &str = "state";
const SNAPSHOTS: &str = "snap";
const ACTIVE: &str = "ACTIVE";
const GENERATION: &str = "g-";

/// Opens the state in `member` (`<data-dir>/member`), or starts an empty one. `watermark` is the local log's.
///
/// # Errors
/// Foreign contents, a newer format, a directory that lost its pointer or its database, damage, disk errors.
pub fn open(member: &Path, options: StoreOptions, watermark: Watermark) -> Result<(Store, Machine), StoreError> {
    files::private_dir(member)?;
    let state_dir = member.join(STATE);
    files::private_dir(&state_dir)?;
    let snapshots = Snapshots::open(member.join(SNAPSHOTS))?;
    let active = active_generation(&state_dir)?;
    let dir = state_dir.join(&active);
    let create = is_unborn(&dir)?;
    let database = Database::open(&dir, &options, create)?;
    let applied_next = database.applied.lock().map_or(0, |(_, index)| index + 1);
    let auth_mark = AuthMark::of(&database.facts.load().auth);
    let floor = database.marks.dropped_below.load(std::sync::atomic::Ordering::Acquire);
    let shared = Arc::new(Shared {
        era: ArcSwap::from_pointee(Era { database: Arc::new(database) }),
        sinks: RwLock::default(),
        applied_next: Watermark::new(applied_next),
        dropped_below: Watermark::new(u64::try_from(floor).unwrap_or(0)),
        auth_mark,
        snapshots,
        state_dir,
        options,
    });
    let housekeeper = Arc::new(Housekeeper::start(Arc::clone(&shared))?);
    let store = Store { housekeeper, shared };
    Ok((store.clone(), Machine::new(store, watermark)))
}

/// Makes room for the first state of a member that has none, and returns its directory.
pub(super) fn first_generation(member: &Path) -> Result<PathBuf, StoreError> {
    let state_dir = member.join(STATE);
    files::private_dir(&state_dir)?;
    Ok(state_dir.join(active_generation(&state_dir)?))
}

/// The name of generation `number`.
pub(super) fn generation_name(number: u64) -> String {
    format!("{GENERATION}{number:08}")
}

/// The number of the generation in `dir`.
pub(super) fn generation(dir: &Path) -> Result<u64, StoreError> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(GENERATION)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| StoreError::Foreign { path: dir.to_owned(), found: "not a generation of the state".to_owned() })
}

/// From now on generation `name` counts, also after a crash.
pub(super) fn set_active(state_dir: &Path, name: &str) -> Result<(), StoreError> {
    files::replace(&state_dir.join(ACTIVE), format!("{name}\n").as_bytes())
}

/// Reads the pointer file, or writes the first one, and removes generations that do not count.
fn active_generation(state_dir: &Path) -> Result<String, StoreError> {
    let pointer = state_dir.join(ACTIVE);
    let mut generations = Vec::new();
    for name in files::names(state_dir)? {
        let path = state_dir.join(&name);
        if name.starts_with(GENERATION) {
            generation(&path)?;
            generations.push(name);
        } else if Path::new(&name).file_stem() != Some(ACTIVE.as_ref()) {
            return Err(StoreError::Foreign { path, found: "nothing this store puts there".to_owned() });
        }
    }
    let active = match fs::read_to_string(&pointer) {
        Ok(name) => name.trim_end().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            for name in generations.drain(..) {
                // Only what a first start left before it wrote the pointer: an empty directory.
                let dir = state_dir.join(name);
                fs::remove_dir(&dir).map_err(|_| StoreError::Incomplete {
                    path: state_dir.to_owned(),
                    missing: format!("the pointer file {ACTIVE} is gone"),
                })?;
            }
            let name = generation_name(1);
            files::private_dir(&state_dir.join(&name))?;
            set_active(state_dir, &name)?;
            return Ok(name);
        }
        Err(error) => return Err(StoreError::files("read", pointer)(error)),
    };
    if !generations.contains(&active) {
        let missing = format!("{ACTIVE} names {active:?}, which is not there");
        return Err(StoreError::Incomplete { path: state_dir.to_owned(), missing });
    }
    for name in generations.iter().filter(|name| **name != active) {
        files::remove_dir(&state_dir.join(name))?;
    }
    Ok(active)
}

/// Whether a generation's directory never held a database. One that lost its database is refused, not begun anew.
fn is_unborn(dir: &Path) -> Result<bool, StoreError> {
    let names = files::names(dir)?;
    let has_pointer = names.iter().any(|name| name == "CURRENT");
    if !has_pointer && names.iter().any(|name| name.ends_with(".sst")) {
        let missing = "RocksDB's CURRENT file is gone".to_owned();
        return Err(StoreError::Incomplete { path: dir.to_owned(), missing });
    }
    Ok(!has_pointer)
}
