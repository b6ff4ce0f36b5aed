//! What a node shall run, as it comes in: for somebody who reads it once, and can begin with some of it.
//!
//! Ensures: an app that is named is never left out, since it would look as if it were not.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{App, Named, NodeIntent, Together, name_refusals, named, own};
use crate::schema::{NodeDocument, cluster_prefix, node_prefix};
use crate::{AppName, NodeName, Prefix, Read, Reads, Store};

/// What a node shall run, as far as it has come.
pub struct Incoming {
    store: Store,
    reads: Reads,
    /// The node's own documents, until what else comes is made sense of.
    own: Option<Read>,
    /// What else has come that nobody has made sense of.
    came: VecDeque<Read>,
    /// The apps of which nothing came yet, by where it will come from.
    waiting: BTreeMap<Prefix, (AppName, NodeDocument)>,
    together: Together,
}

/// Tells a node's intent from any other: where it is the same, so is [`NodeIntent`]. The same intent may have several, since it
/// is of all that the store answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Incoming {
    /// At the same cost to the store as [`super::Follower`]'s first, and without that of a token. Whether the store only
    /// does not show us anything is not asked: see [`super::ensure_shown`].
    pub async fn begin(store: &Store, node: &NodeName) -> Result<Self> {
        let mut reads = store.reads();
        reads.add(node_prefix(node)).await;
        let read = reads.next().await.context("nothing was asked for")??;
        let (_, documents) = read.documents()?;
        let (mut waiting, mut together) = (BTreeMap::new(), Together::default());
        for (key, document) in own(node, &documents) {
            match named(key, document) {
                Named::App(name, Ok(node)) => {
                    let prefix = cluster_prefix(&name, &node.cluster);
                    waiting.insert(prefix.clone(), (name, node));
                    reads.add(prefix).await;
                }
                Named::App(name, Err(invalid)) => drop(together.apps.insert(name, Err(invalid))),
                Named::Stray(invalid) => together.strays.push(invalid),
            }
        }
        Ok(Self { store: store.clone(), reads, own: Some(read), came: VecDeque::new(), waiting, together })
    }

    /// Of all of it, without making sense of it: that is left to [`Incoming::next`].
    ///
    /// # Errors
    /// Also after that.
    pub async fn fingerprint(&mut self) -> Result<Fingerprint> {
        let own = self.own.as_ref().context("some of it is gone already")?;
        let mut fingerprints = vec![own.fingerprint()];
        while let Some(read) = self.reads.next().await {
            let read = read?;
            fingerprints.push(read.fingerprint());
            self.came.push_back(read);
        }
        // They come in any order.
        fingerprints.sort_unstable();
        Ok(Fingerprint(format!("{:x}", Sha256::digest(fingerprints.concat()))))
    }

    /// The apps that came next and look valid: in the end one may clash with another. `None` once all has come. The store works
    /// on what is left meanwhile.
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<App>>>> {
        self.own = None;
        let read = match self.came.pop_front() {
            Some(read) => read,
            None => match self.reads.next().await {
                Some(read) => read?,
                None => return Ok(None),
            },
        };
        let (prefixes, documents) = read.documents()?;
        let named = prefixes.iter().filter_map(|prefix| self.waiting.remove(prefix));
        Ok(Some(self.together.add(named, &documents)))
    }

    /// # Errors
    /// When not all of it has come.
    pub async fn intent(self) -> Result<NodeIntent> {
        ensure!(self.waiting.is_empty(), "not all of this node's intent has come");
        let mut intent = self.together.intent();
        name_refusals(&self.store, &mut intent).await;
        Ok(intent)
    }
}
