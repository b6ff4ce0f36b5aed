//! Instances as documents: `instances/<app>/<cluster>/<node>`, for people as for us.
//!
//! Ensures: an instance is passing while its document says so, nobody has drained it, and an agent of its node is
//! alive. What is no such document is nobody's instance where others' are read, is named where it stands in the way of
//! our own, and is overwritten when that is registered.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use self::entry::Entry;
use super::write::Lock;
use super::{Directory, alive, blocking, tree, watch};
use crate::instance::{matters, our_notes, our_reason, words};
use crate::{AppName, ClusterName, Documents, Gather, Instance, Key, NodeName, Prefix, Registered, Token};

/// How soon a death is noticed, of which no document tells.
const POLL: Duration = Duration::from_secs(1);

impl Directory {
    pub(crate) fn keeps_instances(&self) -> bool {
        !self.root.is_file()
    }

    pub(crate) async fn registered(&self, node: &NodeName) -> Result<BTreeMap<AppName, Registered>> {
        let (root, node) = (self.root.clone(), node.clone());
        blocking(move || {
            let documents = tree::read(&root, &[Prefix::from_names(&["instances"])], &mut |_| {})?;
            let mut ours = BTreeMap::<AppName, Registered>::new();
            for it in known(&root, &documents)?.into_iter().filter(|it| it.node == node) {
                if let Some(other) = ours.get_mut(&it.app) {
                    other.checks.insert(format!("left in {}", it.cluster));
                } else {
                    ours.insert(it.app.clone(), it);
                }
            }
            Ok(ours)
        })
        .await
    }

    pub(crate) async fn instances(&self, app: &AppName, cluster: &ClusterName) -> Result<Vec<Registered>> {
        Ok(self.look(&prefix(app, cluster)).await?.0)
    }

    pub(crate) async fn wait_instances(&self, app: &AppName, cluster: &ClusterName, seen: &[Registered]) -> Result<()> {
        let prefix = prefix(app, cluster);
        loop {
            let (found, token) = self.look(&prefix).await?;
            if matters(&found) != matters(seen) {
                return Ok(());
            }
            let mut documents_changed = pin!(watch::changed(&self.root, &token, watch::inotify()));
            loop {
                if let Ok(changed) = tokio::time::timeout(POLL, &mut documents_changed).await {
                    changed?;
                    break;
                }
                if matters(&self.look(&prefix).await?.0) != matters(seen) {
                    return Ok(());
                }
            }
        }
    }

    /// What is registered, and the token of the documents that say so.
    async fn look(&self, prefix: &Prefix) -> Result<(Vec<Registered>, Token)> {
        let (root, prefixes) = (self.root.clone(), [prefix.clone()]);
        blocking(move || {
            let documents = tree::read(&root, &prefixes, &mut |_| {})?;
            Ok((known(&root, &documents)?, Token::of(&prefixes, &documents)))
        })
        .await
    }

    pub(crate) async fn register(&self, instance: &Instance) -> Result<()> {
        let new = instance.clone();
        self.on_documents(&instance.node, &instance.app, "registering", move |lock, found| {
            let own = Key::from_names(&["instances", new.app.as_str(), new.cluster.as_str(), new.node.as_str()]);
            let readable = found.iter().filter_map(|(key, entry)| Some((key, entry.as_ref().ok()?)));
            // Its own, or else the one that it leaves.
            let before = readable.max_by_key(|(key, _)| **key == own);
            let entry = Entry::of(&new, before);
            if !before.is_some_and(|(key, before)| *key == own && *before == entry) {
                lock.put(&own, &entry.bytes())?;
            }
            found.keys().filter(|key| **key != own).try_for_each(|key| lock.delete(key))
        })
        .await
    }

    pub(crate) async fn deregister(&self, node: &NodeName, app: &AppName) -> Result<()> {
        let act = |lock: &Lock, found: Found| found.keys().try_for_each(|key| lock.delete(key));
        self.on_documents(node, app, "deregistering", act).await
    }

    pub(crate) async fn drain(&self, node: &NodeName, app: &AppName, why: &str) -> Result<()> {
        let notes = our_notes(why);
        let drain = move |entry: &mut Entry| {
            entry.maintenance.get_or_insert_with(|| notes.clone());
        };
        self.change(node, app, "draining", drain).await.map(drop)
    }

    pub(crate) async fn undrain(&self, node: &NodeName, app: &AppName) -> Result<()> {
        let undrain =
            |entry: &mut Entry| entry.maintenance = entry.maintenance.take().filter(|it| our_reason(it).is_none());
        self.change(node, app, "undraining", undrain).await.map(drop)
    }

    pub(crate) async fn report(&self, node: &NodeName, app: &AppName, passes: bool, says: &str) -> Result<()> {
        let says = words(says);
        let report = move |entry: &mut Entry| (entry.passes, entry.says) = (passes, says.clone());
        if !self.change(node, app, "reporting on", report).await? {
            bail!("reporting on {app} on {node}: it is not registered in {}", self.root.display());
        }
        Ok(())
    }

    /// Changes an instance's document; false when there is none.
    async fn change(
        &self,
        node: &NodeName,
        app: &AppName,
        attempt: &str,
        change: impl Fn(&mut Entry) + Send + 'static,
    ) -> Result<bool> {
        self.on_documents(node, app, attempt, move |lock, found| {
            let is_there = !found.is_empty();
            for (key, entry) in found {
                let before = entry.map_err(|reason| anyhow!("{key}: {reason}"))?;
                let mut after = before.clone();
                change(&mut after);
                if after != before {
                    lock.put(&key, &after.bytes())?;
                }
            }
            Ok(is_there)
        })
        .await
    }

    /// Acts on the documents of an app on a node, of which there is one, or two after a crash, while nobody else writes.
    async fn on_documents<T: Send + 'static>(
        &self,
        node: &NodeName,
        app: &AppName,
        attempt: &str,
        act: impl FnOnce(&Lock, Found) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (root, prefix) = (self.root.clone(), Prefix::from_names(&["instances", app.as_str()]));
        let own = node.clone();
        let act = move |lock: Lock| {
            let documents = tree::read(&root, &[prefix], &mut |_| {})?;
            let all = documents.iter().filter_map(|(key, document)| {
                let (_, _, node) = names(key)?;
                let entry = document.as_ref().map_err(Clone::clone).and_then(|document| Entry::parse(&document.bytes));
                (node == own).then(|| (Key::parse(key).expect("it is four names"), entry))
            });
            act(&lock, all.gather())
        };
        self.locked(&format!("{attempt} {app} on {node}"), act).await
    }
}

/// What is under the keys of one instance, or why it is none.
type Found = BTreeMap<Key, Result<Entry, String>>;

fn prefix(app: &AppName, cluster: &ClusterName) -> Prefix {
    Prefix::from_names(&["instances", app.as_str(), cluster.as_str()])
}

/// App, cluster and node, if `key` is one of an instance.
fn names(key: &str) -> Option<(AppName, ClusterName, NodeName)> {
    match key.split('/').collect::<Vec<_>>()[..] {
        ["instances", app, cluster, node] => Some((app.parse().ok()?, cluster.parse().ok()?, node.parse().ok()?)),
        _ => None,
    }
}

/// The instances that make sense.
fn known(root: &Path, documents: &Documents) -> Result<Vec<Registered>> {
    if let Some((key, Err(reason))) = documents.iter().find(|(key, document)| key.ends_with('/') && document.is_err()) {
        bail!("{key}: {reason}");
    }
    let entries = documents
        .iter()
        .filter_map(|(key, document)| Some((names(key)?, Entry::parse(&document.as_ref().ok()?.bytes).ok()?)));
    let entries = entries.collect::<Vec<_>>();
    let nodes = entries.iter().map(|((_, _, node), _)| node.to_string()).gather::<BTreeSet<_>>();
    let alive = alive::alive(root, &nodes).context("whether instances are passing cannot be known")?;
    Ok(entries.into_iter().map(|(names, entry)| entry.registered(names, &alive)).collect())
}
