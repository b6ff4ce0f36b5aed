//! What the world demands of the nodes in it, and what it cannot demand.
//!
//! Nobody can answer for what others cannot know of: a process that ended by itself, a host that was lost, a lease that
//! an operator or a wiped store took away while it was used. A node to which that happens is *stricken* until the store
//! shows again what runs there and nothing is owed to it. What a node itself stops is demanded to leave as many as
//! `min_nodes` in service, of those that were not stricken since this node was told of them.

use std::collections::BTreeSet;

use super::host::{Effect, Next};
use super::intent::{Spec, Wanted, cluster_name, node_name};
use super::world::{Node, World};

/// What is not to be held against a node in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Grace {
    /// Those that it counts on, and that were stricken, perhaps before the store knew.
    stricken: BTreeSet<usize>,
    /// The lowest minimum since it was told.
    min_nodes: Option<u32>,
}

impl World {
    /// Something befalls a node: who counts on it could not know.
    pub(super) fn strike(&mut self, number: usize) {
        self.nodes[number].is_stricken = true;
        let Some(cluster) = self.nodes[number].entry.as_ref().map(|entry| entry.spec.cluster) else { return };
        if self.is_shown(number, cluster) {
            for node in &mut self.nodes {
                node.grace.entry(cluster).or_default().stricken.insert(number);
            }
        }
    }

    pub(super) fn see_recovered(&mut self) {
        for number in 0..self.nodes.len() {
            let Node { is_stricken: true, host, todo, .. } = &self.nodes[number] else { continue };
            let is_back = self.serves(number).is_some() && todo.is_empty() && host.is_settled();
            self.nodes[number].is_stricken = !is_back;
        }
        if self.nodes.iter().all(|node| node.grace.is_empty()) {
            return;
        }
        let stricken = self.nodes.iter().map(|node| node.is_stricken).collect::<Vec<_>>();
        for node in self.nodes.iter_mut().filter(|node| !node.grace.is_empty()) {
            node.grace.values_mut().for_each(|grace| grace.stricken.retain(|number| stricken[*number]));
            node.grace.retain(|_, grace| *grace != Grace::default());
        }
    }

    /// A node is told who passes.
    pub(super) fn counts(&mut self, number: usize, cluster: u8) {
        let is_stricken = |other: &usize| self.nodes[*other].is_stricken && self.is_shown(*other, cluster);
        let stricken = (0..self.nodes.len()).filter(is_stricken).collect::<BTreeSet<_>>();
        let grace = &mut self.nodes[number].grace;
        if !stricken.is_empty() || grace.contains_key(&cluster) {
            grace.entry(cluster).or_default().stricken = stricken;
        }
    }

    /// A node is told how many have to pass.
    pub(super) fn counts_by_config(&mut self, number: usize, cluster: u8) {
        if let Some(grace) = self.nodes[number].grace.get_mut(&cluster) {
            grace.min_nodes = None;
        }
    }

    /// An operator raised the minimum from this one, by which somebody may have been given leave just now.
    pub(super) fn tolerate(&mut self, cluster: u8, min_nodes: u32) {
        for node in &mut self.nodes {
            let grace = node.grace.entry(cluster).or_default();
            grace.min_nodes = Some(grace.min_nodes.map_or(min_nodes, |lowest| lowest.min(min_nodes)));
        }
    }

    /// An instance that was in service is perhaps not any more, by a step of ours: enough others have to be.
    pub(super) fn see_who_is_left(&mut self, number: usize, served: Option<Spec>) {
        let Some(Spec { cluster, .. }) = served else { return };
        let node = &self.nodes[number];
        if node.is_stricken || self.serves(number).is_some() {
            return;
        }
        let nothing = Grace::default();
        let grace = node.grace.get(&cluster).unwrap_or(&nothing);
        let counts = |other: &usize| {
            let serves = self.serves(*other).is_some_and(|spec| spec.cluster == cluster);
            *other != number && (serves || grace.stricken.contains(other))
        };
        let left = (0..self.nodes.len()).filter(counts).count();
        let min_nodes = self.intent.clusters[&cluster].minimum();
        let min_nodes = grace.min_nodes.map_or(min_nodes, |lowest| lowest.min(min_nodes));
        if left < usize::try_from(min_nodes).expect("it is small") {
            self.violation = Some("fewer than min_nodes are passing");
        }
    }

    /// What a node tried and does not want any more before it could tell is another's to try.
    pub(super) fn see_what_is_given_up(&mut self, number: usize, wanted: Wanted) {
        let failed =
            |spec: &Spec| self.nodes[number].host.record.as_ref().is_some_and(|noted| noted.failed.contains_key(spec));
        let given_up = self.tried.iter_mut().filter(|(spec, _)| wanted != Wanted::Run(**spec) && !failed(spec));
        given_up.for_each(|(_, tried)| tried.retain(|node| *node != number));
    }

    pub(super) fn see_who_tries(&mut self, number: usize) {
        let Some(spec) = self.nodes[number].host.running.filter(|spec| self.bad.contains(&spec.version)) else {
            return;
        };
        let tried = self.tried.entry(spec).or_default();
        tried.insert(number);
        if tried.len() > 1 + self.more_tries {
            self.violation = Some("two nodes tried what fails");
        }
    }

    /// What is wanted and healthy is not stopped, nor is anything where nobody knows what is wanted.
    pub(super) fn see_what_is_stopped(&mut self, number: usize, next: &Next) {
        let Node { host, wanted, .. } = &self.nodes[number];
        let Next::Effects(effects) = next else { return };
        let Some(noted) = host.record.as_ref().filter(|_| effects.contains(&Effect::Stop)) else { return };
        let is_in_vain = match wanted {
            Wanted::Run(spec) => self.is_up(number) && host.running == Some(*spec) && noted.healthy == Some(*spec),
            Wanted::Unprepared(_) | Wanted::Unknown => noted.converging.is_none(),
            Wanted::Inactive => {
                // All go at once, whoever counts on them.
                self.strike(number);
                false
            }
            Wanted::Elsewhere => false,
        };
        if is_in_vain {
            self.violation = Some("what is to go on was stopped");
        }
    }

    /// What is wrong with the world if nothing more happens in it.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let goes_on = |number: usize| self.due(number).next().is_some();
        if !self.budget.changes.is_empty() || (0..self.nodes.len()).any(goes_on) {
            return None;
        }
        let living = (0..self.nodes.len()).filter(|number| !self.nodes[*number].is_dead);
        let wrong = living.flat_map(|number| self.wrong_with(number)).collect::<Vec<_>>();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    fn wrong_with(&self, number: usize) -> Vec<String> {
        let name = node_name(number);
        let Node { host, entry, wanted, .. } = &self.nodes[number];
        let serves = self.serves(number).filter(|_| entry.as_ref().is_some_and(|entry| entry.check));
        let has_failed = |spec: &Spec| {
            let leases = self.leases.get(&cluster_name(spec.cluster));
            leases.is_some_and(|leases| leases.held(&spec.digest(), "").is_some())
        };
        let (to, is_held) = match wanted {
            Wanted::Run(spec) => (Some(*spec), has_failed(spec)),
            Wanted::Inactive | Wanted::Elsewhere => (None, false),
            Wanted::Unprepared(_) | Wanted::Unknown => return vec![format!("{name} has not heard what is wanted")],
        };
        // It is as it shall be but for what only a restart would heal, and nobody asked for one.
        let is_sick = host.is_sick && host.running == to;
        let serving = entry.as_ref().filter(|_| serves.is_some());
        let is_barred =
            *wanted != Wanted::Inactive && serving.is_some_and(|entry| self.needs(number, entry.spec.cluster));
        // It stays started, out of service and in the leases, until somebody thinks of something better.
        let has_nothing_else = is_held && host.healthy().is_none() && host.running.is_some();
        let leased = self.leases.values().any(|leases| leases.down.contains_key(&name));
        let is_drained = entry.as_ref().is_some_and(|entry| entry.drained);
        let may_wait = has_nothing_else || host.is_sick;
        let had_one = host.healthy().is_some();
        [
            (serves != to && !is_held && !is_barred && !is_sick, format!("serves {serves:?}, not {to:?}")),
            (
                is_held && had_one && serves.is_none() && !host.is_sick,
                "holds what failed and serves nothing".to_owned(),
            ),
            (leased && !may_wait, "is left in the leases".to_owned()),
            (is_drained && !may_wait, "is left drained".to_owned()),
            (to.is_none() && !is_barred && *host != Default::default(), "is not cleared".to_owned()),
        ]
        .into_iter()
        .filter_map(|(is_wrong, what)| is_wrong.then(|| format!("{name} {what}")))
        .collect()
    }

    /// Whether the cluster's minimum is not met without this node.
    fn needs(&self, number: usize, cluster: u8) -> bool {
        let others = (0..self.nodes.len()).filter(|other| *other != number);
        let serving = others.filter(|other| self.serves(*other).is_some_and(|spec| spec.cluster == cluster)).count();
        serving < usize::try_from(self.intent.clusters[&cluster].minimum()).expect("it is small")
    }
}
