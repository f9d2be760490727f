// SPDX-License-Identifier: MIT
//
// The cases of the benchmarks with tokio: finding one, warming up, timing. See perf/rivals/README.

mod tasks;
mod timing;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// What a case gives: its checksum, the time of the part that counts if that is not all, and figures.
#[derive(Default)]
pub struct Said {
    pub checksum: u64,
    pub span: Option<Duration>,
    pub bytes: Option<f64>,
    pub figures: Vec<(&'static str, f64)>,
}

impl Said {
    pub fn sum(checksum: u64) -> Said {
        Said { checksum, ..Default::default() }
    }

    /// Figures p50, p99 and p99.9; nearest rank, as bench_percentile().
    pub fn percentiles(checksum: u64, mut values: Vec<i64>) -> Said {
        let mut said = Said::sum(checksum);
        values.sort_unstable();
        for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)] {
            let above = (percent / 100.0 * values.len() as f64).ceil() as usize;
            said.figures.push((name, values[above.max(1) - 1] as f64));
        }
        said
    }
}

fn kilobytes(path: &str, key: &str) -> i64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|w| w.parse().ok()).unwrap_or(-1)
}

/// Resident memory and its page tables.
pub fn memory_bytes() -> i64 {
    (kilobytes("/proc/self/smaps_rollup", "Rss:") + kilobytes("/proc/self/status", "VmPTE:")) * 1024
}

pub fn spread(i: u64, within: Duration) -> Duration {
    let mixed = (i as u32).wrapping_mul(2654435761) as u128;
    Duration::from_nanos((mixed * within.as_nanos() >> 32) as u64)
}

pub type Work = Pin<Box<dyn Future<Output = Said> + Send>>;

#[derive(PartialEq)]
pub enum Warm {
    Eighth,
    Same,
    Not,
}

fn find(name: &str) -> Option<(fn(u64, usize) -> Work, Warm)> {
    use Warm::*;
    Some(match name {
        "spawn + join" => (|n, _| Box::pin(tasks::spawn_join(n)), Eighth),
        "queued" => (|n, w| Box::pin(tasks::queued(n, w)), Same),
        "suspended" => (|n, _| Box::pin(tasks::suspended(n)), Same),
        "yielding" => (|n, _| Box::pin(tasks::yielding(n)), Same),
        "ring of 2" => (|n, _| Box::pin(tasks::ring(n, 2)), Eighth),
        "ring of 512" => (|n, _| Box::pin(tasks::ring(n, 512)), Eighth),
        "ring of 16384" => (|n, _| Box::pin(tasks::ring(n, 16384)), Eighth),
        "pingpong" => (|n, _| Box::pin(tasks::pingpong(n)), Eighth),
        "1to1" => (|n, _| Box::pin(tasks::one_to_one(n)), Eighth),
        "mutex alone" => (|n, _| Box::pin(tasks::mutex(n, 1, false)), Eighth),
        "mutex of 8" => (|n, _| Box::pin(tasks::mutex(n, 8, false)), Eighth),
        "mutex of 8, each yields inside" => (|n, _| Box::pin(tasks::mutex(n, 8, true)), Eighth),
        "cancel + re-arm" => (|n, _| Box::pin(timing::rearm(n)), Not),
        "sleep of 900 us, late" => (|n, _| Box::pin(timing::sleep_late(n)), Not),
        "sleepers" => (|n, _| Box::pin(timing::sleepers(n)), Same),
        "wake" => (|n, _| Box::pin(timing::wake(n)), Not),
        "idle" => (|n, _| Box::pin(timing::idle(n)), Not),
        "burst" => (|n, _| Box::pin(timing::burst(n)), Not),
        "fairness" => (|n, _| Box::pin(timing::fairness(n)), Not),
        "skewed load" => (|n, _| Box::pin(timing::skewed(n)), Not),
        _ => return None,
    })
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (workers, n) = match (args.get(2), args.get(3)) {
        (Some(w), Some(n)) => (w.parse::<usize>().unwrap(), n.parse::<u64>().unwrap()),
        _ => std::process::exit(2),
    };
    let (run, warm) = find(&args[1]).unwrap_or_else(|| std::process::exit(77));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.max(1))
        .enable_time()
        .build()
        .unwrap();

    // On a worker, and not on the thread in block_on, which is none.
    let once = |n: u64| runtime.block_on(async move { tokio::spawn(run(n, workers)).await.unwrap() });
    let first = match warm {
        Warm::Eighth => once(n / 8 + 64),
        Warm::Same => once(n),
        Warm::Not => Said::default(),
    };
    let begin = Instant::now();
    let said = once(n);
    let span = said.span.unwrap_or_else(|| begin.elapsed());
    println!("{} {:.9}\n# tokio {}", said.checksum, span.as_secs_f64(), env!("TOKIO_RELEASE"));
    if let Some(bytes) = first.bytes {
        println!("bytes {}", bytes);
    }
    for (name, value) in said.figures {
        println!("{} {}", name, value);
    }
    runtime.shutdown_background();
}
