//! What to do about one app: a pure function from what intent wants, what was recorded and what was seen.
//!
//! The host is in one of few states, and each has one answer. An agent acts on the answer, looks again, and is done
//! when the answer is one that leaves the host as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use converge::Source;
use store::{Gather, NodeName, Version};

use crate::definition::{Definition, Digest};
use crate::record::{Failure, Record};

/// What intent comes to on this host.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Goal {
    /// Run this.
    Run(Definition),
    /// Run this version, of which the install is not there yet.
    Unprepared { version: Version, install: PathBuf },
    /// Run something that cannot be run, for this reason.
    Unusable { reason: String },
    /// Run nothing: no version is active, or the app has left this node for good. The cluster's minimum is heeded where its
    /// other nodes go on.
    Nothing { why: &'static str, heeds_minimum: bool },
    /// What is wanted may not be run yet: run what was healthy.
    Barred,
    /// What is wanted is not known: finish what was begun, if anything was.
    Finish,
}

/// What was seen of the app on this host.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Seen {
    pub(crate) record: Option<Record>,
    /// Every service that is recorded or that a definition at hand names.
    pub(crate) services: BTreeMap<String, Service>,
    /// Those of the definitions at hand that the files and links on disk are rendered from.
    pub(crate) on_disk: BTreeSet<Digest>,
    /// Those of the definitions at hand whose installs are there.
    pub(crate) installed: BTreeSet<Digest>,
    /// Whose the record is.
    pub(crate) owner: Owner,
    /// There is nobody to agree with: intent is not in a store that others share.
    pub(crate) alone: bool,
    /// An operator says that what is another's shall be ours.
    pub(crate) adopt: bool,
    /// What this agent is in the app.
    pub(crate) part: Part,
}

/// What the agent that decides is in the app that it decides about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Part {
    #[default]
    None,
    /// One of its programs, which somebody started by hand.
    Program,
    /// The program of this service.
    Service(String),
}

/// Who wrote a record, from where we stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Owner {
    #[default]
    Us,
    /// Another node's name, on this host.
    Node(NodeName),
    /// `pt-direct` when we follow a store, and the other way round.
    Source(Source),
}

/// One runit service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// No link and no staged directory of this name.
    Absent,
    /// There, but runsv is not: not looked after yet, or no more.
    Unsupervised,
    /// Down, or about to be, because it was told to.
    Stopped,
    /// Told to run, but at this moment it does not.
    Failing,
    Running {
        pid: i32,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// The host is as it shall be.
    Converged,
    /// Somebody else has to do something first.
    Wait(String),
    /// This cannot go on without a person.
    Refuse(String),
    /// Note that what another made and runs is ours from now on: restart nothing.
    Adopt,
    /// Some failure is remembered of a version that is no longer active: it may be tried again.
    Forget(BTreeSet<Digest>),
    /// What runs is right, the files are not: write them, restart nothing.
    Repair(Definition),
    /// Only the way to judge or stop it changed: note that, restart nothing.
    Note(Definition),
    /// The right definition is in place and does not run: start it. Nothing is replaced.
    Start(Definition),
    /// It was started and nobody knows yet whether it is healthy.
    AwaitHealth(Definition),
    /// It has failed and there is nothing to go back to: leave it started, and see whether it recovered.
    Recheck(Definition, Failure),
    /// Stop what runs and start this.
    Replace { from: Option<Definition>, to: Definition, permission: Permission },
    /// As [`Decision::Replace`], of the app of which this agent is the service of that name: have the finisher do it.
    HandOver { from: Definition, to: Definition, permission: Permission, service: String },
    /// The finisher is at it: see that it is there.
    Finish(Definition),
    /// These services belong to no definition any more.
    RemoveServices(BTreeSet<String>),
    /// Stop the app, remove its services.
    Remove { running: Option<Definition>, why: &'static str },
    /// Nothing is left of the app: forget it.
    Clear,
    /// What is wanted has failed here, so the last healthy definition runs instead.
    FellBack { digest: Digest, failure: Failure, running: Definition },
}

/// Whether the cluster has to allow that this node's instance goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// It may be serving.
    Needed,
    /// This node sees it down.
    NotNeeded,
    /// It was given for what was begun; nobody has to allow the way back from there either.
    Given,
}

/// Decides. See [`Decision`] for what each answer stands for.
pub(crate) fn decide(goal: &Goal, seen: &Seen) -> Decision {
    if let Some(decision) = of_another(goal, seen) {
        return decision;
    }
    if let Some(decision) = under_way(goal, seen) {
        return decision;
    }
    if let Some(reason) = in_the_way(goal, seen) {
        return Decision::Refuse(reason);
    }
    as_part(whole(goal, seen), seen)
}

/// What a finisher was begun for is finished, whatever else is wanted by now; unless somebody from outside takes all of it
/// away.
fn under_way(goal: &Goal, seen: &Seen) -> Option<Decision> {
    let record = seen.record.as_ref().filter(|record| record.handover.is_some())?;
    let is_removed = matches!(goal, Goal::Nothing { .. }) && seen.part == Part::None;
    record.converging.clone().filter(|_| !is_removed).map(Decision::Finish)
}

/// What was decided, as far as one may do it who ends with the app: nobody would be left to start the next version.
fn as_part(decision: Decision, seen: &Seen) -> Decision {
    match (&seen.part, decision) {
        (Part::None, decision) => decision,
        (Part::Program | Part::Service(_), Decision::Remove { .. }) => {
            refuse_as_part("and does not end it: kickstart/host --remove takes the platform off a host")
        }
        (Part::Program, Decision::Replace { .. }) => refuse_as_part(
            "and was started by hand: leave it to the app's own service, or take another copy of the program",
        ),
        (Part::Service(service), Decision::Replace { to, permission, .. }) => hand_over(service, to, permission, seen),
        (Part::Program | Part::Service(_), decision) => decision,
    }
}

fn refuse_as_part(reason: &str) -> Decision {
    Decision::Refuse(format!("this agent is of that app itself, {reason}"))
}

fn hand_over(service: &str, to: Definition, permission: Permission, seen: &Seen) -> Decision {
    let record = seen.record.as_ref();
    let (healthy, begun) =
        (record.and_then(|record| record.healthy.as_ref()), record.and_then(|record| record.converging.as_ref()));
    let on_disk = |definition: &Definition| seen.on_disk.contains(&definition.digest());
    match (healthy, begun) {
        (Some(from), _) if on_disk(from) => match unfit(service, from, &to, seen) {
            Some(reason) => refuse_as_part(&reason),
            None => Decision::HandOver { from: from.clone(), to, permission, service: service.to_owned() },
        },
        // Somebody else has brought it so far that this agent runs from it.
        (_, Some(begun)) if on_disk(begun) && !has_failed(begun, seen) => Decision::AwaitHealth(begun.clone()),
        // Its files were changed, or an older agent has written them.
        (Some(from), None) => Decision::Repair(from.clone()),
        (None, _) | (Some(_), Some(_)) => refuse_as_part(
            "and no version is there to come back to: kickstart/host --remove, then kickstart/host again",
        ),
    }
}

/// Why nobody can be handed over to.
fn unfit(service: &str, from: &Definition, to: &Definition, seen: &Seen) -> Option<String> {
    let by_kickstart =
        |what: &str| format!("and {what}: kickstart/host --remove, then kickstart/host again, does that");
    let moves = ["runit", "runit-stage"].into_iter().find(|name| setting(from, name) != setting(to, name));
    let finishers = |definition: &Definition| definition.services().any(|service| service.ends_with("@finish"));
    if !seen.installed.contains(&from.digest()) {
        Some(format!("and the install of {} is gone, to which to come back", from.version))
    } else if !to.entries.contains_key(service) {
        Some(format!("and {} has no {service}, which would go on from there", to.version))
    } else if from.basedir != to.basedir {
        Some(by_kickstart("does not move to another basedir"))
    } else if let Some(name) = moves {
        Some(by_kickstart(&format!("does not find what runs here with another {name}")))
    } else if finishers(from) || finishers(to) {
        Some("and its bin/launch/finish has the name of what finishes the hand-over".to_owned())
    } else {
        None
    }
}

/// One of this agent's flags, as `--settings` has it in an app's `user_config`.
fn setting<'a>(of: &'a Definition, name: &str) -> Option<&'a serde_json::Value> {
    let own = of.user_config.get("pp-setlive").and_then(|own| own.get(name));
    own.or_else(|| of.user_config.get(name))
}

fn whole(goal: &Goal, seen: &Seen) -> Decision {
    match goal {
        Goal::Nothing { why, .. } => match &seen.record {
            None => Decision::Converged,
            Some(record) if record.is_empty() => Decision::Clear,
            Some(record) => Decision::Remove { running: record.healthy.clone(), why },
        },
        Goal::Unprepared { version, install } => {
            meanwhile(seen, Decision::Wait(format!("{version} is not prepared yet: there is no {}", install.display())))
        }
        Goal::Barred => match begun_in_earnest(seen) {
            // What would be waited for may be just that: that this one passes.
            Some(begun) => toward_or_back(begun, seen),
            None => meanwhile(seen, Decision::Wait("not yet".to_owned())),
        },
        Goal::Unusable { reason } => meanwhile(seen, Decision::Refuse(reason.clone())),
        Goal::Run(wanted) => run(wanted, seen),
        Goal::Finish => begun_in_earnest(seen).map_or(Decision::Converged, |begun| toward_or_back(begun, seen)),
    }
}

/// What was begun, unless it was only noted and what was healthy goes on.
fn begun_in_earnest(seen: &Seen) -> Option<&Definition> {
    let record = seen.record.as_ref()?;
    let goes_on = |healthy: &Definition| seen.on_disk.contains(&healthy.digest()) && runs(healthy, seen);
    let is_untouched = record.healthy.as_ref().is_some_and(goes_on);
    record.converging.as_ref().filter(|_| !is_untouched)
}

/// While what is wanted cannot be run, what ran goes on, also when a crash or a change of mind came between.
fn meanwhile(seen: &Seen, then: Decision) -> Decision {
    match seen.record.as_ref().and_then(|record| record.healthy.as_ref()) {
        None => then,
        Some(healthy) => match toward(healthy, seen) {
            Decision::Converged => then,
            other => other,
        },
    }
}

/// The definitions that may turn out to be the one to converge to: those that have to be compared with the disk.
pub(crate) fn candidates<'a>(goal: &'a Goal, record: Option<&'a Record>) -> Vec<&'a Definition> {
    let wanted = match goal {
        Goal::Run(wanted) => Some(wanted),
        Goal::Unprepared { .. } | Goal::Unusable { .. } | Goal::Nothing { .. } | Goal::Barred | Goal::Finish => None,
    };
    let recorded = record.into_iter().flat_map(|record| record.healthy.iter().chain(&record.converging));
    let mut candidates = wanted.into_iter().chain(recorded).collect::<Vec<_>>();
    // Most often what is wanted is what runs.
    candidates.dedup();
    candidates
}

/// What to do about an app that another runs here. The store has the last word: what is the same in both passes to it,
/// and is then left to it.
fn of_another(goal: &Goal, seen: &Seen) -> Option<Decision> {
    let record = seen.record.as_ref()?;
    let is = record.converging.as_ref().or(record.healthy.as_ref()).map(Definition::digest);
    // What has failed is remembered only for as long as it is wanted.
    let is_theirs = |wanted: Digest| Some(&wanted) == is.as_ref() || record.failed.contains_key(&wanted);
    let same = matches!(goal, Goal::Run(wanted) if is_theirs(wanted.digest()));
    let adopt = "or give --adopt to take it over";
    Some(match &seen.owner {
        Owner::Us => return None,
        Owner::Node(_) | Owner::Source(_) if seen.adopt => Decision::Adopt,
        Owner::Source(Source::Direct) if same => Decision::Adopt,
        Owner::Source(Source::Store) if same => Decision::Converged,
        Owner::Source(Source::Direct) => Decision::Refuse(format!(
            "pt-direct runs this app here, and not as intent says: make them the same, {adopt}"
        )),
        Owner::Source(Source::Store) => Decision::Refuse(format!(
            "the intent in a store runs this app here, and not as this file says: take it off this node there, {adopt}"
        )),
        Owner::Node(node) => {
            Decision::Refuse(format!("runs here for another node, {node}: give --node {node}, {adopt}"))
        }
    })
}

/// Why the names of services that are there cannot be used.
fn in_the_way(goal: &Goal, seen: &Seen) -> Option<String> {
    let wanted = match goal {
        Goal::Run(wanted) if !seen.adopt => wanted,
        Goal::Run(_)
        | Goal::Unprepared { .. }
        | Goal::Unusable { .. }
        | Goal::Nothing { .. }
        | Goal::Barred
        | Goal::Finish => {
            return None;
        }
    };
    let ours = |service: &str| seen.record.as_ref().is_some_and(|record| record.services.contains(service));
    let foreign = |service: &&str| !ours(service) && seen.services.get(*service) != Some(&Service::Absent);
    let service = wanted.services().find(foreign)?;
    Some(format!(
        "there is a service {service} that is not ours: remove it, or give --adopt to take it over (and restart it)"
    ))
}

fn run(wanted: &Definition, seen: &Seen) -> Decision {
    let Some(record) = &seen.record else { return toward(wanted, seen) };
    // Not the failure of what would be gone back to, or of what runs: that is news as long as it lasts.
    let here = || record.healthy.iter().chain(&record.converging);
    let is_past = |digest: &Digest, failure: &Failure| {
        let is_here = here().any(|definition| definition.digest() == *digest);
        let another = failure.version != wanted.version && !is_here;
        another || *digest == wanted.digest() && failure.health != wanted.health
    };
    let past = record.failed.iter().filter(|(digest, failure)| is_past(digest, failure));
    let past = past.map(|(digest, _)| digest.clone()).gather::<BTreeSet<_>>();
    if !past.is_empty() {
        return Decision::Forget(past);
    }
    toward_or_back(wanted, seen)
}

/// Towards `wanted`, or back to what was healthy when that has failed.
fn toward_or_back(wanted: &Definition, seen: &Seen) -> Decision {
    let Some(record) = &seen.record else { return toward(wanted, seen) };
    let digest = wanted.digest();
    match (record.failed.get(&digest), &record.healthy) {
        // What is gone cannot be gone back to.
        (Some(failure), Some(healthy)) if healthy.digest() != digest && seen.installed.contains(&healthy.digest()) => {
            match toward(healthy, seen) {
                Decision::Converged => {
                    Decision::FellBack { digest, failure: failure.clone(), running: healthy.clone() }
                }
                other => other,
            }
        }
        (Some(_) | None, _) => toward(wanted, seen),
    }
}

/// The next step on the way to `target` being healthy.
fn toward(target: &Definition, seen: &Seen) -> Decision {
    let digest = target.digest();
    let Some(record) = &seen.record else {
        return Decision::Replace { from: None, to: target.clone(), permission: permission(target, seen) };
    };
    let written = seen.on_disk.contains(&digest);
    match &record.converging {
        // Also when something else was begun and given up before anything was stopped.
        Some(_) if written && told_to_run(target, seen) => match record.failed.get(&digest) {
            _ if waits_for_runsv(target, seen) => Decision::Start(target.clone()),
            None => Decision::AwaitHealth(target.clone()),
            Some(failure) => Decision::Recheck(target.clone(), failure.clone()),
        },
        // Begun and not known to have got as far as the start; or intent changed on the way. What ran before is
        // stopped already, or the permission to stop it was given for this.
        Some(begun) => {
            // Its files tell which of the two it is that may still run.
            let on_disk = |definition: &&Definition| seen.on_disk.contains(&definition.digest());
            let from = record.healthy.as_ref().filter(on_disk).unwrap_or(begun).clone();
            Decision::Replace {
                from: Some(from),
                to: target.clone(),
                permission: permission_begun(target, begun, seen),
            }
        }
        // Most often it is the same in all, and needs no digest to tell.
        None if record.healthy.as_ref().is_some_and(|healthy| healthy == target || healthy.digest() == digest) => {
            settled(target, seen, record, written)
        }
        None => {
            Decision::Replace { from: record.healthy.clone(), to: target.clone(), permission: permission(target, seen) }
        }
    }
}

/// The target was healthy when last looked at: what is left to do is small.
fn settled(target: &Definition, seen: &Seen, record: &Record, written: bool) -> Decision {
    let obsolete = record.services.iter().filter(|service| !target.entries.contains_key(*service));
    let obsolete = obsolete.cloned().gather::<BTreeSet<_>>();
    if !written {
        Decision::Repair(target.clone())
    } else if !runs(target, seen) {
        Decision::Start(target.clone())
    } else if !obsolete.is_empty() {
        Decision::RemoveServices(obsolete)
    } else if record.healthy.as_ref() != Some(target) {
        Decision::Note(target.clone())
    } else {
        Decision::Converged
    }
}

fn runs(target: &Definition, seen: &Seen) -> bool {
    target.services().all(|service| matches!(seen.services.get(service), Some(Service::Running { .. })))
}

/// True when every service was told to run, or will run as soon as runsvdir finds it. Since a replacement stops before it
/// writes and writes before it starts, one whose files are written and which was told to run was started from those files.
fn told_to_run(target: &Definition, seen: &Seen) -> bool {
    target.services().all(|service| match seen.services.get(service) {
        Some(Service::Running { .. } | Service::Failing | Service::Unsupervised) => true,
        Some(Service::Absent | Service::Stopped) | None => false,
    })
}

fn waits_for_runsv(target: &Definition, seen: &Seen) -> bool {
    target.services().any(|service| seen.services.get(service) == Some(&Service::Unsupervised))
}

/// Without a doubt down is the only state that needs no permission.
fn permission(target: &Definition, seen: &Seen) -> Permission {
    let recorded = seen.record.iter().flat_map(|record| record.services.iter().map(String::as_str));
    let mut services = target.services().chain(recorded);
    if services.all(|service| is_down(service, seen)) { Permission::NotNeeded } else { Permission::Needed }
}

/// After something was begun. Where the healthy definition still runs, nothing came of that yet, and what was allowed then
/// may not be any more.
fn permission_begun(target: &Definition, begun: &Definition, seen: &Seen) -> Permission {
    let healthy = seen.record.as_ref().and_then(|record| record.healthy.as_ref());
    let digest = target.digest();
    if healthy.is_some_and(|healthy| healthy.digest() == digest) {
        Permission::Given
    } else if healthy.is_some_and(|healthy| seen.on_disk.contains(&healthy.digest()) && serves(seen)) {
        Permission::Needed
    } else if begun.digest() == digest {
        Permission::Given
    } else if serves(seen) && !has_failed(begun, seen) {
        // It may be healthy by now, and clients may have found it.
        Permission::Needed
    } else {
        Permission::NotNeeded
    }
}

fn has_failed(definition: &Definition, seen: &Seen) -> bool {
    seen.record.as_ref().is_some_and(|record| record.failed.contains_key(&definition.digest()))
}

/// Whether anything of the app may be running that others count on: nobody does on what was never healthy here.
pub(crate) fn serves(seen: &Seen) -> bool {
    let Some(record) = &seen.record else { return false };
    let was_healthy =
        record.healthy.is_some() || !record.converging.as_ref().is_some_and(|begun| has_failed(begun, seen));
    was_healthy && !record.services.iter().all(|service| is_down(service, seen))
}

fn is_down(service: &str, seen: &Seen) -> bool {
    let down = |service: &Service| matches!(service, Service::Absent | Service::Stopped | Service::Failing);
    seen.services.get(service).is_some_and(down)
}

impl Decision {
    /// What the decision means, a line each, for people who ask what would be done.
    pub(crate) fn describe(&self) -> Vec<String> {
        let one = |line: String| vec![line];
        match self {
            Self::Converged => Vec::new(),
            Self::Wait(reason) => one(format!("wait: {reason}")),
            Self::Refuse(reason) => one(format!("refuse: {reason}")),
            Self::Adopt => one("take it over as it runs, restart nothing".to_owned()),
            Self::Forget(digests) => one(format!("forget {} past failures", digests.len())),
            Self::Repair(to) => one(format!("write the files of {} anew, restart nothing", to.version)),
            Self::Note(to) => one(format!("note new checks and time-outs of {}, restart nothing", to.version)),
            Self::Start(to) => one(format!("start {}", to.version)),
            Self::AwaitHealth(to) => one(format!("wait until {} is healthy", to.version)),
            Self::Recheck(to, failure) => {
                one(format!("look at {} again, which failed: {}", to.version, failure.reason))
            }
            Self::Replace { from, to, permission } => {
                let mut lines = Vec::new();
                if let Some(from) = from {
                    let asking = if *permission == Permission::Needed { ", once the cluster can spare it" } else { "" };
                    lines.push(format!("stop {}{asking}", from.version));
                }
                lines.push(format!("start {} ({})", to.version, to.digest()));
                lines
            }
            Self::HandOver { from, to, permission, .. } => {
                let asking = if *permission == Permission::Needed { ", once the cluster can spare it" } else { "" };
                one(format!("have the finisher replace {} by {} ({}){asking}", from.version, to.version, to.digest()))
            }
            Self::Finish(to) => one(format!("wait for the finisher, which leads to {}", to.version)),
            Self::RemoveServices(services) => {
                services.iter().map(|service| format!("remove the service {service}")).collect()
            }
            Self::Clear => one("forget it".to_owned()),
            Self::Remove { why, .. } => one(format!("stop and remove the services: {why}")),
            Self::FellBack { failure, running, .. } => {
                one(format!("stay at {}: {} failed here: {}", running.version, failure.version, failure.reason))
            }
        }
    }
}

#[cfg(test)]
mod tests;
