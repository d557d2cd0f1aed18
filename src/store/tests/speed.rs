//! What a put costs in the state machine. Ignored by default: it prints, it does not judge.
//! `cargo test --release --lib -- --ignored --nocapture what_a_put_costs`

use std::time::{Duration, Instant};

use super::{apply, entry, put};
use crate::store::{StoreOptions, Watermark, open};

const KEYS: u64 = 100_000;
const PUTS: u64 = 400_000;
const BATCH: u64 = 64;
const VALUE: [u8; 256] = [7; 256];

/// Processor time of this process, all threads: flushes and merges are part of the price.
fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    of(usage.user_time()) + of(usage.system_time())
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_put_costs() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path(), StoreOptions::default(), Watermark::already_durable()).unwrap();
    let mut index = 0;
    let mut round = 0;
    while index < KEYS + PUTS {
        let (from, wall, processor) = (index, Instant::now(), processor_time());
        for _ in 0..KEYS / BATCH {
            let entries = (index..index + BATCH).map(|index| {
                // Spread over the keys in no particular order.
                let key = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS;
                entry(index, put(format!("/registry/pods/{key:08}").as_bytes(), &VALUE))
            });
            apply(&mut machine, entries).await;
            index += BATCH;
        }
        let puts = (index - from) as f64;
        let (wall, processor) = (wall.elapsed().as_secs_f64(), (processor_time() - processor).as_secs_f64());
        println!(
            "round {round}: {:.2} us CPU, {:.2} us wall per put, revision {}",
            processor / puts * 1e6,
            wall / puts * 1e6,
            store.revision()
        );
        round += 1;
    }
    let view = store.view();
    let (started, mut found) = (Instant::now(), 0);
    for key in 0..KEYS {
        use crate::model::view::View;
        found += usize::from(view.get(format!("/registry/pods/{key:08}").as_bytes()).unwrap().is_some());
    }
    println!("{:.2} us per get, {found} found", started.elapsed().as_secs_f64() / KEYS as f64 * 1e6);
}
