//! Reads what a plan is made of beside intent: reports, who is alive, instances, and what has failed.
//!
//! Ensures: what cannot be read is an error, and no plan is made without it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};
use store::lease::{FailedDigest, Leases};
use store::reality::AppReport;
use store::schema::IntentKey;
use store::{Registered, Store, Version};

use super::super::fleet::{Agents, PREPARER, Reports, SETLIVE, agents_by_node, instances, reports_by_node};
use super::super::prepared;
use super::sides::{Place, Touched};

/// What is known of hosts.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) reports: Reports,
    pub(super) agents: Agents,
    pub(super) instances: BTreeMap<Place, Vec<Registered>>,
    pub(super) leases: BTreeMap<Place, Leases>,
}

pub(super) async fn observe(store: &Store, touched: &[Touched<'_>]) -> Result<Known> {
    let reports = reports_by_node(prepared::reports(store).await?);
    for node in touched.iter().map(|touched| touched.node) {
        for agent in [PREPARER, SETLIVE] {
            if let Some(Err(reason)) = reports.get(node).and_then(|of| of.get(agent)) {
                bail!("what {node} would do cannot be known: reality/{node}/{agent}: {reason}");
            }
        }
    }
    let nodes = touched.iter().map(|touched| touched.node.clone()).collect();
    let agents = store.alive_agents(&nodes).await.context("which agents are alive cannot be known")?;
    let places = touched.iter().flat_map(|touched| touched.place().into_iter().chain(touched.left()));
    let places = places.collect::<BTreeSet<_>>();
    let mut leases = BTreeMap::new();
    for (app, cluster) in &places {
        let read = store.one_clusters_leases(app, cluster).await.context("what has failed cannot be known")?;
        leases.extend(read.map(|(of, _)| ((app.clone(), cluster.clone()), of)));
    }
    let instances = instances(store, places.into_iter()).await.into_iter().map(|((app, cluster), found)| {
        let key = IntentKey::Config(app.clone(), cluster.clone()).key();
        let found = found.map_err(|reason| anyhow!("{key}: its instances cannot be known: {reason}"))?;
        Ok(((app, cluster), found))
    });
    Ok(Known { reports, agents: agents_by_node(agents), instances: instances.collect::<Result<_>>()?, leases })
}

impl Known {
    pub(super) fn said(&self, touched: Touched<'_>, agent: &str) -> Option<&AppReport> {
        self.reports.get(touched.node)?.get(agent)?.as_ref().ok()?.apps.get(touched.app)
    }

    /// What is registered of it now.
    pub(super) fn instance(&self, touched: Touched<'_>) -> Option<&Registered> {
        let place = touched.left().or_else(|| touched.place())?;
        self.instances.get(&place)?.iter().find(|it| it.node == *touched.node)
    }

    /// How a version has failed in a cluster, if nobody may try it again as it was then.
    pub(super) fn failed(&self, place: &Place, version: &Version) -> Option<&FailedDigest> {
        let mut failed = self.leases.get(place)?.failed.values();
        failed.find(|failed| failed.version == *version && failed.retry.is_none())
    }

    /// Whether any node reports that it has this version of an app.
    pub(super) fn is_prepared_somewhere(&self, (app, _): &Place, version: &Version) -> bool {
        let mut prepared = self.reports.values().filter_map(|of| of.get(PREPARER)?.as_ref().ok()?.apps.get(app));
        prepared.any(|said| said.there.contains(version))
    }
}
