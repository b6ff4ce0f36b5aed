//! What is wrong with clusters: their documents, and the nodes that point at them.

use super::{Cluster, Intent, config_key, deploy_key};
use crate::check::Finding;
use crate::document::look_up;
use crate::schema::Config;

impl Intent<'_> {
    /// Clusters that nodes point at and of which one document, or both, are not there.
    pub(super) fn missing(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for cluster in self.used_clusters() {
            let keys = [config_key(&cluster), deploy_key(&cluster)];
            let missing = keys.iter().filter(|key| look_up(self.documents, key).is_none()).collect::<Vec<_>>();
            match missing[..] {
                [] => {}
                // Some cluster is meant that is there, or nobody has written it yet.
                [config, deploy] => findings.extend(self.apps_in(&cluster).map(|app| {
                    let others = self.clusters.iter().filter(|(app, _)| *app == cluster.0);
                    let others = others.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
                    let others =
                        if others.is_empty() { String::new() } else { format!(" ({} has {others})", cluster.0) };
                    let reason = format!("there are no documents of cluster {} of {}", cluster.1, cluster.0);
                    Finding::invalid(
                        app.key,
                        reason,
                        format!("put {deploy} and {config}, or correct the cluster's name{others}"),
                    )
                    .holding(vec![app.key.to_owned()])
                })),
                _ => findings.extend(missing.into_iter().map(|key| {
                    let holds = self.apps_in(&cluster).map(|app| app.key.to_owned()).collect();
                    Finding::invalid(key, "there is no such document, and nodes need it", "put it").holding(holds)
                })),
            }
        }
        findings
    }

    /// Clusters that no node points at.
    pub(super) fn unused(&self) -> Vec<Finding> {
        if self.lacks_nodes() {
            return Vec::new();
        }
        let unused = self.clusters.iter().filter(|cluster| !self.apps.iter().any(|app| app.may_be_in(cluster)));
        let finding = |cluster: &Cluster| {
            let keys = [config_key(cluster), deploy_key(cluster)].into_iter();
            let there = keys.filter(|key| self.documents.contains_key(key)).collect::<Vec<_>>();
            Finding::suspicious(
                &there[0],
                format!("no node points at cluster {} of {}", cluster.1, cluster.0),
                format!(
                    "put a nodes/<node>/{}, or, once its hosts have stopped it: pp-store rm {}",
                    cluster.0,
                    there.join(" ")
                ),
            )
        };
        unused.map(finding).collect()
    }

    /// Clusters too small for their `min_nodes`. To take an instance down, `min_nodes` *others* have to pass.
    pub(super) fn unsatisfiable(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for cluster in self.used_clusters() {
            let key = config_key(&cluster);
            let Some(config) = self.valid::<Config>(&key).filter(|config| config.active().is_ok()) else { continue };
            let nodes = self.apps.iter().filter(|app| app.counts_in(&cluster)).count();
            if nodes <= config.min_nodes as usize && !self.lacks_nodes() {
                let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
                findings.push(Finding::suspicious(
                    &key,
                    format!(
                        "min_nodes {} can never be met: the cluster has {nodes}, and a replacement takes one of them down",
                        config.min_nodes
                    ),
                    "lower it, or add nodes; until then no healthy instance is replaced",
                ));
            }
        }
        findings
    }
}
