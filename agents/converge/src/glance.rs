//! A glance at many apps at once, so that a pass over a host where nothing is to be done costs a look at each app and no
//! more: no task, no thread and no lock of its own.
//!
//! Ensures: an app whose disk hangs delays the others by [`PATIENCE`] at the most; whatever was not glanced at, or was not
//! found to be done with, is attempted as if there had been no glance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use store::AppName;
use tokio::task::JoinSet;

use crate::agent::{Task, Wanted};

/// Whether an attempt at an app would find nothing to do. Called on any thread, may wait for the disk, and changes nothing.
pub type Glance = Arc<dyn Fn(&AppName, &Wanted) -> bool + Send + Sync>;

/// How long nothing may come of it before the rest is attempted without a glance.
const PATIENCE: Duration = Duration::from_millis(100);
/// With more threads than cores nothing is gained.
const MOST_THREADS: usize = 4;
/// Apps to a thread that are worth starting it.
const APPS_A_THREAD: usize = 32;

/// The tasks that are left to be attempted.
pub(crate) async fn unsettled(glance: Glance, tasks: Vec<Task>) -> Vec<Task> {
    let looks = Arc::new(Looks::at(tasks, glance));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = looks.tasks.len().div_ceil(APPS_A_THREAD).min(cores).min(MOST_THREADS);
    let mut looking = JoinSet::new();
    for _ in 0..threads {
        let looks = looks.clone();
        looking.spawn_blocking(move || looks.take_turns());
    }
    let mut before = 0;
    loop {
        tokio::select! {
            ended = looking.join_next() => if ended.is_none() { break },
            () = tokio::time::sleep(PATIENCE) => {
                let looked = looks.looked.load(Relaxed);
                if looked == before {
                    break;
                }
                before = looked;
            }
        }
    }
    looks.unsettled()
}

/// What the threads that look share.
struct Looks {
    tasks: Vec<Task>,
    glance: Glance,
    /// By task.
    settled: Vec<AtomicBool>,
    /// The first task that nobody looks at yet.
    next: AtomicUsize,
    /// How many were looked at.
    looked: AtomicUsize,
}

impl Looks {
    fn at(tasks: Vec<Task>, glance: Glance) -> Self {
        let settled = tasks.iter().map(|_| AtomicBool::new(false)).collect();
        Self { tasks, glance, settled, next: AtomicUsize::new(0), looked: AtomicUsize::new(0) }
    }

    fn take_turns(&self) {
        while let Some((task, settled)) = self.turn() {
            let is_settled = (self.glance)(&task.app, &task.wanted.borrow());
            settled.store(is_settled, Relaxed);
            self.looked.fetch_add(1, Relaxed);
        }
    }

    fn turn(&self) -> Option<(&Task, &AtomicBool)> {
        let next = self.next.fetch_add(1, Relaxed);
        self.tasks.get(next).zip(self.settled.get(next))
    }

    fn unsettled(&self) -> Vec<Task> {
        // Whoever still hangs need not look any further when it wakes.
        self.next.store(self.tasks.len(), Relaxed);
        let unsettled = self.tasks.iter().zip(&self.settled).filter(|(_, settled)| !settled.load(Relaxed));
        unsettled.map(|(task, _)| task.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use store::Store;
    use tokio::sync::{Semaphore, watch};

    use super::*;
    use crate::agent::{Host, Source};

    fn tasks(apps: &[&str]) -> Vec<Task> {
        let host = Host {
            node: "web1".parse().unwrap(),
            store: Store::open(Some("file:nowhere")).unwrap(),
            source: Source::Store,
            read_only: false,
            permits: Arc::new(Semaphore::new(1)),
        };
        let wanted = watch::Sender::new(Wanted::Unnamed).subscribe();
        let task = |app: &&str| Task { app: app.parse().unwrap(), host: host.clone(), wanted: wanted.clone() };
        apps.iter().map(task).collect()
    }

    async fn left(apps: &[&str], glance: Glance) -> Vec<String> {
        unsettled(glance, tasks(apps)).await.iter().map(|task| task.app.to_string()).collect()
    }

    #[tokio::test]
    async fn what_is_settled_is_not_attempted_and_the_rest_is() {
        let glance: Glance = Arc::new(|app, _| app.as_str() != "b");
        assert_eq!(left(&["a", "b", "c"], glance).await, ["b"]);
        assert_eq!(left(&[], Arc::new(|_, _| true)).await, [""; 0]);
    }

    #[tokio::test]
    async fn an_app_that_hangs_is_left_to_an_attempt_and_so_is_whatever_comes_after_it() {
        let (gate, looked) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(Vec::new())));
        let glance: Glance = {
            let (gate, looked) = (gate.clone(), looked.clone());
            Arc::new(move |app, _| {
                looked.lock().unwrap().push(app.to_string());
                if app.as_str() == "hangs" {
                    gate.wait();
                }
                true
            })
        };
        assert_eq!(left(&["a", "hangs", "z"], glance).await, ["hangs", "z"]);
        gate.wait();
        assert_eq!(*looked.lock().unwrap(), ["a", "hangs"]);
    }
}
