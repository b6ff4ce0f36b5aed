//! What a node shall run, and what it shall after each change.
//!
//! Ensures: a change of an app's documents costs one request, the one that tells of it: what a store sends along is not
//! read again, and what it said nothing of stays as it was read. Whatever else changes, and whatever follows an error, is
//! read as a whole.

use anyhow::Result;

use super::{Listing, NodeIntent, ensure_shown, name_refusals};
use crate::schema::node_prefix;
use crate::{Documents, News, NodeName, Prefix, Store, Token};

/// Follows what a node shall run.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    node: NodeName,
    read: Option<Read>,
}

/// What was read.
#[derive(Debug)]
struct Read {
    /// The prefix that [`Listing`] is of.
    named: Prefix,
    listing: Listing,
    clusters: Documents,
    token: Token,
}

impl Follower {
    pub fn new(store: Store, node: NodeName) -> Self {
        Self { store, node, read: None }
    }

    /// What the node shall run: first, and after an error, as it is now; then once it is not as it was told last.
    ///
    /// On Consul it costs one recursive read and ⌈apps/64⌉ transactions to read all, and one read for each app that lacks a
    /// document.
    ///
    /// # Errors
    /// When the store cannot be read or watched; and as of [`ensure_shown`], where nothing is there. Not to be called
    /// again at once.
    pub async fn next(&mut self) -> Result<NodeIntent> {
        // What changes after an error is found by reading, not by waiting on a connection that failed.
        let told = match self.read.take() {
            Some(read) => self.store.wait(&read.token).await?.and_then(|news| read.with(news)),
            None => None,
        };
        let read = match told {
            Some(read) => read,
            None => self.read_all().await?,
        };
        let mut intent = read.listing.clone().intent(&read.clusters);
        self.read = Some(read);
        name_refusals(&self.store, &mut intent).await;
        Ok(intent)
    }

    async fn read_all(&self) -> Result<Read> {
        let named = node_prefix(&self.node);
        let (documents, mut token) = self.store.read(std::slice::from_ref(&named)).await?;
        if documents.is_empty() {
            ensure_shown(&self.store, &self.node).await?;
        }
        let listing = Listing::new(&self.node, &documents);
        let (clusters, seen) = self.store.read(&listing.prefixes()).await?;
        token.extend(seen);
        Ok(Read { named, listing, clusters, token })
    }
}

impl Read {
    /// With what has changed in its place. `None` where other apps may be named now.
    fn with(mut self, News { documents, token }: News) -> Option<Self> {
        for prefix in token.prefixes() {
            if *prefix == self.named {
                return None;
            }
            let under = self.clusters.range(prefix.as_str().to_owned()..).map(|(key, _)| key);
            let under = under.take_while(|key| key.starts_with(prefix.as_str())).cloned().collect::<Vec<_>>();
            under.iter().for_each(|key| drop(self.clusters.remove(key)));
        }
        self.clusters.extend(documents);
        self.token.extend(token);
        Some(self)
    }
}
