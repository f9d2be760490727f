// SPDX-License-Identifier: MIT
//
// Timers and delays: the cases of perf/timers.c, wake.c, idle.c, burst.c, fairness.c and skew.c.
// tokio's timers count in milliseconds.

use crate::{spread, tasks::touched, Said};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// n timers that never fire; a million times, in no order, one is set anew.
pub async fn rearm(n: u64) -> Said {
    const OPS: u64 = 1_000_000;
    let base = tokio::time::Instant::now();
    let deadline = |i: u64| base + ms(10_000) + spread(i, ms(50_000));
    let mut timers: Vec<_> = (0..n).map(|i| Box::pin(sleep_until(deadline(i)))).collect();
    for timer in timers.iter_mut() {
        let due = timer.deadline();
        timer.as_mut().reset(due); // that registers it
    }
    let mut stride = (n as f64 * 0.618) as u64 | 1;
    while gcd(stride, n) != 1 {
        stride += 2;
    }
    let mut at = 0;
    let mut begin = Instant::now();
    for i in 0..OPS + OPS / 4 {
        if i == OPS / 4 {
            begin = Instant::now();
        }
        at = (at + stride) % n;
        timers[at as usize].as_mut().reset(deadline(i));
    }
    let mut said = Said::sum(n);
    said.figures.push(("ns", begin.elapsed().as_nanos() as f64 / OPS as f64));
    said
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub async fn sleep_late(n: u64) -> Said {
    let span = Duration::from_micros(900);
    let mut late = Vec::new();
    for _ in 0..n {
        let begin = Instant::now();
        sleep(span).await;
        late.push(begin.elapsed().as_nanos() as i64 - span.as_nanos() as i64);
    }
    Said::percentiles(n, late)
}

/// In the first round all are asleep at once, as perf/timers.c says.
pub async fn sleepers(n: u64) -> Said {
    static SLEPT: AtomicBool = AtomicBool::new(false);
    let first = !SLEPT.swap(true, Relaxed);
    let longer = if first { (Duration::from_micros(25) * n as u32).min(ms(3000)) } else { ms(0) };
    let mut handles = touched(n);
    let begin = Instant::now();
    for i in 0..n {
        handles.push(tokio::spawn(async move { sleep(ms(10) + spread(i, ms(40)) + longer).await }));
    }
    let mut done = 0;
    for handle in handles {
        handle.await.unwrap();
        done += 1;
    }
    Said { checksum: done, span: Some(begin.elapsed()), ..Default::default() }
}

/// A thread of its own wakes a task while all workers sleep.
pub async fn wake(n: u64) -> Said {
    let (sender, mut receiver) = mpsc::channel::<Instant>(1);
    std::thread::spawn(move || {
        for _ in 0..n + 100 {
            std::thread::sleep(Duration::from_micros(400));
            sender.blocking_send(Instant::now()).unwrap();
        }
    });
    let mut delays = Vec::new();
    while let Some(begin) = receiver.recv().await {
        delays.push(begin.elapsed().as_nanos() as i64);
    }
    Said::percentiles(n, delays.split_off(100))
}

/// One task that sleeps for long, and an end after n seconds and one.
pub async fn idle(n: u64) -> Said {
    tokio::spawn(sleep(Duration::from_secs(3600)));
    sleep(Duration::from_secs(n + 1)).await;
    Said::sum(n)
}

/// n times a thousand tasks at once, from a thread that is no worker, when all workers sleep: how long
/// after its spawn each begins.
pub async fn burst(n: u64) -> Said {
    const SIZE: usize = 1000;
    static DONE: AtomicUsize = AtomicUsize::new(0);
    const NONE: AtomicI64 = AtomicI64::new(0);
    static DELAYS: [AtomicI64; SIZE] = [NONE; SIZE];
    let runtime = tokio::runtime::Handle::current();
    let (sender, mut result) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut delays = Vec::new();
        for round in 0..n + 4 {
            std::thread::sleep(ms(5));
            DONE.store(0, Relaxed);
            for delay in &DELAYS {
                let begin = Instant::now();
                runtime.spawn(async move {
                    delay.store(begin.elapsed().as_nanos() as i64, Relaxed);
                    DONE.fetch_add(1, Release); // pairs with the loop below
                });
            }
            while DONE.load(Acquire) < SIZE {
                std::thread::sleep(Duration::from_micros(50));
            }
            if round >= 4 {
                delays.extend(DELAYS.iter().map(|delay| delay.load(Relaxed)));
            }
        }
        sender.blocking_send(delays).unwrap();
    });
    Said::percentiles(n, result.recv().await.unwrap())
}

/// Every millisecond a task is started beside two that keep sending to each other; and how long these take there
/// and back meanwhile.
pub async fn fairness(n: u64) -> Said {
    let origin = Instant::now();
    let (there, mut there_end) = mpsc::channel(1);
    let (back, mut back_end) = mpsc::channel(1);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    tokio::spawn(async move {
        while let Some(x) = there_end.recv().await {
            back.send(x).await.unwrap();
        }
    });
    let pair = tokio::spawn(async move {
        let mut made = 0;
        while !stopped.load(Relaxed) {
            there.send(1).await.unwrap();
            back_end.recv().await.unwrap();
            made += 1;
        }
        made
    });
    let mut delays = Vec::new();
    for _ in 0..n {
        sleep(ms(1)).await;
        let begin = Instant::now();
        let task = tokio::spawn(async move { begin.elapsed().as_nanos() as i64 });
        delays.push(task.await.unwrap());
    }
    stop.store(true, Relaxed);
    let made = pair.await.unwrap();
    let trip = origin.elapsed().as_nanos() as f64 / made as f64;
    let mut said = Said::percentiles(n, delays);
    said.figures.push(("pair", trip));
    said
}

/// 64 tasks started by one, each with 20 us of work every 1.0 to 2.2 ms: how late it is done, n times in
/// all.
pub async fn skewed(n: u64) -> Said {
    const HANDLERS: u64 = 64;
    let handles: Vec<_> = (0..HANDLERS)
        .map(|h| {
            tokio::spawn(async move {
                let mut late = Vec::new();
                let mut due = Instant::now();
                for i in 0..n / HANDLERS {
                    due += ms(1) + spread(h * 1000 + i, Duration::from_micros(1200));
                    sleep_until(due.into()).await;
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_micros(20) {}
                    late.push(due.elapsed().as_nanos() as i64);
                }
                late
            })
        })
        .collect();
    let mut values = Vec::new();
    for handle in handles {
        values.append(&mut handle.await.unwrap());
    }
    Said::percentiles(values.len() as u64 + n % HANDLERS, values)
}
