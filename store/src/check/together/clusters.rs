//! What is wrong with clusters: their documents, and the nodes that point at them.

use super::{Cluster, Intent, NodeApp, config_key, deploy_key};
use crate::check::Finding;
use crate::document::look_up;
use crate::schema::Config;

impl Intent<'_> {
    /// Clusters that nodes point at and of which one document, or both, are not there.
    pub(super) fn missing(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (cluster, apps) in &self.used {
            let (config, deploy) = (config_key(cluster), deploy_key(cluster));
            let is_missing = |key: &&String| look_up(self.documents, key).is_none();
            let missing = [&deploy, &config].into_iter().filter(is_missing).collect::<Vec<_>>();
            if missing.len() == 2 {
                // Another cluster is meant, or nobody has written this one yet.
                findings.extend(apps.iter().map(|app| self.pointer_to_nothing(app, cluster)));
            } else {
                findings.extend(missing.into_iter().map(|key| {
                    let holds = apps.iter().map(|app| app.key.to_owned()).collect();
                    Finding::invalid(key, "there is no such document, and nodes need it", "put it").holding(holds)
                }));
            }
        }
        findings
    }

    fn pointer_to_nothing(&self, node: &NodeApp, cluster: &Cluster) -> Finding {
        let (app, name) = cluster;
        let others = self.there.iter().filter(|(of, _)| of == app).map(|(_, name)| name.as_str()).collect::<Vec<_>>();
        let others = if others.is_empty() { String::new() } else { format!(" ({app} has {})", others.join(", ")) };
        let (deploy, config) = (deploy_key(cluster), config_key(cluster));
        Finding::invalid(
            node.key,
            format!("there are no documents of cluster {name} of {app}"),
            format!("put {deploy} and {config}, or correct the cluster's name{others}"),
        )
        .holding(vec![node.key.to_owned()])
    }

    /// Clusters that no node points at, nor can: to which one an invalid document points, nobody knows.
    pub(super) fn unused(&self) -> Vec<Finding> {
        if self.lacks_nodes() {
            return Vec::new();
        }
        let is_unused = |cluster: &&Cluster| !self.used.contains_key(cluster) && !self.invalid.contains_key(&cluster.0);
        let unused = self.there.iter().filter(is_unused);
        let finding = |cluster: &Cluster| {
            let (app, name) = cluster;
            let keys = [config_key(cluster), deploy_key(cluster)].into_iter();
            let there = keys.filter(|key| self.documents.contains_key(key)).collect::<Vec<_>>();
            Finding::suspicious(
                &there[0],
                format!("no node points at cluster {name} of {app}"),
                format!(
                    "put a nodes/<node>/{app}, or, once its hosts have stopped it: pp-store rm {}",
                    there.join(" ")
                ),
            )
        };
        unused.map(finding).collect()
    }

    /// Clusters too small for their `min_nodes`: to take an instance down, so many *others* have to pass.
    pub(super) fn unsatisfiable(&self) -> Vec<Finding> {
        if self.lacks_nodes() {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for (cluster, apps) in &self.used {
            let key = config_key(cluster);
            let Some(config) = self.valid::<Config>(&key).filter(|config| config.active().is_ok()) else { continue };
            // A node whose document is invalid may be one of them.
            let invalid = self.invalid.get(&cluster.0).copied().unwrap_or_default();
            // Of those that are drained nothing counts, or will not soon.
            let drained = apps.iter().filter(|app| app.is_drained).count();
            let nodes = apps.len() - drained + invalid;
            if nodes > config.min_nodes as usize || nodes == 0 && config.min_nodes == 0 {
                continue;
            }
            let beside = if drained == 0 { String::new() } else { format!(" beside {drained} drained") };
            let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") } + &beside;
            let min = config.min_nodes;
            findings.push(Finding::suspicious(
                &key,
                format!("min_nodes {min} can never be met: the cluster has {nodes}, and a replacement takes one down"),
                "lower it, or add nodes; until then no instance that runs is replaced or taken off its node",
            ));
        }
        findings
    }
}
