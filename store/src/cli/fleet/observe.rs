//! Reads all that a fleet's state is made of: intent, reports, who is alive, leases and instances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use store::intent::{App, Invalid, Listing};
use store::lease::{Leases, lease_key};
use store::reality::{Report, reality_prefix, whose};
use store::schema::{Config, IntentKey, Parse};
use store::{AppName, ClusterName, Documents, Key, Life, NodeName, Registered, Store, Version, look_up};
use tokio::task::JoinSet;

use super::super::intent;
use super::node::Seen;
use super::{Deployment, Fleet};

/// Of what to show; without any of these, of all.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Which {
    pub(in super::super) app: Option<AppName>,
    pub(in super::super) cluster: Option<ClusterName>,
    pub(in super::super) node: Option<NodeName>,
}

impl Which {
    fn has(&self, app: &AppName, node: &NodeName) -> bool {
        self.app.as_ref().is_none_or(|it| it == app) && self.node.as_ref().is_none_or(|it| it == node)
    }
}

/// At a time.
const REQUESTS: usize = 16;

type Place = (AppName, ClusterName);
type Intents = BTreeMap<NodeName, Result<Arc<App>, Invalid>>;
/// Of each node, by the agent's name; `Err` for one that cannot be read.
pub(in super::super) type Reports = BTreeMap<NodeName, BTreeMap<String, Result<Report, String>>>;
pub(in super::super) type Agents = BTreeMap<NodeName, BTreeMap<String, Life>>;
type Instances = Result<Vec<Registered>, String>;

pub(in super::super) async fn observe(store: &Store, which: &Which) -> Result<Fleet> {
    let documents = intent::read(store).await?;
    let (said, _) = store.read(&[reality_prefix()]).await?;
    let mut fleet = Fleet::default();
    if said.is_empty() && matches!(store, Store::Consul(_)) {
        // No report of ours; only a read of a single key is refused.
        let probe = Key::parse("reality/any/any")?;
        if let Err(error) = store.get(&probe).await {
            fleet.problems.push(("reality/".to_owned(), format!("what agents say cannot be known: {error:#}")));
        }
    }
    let reports = reports_by_node(said);
    let places = places(&documents, which, &mut fleet);
    let nodes = places.values().flat_map(BTreeMap::keys).cloned().collect::<BTreeSet<_>>();
    let agents = store.alive_agents(&nodes).await.unwrap_or_else(|error| {
        fleet.problems.push(("reality/".to_owned(), format!("which agents are alive cannot be known: {error:#}")));
        BTreeMap::new()
    });
    let agents = agents_by_node(agents);
    let mut leases = leases(store, which, &places, &mut fleet).await;
    let instances = instances(store, places.keys().cloned()).await;
    let nothing = (BTreeMap::new(), BTreeMap::new());
    for ((app, cluster), intents) in places {
        let leases = leases.remove(&(app.clone(), cluster.clone())).unwrap_or_default();
        let registered = instances.get(&(app.clone(), cluster.clone()));
        let unknown = Err("nobody could ask".to_owned());
        let registered = registered.unwrap_or(&unknown);
        if let Err(reason) = registered {
            let key = IntentKey::Config(app.clone(), cluster.clone()).key().to_string();
            fleet.problems.push((key, format!("its instances cannot be known: {reason}")));
        }
        let wanted = active(&documents, &app, &cluster);
        let seen = intents.iter().map(|(node, intent)| Seen {
            node,
            app: &app,
            intent,
            reports: reports.get(node).unwrap_or(&nothing.0),
            agents: agents.get(node).unwrap_or(&nothing.1),
            instance: match registered {
                Ok(all) => Ok(all.iter().find(|it| it.node == *node)),
                Err(reason) => Err(reason),
            },
        });
        let nodes = seen.map(|seen| seen.node()).collect();
        let instances = registered.as_ref().ok().cloned();
        fleet.deployments.push(Deployment { app, cluster, wanted, nodes, leases, instances });
    }
    Ok(fleet)
}

/// The version that the cluster's config says is the active one.
fn active(documents: &Documents, app: &AppName, cluster: &ClusterName) -> Option<Version> {
    let key = IntentKey::Config(app.clone(), cluster.clone()).key();
    let document = look_up(documents, key.as_str())?.as_ref().ok()?;
    Config::parse(&document.bytes).ok()?.active().ok()?.cloned()
}

/// Each app in each cluster, with what intent has its nodes do; also of those that no node points at.
fn places(documents: &Documents, which: &Which, fleet: &mut Fleet) -> BTreeMap<Place, Intents> {
    let mut places = BTreeMap::<Place, Intents>::new();
    let mut nodes = BTreeSet::new();
    for key in documents.keys().filter_map(|key| IntentKey::parse(key).ok()) {
        match key {
            IntentKey::Node(node, _) => drop(nodes.insert(node)),
            IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster) => {
                places.entry((app, cluster)).or_default();
            }
        }
    }
    for node in nodes {
        let listing = Listing::new(&node, documents);
        let clusters = listing.clusters();
        for (app, intent) in listing.intent(documents).apps {
            match (clusters.get(&app), intent) {
                (Some(cluster), intent) => {
                    places.entry((app, cluster.clone())).or_default().insert(node.clone(), intent);
                }
                // In no cluster that anybody could name.
                (None, Err(invalid)) if which.has(&app, &node) => fleet.problems.push((invalid.key, invalid.reason)),
                (None, _) => {}
            }
        }
    }
    places.retain(|(app, cluster), intents| {
        if let Some(node) = &which.node {
            intents.retain(|name, _| name == node);
        }
        let is = which.app.as_ref().is_none_or(|it| it == app) && which.cluster.as_ref().is_none_or(|it| it == cluster);
        is && (which.node.is_none() || !intents.is_empty())
    });
    places
}

pub(in super::super) fn reports_by_node(documents: Documents) -> Reports {
    let mut reports = Reports::new();
    for (key, document) in documents {
        if let Some((node, agent)) = whose(&key) {
            let report = document.and_then(|document| Report::parse(&document));
            reports.entry(node).or_default().insert(agent.to_owned(), report);
        }
    }
    reports
}

pub(in super::super) fn agents_by_node(agents: BTreeMap<(NodeName, String), Life>) -> Agents {
    let mut nodes = BTreeMap::<_, BTreeMap<_, _>>::new();
    for ((node, agent), life) in agents {
        nodes.entry(node).or_default().insert(agent, life);
    }
    nodes
}

/// Those of all clusters at once, but of one app by their keys: who develops it may see no others.
async fn leases(
    store: &Store,
    which: &Which,
    places: &BTreeMap<Place, Intents>,
    fleet: &mut Fleet,
) -> BTreeMap<Place, Leases> {
    let mut leases = BTreeMap::new();
    if which.app.is_some() {
        for (app, cluster) in places.keys() {
            match store.one_clusters_leases(app, cluster).await {
                Ok(read) => leases.extend(read.map(|(of, _)| ((app.clone(), cluster.clone()), of))),
                Err(error) => fleet.problems.push((lease_key(app, cluster).to_string(), format!("{error:#}"))),
            }
        }
        return leases;
    }
    match store.all_leases().await {
        Ok(all) => {
            for (key, read) in all {
                match read {
                    Ok((app, cluster, of)) => drop(leases.insert((app, cluster), of)),
                    Err(reason) => fleet.problems.push((key, reason)),
                }
            }
        }
        Err(error) => fleet.problems.push(("locks/".to_owned(), format!("{error:#}"))),
    }
    leases
}

pub(in super::super) async fn instances(
    store: &Store,
    places: impl Iterator<Item = Place>,
) -> BTreeMap<Place, Instances> {
    let (mut found, mut asking) = (BTreeMap::new(), JoinSet::new());
    for (app, cluster) in places {
        let store = store.clone();
        asking.spawn(async move {
            let instances = store.instances(&app, &cluster).await.map_err(|error| format!("{error:#}"));
            ((app, cluster), instances)
        });
        if asking.len() >= REQUESTS {
            found.extend(asking.join_next().await.and_then(Result::ok));
        }
    }
    found.extend(asking.join_all().await);
    found
}
