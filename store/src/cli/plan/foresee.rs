//! What a change of intent does: to which cluster, on which hosts, and what is worth a warning. Pure.
//!
//! Ensures: the token names what would be written over what, and what each host would do: it is the same as long as these are,
//! whatever time passes and whatever else is reported.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use store::history::digest;
use store::lease::FailedDigest;
use store::schema::{Config, IntentKey, Parse};
use store::{Documents, Key, Version, look_up};

use super::super::change::{Action, Change};
use super::differences::differences;
use super::host::{Does, Ends, Host, host};
use super::observe::Known;
use super::sides::{Intents, Place, Side, Touched};

/// All that a change of intent does.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    pub(super) clusters: BTreeMap<Place, Cluster>,
    /// Keys of no cluster that anybody could name.
    pub(super) others: Vec<Changed>,
    pub(super) token: Token,
}

/// A key, and how its document changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) key: Key,
    pub(super) verb: &'static str,
    pub(super) how: Vec<String>,
}

/// What happens to one app in one cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) changed: Vec<Changed>,
    pub(super) hosts: Vec<Host>,
    pub(super) pace: Pace,
    pub(super) warnings: Vec<String>,
}

/// How many instances may be down at a time, as far as intent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pace {
    /// Those that are to run something.
    pub(super) nodes: usize,
    pub(super) min_nodes: usize,
}

impl Pace {
    pub(super) fn at_once(self) -> usize {
        self.nodes.saturating_sub(self.min_nodes)
    }
}

/// Names a plan, in two halves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Token {
    /// Of what is written, over what.
    written: String,
    /// Of what hosts do.
    done: String,
}

/// What was found, and what will be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) before: &'a Documents,
    pub(super) after: &'a Documents,
    /// What `after` comes to.
    pub(super) intents: &'a Intents,
}

pub(super) fn foresee(sides: Sides<'_>, touched: &[Touched<'_>], changes: &[Change], known: &Known) -> Foreseen {
    let mut foreseen = Foreseen::default();
    for change in changes {
        let changed = Changed { key: change.key.clone(), verb: change.verb().0, how: differences(change) };
        match place_of(change, sides, touched) {
            Some(place) => foreseen.clusters.entry(place).or_default().changed.push(changed),
            None => foreseen.others.push(changed),
        }
    }
    for (place, host) in touched.iter().flat_map(|touched| hosts(*touched, known)) {
        foreseen.clusters.entry(place).or_default().hosts.push(host);
    }
    for (place, cluster) in &mut foreseen.clusters {
        cluster.pace = pace(sides, place);
        cluster.warnings = warnings(place, cluster, known);
    }
    foreseen.token = token(sides, changes, &foreseen.clusters, known);
    foreseen
}

/// The cluster that a document is about.
fn place_of(change: &Change, sides: Sides<'_>, touched: &[Touched<'_>]) -> Option<Place> {
    match IntentKey::parse(change.key.as_str()).ok()? {
        IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster) => Some((app, cluster)),
        IntentKey::Node(node, app) => match touched.iter().find(|it| *it.app == app && *it.node == node) {
            Some(touched) => touched.place(),
            None => Some((app.clone(), sides.intents.get(&(app, node))?.cluster.clone()?)),
        },
    }
}

/// What a host does, under the cluster that it is in; and that it leaves another one.
fn hosts(touched: Touched<'_>, known: &Known) -> Vec<(Place, Host)> {
    let here = touched.place().map(|place| (place, host(touched, known)));
    let to = touched.after.and_then(|after| after.cluster.clone());
    let there = touched.left().zip(to).map(|(place, to)| {
        (place, Host { node: touched.node.clone(), does: vec![Does::GoOver { to }], unless: Vec::new() })
    });
    here.into_iter().chain(there).collect()
}

fn pace(sides: Sides<'_>, (app, cluster): &Place) -> Pace {
    let key = IntentKey::Config(app.clone(), cluster.clone()).key();
    let config = look_up(sides.after, key.as_str()).and_then(|found| Config::parse(&found.as_ref().ok()?.bytes).ok());
    let min_nodes = config.map_or(0, |config| config.min_nodes);
    let counts = |it: &&Side| it.cluster.as_ref() == Some(cluster) && it.app().is_none_or(|app| !app.drain);
    let nodes = sides.intents.iter().filter(|((of, _), _)| of == app).map(|(_, side)| side).filter(counts).count();
    Pace { nodes, min_nodes: usize::try_from(min_nodes).unwrap_or(usize::MAX) }
}

fn warnings(place: &Place, cluster: &Cluster, known: &Known) -> Vec<String> {
    let does = || cluster.hosts.iter().flat_map(|host| &host.does);
    let to_run = to_run(cluster);
    let (app, name) = place;
    let failed = to_run.iter().filter_map(|version| known.failed(place, version)).map(|FailedDigest { version, node, reason, .. }| {
        format!(
            "{version} has failed in this cluster, on {node} ({reason}): where all of its definition is as it was then, nobody tries \
             it before `pp-store retry {app} {name} {version}`"
        )
    });
    let failed = failed.collect::<Vec<_>>();
    let unprepared = to_run.into_iter().filter(|version| !known.is_prepared_somewhere(place, version)).map(|version| {
        format!("no host reports {version} as prepared: until one has it, hosts go on with what they run")
    });
    let Pace { nodes, min_nodes } = cluster.pace;
    let is_stuck = cluster.pace.at_once() == 0 && min_nodes > 0 && does().any(Does::heeds_minimum);
    let never = is_stuck.then(|| {
        format!("min_nodes {min_nodes} can never be met by {nodes} nodes: nothing that passes there is replaced or taken off")
    });
    let all_stop = does().any(|does| matches!(does, Does::Stop { because: Ends::Inactive, .. }));
    let all_stop =
        all_stop.then(|| "no version is active then: all hosts stop at once, whatever min_nodes says".to_owned());
    failed.into_iter().chain(unprepared).chain(never).chain(all_stop).collect()
}

/// The versions that are to run where they do not now.
fn to_run(cluster: &Cluster) -> BTreeSet<&Version> {
    cluster.hosts.iter().flat_map(|host| &host.does).filter_map(Does::version).collect()
}

fn token(sides: Sides<'_>, changes: &[Change], clusters: &BTreeMap<Place, Cluster>, known: &Known) -> Token {
    let half = |value: &Value| digest(value.to_string().as_bytes())[..16].to_owned();
    let document = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| digest(bytes));
    let written = changes.iter().map(|change| {
        let (from, to) = match &change.action {
            Action::Create { to } => (None, Some(to)),
            Action::Replace { from, to } => (Some(&from.bytes), Some(to)),
            Action::Remove { from } => (Some(&from.bytes), None),
        };
        json!([change.key.as_str(), document(from), document(to)])
    });
    let done = clusters.iter().map(|(place, it)| {
        let (app, cluster) = place;
        let hosts = it.hosts.iter().map(|Host { node, does, unless }| {
            // Reasons tell of times.
            json!([node, does, unless.iter().map(|unless| &unless.state).collect::<Vec<_>>()])
        });
        // What runs goes by these also where they are none of what is written.
        let keys =
            [IntentKey::Config(app.clone(), cluster.clone()), IntentKey::DeployConfig(app.clone(), cluster.clone())];
        let found = |documents| {
            keys.each_ref().map(|key| {
                look_up(documents, key.key().as_str())
                    .and_then(|found| document(found.as_ref().ok().map(|it| &it.bytes)))
            })
        };
        let Pace { nodes, min_nodes } = it.pace;
        let failed =
            to_run(it).into_iter().filter(|version| known.failed(place, version).is_some()).collect::<Vec<_>>();
        json!([
            app,
            cluster,
            found(sides.before),
            found(sides.after),
            nodes,
            min_nodes,
            failed,
            hosts.collect::<Value>()
        ])
    });
    Token { written: half(&written.collect()), done: half(&done.collect()) }
}

impl Token {
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.written, self.done)
    }

    /// What is another one than in the plan that somebody has seen; `None` where nothing is.
    pub(super) fn differs(&self, seen: &str) -> Option<&'static str> {
        match (seen.strip_prefix(&self.written), seen.strip_suffix(&self.done)) {
            (Some(done), _) if done == self.done => None,
            (Some(_), _) => Some("the same would be written, and hosts would do other things with it"),
            (None, Some(_)) => Some("hosts would do the same, and other documents would be written, or over others"),
            (None, None) => Some("other documents would be written, or over others, and hosts would do other things"),
        }
    }
}

#[cfg(test)]
mod tests;
