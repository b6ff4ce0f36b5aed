//! What an operator is to know of a cluster that has leases: who is down, who passes, who is alive.
//!
//! Ensures: what cannot be known is not taken for absent. Leases are read before instances, so that whoever passes and is
//! not in them counts, as agents count.

mod words;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use store::lease::{Down, Leases};
use store::schema::{Config, IntentKey, NodeDocument, Parse};
use store::{AppName, ClusterName, NodeName, Registered, Store, Version};

pub(super) use words::{definition, entry, given, json, lines};

/// One cluster. `Err` says why something cannot be known.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) app: AppName,
    pub(super) cluster: ClusterName,
    pub(super) leases: Leases,
    pub(super) config: Result<Option<Config>, String>,
    pub(super) instances: Result<Vec<Registered>, String>,
    /// Those that are alive of the hosts that `leases` name.
    pub(super) alive: Result<BTreeSet<String>, String>,
    /// Those of the nodes that `leases` name whose intent is known to hold the app: their agents do nothing about it.
    pub(super) held: BTreeSet<NodeName>,
    /// The store shows no instance to somebody without rights, either.
    pub(super) hides_instances: bool,
}

/// Whether an instance is one that clients are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Passing,
    Drained,
    NotPassing,
    NotRegistered,
    Unknown,
}

/// An error where there can be no leases.
pub(super) fn ensure_leases(store: &Store) -> Result<()> {
    ensure!(
        store.keeps_instances(),
        "a store that is one file has no leases, and nobody waits for anybody there: name a directory or a Consul"
    );
    Ok(())
}

pub(super) async fn observe(store: &Store, app: AppName, cluster: ClusterName, leases: Leases) -> Cluster {
    let instances = store.instances(&app, &cluster).await.map_err(|error| format!("{error:#}"));
    let hosts = leases.down.values().map(|down| down.host.clone()).collect();
    let alive = store.alive(&hosts).await.map_err(|error| format!("{error:#}"));
    let config = config(store, &app, &cluster).await.map_err(|error| format!("{error:#}"));
    let held = held(store, &app, &leases).await;
    let hides_instances = matches!(store, Store::Consul(_));
    Cluster { app, cluster, leases, config, instances, alive, held, hides_instances }
}

/// What cannot be read is not said to be held.
async fn held(store: &Store, app: &AppName, leases: &Leases) -> BTreeSet<NodeName> {
    let mut held = BTreeSet::new();
    for node in leases.down.keys() {
        let key = IntentKey::Node(node.clone(), app.clone()).key();
        let Ok(Some(document)) = store.get(&key).await else { continue };
        if NodeDocument::parse(&document.bytes).is_ok_and(|document| document.hold) {
            held.insert(node.clone());
        }
    }
    held
}

/// A cluster's config, if it has one.
pub(super) async fn config(store: &Store, app: &AppName, cluster: &ClusterName) -> Result<Option<Config>> {
    let key = IntentKey::Config(app.clone(), cluster.clone()).key();
    let Some(document) = store.get(&key).await? else { return Ok(None) };
    Config::parse(&document.bytes).map(Some)
}

impl Cluster {
    /// What could not be known, with the key that it is about and what to do.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let Self { app, cluster, .. } = self;
        let lock = store::lease::lease_key(app, cluster).to_string();
        let config = IntentKey::Config(app.clone(), cluster.clone()).key().to_string();
        let problem = |key: &str, what: &str, reason: Option<&String>| {
            reason.map(|reason| (key.to_owned(), format!("{what} cannot be known: {reason}")))
        };
        let problems = [
            problem(&config, "min_nodes", self.config.as_ref().err()),
            problem(&lock, "who passes", self.instances.as_ref().err()),
            problem(&lock, "which hosts are alive", self.alive.as_ref().err()),
        ];
        problems.into_iter().flatten().collect()
    }

    /// Whether there is nothing but leases that say nothing.
    pub(super) fn is_nothing(&self) -> bool {
        let is_gone = matches!(self.config, Ok(None)) && self.instances.as_ref().is_ok_and(Vec::is_empty);
        self.leases.is_empty() && is_gone
    }

    /// An error for people, where that is so.
    pub(super) fn nothing(&self) -> Option<String> {
        let Self { app, cluster, .. } = self;
        let says = || format!("there is no cluster {cluster} of {app}: neither a config nor an instance nor a lease");
        self.is_nothing().then(says)
    }

    pub(super) fn min_nodes(&self) -> Option<u32> {
        Some(self.config.as_ref().ok()?.as_ref()?.min_nodes)
    }

    pub(super) fn passing(&self) -> Option<usize> {
        Some(self.instances.as_ref().ok()?.iter().filter(|it| it.passing).count())
    }

    /// How many more passing instances may go down now.
    pub(super) fn spare(&self) -> Option<usize> {
        let counts = |it: &&Registered| it.passing && !self.leases.down.contains_key(&it.node);
        let counted = self.instances.as_ref().ok()?.iter().filter(counts).count();
        Some(counted.saturating_sub(usize::try_from(self.min_nodes()?).unwrap_or(usize::MAX)))
    }

    pub(super) fn instance(&self, node: &NodeName) -> Option<&Registered> {
        self.instances.as_ref().ok()?.iter().find(|it| it.node == *node)
    }

    /// A node whose instance passes with that digest.
    pub(super) fn passes_with(&self, digest: &str) -> Option<&NodeName> {
        let runs = |it: &&Registered| it.passing && it.digest == digest;
        self.instances.as_ref().ok()?.iter().find(runs).map(|it| &it.node)
    }

    pub(super) fn service(&self, node: &NodeName) -> Service {
        let Ok(instances) = &self.instances else { return Service::Unknown };
        match self.instance(node) {
            Some(it) if it.passing => Service::Passing,
            Some(it) if it.drained.is_some() => Service::Drained,
            Some(_) => Service::NotPassing,
            None if instances.is_empty() && self.hides_instances => Service::Unknown,
            None => Service::NotRegistered,
        }
    }

    pub(super) fn is_alive(&self, down: &Down) -> Option<bool> {
        Some(self.alive.as_ref().ok()?.contains(&down.host))
    }

    /// Whether everybody else who wants the same waits until this one has tried it.
    pub(super) fn is_trial(&self, down: &Down) -> Option<bool> {
        let Some(digest) = &down.to else { return Some(false) };
        self.instances.as_ref().ok()?;
        Some(self.passes_with(digest).is_none() && self.is_alive(down)?)
    }

    /// The version that a digest is of, as far as anybody tells.
    pub(super) fn version(&self, digest: &str) -> Option<&Version> {
        let failed = self.leases.failed.get(digest).map(|failed| &failed.version);
        let runs = || self.instances.as_ref().ok()?.iter().find(|it| it.digest == digest).map(|it| &it.version);
        failed.or_else(runs)
    }
}
