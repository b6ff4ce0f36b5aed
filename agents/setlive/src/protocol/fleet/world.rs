//! The world as a whole: what may happen next in it, and what comes of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use store::ClusterName;
use store::lease::Leases;

use super::Mutation;
use super::demands::Grace;
use super::host::{Effect, Host};
use super::intent::{Change, ClusterIntent, Intent, Spec, Wanted, cluster_name, node_name, node_number};
use crate::protocol::Told;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(super) nodes: Vec<Node>,
    pub(crate) leases: BTreeMap<ClusterName, Leases>,
    pub(crate) intent: Intent,
    pub(crate) budget: Budget,
    pub(crate) mutation: Mutation,
    /// Versions that are never healthy.
    pub(super) bad: BTreeSet<u8>,
    /// Versions of which a node's install is still to come.
    pub(crate) unprepared: BTreeSet<(usize, u8)>,
    /// Who started which bad one.
    pub(super) tried: BTreeMap<Spec, BTreeSet<usize>>,
    /// How many more than one may try what fails, since those who tried it were lost on the way.
    pub(super) more_tries: usize,
    /// What must never happen, and did.
    pub(crate) violation: Option<&'static str>,
    /// What was true at first.
    pub(super) at_first: Vec<Option<Entry>>,
}

/// What may still happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    /// An agent is killed and comes back.
    pub(crate) kills: u8,
    /// A host is lost, and what it runs with it.
    pub(crate) deaths: u8,
    /// A question or a change that the store does not answer.
    pub(crate) faults: u8,
    /// A process ends by itself. runsv starts it again.
    pub(crate) crashes: u8,
    /// A process goes on and serves nobody.
    pub(crate) sicknesses: u8,
    /// What an operator does, in this order, whenever.
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Node {
    pub(super) host: Host,
    /// As the store shows the instance.
    pub(super) entry: Option<Entry>,
    pub(super) is_dead: bool,
    /// What the agent knows of intent.
    pub(super) wanted: Wanted,
    /// What it was told, and what it still has to do of what it decided: lost with it.
    pub(super) told: Told,
    pub(super) todo: Vec<Effect>,
    /// Something befell it that others cannot know of.
    pub(super) is_stricken: bool,
    /// What is not to be held against this node.
    pub(super) grace: BTreeMap<u8, Grace>,
}

/// An instance in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) spec: Spec,
    /// What the check last found: an old answer, perhaps.
    pub(super) check: bool,
    pub(super) drained: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A node takes its next step.
    Step(usize),
    /// The store does not answer it; what was to be written is, or is not.
    Fault(usize, bool),
    /// A node hears what intent says now.
    Hear(usize),
    /// An install that a node lacked is there.
    Prepare(usize, u8),
    /// The store looks how an instance is.
    Check(usize),
    /// A node sees that the store does not show its instance as it is, and mends that.
    Notice(usize),
    /// runsv starts what ended by itself.
    Runsv(usize),
    Kill(usize),
    Crash(usize),
    Sicken(usize),
    Die(usize),
    /// The operator makes the next change.
    Operate,
}

impl World {
    pub(crate) fn new(intent: Intent, hosts: Vec<Host>, bad: &[u8], budget: Budget) -> Self {
        let node = |(number, host): (usize, Host)| Node {
            entry: host.running.map(|spec| Entry { spec, check: true, drained: false }),
            wanted: intent.of(number),
            host,
            ..Node::default()
        };
        let nodes = hosts.into_iter().enumerate().map(node).collect::<Vec<_>>();
        Self {
            at_first: nodes.iter().map(|node| node.entry.clone()).collect(),
            nodes,
            leases: BTreeMap::new(),
            intent,
            budget,
            mutation: Mutation::None,
            bad: bad.iter().copied().collect(),
            unprepared: BTreeSet::new(),
            tried: BTreeMap::new(),
            more_tries: 0,
            violation: None,
        }
    }

    /// Everything that may happen next.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let of_nodes = (0..self.nodes.len()).flat_map(|number| self.due(number).chain(self.mishaps(number)));
        of_nodes.chain((!self.budget.changes.is_empty()).then_some(Action::Operate)).collect()
    }

    /// What happens at a node sooner or later.
    pub(crate) fn due(&self, number: usize) -> impl Iterator<Item = Action> {
        let node = &self.nodes[number];
        let Node { host, entry, .. } = node;
        let is = |action: Action, is: bool| is.then_some(action);
        let awaited = match self.intent.of(number) {
            Wanted::Run(spec) if self.unprepared.contains(&(number, spec.version)) => Some(spec.version),
            _ => None,
        };
        let actions = if node.is_dead {
            [None; 6]
        } else {
            [
                is(Action::Step(number), self.is_awake(number)),
                is(Action::Hear(number), node.wanted != self.wanted(number)),
                awaited.map(|version| Action::Prepare(number, version)),
                is(Action::Check(number), entry.as_ref().is_some_and(|entry| entry.check != self.is_up(number))),
                is(Action::Notice(number), self.lost_entry(number).is_some()),
                is(Action::Runsv(number), host.told_to_run && host.running.is_none()),
            ]
        };
        actions.into_iter().flatten()
    }

    /// What may befall a node.
    pub(crate) fn mishaps(&self, number: usize) -> impl Iterator<Item = Action> {
        let node = &self.nodes[number];
        let budget = &self.budget;
        let is = |action: Action, is: bool| (is && !node.is_dead).then_some(action);
        let has_begun = !node.todo.is_empty() || node.told != Told::default();
        let asks = budget.faults > 0 && self.asks(number);
        let is_at_rest = node.todo.is_empty() && self.is_up(number) && node.host.is_settled();
        [
            is(Action::Fault(number, true), asks),
            is(Action::Fault(number, false), asks),
            is(Action::Kill(number), budget.kills > 0 && has_begun),
            is(Action::Crash(number), budget.crashes > 0 && node.host.running.is_some()),
            is(Action::Sicken(number), budget.sicknesses > 0 && is_at_rest),
            is(Action::Die(number), budget.deaths > 0),
        ]
        .into_iter()
        .flatten()
    }

    /// How many nodes there are, also those that were lost.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// What intent says to a node, with what it has at hand.
    pub(super) fn wanted(&self, number: usize) -> Wanted {
        match self.intent.of(number) {
            Wanted::Run(spec) if self.unprepared.contains(&(number, spec.version)) => Wanted::Unprepared(spec),
            wanted => wanted,
        }
    }

    /// What the store shall show of a node that has nothing left to tell it, and does not.
    fn lost_entry(&self, number: usize) -> Option<Entry> {
        let Node { host, entry, todo, .. } = &self.nodes[number];
        let spec = host.healthy()?;
        let is_at_rest = todo.is_empty() && host.is_settled() && self.mutation != Mutation::NoticeNothing;
        let check = entry.as_ref().is_some_and(|entry| entry.check);
        let drained = !self.is_up(number) && entry.as_ref().is_some_and(|entry| entry.drained);
        let kept = Entry { spec, check, drained };
        (is_at_rest && entry.as_ref() != Some(&kept)).then_some(kept)
    }

    pub(crate) fn after(&self, action: Action) -> Self {
        let mut world = self.clone();
        world.take(action);
        world
    }

    pub(crate) fn take(&mut self, action: Action) {
        match action {
            Action::Step(number) => self.go_on(number),
            Action::Fault(number, is_done) => self.fail(number, is_done),
            Action::Hear(number) => self.hear(number),
            Action::Prepare(number, version) => drop(self.unprepared.remove(&(number, version))),
            Action::Check(number) => {
                let is_up = self.is_up(number);
                self.nodes[number].entry.as_mut().expect("it is registered").check = is_up;
            }
            Action::Notice(number) => self.nodes[number].entry = self.lost_entry(number),
            Action::Runsv(number) => {
                self.start(number);
                // It was about to be replaced because it did not run.
                if !self.nodes[number].todo.is_empty() {
                    self.strike(number);
                }
            }
            Action::Kill(_) | Action::Crash(_) | Action::Sicken(_) | Action::Die(_) => self.befall(action),
            Action::Operate => self.operate(),
        }
        self.see_recovered();
    }

    fn hear(&mut self, number: usize) {
        let wanted = self.wanted(number);
        self.see_what_is_given_up(number, wanted);
        let node = &mut self.nodes[number];
        (node.wanted, node.told) = (wanted, Told::default());
        // Up to here an attempt stops when intent changes.
        if matches!(node.todo.first(), Some(Effect::Judge(_))) {
            node.todo.clear();
        }
    }

    /// The store does not answer; what it was asked to do is done, or is not.
    fn fail(&mut self, number: usize, is_done: bool) {
        self.budget.faults -= 1;
        if is_done {
            self.go_on(number);
        } else if !self.nodes[number].todo.is_empty() {
            // A drain that does not come to pass keeps nothing from going on.
            self.nodes[number].todo.remove(0);
            return;
        }
        self.nodes[number].told = Told { away: true, ..Told::default() };
    }

    /// A mishap that has nothing to do with the store.
    fn befall(&mut self, action: Action) {
        match action {
            Action::Kill(number) => {
                self.budget.kills -= 1;
                let node = &mut self.nodes[number];
                (node.told, node.todo) = (Told::default(), Vec::new());
                if self.mutation == Mutation::AskInMemory
                    && let Some(noted) = &mut node.host.record
                {
                    noted.asked.clear();
                }
            }
            Action::Crash(number) => {
                self.budget.crashes -= 1;
                self.strike(number);
                let host = &mut self.nodes[number].host;
                (host.running, host.is_sick) = (None, false);
            }
            Action::Sicken(number) => {
                self.budget.sicknesses -= 1;
                self.strike(number);
                self.nodes[number].host.is_sick = true;
            }
            Action::Die(number) => {
                self.budget.deaths -= 1;
                self.more_tries += 1;
                self.strike(number);
                let node = &mut self.nodes[number];
                node.is_dead = true;
                node.host.running = None;
            }
            Action::Step(_)
            | Action::Fault(..)
            | Action::Hear(_)
            | Action::Prepare(..)
            | Action::Check(_)
            | Action::Notice(_)
            | Action::Runsv(_)
            | Action::Operate => unreachable!("that is none: {action:?}"),
        }
    }

    fn operate(&mut self) {
        match self.budget.changes.remove(0) {
            Change::Activate { cluster, version } => {
                if self.intent.clusters[&cluster].version != version {
                    self.tried.retain(|spec, _| spec.cluster != cluster || Some(spec.version) != version);
                }
                self.change(cluster, |intent| intent.version = version);
            }
            Change::Minimum { cluster, min_nodes } => self.change(cluster, |intent| intent.min_nodes = min_nodes),
            Change::Basedir { cluster, basedir } => self.change(cluster, |intent| intent.basedir = basedir),
            Change::Place { node, cluster } => self.intent.nodes[node] = cluster,
            Change::Retry { cluster } => {
                if let Some(leases) = self.leases.get_mut(&cluster_name(cluster)) {
                    self.tried.retain(|spec, _| !leases.failed.contains_key(&spec.digest()));
                    *leases = leases.changed(|leases| {
                        leases.failed.values_mut().for_each(|failed| failed.retry = Some("now".to_owned()));
                    });
                }
            }
            Change::Release { node } => {
                let name = node_name(node);
                if self.leases.values().any(|leases| leases.down.contains_key(&name)) {
                    self.strike(node);
                    self.more_tries += 1;
                }
                for leases in self.leases.values_mut().filter(|leases| leases.down.contains_key(&name)) {
                    *leases = leases.changed(|leases| drop(leases.down.remove(&name)));
                }
            }
            Change::Wipe => {
                let down = self.leases.values().flat_map(|leases| leases.down.keys().map(node_number));
                for number in down.collect::<Vec<_>>() {
                    self.strike(number);
                    self.more_tries += 1;
                }
                self.leases.clear();
                self.tried.clear();
                for node in &mut self.nodes {
                    (node.entry, node.wanted) = (None, Wanted::Unknown);
                }
            }
        }
    }

    fn change(&mut self, cluster: u8, change: impl FnOnce(&mut ClusterIntent)) {
        let intent = self.intent.clusters.get_mut(&cluster).expect("it is there");
        let before = intent.minimum();
        change(intent);
        if intent.minimum() > before {
            self.tolerate(cluster, before);
        }
    }

    /// A good version that runs, and serves whom it can.
    pub(super) fn is_up(&self, number: usize) -> bool {
        let host = &self.nodes[number].host;
        !host.is_sick && host.running.is_some_and(|spec| !self.bad.contains(&spec.version))
    }

    /// In service, to whoever is sent there.
    pub(super) fn serves(&self, number: usize) -> Option<Spec> {
        let entry = self.nodes[number].entry.as_ref().filter(|entry| !entry.drained && self.is_up(number));
        entry.map(|entry| entry.spec)
    }
}

impl fmt::Debug for World {
    /// Only what matters to who looks for a mistake: a line for each node and for each cluster.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            let Node { host, entry, is_dead, wanted, told: _, todo, is_stricken, grace } = node;
            writeln!(f, "n{number}: wants {wanted:?}, runs {:?}, of {:?}", host.running, host.files)?;
            writeln!(f, "    {:?}", host.record)?;
            writeln!(f, "    {entry:?}, todo {todo:?}, dead {is_dead}, sick {}", host.is_sick)?;
            writeln!(f, "    told to run {}, stricken {is_stricken}, {grace:?}", host.told_to_run)?;
        }
        for (cluster, intent) in &self.intent.clusters {
            let Leases { rev, down, failed } = self.leases(&cluster_name(*cluster));
            let down = down.iter().map(|(node, down)| (node.as_str(), down.why.as_str())).collect::<Vec<_>>();
            writeln!(f, "c{cluster}: {intent:?}, rev {rev}, down {down:?}, failed {:?}", failed.values())?;
        }
        write!(f, "tried {:?}, budget {:?}", self.tried, self.budget)
    }
}
