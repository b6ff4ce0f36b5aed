//! A host with one service: what its agent sees there, and what the agent's steps do to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use store::ClusterName;
use store::lease::{FailedDigest, Leases};

use super::intent::{Spec, Wanted, cluster_name, cluster_number, node_name};
use crate::decide::{Decision, Goal, Owner, Part, Seen, Service};
use crate::definition::Definition;
use crate::protocol::{Question, Reason, Step, Us, Wait};
use crate::record::{Failure, Record};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Host {
    pub(super) record: Option<Noted>,
    /// What the files on disk are rendered from.
    pub(super) files: Option<Spec>,
    pub(super) told_to_run: bool,
    /// What the running process was started from.
    pub(super) running: Option<Spec>,
    /// It runs, and serves nobody, until it is started anew.
    pub(super) is_sick: bool,
}

/// A record, in few bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Noted {
    pub(super) cluster: u8,
    has_service: bool,
    pub(super) healthy: Option<Spec>,
    pub(super) converging: Option<Spec>,
    /// And whether that was published.
    pub(super) failed: BTreeMap<Spec, bool>,
    pub(super) asked: BTreeSet<u8>,
    pub(super) unregistered: bool,
}

/// One change of a host, as `act` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Effect {
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

/// What a step comes to for the world.
#[derive(Clone)]
pub(super) enum Next {
    Question(Question),
    Write(ClusterName, Leases),
    Note(Noted),
    Effects(Vec<Effect>),
    Register,
    /// Only the check can help.
    AwaitCheck,
    Undrain,
    Deregister,
    /// Nothing, until something changes.
    Idle,
}

impl Host {
    /// One that runs this, and is done with it.
    pub(crate) fn running(spec: Spec) -> Self {
        let noted = Noted { cluster: spec.cluster, has_service: true, healthy: Some(spec), ..Noted::default() };
        Self { record: Some(noted), files: Some(spec), told_to_run: true, running: Some(spec), is_sick: false }
    }

    pub(super) fn healthy(&self) -> Option<Spec> {
        self.record.as_ref()?.healthy
    }

    /// Nothing was begun, and nothing is owed to the store.
    pub(super) fn is_settled(&self) -> bool {
        self.record.as_ref().is_none_or(|noted| noted.converging.is_none() && !noted.record().is_owing())
    }

    pub(super) fn seen(&self, wanted: Wanted) -> (Goal, Seen) {
        let service = match (&self.files, self.told_to_run, &self.running) {
            (None, ..) => Service::Absent,
            (_, false, _) => Service::Stopped,
            (_, true, Some(_)) => Service::Running { pid: 7 },
            (_, true, None) => Service::Failing,
        };
        let record = self.record.as_ref().map(Noted::record);
        let goal = wanted.goal();
        let known = record.iter().flat_map(|record| record.healthy.iter().chain(&record.converging));
        let wanted = match &goal {
            Goal::Run(wanted) => Some(wanted),
            Goal::Unprepared { .. } | Goal::Unusable { .. } | Goal::Nothing { .. } | Goal::Barred | Goal::Finish => {
                None
            }
        };
        let seen = Seen {
            services: [("slug".to_owned(), service)].into(),
            on_disk: self.files.iter().map(|spec| spec.definition().digest()).collect(),
            installed: known.chain(wanted).map(Definition::digest).collect(),
            owner: Owner::Us,
            alone: false,
            adopt: false,
            part: Part::None,
            record,
        };
        (goal, seen)
    }

    fn noted(&self, cluster: u8) -> Noted {
        self.record.clone().unwrap_or(Noted { cluster, ..Noted::default() })
    }

    /// What a step does, in the order in which `act` does it.
    pub(super) fn next(&self, step: Step) -> Next {
        match step {
            Step::Ask(question) => Next::Question(question),
            Step::Write(cluster, leases) => Next::Write(cluster, leases),
            Step::Note(record) => Next::Note(self.noted(0).after(&record)),
            Step::NoteAsked(name) => {
                let asked = cluster_number(&name);
                let mut noted = self.noted(asked);
                noted.asked.insert(asked);
                Next::Note(noted)
            }
            Step::Register => Next::Register,
            Step::Report | Step::Wait(Wait { reason: Reason::Check, .. }) => Next::AwaitCheck,
            Step::Undrain => Next::Undrain,
            Step::Deregister => Next::Deregister,
            Step::Wait(_) | Step::Held(_) | Step::Away => Next::Idle,
            Step::Act(decision) => self.effects(decision).map_or(Next::Idle, Next::Effects),
        }
    }

    fn effects(&self, decision: Decision) -> Option<Vec<Effect>> {
        Some(match decision {
            Decision::Converged | Decision::Wait(_) | Decision::FellBack { .. } | Decision::Recheck(..) => return None,
            Decision::Forget(digests) => {
                let mut noted = self.noted(0);
                noted.failed.retain(|spec, _| !digests.iter().any(|digest| digest.as_str() == spec.digest()));
                vec![Effect::Save(noted)]
            }
            Decision::Start(_) => vec![Effect::Start],
            Decision::AwaitHealth(to) => vec![Effect::Judge(Spec::of(&to))],
            Decision::Repair(to) => vec![Effect::Write(Spec::of(&to))],
            Decision::Replace { to, .. } => {
                let noted = self.noted(cluster_number(&to.cluster));
                let begun = noted.after(&noted.record().begun(&to));
                let to = Spec::of(&to);
                let effects = [
                    Effect::Save(begun),
                    Effect::Drain,
                    Effect::Stop,
                    Effect::Write(to),
                    Effect::Start,
                    Effect::Judge(to),
                ];
                effects.into()
            }
            Decision::Remove { .. } => {
                let noted = self.noted(0);
                let emptied = noted.after(&noted.record().emptied());
                vec![Effect::Drain, Effect::Stop, Effect::RemoveService, Effect::Save(emptied)]
            }
            Decision::Clear => vec![Effect::RemoveRecord],
            Decision::Refuse(_)
            | Decision::Adopt
            | Decision::Note(_)
            | Decision::HandOver { .. }
            | Decision::Finish(_)
            | Decision::RemoveServices(_) => {
                unreachable!("nothing here leads to that: {decision:?}")
            }
        })
    }
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
        record.asked = self.asked.iter().map(|number| cluster_name(*number)).collect();
        record.unregistered = self.unregistered;
        record
    }

    /// What it would look like in the leases.
    pub(super) fn published(&self, number: usize) -> BTreeMap<String, FailedDigest> {
        let us = Us { node: node_name(number), host: String::new(), now: "now".to_owned() };
        let failed = self.record().failed.into_iter();
        failed.map(|(digest, failure)| (digest.as_str().to_owned(), failure.told_by(&us))).collect()
    }

    /// Once it turned out whether this is healthy.
    pub(super) fn judged(mut self, spec: Spec, is_good: bool) -> Self {
        if is_good {
            return self.after(&self.record().arrived(&spec.definition()));
        }
        self.failed.insert(spec, false);
        self
    }

    /// What became of this record.
    fn after(&self, record: &Record) -> Self {
        let known = self.failed.keys().chain(&self.converging).chain(&self.healthy);
        let by_digest = known.map(|spec| (spec.digest(), *spec)).collect::<HashMap<_, _>>();
        let failed = record.failed.iter();
        Self {
            cluster: cluster_number(&record.cluster),
            has_service: !record.services.is_empty(),
            healthy: record.healthy.as_ref().map(Spec::of),
            converging: record.converging.as_ref().map(Spec::of),
            failed: failed.map(|(digest, failure)| (by_digest[digest.as_str()], failure.is_published)).collect(),
            asked: record.asked.iter().map(cluster_number).collect(),
            unregistered: record.unregistered,
        }
    }
}
