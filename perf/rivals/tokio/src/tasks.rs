// SPDX-License-Identifier: MIT
//
// Starting tasks, yielding, channels and locks: the cases of perf/spawn_join.c, tasks.c, yield.c,
// channel.c and locks.c.

use crate::{memory_bytes, Said};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, Mutex, Notify};
use tokio::task::{yield_now, JoinHandle};

pub async fn spawn_join(n: u64) -> Said {
    let mut sum = 0;
    for _ in 0..n {
        sum += tokio::spawn(async { 2u64 }).await.unwrap();
    }
    Said::sum(sum)
}

/// Room for n, whose pages are there, so that no page fault is timed.
pub fn touched<T>(n: u64) -> Vec<T> {
    let mut room = Vec::with_capacity(n as usize);
    unsafe { std::ptr::write_bytes(std::hint::black_box(room.as_mut_ptr()), 1, n as usize) };
    room
}

async fn sum_of(handles: Vec<JoinHandle<u64>>) -> u64 {
    let mut sum = 0;
    for handle in handles {
        sum += handle.await.unwrap();
    }
    sum
}

pub async fn queued(n: u64, workers: usize) -> Said {
    let mut handles = touched(n);
    let before = memory_bytes();
    let begin = Instant::now();
    for i in 0..n {
        handles.push(tokio::spawn(async move { i ^ 0x5a5a }));
    }
    let spawning = begin.elapsed();
    // With one worker, this one, all exist and none has begun.
    let bytes = (workers == 1).then(|| (memory_bytes() - before) as f64 / n as f64);
    let begin = Instant::now();
    let checksum = sum_of(handles).await;
    Said { checksum, span: Some(spawning + begin.elapsed()), bytes, figures: vec![] }
}

/// Each waits for a notification of its own.
pub async fn suspended(n: u64) -> Said {
    let gates: Arc<Vec<Notify>> = Arc::new((0..n).map(|_| Notify::new()).collect());
    let waiting = Arc::new(AtomicU64::new(0));
    let mut handles = touched(n);
    let before = memory_bytes();
    let begin = Instant::now();
    for i in 0..n {
        let (gates, waiting) = (gates.clone(), waiting.clone());
        handles.push(tokio::spawn(async move {
            waiting.fetch_add(1, Relaxed);
            gates[i as usize].notified().await;
            i ^ 0x5a5a
        }));
    }
    // tokio's own timers count in milliseconds, so a thread for blocking calls looks as often as others.
    tokio::task::spawn_blocking(move || {
        while waiting.load(SeqCst) < n {
            std::thread::sleep(Duration::from_micros(200));
        }
    })
    .await
    .unwrap();
    let start = begin.elapsed();
    let bytes = (memory_bytes() - before) as f64 / n as f64;
    let begin = Instant::now();
    for gate in gates.iter() {
        gate.notify_one();
    }
    let checksum = sum_of(handles).await;
    let each = |span: Duration| span.as_nanos() as f64 / n as f64;
    let figures = vec![("start", each(start)), ("wake", each(begin.elapsed()))];
    Said { checksum, span: None, bytes: Some(bytes), figures }
}

async fn yield_times(times: u64) -> u64 {
    for _ in 0..times {
        yield_now().await;
    }
    times
}

pub async fn yielding(n: u64) -> Said {
    let mut handles = touched(n);
    let begin = Instant::now();
    handles.extend((0..n).map(|_| tokio::spawn(yield_times(10))));
    let checksum = sum_of(handles).await;
    Said { checksum, span: Some(begin.elapsed()), ..Default::default() }
}

/// The clock starts when all have begun and yielded a while, and stops when the last is through; the yield
/// in which each waited for the last one counts.
pub async fn ring(n: u64, members: u64) -> Said {
    let rounds = n / members + 1;
    let (ready, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let origin = Instant::now();
    let since_origin = move || origin.elapsed().as_nanos() as u64;
    let (begin, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let handles = (0..members).map(|_| {
        let (ready, done, begin, end) = (ready.clone(), done.clone(), begin.clone(), end.clone());
        tokio::spawn(async move {
            yield_times(rounds / 8 + 4).await;
            if ready.fetch_add(1, SeqCst) + 1 == members {
                begin.store(since_origin(), SeqCst);
            }
            while ready.load(SeqCst) < members {
                yield_now().await;
            }
            yield_times(rounds).await;
            if done.fetch_add(1, SeqCst) + 1 == members {
                end.store(since_origin(), SeqCst);
            }
            rounds + 1
        })
    });
    let checksum = sum_of(handles.collect()).await;
    let span = Duration::from_nanos(end.load(SeqCst) - begin.load(SeqCst));
    Said { checksum, span: Some(span), ..Default::default() }
}

/// Channels of one: tokio has none that hold nothing.
pub async fn pingpong(n: u64) -> Said {
    let (there, mut there_end) = mpsc::channel::<u64>(1);
    let (back, mut back_end) = mpsc::channel::<u64>(1);
    let echo = tokio::spawn(async move {
        while let Some(x) = there_end.recv().await {
            back.send(x).await.unwrap();
        }
    });
    let mut sum = 0;
    for i in 1..=n {
        there.send(i).await.unwrap();
        sum += back_end.recv().await.unwrap();
    }
    drop(there);
    echo.await.unwrap();
    Said::sum(sum)
}

pub async fn one_to_one(n: u64) -> Said {
    let (sender, mut receiver) = mpsc::channel::<u64>(128);
    tokio::spawn(async move {
        for i in 1..=n {
            sender.send(i).await.unwrap();
        }
    });
    let sum = tokio::spawn(async move {
        let mut sum = 0;
        while let Some(x) = receiver.recv().await {
            sum += x;
        }
        sum
    });
    Said::sum(sum.await.unwrap())
}

/// The counter is what the mutex guards.
pub async fn mutex(n: u64, tasks: u64, yields: bool) -> Said {
    let counter = Arc::new(Mutex::new(0u64));
    let handles = (0..tasks).map(|_| {
        let counter = counter.clone();
        tokio::spawn(async move {
            for _ in 0..n / tasks {
                let mut guard = counter.lock().await;
                *guard += 1;
                if yields {
                    yield_now().await;
                }
            }
            0
        })
    });
    sum_of(handles.collect()).await;
    let counted = *counter.lock().await;
    Said::sum(counted)
}
