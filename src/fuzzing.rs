//! The door of the fuzz targets in `fuzz/`: one function for each decoder of bytes from outside.
//!
//! Decoders are private to their rooms, and a fuzz target is a crate of its own. This module lets it in; what is done
//! with the bytes is written in each room's own `fuzzing.rs`, where its private parts can be named. All of it is there
//! under `cfg(fuzzing)` only, which `cargo fuzz` sets (decision 057).
//!
//! Every function takes any bytes and returns nothing. A panic is a find: one of the code's own, or one of the
//! properties that are asserted here: what was read can be written and read again, however the bytes arrive they mean
//! the same, and what is refused changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::settings::{self, Invocation, Settings};

/// A body of the JSON gateway or its headers. The first byte chooses the method, the second where the body is cut.
pub fn gateway(data: &[u8]) {
    crate::api::gateway::fuzzing::gateway(data);
}

/// v3 requests one after another, through checks, rules and quota, against a store in memory.
pub fn requests(data: &[u8]) {
    crate::model::fuzzing::requests(data);
}

/// A snapshot file: as it is, and with the checksums of its header made right.
pub fn snapshot(data: &[u8]) {
    crate::store::fuzzing::snapshot(data);
}

/// Rows of a snapshot file whose pages are sound, taken in as the state of a new member.
pub fn restore(data: &[u8]) {
    crate::store::fuzzing::restore(data);
}

/// What a peer sends: frames, handshakes, requests, answers, the beginning of a snapshot, a member list.
pub fn peer(data: &[u8]) {
    crate::raft::network::fuzzing::peer(data);
}

/// A configuration file, or with a first byte of 1 a command line, of 2 the environment: a word a line.
pub fn config(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let file = || settings::read(&["--config-file=/f".to_owned()], &BTreeMap::new(), &|_: &Path| Ok(text.to_vec()));
    let words = String::from_utf8_lossy(text);
    let none = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let read = match kind {
        1 => settings::read(&words.lines().map(str::to_owned).collect::<Vec<_>>(), &BTreeMap::new(), &none),
        2 => {
            let pairs = words.lines().filter_map(|line| line.split_once('='));
            settings::read(&[], &pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), &none)
        }
        _ => file(),
    };
    match read {
        Ok(Invocation::Run { settings, .. }) => {
            let text = settings.to_yaml();
            let again = Settings::from_yaml(&text).unwrap_or_else(|error| panic!("{error} in our own file:\n{text}"));
            assert_eq!(again, *settings, "{text}");
        }
        Ok(_) => {}
        Err(refusal) => assert!(!refusal.to_string().is_empty(), "a refusal without a word"),
    }
}

/// v2 requests, one a line, against a store in memory: `METHOD path query form`, separated by tabs.
pub fn v2(data: &[u8]) {
    crate::api::v2::fuzzing::v2(data);
}

/// The file that carries a v2 tree.
pub fn treefile(data: &[u8]) {
    crate::treefile::fuzzing::treefile(data);
}

/// A segment of the Raft log, its records sealed: each is two bytes of length and a body.
pub fn log(data: &[u8]) {
    crate::store::log::fuzzing::log(data);
}
