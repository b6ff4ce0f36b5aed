//! Asks every instance ten times a second whether it answers, from a thread for each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Cluster, pause};

/// How often each is asked.
const EACH: Duration = Duration::from_millis(100);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Probe {
    /// By host: what it last answered.
    answers: Mutex<Vec<Option<String>>>,
    over: AtomicBool,
    least: Mutex<Option<usize>>,
}

impl Probe {
    /// How many answer now.
    pub fn answering(&self) -> usize {
        self.answers.lock().unwrap().iter().flatten().count()
    }

    /// The fewest that have answered at any time since [`Probe::from_now`].
    pub fn least(&self) -> usize {
        self.least.lock().unwrap().unwrap_or(usize::MAX)
    }

    pub fn from_now(&self) {
        *self.least.lock().unwrap() = None;
    }

    /// How many hosts answer with this version.
    pub fn on(&self, version: &str) -> usize {
        let start = format!("slug {version}\n");
        self.answers.lock().unwrap().iter().flatten().filter(|answer| answer.starts_with(&start)).count()
    }

    fn note(&self, host: usize, answer: Option<String>) {
        let mut answers = self.answers.lock().unwrap();
        answers[host] = answer;
        let now = answers.iter().flatten().count();
        let mut least = self.least.lock().unwrap();
        *least = Some(least.map_or(now, |before| before.min(now)));
    }
}

/// Probes while `work` goes on.
pub fn probing<T>(cluster: &Cluster, work: impl FnOnce(&Probe) -> T) -> T {
    let hosts = cluster.hosts();
    let seen = Arc::new(Probe::default());
    *seen.answers.lock().unwrap() = vec![None; hosts.len()];
    /// Ends the threads also when `work` panics.
    struct End(Arc<Probe>);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.over.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        let _end = End(seen.clone());
        for (number, host) in hosts.iter().enumerate() {
            let seen = seen.clone();
            scope.spawn(move || {
                while !seen.over.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let answer = cluster.http_get(host, 8080, "/").filter(|(status, _)| *status == 200);
                    seen.note(number, answer.map(|(_, body)| body));
                    pause(EACH.saturating_sub(began.elapsed()));
                }
            });
        }
        work(&seen)
    })
}
