//! What the store answers, and what it takes: truly, unless something is made wrong on purpose.

use std::collections::{BTreeMap, BTreeSet};

use store::ClusterName;
use store::lease::Leases;

use super::Mutation;
use super::intent::{cluster_name, cluster_number, node_name};
use super::world::{Entry, World};
use crate::protocol::{Config, Own, Peer, Question};

impl World {
    pub(super) fn leases(&self, cluster: &ClusterName) -> Leases {
        self.leases.get(cluster).cloned().unwrap_or_default()
    }

    pub(super) fn config(&self, cluster: &ClusterName) -> Config {
        let intent = self.intent.clusters[&cluster_number(cluster)];
        let active = intent.version.map(|version| version.to_string().parse().expect("a version"));
        Config { active, min_nodes: intent.min_nodes }
    }

    pub(super) fn alive(&self) -> BTreeSet<String> {
        let is_alive = |number: &usize| !self.nodes[*number].is_dead || self.mutation == Mutation::TheDeadTry;
        (0..self.nodes.len()).filter(is_alive).map(|number| node_name(number).to_string()).collect()
    }

    /// Whether the store shows the instance passing, so that others count on it.
    pub(super) fn is_shown(&self, number: usize, cluster: u8) -> bool {
        let node = &self.nodes[number];
        let shown = |entry: &Entry| entry.spec.cluster == cluster && entry.check && !entry.drained;
        !node.is_dead && node.entry.as_ref().is_some_and(shown)
    }

    /// What a node is told of who passes.
    pub(super) fn peers_told(&self, number: usize, cluster: &ClusterName) -> Vec<Peer> {
        let peer = |number: usize| {
            let node = &self.nodes[number];
            let entry = if self.mutation == Mutation::StaleRead { &self.at_first[number] } else { &node.entry };
            let entry = entry.as_ref().filter(|entry| cluster_name(entry.spec.cluster) == *cluster)?;
            let passing = entry.check && !entry.drained && !node.is_dead;
            Some(Peer { node: node_name(number), digest: entry.spec.digest(), passing })
        };
        let peers = (0..self.nodes.len()).filter_map(peer);
        let is_given = self.leases(cluster).down.contains_key(&node_name(number));
        let made_up = if self.mutation == Mutation::CountOnce && is_given { 9 } else { 0 };
        peers.chain((0..made_up).map(|number| somebody(number, ""))).collect()
    }

    /// What a node is told of the leases.
    pub(super) fn leases_told(&self, number: usize, cluster: &ClusterName) -> Leases {
        let mut leases = self.leases(cluster);
        if self.mutation == Mutation::IgnoreRetry {
            leases.failed.values_mut().for_each(|failed| failed.retry = None);
        }
        if self.mutation == Mutation::PublishNothing {
            leases.failed =
                self.nodes[number].host.record.as_ref().map(|noted| noted.published(number)).unwrap_or_default();
        }
        leases
    }

    pub(super) fn answer(&mut self, number: usize, question: Question) {
        match question {
            Question::Own => {
                let node = &mut self.nodes[number];
                let healthy = node.host.healthy();
                let own = node.entry.as_ref().map(|entry| Own {
                    is_current: Some(entry.spec) == healthy,
                    check_passes: entry.check,
                    is_drained: entry.drained,
                });
                node.told.own = Some(own);
            }
            Question::Leases(cluster) => self.answer_leases(number, &cluster),
            Question::Config(cluster) => {
                self.counts_by_config(number, cluster_number(&cluster));
                let config = self.config(&cluster);
                self.nodes[number].told.clusters.entry(cluster).or_default().config = Some(config);
            }
            Question::Peers(cluster) => {
                self.counts(number, cluster_number(&cluster));
                let (peers, alive) = (self.peers_told(number, &cluster), self.alive());
                let known = self.nodes[number].told.clusters.entry(cluster).or_default();
                (known.peers, known.alive) = (Some(peers), alive);
            }
            Question::IsWell => self.nodes[number].told.is_well = Some(self.is_up(number)),
        }
    }

    fn answer_leases(&mut self, number: usize, cluster: &ClusterName) {
        let known = self.nodes[number].told.clusters.get(cluster).cloned().unwrap_or_default();
        if self.mutation == Mutation::CountFirst && known.peers.is_none() {
            return self.answer(number, Question::Peers(cluster.clone()));
        }
        if self.mutation == Mutation::ConfigFirst && known.config.is_none() {
            return self.answer(number, Question::Config(cluster.clone()));
        }
        let leases = self.leases_told(number, cluster);
        let told = &mut self.nodes[number].told;
        told.learn(cluster, leases);
        let now = told.clusters.get_mut(cluster).expect("it was learned");
        match self.mutation {
            Mutation::CountFirst => {
                let name_of = |(index, peer): (usize, Peer)| match peer.node == node_name(number) {
                    true => peer,
                    false => Peer { passing: peer.passing, ..somebody(index, &peer.digest) },
                };
                let counted = known.peers.into_iter().flatten().enumerate().map(name_of).collect();
                (now.peers, now.alive) = (Some(counted), known.alive);
            }
            Mutation::ConfigFirst => now.config = known.config,
            _ => {}
        }
    }

    /// Compares, and sets.
    pub(super) fn write(&mut self, number: usize, cluster: &ClusterName, mut leases: Leases) {
        let is = self.leases_told(number, cluster);
        let is_as_told = self.nodes[number].told.clusters[cluster].leases.as_ref() == Some(&is);
        if self.mutation == Mutation::PublishNothing {
            leases.failed = BTreeMap::new();
            if let Some(noted) = &mut self.nodes[number].host.record {
                noted.failed.values_mut().for_each(|is_published| *is_published = true);
            }
        }
        if is_as_told || self.mutation == Mutation::PlainPut {
            self.leases.insert(cluster.clone(), leases);
        }
        self.nodes[number].told.forget(cluster);
    }
}

/// A number has no names by which somebody could be left out of it again.
fn somebody(number: usize, digest: &str) -> Peer {
    Peer { node: format!("somebody{number}").parse().expect("a name"), digest: digest.to_owned(), passing: true }
}
