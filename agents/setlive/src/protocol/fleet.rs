//! A small world for the protocol: hosts, a store, an operator, and all that may come between any two steps of any of them.
//!
//! The decisions are the agent's own, by [`step`]. What is made up here is what they are about: what a decision does to a
//! host, a step at a time, each safe to be the last; what the store answers, when it has to be asked again, and what
//! people do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use store::lease::Leases;
use store::{ClusterName, NodeName};

use crate::decide::{Decision, Goal, Owner, Seen, Service};
use crate::definition::Definition;
use crate::definition::tests::definition;
use crate::protocol::{Cluster, Config, Own, Peer, Question, Reason, Step, Told, Us, Wait, step};
use crate::record::{Failure, Record};

/// What is run, in few bytes: states are kept by the million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spec {
    pub(crate) version: u8,
    pub(crate) cluster: u8,
    pub(crate) basedir: u8,
}

impl Spec {
    fn definition(self) -> Definition {
        let mut definition = definition(&self.version.to_string());
        definition.cluster = cluster(self.cluster);
        definition.basedir = format!("/srv/{}", self.basedir).try_into().expect("it is a good one");
        definition
    }

    fn of(definition: &Definition) -> Self {
        let last = |text: &str| text.bytes().last().map_or(0, |digit| digit - b'0');
        Self {
            version: last(definition.version.as_str()),
            cluster: last(definition.cluster.as_str()),
            basedir: last(definition.basedir.as_str()),
        }
    }

    fn digest(self) -> String {
        thread_local!(static DIGESTS: RefCell<HashMap<Spec, String>> = RefCell::default());
        let digest = |digests: &RefCell<HashMap<Self, String>>| {
            let mut digests = digests.borrow_mut();
            digests.entry(self).or_insert_with(|| self.definition().digest().as_str().to_owned()).clone()
        };
        DIGESTS.with(digest)
    }
}

fn cluster(number: u8) -> ClusterName {
    format!("c{number}").parse().expect("a name")
}

fn node_name(number: usize) -> NodeName {
    format!("n{number}").parse().expect("a name")
}

/// What is made wrong on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Mutation {
    #[default]
    None,
    /// Who passes is counted before the leases are read, and so with those who are about to go down.
    CountFirst,
    /// A node leaves `down` when it has started something, not when that passes.
    LeaveEarly,
    /// Leases are written whatever is there.
    PlainPut,
    /// Who passes is answered with what was true at first, as a server might that was cut off from the others.
    StaleRead,
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
    /// What an operator does, in this order, whenever.
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Activate {
        cluster: u8,
        version: u8,
    },
    Minimum {
        cluster: u8,
        min_nodes: u32,
    },
    /// Leave this node, or have it run the app in this cluster.
    Place {
        node: usize,
        cluster: Option<u8>,
    },
    Basedir {
        cluster: u8,
        basedir: u8,
    },
    /// Let what failed be tried again.
    Retry {
        cluster: u8,
    },
}

/// What intent says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Intent {
    /// By cluster.
    pub(crate) clusters: BTreeMap<u8, (u8, u32, u8)>,
    /// The cluster that each node is in.
    pub(crate) nodes: Vec<Option<u8>>,
}

impl Intent {
    fn of(&self, node: usize) -> Option<Spec> {
        let cluster = self.nodes[node]?;
        let (version, _, basedir) = self.clusters[&cluster];
        Some(Spec { version, cluster, basedir })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) leases: BTreeMap<ClusterName, Leases>,
    pub(crate) intent: Intent,
    pub(crate) budget: Budget,
    pub(crate) mutation: Mutation,
    /// Versions that are never healthy.
    pub(crate) bad: BTreeSet<u8>,
    /// Who started which bad one.
    tried: BTreeMap<Spec, BTreeSet<usize>>,
    /// Some host was lost, or an operator let something be tried again.
    excused: bool,
    /// What must never happen, and did.
    pub(crate) violation: Option<&'static str>,
    /// What was true at first.
    at_first: Vec<Option<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Node {
    pub(crate) host: Host,
    /// As the store shows the instance.
    pub(crate) entry: Option<Entry>,
    is_dead: bool,
    /// What the agent knows of intent.
    wanted: Option<Spec>,
    /// What it was told, and what it still has to do of what it decided: lost with it.
    told: Told,
    todo: Vec<Effect>,
}

/// An instance in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    spec: Spec,
    /// What the check last found: an old answer, perhaps.
    check: bool,
    drained: bool,
}

/// A host with one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Host {
    record: Option<Noted>,
    /// What the files on disk are rendered from.
    files: Option<Spec>,
    told_to_run: bool,
    /// What the running process was started from.
    pub(crate) running: Option<Spec>,
}

/// A record, in few bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Noted {
    cluster: u8,
    has_service: bool,
    healthy: Option<Spec>,
    converging: Option<Spec>,
    /// And whether that was published.
    failed: BTreeMap<Spec, bool>,
    asked: BTreeSet<u8>,
    unregistered: bool,
}

/// One change of a host, as `act` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Effect {
    Save(Noted),
    Drain,
    Stop,
    Write(Spec),
    Start,
    /// Wait for health, and note what came of it.
    Judge(Spec),
    RemoveService,
    RemoveRecord,
}

/// What may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A node takes its next step.
    Step(usize),
    /// The store does not answer it; what was to be written is, or is not.
    Fault(usize, bool),
    /// A node hears what intent says now.
    Hear(usize),
    /// The store looks how an instance is.
    Check(usize),
    Kill(usize),
    Die(usize),
    /// The operator makes the next change.
    Operate,
}

/// What a step comes to for the world.
enum Next {
    Question(Question),
    Write(ClusterName, Leases),
    Effects(Vec<Effect>),
    Register,
    /// Only the check can help.
    AwaitCheck,
    Undrain,
    Deregister,
    /// Nothing, until something changes.
    Idle,
}

impl Noted {
    fn record(&self) -> Record {
        let cluster_of = Spec { version: 1, cluster: self.cluster, basedir: 0 }.definition();
        let mut record = Record::new(&node_name(0), converge::Source::Store, &cluster_of);
        record.services.extend(self.has_service.then(|| "slug".to_owned()));
        record.healthy = self.healthy.map(Spec::definition);
        record.converging = self.converging.map(Spec::definition);
        for (spec, is_published) in &self.failed {
            let definition = spec.definition();
            let failure = Failure {
                version: definition.version.clone(),
                reason: "bad".to_owned(),
                log: Vec::new(),
                health: None,
                is_published: *is_published,
            };
            record.failed.insert(definition.digest(), failure);
        }
        record.asked = self.asked.iter().map(|number| cluster(*number)).collect();
        record.unregistered = self.unregistered;
        record
    }

    /// What became of this record.
    fn after(&self, record: &Record) -> Self {
        let known = self.failed.keys().chain(&self.converging).chain(&self.healthy);
        let by_digest = known.map(|spec| (spec.digest(), *spec)).collect::<HashMap<_, _>>();
        let number = |name: &ClusterName| name.as_str().bytes().last().expect("not empty") - b'0';
        Self {
            cluster: number(&record.cluster),
            has_service: !record.services.is_empty(),
            healthy: record.healthy.as_ref().map(Spec::of),
            converging: record.converging.as_ref().map(Spec::of),
            failed: record
                .failed
                .iter()
                .map(|(digest, failure)| (by_digest[digest.as_str()], failure.is_published))
                .collect(),
            asked: record.asked.iter().map(number).collect(),
            unregistered: record.unregistered,
        }
    }
}

impl Host {
    /// One that runs this, and is done with it.
    pub(crate) fn running(spec: Spec) -> Self {
        let noted = Noted { cluster: spec.cluster, has_service: true, healthy: Some(spec), ..Noted::default() };
        Self { record: Some(noted), files: Some(spec), told_to_run: true, running: Some(spec) }
    }

    fn seen(&self, wanted: Option<Spec>) -> (Goal, Seen) {
        let service = match (&self.files, self.told_to_run, &self.running) {
            (None, ..) => Service::Absent,
            (_, false, _) => Service::Stopped,
            (_, true, Some(_)) => Service::Running { pid: 7 },
            (_, true, None) => Service::Failing,
        };
        let record = self.record.as_ref().map(Noted::record);
        let known = wanted.into_iter().chain(self.files).map(|spec| spec.definition().digest());
        let recorded = record.iter().flat_map(|record| record.healthy.iter().chain(&record.converging));
        let seen = Seen {
            services: [("slug".to_owned(), service)].into(),
            on_disk: self.files.iter().map(|spec| spec.definition().digest()).collect(),
            installed: known.chain(recorded.map(Definition::digest)).collect(),
            owner: Owner::Us,
            alone: false,
            adopt: false,
            record,
        };
        let goal = match wanted {
            Some(spec) => Goal::Run(spec.definition()),
            None => Goal::Nothing { why: "it was taken off this node", heeds_minimum: true },
        };
        (goal, seen)
    }

    fn noted(&self, cluster: u8) -> Noted {
        self.record.clone().unwrap_or(Noted { cluster, ..Noted::default() })
    }
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
            tried: BTreeMap::new(),
            excused: false,
            violation: None,
        }
    }

    /// Everything that may happen next.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_dead) {
            if node.wanted != self.intent.of(number) {
                actions.push(Action::Hear(number));
            }
            if node.entry.as_ref().is_some_and(|entry| entry.check != self.is_up(number)) {
                actions.push(Action::Check(number));
            }
            let (is_awake, asks) = self.is_awake(number);
            if is_awake {
                actions.push(Action::Step(number));
                if self.budget.faults > 0 && asks {
                    actions.extend([true, false].map(|is_done| Action::Fault(number, is_done)));
                }
            }
            let has_begun = !node.todo.is_empty() || node.told != Told::default();
            if self.budget.kills > 0 && has_begun {
                actions.push(Action::Kill(number));
            }
            if self.budget.deaths > 0 {
                actions.push(Action::Die(number));
            }
        }
        if !self.budget.changes.is_empty() {
            actions.push(Action::Operate);
        }
        actions
    }

    /// Whether a node would do anything if it were to go on, and whether that is up to the store.
    fn is_awake(&self, number: usize) -> (bool, bool) {
        let node = &self.nodes[number];
        if let Some(effect) = node.todo.first() {
            // The node that waits for health gives up when intent changes, as the agent does.
            return (true, *effect == Effect::Drain);
        }
        match self.next(number) {
            Next::Idle => (self.is_news(number), false),
            Next::AwaitCheck => (node.entry.as_ref().is_none_or(|entry| entry.check), false),
            Next::Effects(_) => (true, false),
            Next::Question(_) | Next::Write(..) | Next::Register | Next::Undrain | Next::Deregister => (true, true),
        }
    }

    /// Whether the store says something else than it told the node.
    fn is_news(&self, number: usize) -> bool {
        let told = &self.nodes[number].told;
        let of_cluster = |(cluster, known): (&ClusterName, &Cluster)| {
            let leases = self.leases.get(cluster).cloned().unwrap_or_default();
            known.leases.as_ref().is_some_and(|told| *told != leases)
                || known.config.as_ref().is_some_and(|told| *told != self.config(cluster))
                || known.peers.as_ref().is_some_and(|told| *told != self.peers(cluster) || known.alive != self.alive())
        };
        told.away || told.clusters.iter().any(of_cluster)
    }

    pub(crate) fn after(&self, action: &Action) -> Self {
        let mut world = self.clone();
        world.take(action);
        world
    }

    pub(crate) fn take(&mut self, action: &Action) {
        match action {
            Action::Hear(number) => {
                let wanted = self.intent.of(*number);
                let node = &mut self.nodes[*number];
                (node.wanted, node.told) = (wanted, Told::default());
                // Up to here an attempt stops when intent changes.
                if matches!(node.todo.first(), Some(Effect::Judge(_))) {
                    node.todo.clear();
                }
            }
            Action::Check(number) => {
                let is_up = self.is_up(*number);
                self.nodes[*number].entry.as_mut().expect("it is registered").check = is_up;
            }
            Action::Kill(number) => {
                self.budget.kills -= 1;
                let node = &mut self.nodes[*number];
                (node.told, node.todo) = (Told::default(), Vec::new());
            }
            Action::Die(number) => {
                self.budget.deaths -= 1;
                self.excused = true;
                let node = &mut self.nodes[*number];
                node.is_dead = true;
                node.host.running = None;
            }
            Action::Operate => self.operate(),
            Action::Fault(number, is_done) => {
                self.budget.faults -= 1;
                if *is_done {
                    self.go_on(*number);
                } else if !self.nodes[*number].todo.is_empty() {
                    // A drain that does not come to pass keeps nothing from going on.
                    self.nodes[*number].todo.remove(0);
                    return;
                }
                self.nodes[*number].told = Told { away: true, ..Told::default() };
            }
            Action::Step(number) => self.go_on(*number),
        }
    }

    fn operate(&mut self) {
        match self.budget.changes.remove(0) {
            Change::Activate { cluster, version } => {
                self.intent.clusters.get_mut(&cluster).expect("it is there").0 = version;
            }
            Change::Minimum { cluster, min_nodes } => {
                self.intent.clusters.get_mut(&cluster).expect("it is there").1 = min_nodes;
            }
            Change::Basedir { cluster, basedir } => {
                self.intent.clusters.get_mut(&cluster).expect("it is there").2 = basedir;
            }
            Change::Place { node, cluster } => self.intent.nodes[node] = cluster,
            Change::Retry { cluster: number } => {
                if let Some(leases) = self.leases.get_mut(&cluster(number)) {
                    *leases = leases.changed(|leases| {
                        leases.failed.values_mut().for_each(|failed| failed.retry = Some("now".to_owned()));
                    });
                    self.excused = true;
                }
            }
        }
    }

    /// A good version that runs.
    fn is_up(&self, number: usize) -> bool {
        self.nodes[number].host.running.is_some_and(|spec| !self.bad.contains(&spec.version))
    }

    /// In service, to whoever is sent there.
    fn serves(&self, number: usize, cluster: u8) -> bool {
        let entry = self.nodes[number].entry.as_ref();
        self.is_up(number) && entry.is_some_and(|entry| !entry.drained && entry.spec.cluster == cluster)
    }

    fn config(&self, cluster: &ClusterName) -> Config {
        let number = cluster.as_str().bytes().last().expect("not empty") - b'0';
        let (version, min_nodes, _) = self.intent.clusters[&number];
        Config { active: Some(version.to_string().parse().expect("a version")), min_nodes }
    }

    fn alive(&self) -> BTreeSet<String> {
        let alive = (0..self.nodes.len()).filter(|number| !self.nodes[*number].is_dead);
        alive.map(|number| node_name(number).to_string()).collect()
    }

    fn peers(&self, cluster_name: &ClusterName) -> Vec<Peer> {
        self.peers_in(cluster_name, |number| self.nodes[number].entry.clone())
    }

    fn peers_in(&self, cluster_name: &ClusterName, entry: impl Fn(usize) -> Option<Entry>) -> Vec<Peer> {
        let peer = |number: usize| {
            let entry = entry(number).filter(|entry| cluster(entry.spec.cluster) == *cluster_name)?;
            let passing = entry.check && !entry.drained && !self.nodes[number].is_dead;
            Some(Peer { node: node_name(number), digest: entry.spec.digest(), passing })
        };
        (0..self.nodes.len()).filter_map(peer).collect()
    }

    /// The answer of the agent's own protocol.
    fn next(&self, number: usize) -> Next {
        type View = (usize, Option<Spec>, Host, Told);
        thread_local!(static STEPS: RefCell<HashMap<View, Step>> = RefCell::default());
        let node = &self.nodes[number];
        let view = (number, node.wanted, node.host.clone(), node.told.clone());
        let step = STEPS.with(|steps| {
            let mut steps = steps.borrow_mut();
            // Most views are seen again and again, in another state of the rest of the world.
            if steps.len() > 200_000 {
                steps.clear();
            }
            let decide = |(number, wanted, host, told): &View| {
                let us = Us { node: node_name(*number), host: node_name(*number).to_string(), now: "now".to_owned() };
                let (goal, seen) = host.seen(*wanted);
                step(&us, &goal, &seen, told)
            };
            steps.entry(view).or_insert_with_key(decide).clone()
        });
        self.effects(number, step)
    }

    /// What a step does, in the order in which `act` does it.
    fn effects(&self, number: usize, step: Step) -> Next {
        let node = &self.nodes[number];
        let noted = |cluster: u8| node.host.noted(cluster);
        let save = |record: &Record| Effect::Save(noted(0).after(record));
        match step {
            Step::Ask(question) => Next::Question(question),
            Step::Write(cluster, leases) => Next::Write(cluster, leases),
            Step::Note(record) => Next::Effects(vec![save(&record)]),
            Step::NoteAsked(name) => {
                let asked = name.as_str().bytes().last().expect("not empty") - b'0';
                let mut noted = noted(asked);
                noted.asked.insert(asked);
                Next::Effects(vec![Effect::Save(noted)])
            }
            Step::Register => Next::Register,
            Step::Report | Step::Wait(Wait { reason: Reason::Check, .. }) => Next::AwaitCheck,
            Step::Undrain => Next::Undrain,
            Step::Deregister => Next::Deregister,
            Step::Wait(_) | Step::Held(_) | Step::Away => Next::Idle,
            Step::Act(decision) => match decision {
                Decision::Converged | Decision::Wait(_) | Decision::FellBack { .. } | Decision::Recheck(..) => {
                    Next::Idle
                }
                Decision::Forget(digests) => {
                    let mut noted = noted(0);
                    noted.failed.retain(|spec, _| !digests.contains(&spec.definition().digest()));
                    Next::Effects(vec![Effect::Save(noted)])
                }
                Decision::Start(_) => Next::Effects(vec![Effect::Start]),
                Decision::AwaitHealth(to) => Next::Effects(vec![Effect::Judge(Spec::of(&to))]),
                Decision::Repair(to) => Next::Effects(vec![Effect::Write(Spec::of(&to))]),
                Decision::Replace { to, .. } => {
                    let to = Spec::of(&to);
                    let mut begun = noted(to.cluster);
                    (begun.cluster, begun.has_service, begun.converging) = (to.cluster, true, Some(to));
                    begun.unregistered = true;
                    let effects = [
                        Effect::Save(begun),
                        Effect::Drain,
                        Effect::Stop,
                        Effect::Write(to),
                        Effect::Start,
                        Effect::Judge(to),
                    ];
                    Next::Effects(effects.into())
                }
                Decision::Remove { .. } => {
                    let emptied =
                        Noted { has_service: false, healthy: None, converging: None, unregistered: true, ..noted(0) };
                    Next::Effects(vec![Effect::Drain, Effect::Stop, Effect::RemoveService, Effect::Save(emptied)])
                }
                Decision::Clear => Next::Effects(vec![Effect::RemoveRecord]),
                Decision::Refuse(_) | Decision::Adopt | Decision::Note(_) | Decision::RemoveServices(_) => {
                    unreachable!("nothing here leads to that: {decision:?}")
                }
            },
        }
    }

    fn go_on(&mut self, number: usize) {
        if !self.nodes[number].todo.is_empty() {
            let effect = self.nodes[number].todo.remove(0);
            self.apply(number, effect);
            return;
        }
        match self.next(number) {
            Next::Idle | Next::AwaitCheck => self.nodes[number].told = Told::default(),
            Next::Question(question) => self.answer(number, question),
            Next::Write(cluster, leases) => {
                let known = self.nodes[number].told.clusters[&cluster].leases.clone();
                let is = self.leases.get(&cluster).cloned().unwrap_or_default();
                if known.as_ref() == Some(&is) || self.mutation == Mutation::PlainPut {
                    self.leases.insert(cluster.clone(), leases);
                }
                self.nodes[number].told.forget(&cluster);
            }
            Next::Effects(effects) => {
                self.nodes[number].todo = effects;
                self.nodes[number].told = Told::default();
            }
            Next::Register => {
                let node = &mut self.nodes[number];
                let spec = node.host.record.as_ref().and_then(|noted| noted.healthy).expect("something is registered");
                let (check, drained) = node.entry.as_ref().map_or((false, false), |entry| (entry.check, entry.drained));
                node.entry = Some(Entry { spec, check, drained });
                node.told.own = None;
            }
            Next::Undrain => {
                let node = &mut self.nodes[number];
                node.entry.as_mut().expect("it is registered").drained = false;
                node.told.own = None;
            }
            Next::Deregister => {
                self.nodes[number].entry = None;
                self.nodes[number].told.own = None;
            }
        }
    }

    fn answer(&mut self, number: usize, question: Question) {
        let by = number;
        match question {
            Question::Own => {
                let node = &mut self.nodes[number];
                let healthy = node.host.record.as_ref().and_then(|noted| noted.healthy);
                let own = node.entry.as_ref().map(|entry| Own {
                    is_current: Some(entry.spec) == healthy,
                    check_passes: entry.check,
                    is_drained: entry.drained,
                });
                node.told.own = Some(own);
            }
            Question::Leases(cluster) => {
                let known = self.nodes[number].told.clusters.get(&cluster).cloned().unwrap_or_default();
                if self.mutation == Mutation::CountFirst && known.peers.is_none() {
                    return self.answer(number, Question::Peers(cluster));
                }
                let leases = self.leases.get(&cluster).cloned().unwrap_or_default();
                let told = &mut self.nodes[number].told;
                told.learn(&cluster, leases);
                if self.mutation == Mutation::CountFirst {
                    // A number has no names by which somebody could be left out of it again.
                    let nameless = |(number, peer): (usize, Peer)| match peer.node == node_name(by) {
                        true => peer,
                        false => Peer { node: format!("somebody{number}").parse().expect("a name"), ..peer },
                    };
                    let counted = known.peers.into_iter().flatten().enumerate().map(nameless).collect();
                    let now = told.clusters.get_mut(&cluster).expect("it was learned");
                    (now.peers, now.alive) = (Some(counted), known.alive);
                }
            }
            Question::Config(name) => {
                let config = self.config(&name);
                self.nodes[number].told.clusters.entry(name).or_default().config = Some(config);
            }
            Question::Peers(cluster) => {
                let peers = match self.mutation {
                    Mutation::StaleRead => self.peers_in(&cluster, |number| self.at_first[number].clone()),
                    _ => self.peers(&cluster),
                };
                let alive = self.alive();
                let known = self.nodes[number].told.clusters.entry(cluster).or_default();
                (known.peers, known.alive) = (Some(peers), alive);
            }
        }
    }

    fn apply(&mut self, number: usize, effect: Effect) {
        match effect {
            Effect::Save(noted) => self.nodes[number].host.record = Some(noted),
            Effect::Drain => {
                let before = self.nodes[number].entry.clone();
                if let Some(entry) = &mut self.nodes[number].entry {
                    entry.drained = true;
                }
                self.lost(number, before.as_ref());
            }
            Effect::Stop => {
                let serving = self.nodes[number].entry.clone().filter(|entry| !entry.drained && self.is_up(number));
                let host = &mut self.nodes[number].host;
                (host.told_to_run, host.running) = (false, None);
                self.lost(number, serving.as_ref());
            }
            Effect::Write(spec) => self.nodes[number].host.files = Some(spec),
            Effect::Start => {
                let spec = self.nodes[number].host.files.expect("started without files");
                let host = &mut self.nodes[number].host;
                (host.told_to_run, host.running) = (true, Some(spec));
                if self.bad.contains(&spec.version) {
                    let tried = self.tried.entry(spec).or_default();
                    tried.insert(number);
                    if tried.len() > 1 && !self.excused {
                        self.violation = Some("two nodes tried what fails");
                    }
                }
                if self.mutation == Mutation::LeaveEarly {
                    for leases in self.leases.values_mut() {
                        *leases = leases.changed(|leases| drop(leases.down.remove(&node_name(number))));
                    }
                }
            }
            Effect::Judge(spec) => {
                let is_good = !self.bad.contains(&spec.version);
                let noted = self.nodes[number].host.record.as_mut().expect("it was noted before");
                if is_good {
                    (noted.healthy, noted.converging) = (Some(spec), None);
                    noted.failed.remove(&spec);
                } else {
                    noted.failed.insert(spec, false);
                }
            }
            Effect::RemoveService => self.nodes[number].host.files = None,
            Effect::RemoveRecord => self.nodes[number].host.record = None,
        }
    }

    /// An instance that was in service is not any more, by a step of ours: enough others have to be.
    fn lost(&mut self, number: usize, entry: Option<&Entry>) {
        let Some(entry) = entry.filter(|entry| !entry.drained) else { return };
        let cluster = entry.spec.cluster;
        let left = (0..self.nodes.len()).filter(|other| *other != number && self.serves(*other, cluster)).count();
        let (_, min_nodes, _) = self.intent.clusters.get(&cluster).copied().unwrap_or_default();
        let was_up = self.is_up(number) || self.nodes[number].host.running.is_none();
        if was_up && left < usize::try_from(min_nodes).expect("it is small") && !self.excused {
            self.violation = Some("fewer than min_nodes are passing");
        }
    }

    /// What is wrong with the world if nothing more happens in it.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let is_busy = |(number, node): (usize, &Node)| {
            !node.is_dead && (!node.todo.is_empty() || node.wanted != self.intent.of(number))
        };
        let goes_on = !self.budget.changes.is_empty() || self.nodes.iter().enumerate().any(is_busy);
        if goes_on || !self.actions().iter().all(|action| matches!(action, Action::Die(_) | Action::Kill(_))) {
            return None;
        }
        let mut wrong = Vec::new();
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_dead) {
            let wanted = self.intent.of(number);
            let in_service = node.entry.as_ref().filter(|_| self.is_up(number));
            let serves = in_service.filter(|entry| entry.check && !entry.drained).map(|entry| entry.spec);
            let name = node_name(number);
            let leased = self.leases.values().any(|leases| leases.down.contains_key(&name));
            let holds = wanted.is_some_and(|wanted| {
                let leases = self.leases.get(&cluster(wanted.cluster));
                leases.is_some_and(|leases| leases.held(&wanted.digest(), "").is_some())
            });
            if serves != wanted && !holds {
                wrong.push(format!("{name} serves {serves:?}, not {wanted:?}"));
            }
            let had_one = node.host.record.as_ref().is_some_and(|noted| noted.healthy.is_some());
            if holds && had_one && serves.is_none() {
                wrong.push(format!("{name} holds what failed and serves nothing"));
            }
            if leased && (had_one || node.host.record.is_none()) {
                wrong.push(format!("{name} is left in the leases"));
            }
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}
