//! What a merge is reckoned to write, against what it writes: on a nearly full disk a reckoning that is too low ends the
//! process.

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rocksdb::properties::TOTAL_SST_FILES_SIZE;

use super::{apply, compact, delete, entry, open, put};
use crate::model::command::Command;
use crate::store::keys;
use crate::store::merge::with_slack;
use crate::store::space::Space;

/// Values that no compression makes smaller.
fn noise(random: &mut SmallRng, length: usize) -> Vec<u8> {
    let mut value = vec![0; length];
    random.fill_bytes(&mut value);
    value
}

/// Applies the commands, merges, and compares with what was reckoned before.
async fn merges_within_the_reckoning(what: &str, commands: Vec<Command>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    for (index, command) in (1u64..).zip(commands) {
        apply(&mut machine, [entry(index, command)]).await;
    }
    store.compacted_physically(store.compacted()).await;
    let database = store.shared.database();
    database.flush().unwrap();
    for family in [keys::LATEST, keys::HISTORY] {
        let reckoned = with_slack(database.bytes_when_merged(family));
        assert!(database.merge(family, &Space::unbounded()).unwrap());
        let files = database.engine().property_int_value_cf(database.family(family), TOTAL_SST_FILES_SIZE);
        let written = files.unwrap().unwrap();
        assert!(written <= reckoned, "{what}, {family}: {written} bytes, reckoned {reckoned}");
    }
}

#[tokio::test]
async fn a_merge_writes_no_more_than_was_reckoned() {
    let random = &mut SmallRng::seed_from_u64(1);
    let key = |n: usize| format!("key{n:06}").into_bytes();
    let new = (0..300).map(|n| put(&key(n), &noise(random, 16 << 10))).collect();
    merges_within_the_reckoning("new keys", new).await;
    let over = (0..300).map(|n| put(&key(n % 3), &noise(random, 16 << 10))).collect();
    merges_within_the_reckoning("overwritten keys", over).await;
    let names = (0..300).map(|n| put(&[noise(random, 8 << 10), key(n)].concat(), b"")).collect();
    merges_within_the_reckoning("long keys without values", names).await;
    let mut gone: Vec<Command> = (0..300).map(|n| put(&key(n), &noise(random, 16 << 10))).collect();
    gone.extend((0..290).map(|n| delete(&key(n))));
    merges_within_the_reckoning("deleted keys", gone.clone()).await;
    gone.push(compact(580));
    merges_within_the_reckoning("deleted and compacted keys", gone).await;
}
