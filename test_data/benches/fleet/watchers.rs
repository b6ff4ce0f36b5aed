//! Many who watch one store, on a thread of this process: each as it would on a host of its own, with connections of its own.
//!
//! What they have to do on a processor they do on that one thread, one after the other; hosts would do it at once.

use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

/// One of them has seen something new.
pub(crate) struct Seen {
    pub(crate) node: usize,
    /// Of which app, and that this version of it is active; of who does not look at what comes, nothing.
    pub(crate) active: Option<(String, String)>,
    pub(crate) at: Instant,
}

/// All are gone when this is dropped, and so are their connections.
pub(crate) struct Watchers {
    pub(crate) seen: Receiver<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchers {
    /// Has so many watch, each as `watch` does, for ever; they are counted from 1.
    pub(crate) fn start<F: Future<Output = ()> + 'static>(
        nodes: usize,
        watch: impl Fn(usize, Sender<Seen>) -> F + Send + 'static,
    ) -> Self {
        let (tell, seen) = channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // As an agent's.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(LocalSet::new().run_until(async {
                let mut all = JoinSet::new();
                for node in 1..=nodes {
                    all.spawn_local(watch(node, tell.clone()));
                }
                tokio::select! {
                    _ = stopped => {}
                    Some(ended) = all.join_next() => panic!("a watcher has ended: {ended:?}"),
                }
            }));
            runtime.shutdown_background();
        });
        Self { seen, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the watchers' thread has panicked");
        }
    }
}

/// `n0001`.
pub(crate) fn node_name(node: usize) -> String {
    format!("n{node:04}")
}
