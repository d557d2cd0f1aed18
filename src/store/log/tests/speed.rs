//! What a sync and an entry cost. Prints figures; run it by name on a quiet machine.

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

#[tokio::test]
#[ignore = "a measurement; run with --ignored --nocapture"]
async fn syncs_per_second_and_cpu_per_entry() {
    let dir = std::env::var_os("LOG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:>6} {:>10} {:>12} {:>14}", "batch", "syncs/s", "entries/s", "cpu us/entry");
    for batch in [1, 16, 256] {
        let dir = tempfile::tempdir_in(&dir).expect("a temporary directory");
        let (mut store, _) = open(dir.path(), LogOptions::default()).expect("opens");
        let mut next = 0;
        let mut round = async |rounds: u64, store: &mut LogStore| {
            for _ in 0..rounds {
                let entries: Vec<Entry> = (next..next + batch).map(|index| entry(1, index, 300)).collect();
                next += batch;
                store.blocking_append(entries).await.expect("appends");
            }
        };
        round(300, &mut store).await;
        let (began, busy) = (Instant::now(), cpu());
        let rounds = 10_000;
        round(rounds, &mut store).await;
        let (took, busy) = (began.elapsed().as_secs_f64(), (cpu() - busy).as_secs_f64());
        let entries = (rounds * batch) as f64;
        let per_entry = busy * 1e6 / entries;
        println!("{batch:>6} {:>10.0} {:>12.0} {per_entry:>14.2}", rounds as f64 / took, entries / took);
    }
}
