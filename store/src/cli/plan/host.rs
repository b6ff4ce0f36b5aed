//! What one host will do about one app once intent says something else, as far as its agents' reports tell. Pure.
//!
//! Ensures: what no report tells is said to be unknown, and not taken for absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use store::intent::App;
use store::reality::AppReport;
use store::schema::{Port, Protocol};
use store::{ClusterName, NodeName, Registered, Version};

use super::super::fleet::{PREPARER, SETLIVE, Seen, Trouble};
use super::observe::Known;
use super::sides::{Side, Touched};

/// One host, of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Host {
    pub(super) node: NodeName,
    pub(super) does: Vec<Does>,
    /// Why it will not, or not now.
    pub(super) unless: Vec<Unless>,
}

/// One thing that a host will do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Does {
    /// Fetch and unpack them.
    Prepare {
        versions: Vec<Version>,
    },
    /// The same, unless they are there: it does not say.
    PrepareUnlessThere {
        versions: Vec<Version>,
    },
    /// The version that is to run is there.
    Prepared {
        version: Version,
    },
    Replace {
        from: Version,
        to: Version,
    },
    /// What runs is of the right version, and otherwise not as it is to be.
    Restart {
        version: Version,
        because: Vec<&'static str>,
    },
    Start {
        version: Version,
    },
    /// What runs there now is not known.
    Run {
        version: Version,
    },
    Stop {
        version: Option<Version>,
        because: Ends,
    },
    /// Note new checks and time-outs: what runs is not restarted.
    Note,
    Open {
        ports: Vec<String>,
    },
    Close {
        ports: Vec<String>,
    },
    /// All of that is told of under the other cluster.
    GoOver {
        to: ClusterName,
    },
}

impl Does {
    /// The version that is to run afterwards, where another one does now, or none.
    pub(super) fn version(&self) -> Option<&Version> {
        match self {
            Self::Replace { to: version, .. } | Self::Start { version } | Self::Run { version } => Some(version),
            Self::Prepare { .. } | Self::PrepareUnlessThere { .. } | Self::Prepared { .. } | Self::Restart { .. } => {
                None
            }
            Self::Stop { .. } | Self::Note | Self::Open { .. } | Self::Close { .. } | Self::GoOver { .. } => None,
        }
    }

    /// Whether `min_nodes` other instances have to pass before.
    pub(super) fn heeds_minimum(&self) -> bool {
        match self {
            Self::Replace { .. } | Self::Restart { .. } | Self::Run { .. } => true,
            Self::Stop { because: Ends::Leaves | Ends::Drained, .. } => true,
            Self::Stop { because: Ends::Inactive, .. } | Self::Start { .. } | Self::Note => false,
            Self::Prepare { .. } | Self::PrepareUnlessThere { .. } | Self::Prepared { .. } => false,
            Self::Open { .. } | Self::Close { .. } | Self::GoOver { .. } => false,
        }
    }
}

/// Why nothing of an app is to run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ends {
    /// It leaves the node.
    Leaves,
    Drained,
    /// No version is active any more.
    Inactive,
}

/// What keeps a host from what it has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Unless {
    /// As of `pp-store status`, or `drained`.
    pub(super) state: String,
    pub(super) reason: String,
}

/// What runs of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Runs {
    Version(Version),
    Nothing,
    Unknown,
}

pub(super) fn host(touched: Touched<'_>, known: &Known) -> Host {
    let Touched { app: name, node, before, after } = touched;
    let wanted = after.map(|after| &after.intent);
    let (does, mut unless) = match wanted {
        Some(Err(invalid)) => (Vec::new(), vec![unless("invalid", invalid.to_string())]),
        Some(Ok(app)) if app.hold => {
            let says = format!("nodes/{node}/{name} says \"hold\": true");
            (Vec::new(), vec![unless("held", says)])
        }
        Some(Ok(app)) if app.drain => {
            let says = format!("nothing is started there until `pp-store undrain {node}`");
            (does(touched, known), vec![unless("drained", says)])
        }
        Some(Ok(_)) | None => (does(touched, known), Vec::new()),
    };
    if !does.is_empty() {
        let now = before.filter(|it| it.app().is_some()).or(after);
        unless.extend(now.and_then(|now| in_the_way(touched, now, known)));
    }
    Host { node: node.clone(), does, unless }
}

fn unless(state: &str, reason: String) -> Unless {
    Unless { state: state.to_owned(), reason }
}

/// What keeps its agents from anything, whatever intent says.
fn in_the_way(touched: Touched<'_>, now: &Side, known: &Known) -> Option<Unless> {
    let Touched { app, node, .. } = touched;
    // That of an operator ends with this change.
    let was_held = now.app().is_some_and(|app| app.hold);
    let intent = now.intent.clone().map(|app| Arc::new(App { hold: false, ..App::clone(&app) }));
    let nothing = (BTreeMap::new(), BTreeMap::new());
    let seen = Seen {
        node,
        app,
        intent: &intent,
        reports: known.reports.get(node).unwrap_or(&nothing.0),
        agents: known.agents.get(node).unwrap_or(&nothing.1),
        instance: Ok(known.instance(touched)),
    };
    let obstacle = seen.node().obstacle?;
    match obstacle.trouble {
        Trouble::Converging | Trouble::Unseen | Trouble::Waiting => None,
        Trouble::Held if was_held => None,
        trouble @ (Trouble::Held | Trouble::Unknown | Trouble::Invalid | Trouble::Dead | Trouble::Failing) => {
            Some(unless(&trouble.to_string(), obstacle.says))
        }
    }
}

fn does(touched: Touched<'_>, known: &Known) -> Vec<Does> {
    let Touched { before, after, .. } = touched;
    let (was, is) = (before.and_then(Side::app), after.and_then(Side::app));
    let runs = runs(before, known.said(touched, SETLIVE), known.instance(touched));
    let mut all = is.map(|is| prepares(before, is, known.said(touched, PREPARER))).unwrap_or_default();
    let running = is.and_then(running);
    all.extend(match (running, is) {
        (Some(version), Some(is)) => run(was, is, version, runs),
        (None, is) => stop(was, is, runs),
        (Some(_), None) => None,
    });
    // Of one that cannot be read nobody knows what it opened.
    if before.is_none_or(|before| before.app().is_some()) {
        let ports = |app: Option<&App>| app.map(|app| app.ports.iter().cloned().collect()).unwrap_or_default();
        let (was, is): (BTreeSet<Port>, BTreeSet<Port>) = (ports(was), ports(is));
        let names = |ports: Vec<&Port>| ports.into_iter().map(port).collect::<Vec<_>>();
        let (open, close) = (names(is.difference(&was).collect()), names(was.difference(&is).collect()));
        all.extend((!open.is_empty()).then_some(Does::Open { ports: open }));
        all.extend((!close.is_empty()).then_some(Does::Close { ports: close }));
    }
    all
}

/// The version that is to run on a node with this intent.
fn running(app: &App) -> Option<&Version> {
    app.active.as_ref().filter(|_| !app.drain)
}

fn prepares(before: Option<&Side>, is: &App, said: Option<&AppReport>) -> Vec<Does> {
    let was = before.and_then(Side::app);
    // Installs are in the basedir.
    let is_empty = before.is_none() || was.is_some_and(|was| was.basedir != is.basedir);
    let had = was.map(|was| was.versions().collect::<BTreeSet<_>>()).unwrap_or_default();
    let is_activated = |version: &Version| running(is) == Some(version) && was.and_then(running) != Some(version);
    // Reports that would have been too long say of no app what is there.
    let there = said.filter(|said| !said.wanted.is_empty() || !said.there.is_empty()).map(|said| &said.there);
    let (mut missing, mut unknown, mut at_hand) = (Vec::new(), Vec::new(), None);
    for version in is.versions().filter(|version| is_empty || !had.contains(version) || is_activated(version)) {
        match there {
            Some(there) if !is_empty && there.contains(version) => {
                at_hand = at_hand.or_else(|| is_activated(version).then(|| version.clone()));
            }
            None if !is_empty && (was.is_none() || had.contains(version)) => unknown.push(version.clone()),
            // What it never was to have, nobody has reported.
            Some(_) | None => missing.push(version.clone()),
        }
    }
    let prepare = (!missing.is_empty()).then_some(Does::Prepare { versions: missing });
    let perhaps = (!unknown.is_empty()).then_some(Does::PrepareUnlessThere { versions: unknown });
    prepare.into_iter().chain(perhaps).chain(at_hand.map(|version| Does::Prepared { version })).collect()
}

fn runs(before: Option<&Side>, said: Option<&AppReport>, instance: Option<&Registered>) -> Runs {
    let reported = said.and_then(|said| said.there.first());
    if let Some(version) = reported.or(instance.map(|instance| &instance.version)) {
        return Runs::Version(version.clone());
    }
    let Some(before) = before else { return Runs::Nothing };
    // What is reported before the first attempt has ended, or is cut short, names no version that is wanted.
    let has_looked =
        |said: &AppReport| !said.wanted.is_empty() || before.app().is_some_and(|app| running(app).is_none());
    if said.is_some_and(has_looked) { Runs::Nothing } else { Runs::Unknown }
}

/// What makes this version the one that runs.
fn run(was: Option<&App>, is: &App, to: &Version, runs: Runs) -> Option<Does> {
    let because = was.map(|was| otherwise(was, is));
    let is_as_before = was.is_some_and(|was| running(was) == Some(to) && !was.hold);
    if is_as_before && because.as_ref().is_some_and(Vec::is_empty) {
        let is_judged_anew = was.is_some_and(|was| was.health != is.health || was.timeouts != is.timeouts);
        return is_judged_anew.then_some(Does::Note);
    }
    let version = to.clone();
    match (runs, because) {
        (Runs::Nothing, _) => Some(Does::Start { version }),
        (Runs::Version(from), _) if from != *to => Some(Does::Replace { from, to: version }),
        (Runs::Version(_), Some(because)) if because.is_empty() => None,
        (Runs::Version(_), Some(because)) => Some(Does::Restart { version, because }),
        (Runs::Version(_), None) | (Runs::Unknown, _) => Some(Does::Run { version }),
    }
}

/// Why what runs of one version is another definition.
fn otherwise(was: &App, is: &App) -> Vec<&'static str> {
    let all = [
        ("cluster", was.cluster != is.cluster),
        ("basedir", was.basedir != is.basedir),
        ("runas", was.runas != is.runas),
        ("user_config", was.user_config != is.user_config),
        ("restart", was.restart != is.restart),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn stop(was: Option<&App>, is: Option<&App>, runs: Runs) -> Option<Does> {
    let because = match is {
        None => Ends::Leaves,
        Some(is) if is.drain => Ends::Drained,
        Some(_) => Ends::Inactive,
    };
    let is_as_before = is.is_some() && was.is_some_and(|was| running(was).is_none() && !was.hold);
    match runs {
        Runs::Version(_) | Runs::Unknown if is_as_before => None,
        Runs::Version(version) => Some(Does::Stop { version: Some(version), because }),
        Runs::Unknown => Some(Does::Stop { version: None, because }),
        Runs::Nothing => None,
    }
}

/// `53/udp from 10.0.0.0/8`
fn port(port: &Port) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let from = port.source.map(|source| format!(" from {source}")).unwrap_or_default();
    format!("{}/{protocol}{from}", port.port)
}
