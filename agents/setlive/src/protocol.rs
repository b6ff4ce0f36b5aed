//! The part that one node takes in its cluster: when it may take its instance down, and when it is back.
//!
//! [`step`] is a pure function from what intent wants, what is seen on this host and what the store told in this attempt,
//! to the next thing to do: ask the store something, change something there, act on the host, or wait. Whoever calls it
//! does that one thing and calls it again. Ensures, together with all other nodes that do the same: while no instance fails
//! by itself, as many as `min_nodes` are passing; a definition that fails is tried by one node. Assumes that questions are
//! answered by a consistent read, that leases change only by compare-and-set, and what [`Told`] says about the order.

use std::collections::{BTreeMap, BTreeSet};

use store::lease::{Down, FailedDigest, Leases};
use store::{ClusterName, Gather, NodeName, Version};

use crate::decide::{Decision, Goal, Permission, Seen, candidates, decide, serves};
use crate::definition::{Definition, Digest};
use crate::record::{Failure, Record};

/// Who takes the step, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Us {
    pub(crate) node: NodeName,
    /// What the store calls this host.
    pub(crate) host: String,
    /// In UTC, for people: `2026-11-22T03:14:08Z`.
    pub(crate) now: String,
}

/// What the store told in this attempt, and what was asked here. Forgotten as soon as something was done that may have
/// changed it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Told {
    /// How this node is registered; `Some(None)` when it is not.
    pub(crate) own: Option<Option<Own>>,
    pub(crate) clusters: BTreeMap<ClusterName, Cluster>,
    /// Whether what runs here passes its check, as seen on this host.
    pub(crate) is_well: Option<bool>,
    /// The store did not answer one of the questions.
    pub(crate) away: bool,
}

/// What was told of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Cluster {
    pub(crate) leases: Option<Leases>,
    /// Read after `leases`, or what had failed of a version that was active until just now might be missing from them.
    pub(crate) config: Option<Config>,
    /// Read after `leases`, or whoever was passing then may have taken a lease since and go down.
    pub(crate) peers: Option<Vec<Peer>>,
    /// Of the hosts that leases name, those that are alive. Comes with `peers`.
    pub(crate) alive: BTreeSet<String>,
}

/// What matters of a cluster's config. What is not there asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Config {
    pub(crate) active: Option<Version>,
    pub(crate) min_nodes: u32,
}

/// An instance of the cluster, as the store shows it to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) node: NodeName,
    pub(crate) digest: String,
    pub(crate) passing: bool,
}

/// How this node's instance is registered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Own {
    /// As what runs here and how that is checked, not as something that ran before.
    pub(crate) is_current: bool,
    pub(crate) check_passes: bool,
    /// Out of service, and by us.
    pub(crate) is_drained: bool,
}

impl Told {
    /// Leases were read: whatever was told before may be different by now.
    pub(crate) fn learn(&mut self, cluster: &ClusterName, leases: Leases) {
        self.clusters.insert(cluster.clone(), Cluster { leases: Some(leases), ..Cluster::default() });
        self.is_well = None;
    }

    /// Leases were written, or somebody else was faster.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) {
        self.clusters.remove(cluster);
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Step {
    Ask(Question),
    /// Change a cluster's leases from what was told to this, by compare-and-set.
    Write(ClusterName, Leases),
    /// Note on this host, before the leases are changed or once nothing is owed any more.
    Note(Box<Record>),
    /// Note that this node may come to be in a cluster's leases, before it does.
    NoteAsked(ClusterName),
    /// Tell the store what runs here.
    Register,
    /// Tell the store how that is, which it cannot find out by itself.
    Report,
    /// Lift the maintenance that was ours.
    Undrain,
    Deregister,
    /// Change the host, or end the attempt as the decision says.
    Act(Decision),
    /// End the attempt: others have to do something first.
    Wait(Wait),
    /// End the attempt: a definition failed on another node.
    Held(Box<FailedDigest>),
    /// End the attempt: nothing more can be done without the store.
    Away,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// How are we registered?
    Own,
    Leases(ClusterName),
    Config(ClusterName),
    /// Who passes?
    Peers(ClusterName),
    /// Does what runs here pass its check, as seen on this host?
    IsWell,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) reason: Reason,
    /// Whose leases or health has to change first.
    pub(crate) on: ClusterName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Another node tries the definition first.
    Trial { node: NodeName, down: Down },
    /// Too few others are passing.
    Minimum { passing: usize, instances: usize, min_nodes: u32, down: BTreeMap<NodeName, Down> },
    /// The store does not show our own instance passing yet.
    Check,
    /// The active version is another by now; we shall be told.
    Overtaken,
}

/// The next step of this node for one app.
pub(crate) fn step(us: &Us, goal: &Goal, seen: &Seen, told: &Told) -> Step {
    let decision = decide(goal, seen);
    if seen.alone {
        return Step::Act(decision);
    }
    if let Some(step) = publish(us, goal, seen, told).or_else(|| reconsider(us, goal, &decision, seen, told)) {
        return step;
    }
    match places(goal, &decision, seen) {
        Ok(places) if places.is_empty() => back(us, decision, seen, told),
        Ok(places) => match together(places.iter().map(|place| place.may(us, seen, told)).collect()) {
            May::Go => Step::Act(decision),
            May::Step(step) => *step,
            May::Not(reason) => barred(us, seen, told, *reason),
        },
        Err(NothingToAsk) => Step::Act(decision),
    }
}

/// What several places come to: nothing is changed in one of them before it is known that no other says no.
fn together(answers: Vec<May>) -> May {
    let is_no = |may: &May| matches!(may, May::Not(_));
    let asks = |may: &May| matches!(may, May::Step(step) if matches!(**step, Step::Ask(_)));
    let changes = |may: &May| *may != May::Go;
    let which =
        [&is_no as &dyn Fn(&May) -> bool, &asks, &changes].into_iter().find_map(|is| answers.iter().position(is));
    which.map_or(May::Go, |index| answers.into_iter().nth(index).expect("it was found there"))
}

/// What the wanted definition's way is barred by, while the last healthy one runs, or is brought back first.
fn barred(us: &Us, seen: &Seen, told: &Told, reason: Step) -> Step {
    match decide(&Goal::Barred, seen) {
        Decision::Wait(_) => stand(us, seen, told).unwrap_or(reason),
        otherwise @ Decision::Recheck(..) => give_up(us, seen, told).unwrap_or(Step::Act(otherwise)),
        otherwise => Step::Act(otherwise),
    }
}

/// Nothing that needs to be asked for is to be done: what is owed to the store, if anything, and then the decision.
fn back(us: &Us, decision: Decision, seen: &Seen, told: &Told) -> Step {
    match decision {
        Decision::Converged | Decision::Wait(_) | Decision::Refuse(_) | Decision::FellBack { .. } => {
            stand(us, seen, told).unwrap_or(Step::Act(decision))
        }
        Decision::Recheck(..) => give_up(us, seen, told).unwrap_or(Step::Act(decision)),
        Decision::Clear => gone(us, seen, told).unwrap_or(Step::Act(decision)),
        decision => Step::Act(decision),
    }
}

// --- permission ----------------------------------------------------------------------------------------------------

/// What a cluster has to allow.
struct Place<'a> {
    cluster: &'a ClusterName,
    /// What is to be tried there; `None` when this node leaves the cluster.
    to: Option<&'a Definition>,
    /// Something is stopped that others may count on.
    serves: bool,
}

/// It is done whatever the cluster says.
struct NothingToAsk;

#[derive(PartialEq)]
enum May {
    Go,
    /// First this.
    Step(Box<Step>),
    /// Not now, for this reason.
    Not(Box<Step>),
}

/// The clusters that have to allow what was decided, in the order in which they are asked: first the one that loses an
/// instance, since whoever waits there shall not keep others from trying meanwhile.
fn places<'a>(goal: &Goal, decision: &'a Decision, seen: &'a Seen) -> Result<Vec<Place<'a>>, NothingToAsk> {
    let runs_in = seen.record.as_ref().map(|record| &record.cluster);
    match decision {
        Decision::Replace { permission: Permission::Given, .. }
        | Decision::HandOver { permission: Permission::Given, .. } => Err(NothingToAsk),
        Decision::Replace { to, permission, .. } | Decision::HandOver { to, permission, .. } => {
            let serves = *permission == Permission::Needed;
            let left = runs_in.filter(|cluster| serves && **cluster != to.cluster);
            let leaves = left.map(|cluster| Place { cluster, to: None, serves: true });
            let tries = Place { cluster: &to.cluster, to: Some(to), serves: serves && left.is_none() };
            Ok(leaves.into_iter().chain([tries]).collect())
        }
        Decision::Remove { .. } if matches!(goal, Goal::Nothing { heeds_minimum: true, .. }) && serves(seen) => {
            Ok(runs_in.into_iter().map(|cluster| Place { cluster, to: None, serves: true }).collect())
        }
        Decision::Remove { .. } => Err(NothingToAsk),
        _ => Ok(Vec::new()),
    }
}

impl Place<'_> {
    fn may(&self, us: &Us, seen: &Seen, told: &Told) -> May {
        if told.away {
            return May::Not(Box::new(Step::Away));
        }
        let cluster = || self.cluster.clone();
        let ask = |question| May::Step(Box::new(Step::Ask(question)));
        let not = |reason| May::Not(Box::new(Step::Wait(Wait { reason, on: cluster() })));
        let nothing = Cluster::default();
        let known = told.clusters.get(self.cluster).unwrap_or(&nothing);
        let Some(leases) = &known.leases else { return ask(Question::Leases(cluster())) };
        let digest = self.to.map(|to| to.digest().as_str().to_owned());
        if let (Some(digest), Some(to)) = (&digest, self.to)
            && let Some(failed) = leases.held(digest, &to.check())
        {
            return May::Not(Box::new(Step::Held(Box::new(failed.clone()))));
        }
        let ours = leases.down.get(&us.node);
        let is_given = ours.is_some_and(|down| down.to == digest);
        if is_given && !self.serves {
            return May::Go;
        }
        let Some(config) = &known.config else { return ask(Question::Config(cluster())) };
        if self.to.is_some_and(|to| config.active.as_ref() != Some(&to.version)) {
            return not(Reason::Overtaken);
        }
        let Some(peers) = &known.peers else { return ask(Question::Peers(cluster())) };
        let is_proven =
            digest.is_none() || peers.iter().any(|peer| peer.passing && Some(&peer.digest) == digest.as_ref());
        let tries = |(node, down): &(&NodeName, &Down)| {
            **node != us.node && down.to == digest && known.alive.contains(&down.host)
        };
        if !is_proven && let Some((node, down)) = leases.down.iter().find(tries) {
            return not(Reason::Trial { node: node.clone(), down: down.clone() });
        }
        // Also of one that was given leave when nothing ran here: what has come back since counts for the minimum.
        if self.serves {
            let counts = |peer: &&Peer| peer.passing && peer.node != us.node && !leases.down.contains_key(&peer.node);
            // A node that Consul knows by two hosts counts once.
            let available = peers.iter().filter(counts).map(|peer| &peer.node).gather::<BTreeSet<_>>().len();
            // Where no version is active none is to be kept.
            let min_nodes = config.active.as_ref().map_or(0, |_| config.min_nodes);
            let is_enough = available >= usize::try_from(min_nodes).unwrap_or(usize::MAX);
            let is_shown = peers.iter().any(|peer| peer.passing && peer.node == us.node);
            if !is_enough && !is_shown && told.is_well.is_none() {
                return ask(Question::IsWell);
            }
            // Nobody counts on what fails here and is shown to fail, and perhaps only its replacement heals it.
            let fails = !is_shown && told.is_well == Some(false);
            if !is_enough && !fails {
                let (passing, instances) = (peers.iter().filter(|peer| peer.passing).count(), peers.len());
                let down = leases.down.clone();
                return not(Reason::Minimum { passing, instances, min_nodes, down });
            }
        }
        // Nobody counts on what does not serve, so that all there may be to wait for is whether it works.
        if is_given || !self.serves && is_proven && ours.is_none() {
            return May::Go;
        }
        if !seen.record.as_ref().is_some_and(|record| record.asked.contains(self.cluster)) {
            return May::Step(Box::new(Step::NoteAsked(cluster())));
        }
        let why = self.to.map_or("leaves".to_owned(), |to| format!("replaced by {}", to.version));
        let entry = Down { to: digest, since: us.now.clone(), why, host: us.host.clone() };
        let next = leases.changed(|leases| {
            leases.down.insert(us.node.clone(), entry);
            leases.failed.retain(|_, failed| config.active.as_ref() == Some(&failed.version));
        });
        May::Step(Box::new(Step::Write(cluster(), next)))
    }
}

impl Failure {
    fn told_by(&self, us: &Us) -> FailedDigest {
        FailedDigest {
            version: self.version.clone(),
            node: us.node.clone(),
            reason: self.reason.clone(),
            at: us.now.clone(),
            log: self.log.clone(),
            check: self.check(),
            retry: None,
        }
    }
}

// --- failures ------------------------------------------------------------------------------------------------------

/// What failed here is told to the others, before anything else if the store can be asked.
fn publish(us: &Us, goal: &Goal, seen: &Seen, told: &Told) -> Option<Step> {
    let record = seen.record.as_ref()?;
    let cluster = |digest: &Digest| failed_in(digest, goal, record);
    let first = record.failed.iter().find(|(_, failure)| !failure.is_published);
    let cluster_of_first = cluster(first.filter(|_| !told.away)?.0);
    let is_next = |digest: &Digest, failure: &Failure| !failure.is_published && cluster(digest) == cluster_of_first;
    let unpublished = record.failed.iter().filter(|(digest, failure)| is_next(digest, failure));
    let unpublished = unpublished.map(|(digest, failure)| (digest.as_str().to_owned(), failure)).collect::<Vec<_>>();
    let leases = match told.clusters.get(cluster_of_first).and_then(|known| known.leases.as_ref()) {
        None => return Some(Step::Ask(Question::Leases(cluster_of_first.clone()))),
        Some(leases) => leases,
    };
    let is_told = |(digest, failure): &(String, &Failure)| {
        leases.failed.get(digest).is_some_and(|told| {
            told.node == us.node
                && told.retry.is_none()
                && told.check == failure.check()
                && told.reason == failure.reason
        })
    };
    if unpublished.iter().all(is_told) {
        let mut told = record.clone();
        let failed = told.failed.iter_mut().filter(|(digest, failure)| is_next(digest, failure));
        failed.for_each(|(_, failure)| failure.is_published = true);
        return Some(Step::Note(Box::new(told)));
    }
    let next = leases.changed(|leases| {
        leases.failed.extend(unpublished.into_iter().map(|(digest, failure)| (digest, failure.told_by(us))));
    });
    Some(Step::Write(cluster_of_first.clone(), next))
}

/// Where the others are that might try it, too: not where this node is any more once it went back to another cluster.
pub(crate) fn failed_in<'a>(digest: &Digest, goal: &'a Goal, record: &'a Record) -> &'a ClusterName {
    let at_hand = candidates(goal, Some(record)).into_iter().find(|definition| definition.digest() == *digest);
    at_hand.map_or(&record.cluster, |definition| &definition.cluster)
}

/// A failure that this node keeps to is one that the cluster keeps to: until an operator lets it be tried again, or its
/// version is no longer active.
fn reconsider(us: &Us, goal: &Goal, decision: &Decision, seen: &Seen, told: &Told) -> Option<Step> {
    let record = seen.record.as_ref()?;
    let digests = match decision {
        Decision::FellBack { digest, .. } => BTreeSet::from([digest.clone()]),
        Decision::Recheck(to, _) => BTreeSet::from([to.digest()]),
        Decision::Forget(digests) => digests.clone(),
        _ => return None,
    };
    let published = |digest: &&Digest| record.failed.get(digest).is_some_and(|failure| failure.is_published);
    let digests = digests.iter().filter(published).cloned().gather::<BTreeSet<_>>();
    let cluster = failed_in(digests.first().filter(|_| !told.away)?, goal, record);
    let known = told.clusters.get(cluster);
    let Some(leases) = known.and_then(|known| known.leases.as_ref()) else {
        return Some(Step::Ask(Question::Leases(cluster.clone())));
    };
    let entry = |digest: &Digest| leases.failed.get(digest.as_str());
    if matches!(decision, Decision::Forget(_)) {
        let ours = |digest: &&Digest| entry(digest).is_some_and(|failed| failed.node == us.node);
        let past = digests.iter().filter(ours).map(|digest| digest.as_str().to_owned()).gather::<BTreeSet<_>>();
        if past.is_empty() {
            return None;
        }
        // Perhaps we are the last to hear of a version that is active again.
        let Some(config) = known.and_then(|known| known.config.as_ref()) else {
            return Some(Step::Ask(Question::Config(cluster.clone())));
        };
        let next = leases.changed(|leases| {
            leases
                .failed
                .retain(|digest, failed| !past.contains(digest) || config.active.as_ref() == Some(&failed.version));
        });
        let changes = next.failed != leases.failed;
        return changes.then(|| Step::Write(cluster.clone(), next));
    }
    if let Some(released) = digests.iter().find(|digest| entry(digest).is_some_and(|failed| failed.retry.is_some())) {
        return Some(Step::Act(Decision::Forget([released.clone()].into())));
    }
    // The store lost its keys, and nobody else knows any more.
    let is_lost = digests.iter().any(|digest| entry(digest).is_none());
    is_lost.then(|| {
        let mut record = record.clone();
        record.failed.values_mut().for_each(|failure| failure.is_published = false);
        Step::Note(Box::new(record))
    })
}

// --- back ----------------------------------------------------------------------------------------------------------

/// What is left to do before what runs here counts again. `None` when nothing is.
fn stand(us: &Us, seen: &Seen, told: &Told) -> Option<Step> {
    let record = seen.record.as_ref().filter(|record| record.is_owing() && record.converging.is_none())?;
    if told.away {
        return Some(Step::Away);
    }
    if record.unregistered {
        let Some(own) = &told.own else { return Some(Step::Ask(Question::Own)) };
        match own {
            // It was removed, and is wanted again, but may not be run yet.
            Some(_) if record.healthy.is_none() => return Some(Step::Deregister),
            None if record.healthy.is_none() => {}
            Some(own) if !own.is_current => return Some(Step::Register),
            None => return Some(Step::Register),
            Some(own) if !own.check_passes => return Some(Step::Report),
            Some(own) if own.is_drained => return Some(Step::Undrain),
            Some(_) => {}
        }
    }
    Some(leave(us, record, told).unwrap_or_else(|| Step::Note(Box::new(record.clone().settled()))))
}

/// Where nothing works, out of the leases for what was not begun, and for what an operator lets be tried again, when this node
/// is to run something else by now: others may be waiting to try that.
fn give_up(us: &Us, seen: &Seen, told: &Told) -> Option<Step> {
    let record = seen.record.as_ref().filter(|_| !told.away)?;
    let begun = record.converging.as_ref().map(|begun| begun.digest().as_str().to_owned());
    let nothing = Cluster::default();
    record.asked.iter().find_map(|cluster| {
        let known = told.clusters.get(cluster).unwrap_or(&nothing);
        let Some(leases) = &known.leases else { return Some(Step::Ask(Question::Leases(cluster.clone()))) };
        let failed = begun.as_ref().and_then(|digest| leases.failed.get(digest));
        let is_released = failed.is_some_and(|failed| failed.retry.is_some());
        let is_left = leases.down.get(&us.node).is_some_and(|down| down.to != begun || is_released);
        is_left.then(|| Step::Write(cluster.clone(), without(us, leases)))
    })
}

/// What is left to do before nothing reminds of this node any more.
fn gone(us: &Us, seen: &Seen, told: &Told) -> Option<Step> {
    let record = seen.record.as_ref()?;
    if told.away {
        return Some(Step::Away);
    }
    match &told.own {
        None => Some(Step::Ask(Question::Own)),
        Some(Some(_)) => Some(Step::Deregister),
        Some(None) => leave(us, record, told),
    }
}

/// Out of all leases. Where an instance went down and stays it has to pass for everybody first: until then others may have
/// seen it pass before it went down.
fn leave(us: &Us, record: &Record, told: &Told) -> Option<Step> {
    let nothing = Cluster::default();
    for cluster in &record.asked {
        let known = told.clusters.get(cluster).unwrap_or(&nothing);
        let Some(leases) = &known.leases else { return Some(Step::Ask(Question::Leases(cluster.clone()))) };
        if !leases.down.contains_key(&us.node) {
            continue;
        }
        if record.unregistered && record.healthy.is_some() && *cluster == record.cluster {
            let Some(peers) = &known.peers else { return Some(Step::Ask(Question::Peers(cluster.clone()))) };
            if !peers.iter().any(|peer| peer.node == us.node && peer.passing) {
                return Some(Step::Wait(Wait { reason: Reason::Check, on: cluster.clone() }));
            }
        }
        // What failed at first and is healthy after all has not failed; who was told so may try it.
        let passes = record.healthy.as_ref().map(Definition::digest);
        let is_past = |digest: &str, failed: &FailedDigest| {
            failed.node == us.node && passes.as_ref().is_some_and(|passes| passes.as_str() == digest)
        };
        let mut next = without(us, leases);
        next.failed.retain(|digest, failed| !is_past(digest, failed));
        return Some(Step::Write(cluster.clone(), next));
    }
    None
}

fn without(us: &Us, leases: &Leases) -> Leases {
    leases.changed(|leases| drop(leases.down.remove(&us.node)))
}

#[cfg(test)]
mod fleet;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod situations;
#[cfg(test)]
mod tests;
