//! Threads for what waits for the disk.
//!
//! Ensures: what hangs, or takes its time, keeps nobody else waiting for longer than [`PATIENCE`]; all else takes turns on
//! [`THREADS`] threads, since a process keeps the memory that each of its threads once had.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const THREADS: usize = 2;
const PATIENCE: Duration = Duration::from_millis(100);
/// For so long a thread with nothing to do waits for what comes next.
const LINGER: Duration = Duration::from_millis(10);

type Work = Box<dyn FnOnce() + Send>;

struct Queue {
    waiting: VecDeque<Work>,
    threads: usize,
    /// So many of all that was begun have lasted too long: they do not count among [`THREADS`].
    slow: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { waiting: VecDeque::new(), threads: 0, slow: 0 });
static COMES: Condvar = Condvar::new();

/// Runs what waits for the disk beside everything else.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (tell, mut told) = oneshot::channel();
    let work: Work = Box::new(move || {
        // Nothing is begun for one who does not wait for it any more.
        if !tell.is_closed() {
            let _ = tell.send(work());
        }
    });
    change(|queue| queue.waiting.push_back(work));
    let done = match timeout(PATIENCE, &mut told).await {
        Ok(done) => done,
        Err(_) => {
            let _slow = Slow::new();
            told.await
        }
    };
    done.context("a worker thread did not finish")?
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes the queue, and has somebody attend to what waits in it then.
fn change(change: impl FnOnce(&mut Queue)) {
    let mut queue = queue();
    change(&mut queue);
    let thread = queue.thread();
    COMES.notify_one();
    drop(queue);
    if let Some(thread) = thread {
        spawn_blocking(move || thread.attend());
    }
}

impl Queue {
    /// Another one, if it may be.
    fn thread(&mut self) -> Option<Thread> {
        (self.threads < THREADS + self.slow && !self.waiting.is_empty()).then(|| {
            self.threads += 1;
            Thread { counts: true }
        })
    }
}

/// One of [`Queue::threads`], also when the runtime ends before it begins.
struct Thread {
    counts: bool,
}

impl Thread {
    fn attend(mut self) {
        while let Some(work) = self.next() {
            // Whoever waits for it is told that it did not finish.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }

    /// `None` once there is nothing to do; who comes later finds that this thread is gone.
    fn next(&mut self) -> Option<Work> {
        let mut queue = queue();
        loop {
            if let Some(work) = queue.waiting.pop_front() {
                return Some(work);
            }
            let (again, waited) = COMES.wait_timeout(queue, LINGER).unwrap_or_else(PoisonError::into_inner);
            queue = again;
            if waited.timed_out() && queue.waiting.is_empty() {
                queue.threads -= 1;
                self.counts = false;
                return None;
            }
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.counts {
            queue().threads -= 1;
        }
    }
}

/// One that lasts too long, until this is dropped.
struct Slow;

impl Slow {
    fn new() -> Self {
        change(|queue| queue.slow += 1);
        Self
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        queue().slow -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, Barrier};

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_keeps_no_other_waiting_for_long() {
        const HANG: usize = 4 * THREADS;
        let (gate, hung) = (Arc::new(Barrier::new(HANG + 1)), Arc::new(AtomicUsize::new(0)));
        let hangs = || {
            let (gate, hung) = (gate.clone(), hung.clone());
            tokio::spawn(blocking(move || {
                hung.fetch_add(1, Relaxed);
                Ok(gate.wait().is_leader())
            }))
        };
        let hanging = (0..HANG).map(|_| hangs()).collect::<Vec<_>>();
        let all_hang = async {
            while hung.load(Relaxed) < HANG {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), all_hang).await.expect("each has a thread in the end");
        assert_eq!(blocking(|| Ok(1)).await.unwrap(), 1);
        gate.wait();
        for one in hanging {
            one.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_panics_is_an_error_and_takes_no_thread_away() {
        for _ in 0..2 * THREADS {
            assert!(blocking(|| -> Result<()> { panic!("on purpose") }).await.is_err());
        }
        assert_eq!(blocking(|| Ok(1)).await.unwrap(), 1);
    }
}
