//! A glance at many apps, as their intent comes in, so that a pass over a host where nothing is to be done costs a look at
//! each app and no more: no task, no thread and no lock of its own, and no wait for the rest of the store's answer.
//!
//! Ensures: an app whose disk hangs delays the others by [`PATIENCE`] at the most; whatever was not glanced at, or was not
//! found to be done with, is attempted as if there had been no glance.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
/// With more threads than cores nothing is gained.
const MOST_THREADS: usize = 4;
/// Apps to a thread that are worth starting it.
const APPS_A_THREAD: usize = 32;
/// Apps that are worth waking a thread for: that takes as long as a look at one.
const APPS_AT_ONCE: usize = 8;

/// Glances under way.
pub(crate) struct Glances {
    shared: Arc<Shared>,
    apps: Sender<Vec<Arc<App>>>,
    /// Those that no thread was told of yet.
    next: Vec<Arc<App>>,
    threads: JoinSet<()>,
    most_threads: usize,
    added: usize,
}

/// What the threads that look share.
struct Shared {
    glance: Glance,
    apps: Mutex<Receiver<Vec<Arc<App>>>>,
    settled: Mutex<BTreeSet<AppName>>,
    /// How many were looked at.
    looked: AtomicUsize,
    /// Nobody waits for the rest any more.
    over: AtomicBool,
}

impl Glances {
    pub(crate) fn new(glance: Glance) -> Self {
        let (apps, come) = channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            glance,
            apps: Mutex::new(come),
            settled: Mutex::default(),
            looked: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        let (shared, most_threads) = (Arc::new(shared), cores.min(MOST_THREADS));
        Self { shared, apps, next: Vec::new(), threads: JoinSet::new(), most_threads, added: 0 }
    }

    pub(crate) fn add(&mut self, app: &Arc<App>) {
        if let Glance::NotNeeded = self.shared.glance {
            return self.shared.settle(app);
        }
        if self.threads.len() < self.most_threads.min(self.added / APPS_A_THREAD + 1) {
            let shared = self.shared.clone();
            self.threads.spawn_blocking(move || shared.look());
        }
        self.added += 1;
        self.next.push(app.clone());
        if self.next.len() == APPS_AT_ONCE {
            self.tell();
        }
    }

    fn tell(&mut self) {
        // As long as we are there somebody can receive it.
        let _ = self.apps.send(std::mem::take(&mut self.next));
    }

    /// The apps at which nothing is to be done.
    pub(crate) async fn settled(mut self) -> BTreeSet<AppName> {
        self.tell();
        let Self { shared, apps, mut threads, .. } = self;
        // With it the threads end once they have looked at all.
        drop(apps);
        let mut before = shared.looked.load(Relaxed);
        loop {
            tokio::select! {
                ended = threads.join_next() => if ended.is_none() { break },
                () = tokio::time::sleep(PATIENCE) => {
                    let looked = shared.looked.load(Relaxed);
                    if looked == before {
                        break;
                    }
                    before = looked;
                }
            }
        }
        shared.over.store(true, Relaxed);
        std::mem::take(&mut shared.settled.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn look(&self) {
        while let Some(apps) = self.next() {
            // Whoever still hangs when nobody waits for it any more need not look any further when it wakes.
            for app in apps.iter().take_while(|_| !self.over.load(Relaxed)) {
                let is_settled = self.glance.at(app);
                self.looked.fetch_add(1, Relaxed);
                if is_settled {
                    self.settle(app);
                }
            }
        }
    }

    fn settle(&self, app: &App) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(app.name.clone());
    }

    /// Waits for the next apps. `None` when there will be none.
    fn next(&self) -> Option<Vec<Arc<App>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::schedule::tests::app_at;

    async fn settled(apps: &[&str], glance: Glance) -> Vec<String> {
        let mut glances = Glances::new(glance);
        for app in apps {
            glances.add(&Arc::new(app_at(app, "1")));
        }
        glances.settled().await.iter().map(AppName::to_string).collect()
    }

    #[tokio::test]
    async fn what_is_settled_is_not_attempted_and_the_rest_is() {
        let glance = Glance::by(|app| app.name.as_str() != "b");
        assert_eq!(settled(&["a", "b", "c"], glance).await, ["a", "c"]);
        assert_eq!(settled(&[], Glance::by(|_| true)).await, [""; 0]);
        assert_eq!(settled(&["a", "b"], Glance::NotNeeded).await, ["a", "b"]);
    }

    #[tokio::test]
    async fn an_app_that_hangs_is_left_to_an_attempt_and_so_is_whatever_comes_after_it() {
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
        assert_eq!(settled(&["a", "hangs", "z"], glance).await, ["a"]);
        gate.wait();
        assert_eq!(*looked.lock().unwrap(), ["a", "hangs"]);
    }
}
