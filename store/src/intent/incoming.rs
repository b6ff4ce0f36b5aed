//! What a node shall run, as it comes in: for somebody who reads it once, and can begin with some of it.
//!
//! Ensures: an app that is named is never left out, since it would look as if it were not.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{App, Named, NodeIntent, Together, name_refusals, named, own};
use crate::schema::{NodeDocument, cluster_prefix, node_prefix};
use crate::{AppName, NodeName, Prefix, Reads, Store};

/// What a node shall run, as far as it has come.
pub struct Incoming {
    store: Store,
    reads: Reads,
    /// The apps of which nothing came yet, by where it will come from.
    waiting: BTreeMap<Prefix, (AppName, NodeDocument)>,
    together: Together,
}

impl Incoming {
    /// At the same cost to the store as [`super::Follower`]'s first, and without that of a token. Whether the store only
    /// does not show us anything is not asked: see [`super::ensure_shown`].
    pub async fn begin(store: &Store, node: &NodeName) -> Result<Self> {
        let documents = store.documents(&[node_prefix(node)]).await?;
        let (mut reads, mut waiting, mut together) = (store.reads(), BTreeMap::new(), Together::default());
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
        Ok(Self { store: store.clone(), reads, waiting, together })
    }

    /// The apps that came next and look valid: in the end one may clash with another. `None` once all has come. The store works
    /// on what is left meanwhile.
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<App>>>> {
        let Some(came) = self.reads.next().await else { return Ok(None) };
        let (prefixes, documents) = came?;
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
