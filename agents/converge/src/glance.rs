//! A glance at many apps, as their intent comes in, so that a pass over a host where nothing is to be done costs a look at
//! each app and no more: no task, no thread and no lock of its own, and no wait for the rest of the store's answer.
//!
//! Ensures: an app whose disk hangs delays the others by [`PATIENCE`] at the most; whatever was not glanced at, or was not
//! found to be done with, is attempted as if there had been no glance.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::AppName;
use store::intent::App;
use tokio::task::JoinSet;

type Look = Arc<dyn Fn(&Arc<App>) -> bool + Send + Sync>;

/// What tells whether an attempt at an app that is wanted so would find nothing to do.
#[derive(Clone)]
pub enum Glance {
    /// None ever finds anything: there is only something to do for all apps together.
    NotNeeded,
    /// Called on any thread, may wait for the disk, and changes nothing.
    By(Look),
}

impl Glance {
    pub fn by(look: impl Fn(&Arc<App>) -> bool + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(look))
    }

    /// Whether there is nothing to do.
    pub fn at(&self, app: &Arc<App>) -> bool {
        match self {
            Self::NotNeeded => true,
            Self::By(look) => look(app),
        }
    }
}

/// How long nothing may come of it before the rest is attempted without a glance.
const PATIENCE: Duration = Duration::from_millis(100);

/// With more threads than cores nothing is gained, but that one may hang.
const MOST_THREADS: usize = 4;
/// Apps that are worth waking a thread for: that takes as long as a look at one.
const APPS_AT_ONCE: usize = 16;

/// Glances under way.
pub(crate) struct Glances {
    shared: Arc<Shared>,
    threads: JoinSet<()>,
    most_threads: usize,
}

/// What the threads that look share.
struct Shared {
    glance: Glance,
    queue: Mutex<Queue>,
    settled: Mutex<BTreeSet<AppName>>,
    /// How many were looked at.
    looked: AtomicUsize,
    /// Nobody waits for the rest any more.
    over: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<Arc<App>>>,
    /// Those at work.
    threads: usize,
}

impl Glances {
    pub(crate) fn new(glance: Glance) -> Self {
        let (queue, settled) = (Mutex::default(), Mutex::default());
        let (looked, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { glance, queue, settled, looked, over });
        Self { shared, threads: JoinSet::new(), most_threads: looking_threads() }
    }

    pub(crate) fn add(&mut self, apps: &[Arc<App>]) {
        if let Glance::NotNeeded = self.shared.glance {
            return self.shared.look_at(apps);
        }
        let mut queue = self.shared.queue();
        queue.waiting.extend(apps.chunks(APPS_AT_ONCE).map(<[_]>::to_vec));
        let more = queue.waiting.len().min(self.most_threads - queue.threads);
        queue.threads += more;
        drop(queue);
        for _ in 0..more {
            let shared = self.shared.clone();
            self.threads.spawn_blocking(move || shared.look());
        }
    }

    /// The apps at which nothing is to be done.
    pub(crate) async fn settled(mut self) -> BTreeSet<AppName> {
        let Self { shared, threads, .. } = &mut self;
        all_looked(threads, &shared.looked).await;
        shared.over.store(true, Relaxed);
        std::mem::take(&mut shared.settled.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether all `threads` have ended that look at one thing after the other, and count what they `looked` at. `false` once
/// nothing has come of it for [`PATIENCE`].
pub async fn all_looked(threads: &mut JoinSet<()>, looked: &AtomicUsize) -> bool {
    let mut before = looked.load(Relaxed);
    loop {
        tokio::select! {
            ended = threads.join_next() => if ended.is_none() { return true },
            () = tokio::time::sleep(PATIENCE) => {
                let now = looked.load(Relaxed);
                if now == before {
                    return false;
                }
                before = now;
            }
        }
    }
}

/// How many threads look at a time.
pub fn looking_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(2, MOST_THREADS)
}

impl Shared {
    /// Until nothing waits any more.
    fn look(&self) {
        while let Some(apps) = self.next() {
            self.look_at(&apps);
        }
    }

    fn next(&self) -> Option<Vec<Arc<App>>> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.threads -= 1;
        }
        next
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at(&self, apps: &[Arc<App>]) {
        // Whoever still hangs when nobody waits for it any more need not look any further when it wakes.
        for app in apps.iter().take_while(|_| !self.over.load(Relaxed)).filter(|app| !app.hold) {
            let is_settled = self.glance.at(app);
            self.looked.fetch_add(1, Relaxed);
            if is_settled {
                self.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(app.name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::schedule::tests::app_at;

    fn begin(parts: &[&[&str]], glance: Glance) -> Glances {
        let mut glances = Glances::new(glance);
        let wanted = |app: &&str| Arc::new(app_at(app, if *app == "held" { "hold" } else { "1" }));
        for apps in parts {
            glances.add(&apps.iter().map(wanted).collect::<Vec<_>>());
        }
        glances
    }

    async fn settled(glances: Glances) -> Vec<String> {
        glances.settled().await.iter().map(AppName::to_string).collect()
    }

    #[tokio::test]
    async fn what_is_settled_is_not_attempted_and_the_rest_is() {
        let glance = Glance::by(|app| app.name.as_str() != "b");
        assert_eq!(settled(begin(&[&["a", "b", "c"], &["d", "held"]], glance)).await, ["a", "c", "d"]);
        assert_eq!(settled(begin(&[], Glance::by(|_| true))).await, [""; 0]);
        assert_eq!(settled(begin(&[&["a", "held"], &["b"]], Glance::NotNeeded)).await, ["a", "b"]);
    }

    #[tokio::test]
    async fn an_app_that_hangs_is_left_to_an_attempt_and_so_is_what_came_with_it_and_follows() {
        let (gate, looked) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(Vec::new())));
        let glance = {
            let (gate, looked) = (gate.clone(), looked.clone());
            Glance::by(move |app| {
                looked.lock().unwrap().push(app.name.to_string());
                if app.name.as_str() == "hangs" {
                    gate.wait();
                }
                true
            })
        };
        let glances = begin(&[&["a", "hangs", "z"], &["b", "c"]], glance);
        let all_looked = async {
            while looked.lock().unwrap().len() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all_looked).await.expect("but for what follows one that hangs");
        assert_eq!(settled(glances).await, ["a", "b", "c"]);
        gate.wait();
        let mut looked = looked.lock().unwrap().clone();
        looked.sort();
        assert_eq!(looked, ["a", "b", "c", "hangs"]);
    }
}
