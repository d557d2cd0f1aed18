//! What a sync and an entry cost. Prints figures; run it by name on a quiet machine.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;

/// CPU time of this process so far.
fn cpu() -> Duration {
    // SAFETY: the call only fills the structure it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

const ROUNDS: u64 = 2000;
const WARM_UP: u64 = 200;
const PAYLOAD: usize = 300;

/// Syncs per second and CPU per entry of `round`, which writes and syncs `batch` entries.
async fn measure(batch: u64, mut round: impl AsyncFnMut()) -> (f64, f64) {
    for _ in 0..WARM_UP {
        round().await;
    }
    let (began, busy) = (Instant::now(), cpu());
    for _ in 0..ROUNDS {
        round().await;
    }
    let (took, busy) = (began.elapsed().as_secs_f64(), (cpu() - busy).as_secs_f64());
    (ROUNDS as f64 / took, busy * 1e6 / (ROUNDS * batch) as f64)
}

/// Compares with the floor: one thread that overwrites a zero-filled file with as many bytes and syncs it. Both run in
/// turn, because the disk of a shared machine is never the same for long.
#[tokio::test]
#[ignore = "a measurement; run with --ignored --nocapture"]
async fn syncs_per_second_and_cpu_per_entry() {
    let dir = std::env::var_os("LOG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:>6} {:>10} {:>10} {:>12} {:>12}", "batch", "syncs/s", "floor", "us/entry", "floor");
    for batch in [1, 16, 256] {
        let dir = tempfile::tempdir_in(&dir).expect("a temporary directory");
        let (mut store, _) = open(dir.path(), LogOptions::default()).expect("opens");
        let mut next = 0;
        let ours = measure(batch, async || {
            let entries: Vec<Entry> = (next..next + batch).map(|index| entry(1, index, PAYLOAD)).collect();
            next += batch;
            store.blocking_append(entries).await.expect("appends");
        });
        let (syncs, cost) = ours.await;
        let file = tempfile::tempfile_in(&dir).expect("a temporary file");
        let bytes = vec![7; batch as usize * (PAYLOAD + 30)];
        let length = 64 << 20;
        file.write_all_at(&vec![0; length], 0).expect("writes");
        file.sync_all().expect("syncs");
        let mut at = 0;
        let floor = measure(batch, async || {
            file.write_all_at(&bytes, at).expect("writes");
            file.sync_data().expect("syncs");
            at = (at + bytes.len() as u64) % (length - bytes.len()) as u64;
        });
        let (floor_syncs, floor_cost) = floor.await;
        println!("{batch:>6} {syncs:>10.0} {floor_syncs:>10.0} {cost:>12.2} {floor_cost:>12.2}");
    }
}
