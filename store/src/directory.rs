//! A directory as a store: no server, works with an editor and with git, shared by any number of processes.
//!
//! `<root>/a/b.json` is the document under the key `a/b`. Ensures: a reader finds a document whole, as one writer of
//! this crate wrote it; a write that was acknowledged outlives a `kill -9` and a power cut; of several writers that
//! expect the same revision one wins. Readers take no lock and need no permission to write. Assumes that the root and
//! its `.store` are on one file system. An editor ignores our lock, so a document may be torn for a moment; whoever
//! reads it has to hold what it runs.
//!
//! Where `<root>` is a file, that file holds all documents, and is only read: see [`single`].

mod alive;
mod instances;
mod single;
mod tree;
mod watch;
mod write;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{Document, Documents, Expected, Key, Prefix, Revision, Token};
pub use alive::Alive;
use write::Lock;

/// A directory as a store, or a file with all documents.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The store in `root`, which need not exist yet; until it does, every call is an error.
    pub fn open(root: PathBuf) -> Self {
        Self { root }
    }

    /// The file that the document under `key` is in, for people; the directory when it ends in `/`.
    pub fn file(&self, key: &str) -> PathBuf {
        if self.root.is_file() {
            return self.root.clone();
        }
        self.root.join(if key.ends_with('/') { key.to_owned() } else { format!("{key}.json") })
    }

    pub(crate) async fn documents(&self, prefixes: &[Prefix]) -> Result<Documents> {
        let (root, prefixes) = (self.root.clone(), prefixes.to_vec());
        blocking(move || tree::read(&root, &prefixes, &mut |_| {})).await
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Document>> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking(move || tree::get(&root, &key)).await
    }

    pub(crate) async fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let (key, bytes) = (key.clone(), bytes.to_vec());
        self.locked(&format!("writing {key}"), move |lock| lock.put(&key, &bytes)).await
    }

    pub(crate) async fn compare_and_set(&self, key: &Key, bytes: &[u8], expected: &Expected) -> Result<bool> {
        let (key, bytes, expected) = (key.clone(), bytes.to_vec(), expected.clone());
        self.locked(&format!("writing {key}"), move |lock| lock.compare_and_set(&key, &bytes, &expected)).await
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.locked(&format!("deleting {key}"), move |lock| lock.delete(&key)).await
    }

    pub(crate) async fn compare_and_delete(&self, key: &Key, expected: &Revision) -> Result<bool> {
        let (key, expected) = (key.clone(), expected.clone());
        self.locked(&format!("deleting {key}"), move |lock| lock.compare_and_delete(&key, &expected)).await
    }

    pub(crate) async fn wait(&self, token: &Token) -> Result<()> {
        watch::changed(&self.root, token, watch::inotify()).await
    }

    /// Runs `act` while no other process writes.
    async fn locked<T: Send + 'static>(
        &self,
        attempt: &str,
        act: impl FnOnce(Lock) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let write = async {
            let lock = Lock::take(&self.root).await?;
            blocking(move || act(lock)).await
        };
        write.await.with_context(|| format!("{attempt} in the directory {}", self.root.display()))
    }
}

/// Runs `work`, which waits for a disk, beside the runtime's one thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the thread that worked on the directory ended early")?
}
