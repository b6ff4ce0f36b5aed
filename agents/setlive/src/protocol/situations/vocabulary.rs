//! The words in which situations are written: what is wanted, seen and told, and what a step is called.

use converge::Source;
use store::lease::{Down, FailedDigest, Leases};

use super::super::*;
use crate::decide::{Owner, Part, Service};
use crate::definition::tests::definition;

pub(super) const UP: Service = Service::Running { pid: 7 };

pub(super) fn us() -> Us {
    Us { node: "web1".parse().unwrap(), host: "host1".to_owned(), now: "now".to_owned() }
}

/// `1`, or `1@other` where it runs in another cluster than dev.
pub(super) fn definition_of(name: &str) -> Definition {
    let (version, cluster) = name.split_once('@').unwrap_or((name, "dev"));
    let mut definition = definition(version);
    definition.cluster = cluster.parse().unwrap();
    definition
}

pub(super) fn digest(name: &str) -> String {
    definition_of(name).digest().as_str().to_owned()
}

pub(super) fn want(name: &str) -> Goal {
    Goal::Run(definition_of(name))
}

pub(super) fn left() -> Goal {
    Goal::Nothing { why: "it was taken off this node", heeds_minimum: true }
}

pub(super) fn stopped() -> Goal {
    Goal::Nothing { why: "no version is active", heeds_minimum: false }
}

/// A host on which this was healthy, and runs.
pub(super) fn runs(name: &str) -> Seen {
    let healthy = definition_of(name);
    let mut record = Record::new(&us().node, Source::Store, &healthy);
    record.services = ["slug".to_owned()].into();
    record.healthy = Some(healthy.clone());
    seen(Some(record), UP, name)
}

pub(super) fn bare() -> Seen {
    seen(None, Service::Absent, "")
}

pub(super) fn seen(record: Option<Record>, slug: Service, on_disk: &str) -> Seen {
    let all = ["1", "2", "3", "2@other"].map(|name| definition_of(name).digest());
    Seen {
        record,
        services: [("slug".to_owned(), slug)].into(),
        on_disk: all
            .iter()
            .filter(|it| !on_disk.is_empty() && **it == definition_of(on_disk).digest())
            .cloned()
            .collect(),
        installed: all.into(),
        owner: Owner::Us,
        alone: false,
        adopt: false,
        part: Part::None,
    }
}

impl Seen {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Record)) -> Self {
        change(self.record.as_mut().unwrap());
        self
    }

    pub(super) fn is(mut self, slug: Service) -> Self {
        self.services.insert("slug".to_owned(), slug);
        self
    }

    /// This node may stand in the leases of these.
    pub(super) fn asked(self, clusters: &[&str]) -> Self {
        self.with(|record| record.asked = clusters.iter().map(|cluster| cluster.parse().unwrap()).collect())
    }

    /// It was begun, and its files are written.
    pub(super) fn begun(mut self, name: &str) -> Self {
        self.on_disk = [definition_of(name).digest()].into();
        self.with(|record| *record = record.clone().begun(&definition_of(name)))
    }

    pub(super) fn failed(self, name: &str, is_published: bool) -> Self {
        let failed = definition_of(name);
        let failure = Failure {
            version: failed.version.clone(),
            reason: "503".to_owned(),
            log: Vec::new(),
            health: None,
            is_published,
        };
        self.with(|record| drop(record.failed.insert(failed.digest(), failure)))
    }
}

/// What the store told: of dev, and of another cluster where something is to go there.
pub(super) fn told(clusters: &[(&str, Cluster)]) -> Told {
    let clusters = clusters.iter().map(|(name, known)| (name.parse().unwrap(), known.clone()));
    Told { clusters: clusters.collect(), ..Told::default() }
}

pub(super) fn nothing() -> Told {
    Told::default()
}

pub(super) fn away() -> Told {
    Told { away: true, ..Told::default() }
}

pub(super) fn own(is_current: bool, check_passes: bool, is_drained: bool) -> Told {
    Told { own: Some(Some(Own { is_current, check_passes, is_drained })), ..Told::default() }
}

/// Version 2 is active, so many have to pass, and what there is of leases and instances: `web2 passes 1`.
pub(super) fn cluster(min_nodes: u32, down: &[(&str, &str)], peers: &[&str]) -> Cluster {
    Cluster {
        leases: Some(leases(down)),
        config: Some(Config { active: Some("2".parse().unwrap()), min_nodes }),
        peers: Some(peers.iter().map(|peer| self::peer(peer)).collect()),
        alive: ["host1".to_owned(), "host2".to_owned(), "host3".to_owned()].into(),
    }
}

pub(super) fn leases(down: &[(&str, &str)]) -> Leases {
    let entry = |(node, to): &(&str, &str)| {
        let to = (!to.is_empty()).then(|| digest(to));
        let host = node.replace("web", "host");
        (node.parse().unwrap(), Down { to, since: "then".to_owned(), why: "replaced".to_owned(), host })
    };
    Leases { rev: 7, down: down.iter().map(entry).collect(), ..Leases::default() }
}

fn peer(words: &str) -> Peer {
    let [node, how, name] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
    Peer { node: node.parse().unwrap(), digest: digest(name), passing: how == "passes" }
}

impl Cluster {
    /// Another node's word that version 2 fails.
    pub(super) fn failed(mut self, check: &str, retry: Option<&str>) -> Self {
        let failed = FailedDigest {
            version: "2".parse().unwrap(),
            node: "web3".parse().unwrap(),
            reason: "503".to_owned(),
            at: "then".to_owned(),
            log: Vec::new(),
            check: check.to_owned(),
            retry: retry.map(str::to_owned),
        };
        self.leases.as_mut().unwrap().failed.insert(digest("2"), failed);
        self
    }

    pub(super) fn active(mut self, version: Option<&str>) -> Self {
        self.config.as_mut().unwrap().active = version.map(|version| version.parse().unwrap());
        self
    }

    pub(super) fn without_host(mut self, host: &str) -> Self {
        self.alive.remove(host);
        self
    }
}

/// A step in a few words.
pub(super) fn said(step: Step) -> String {
    let name = |digest: &str| {
        let known = ["1", "2", "3", "2@other"].into_iter().find(|name| self::digest(name) == digest);
        known.expect("one of those here").to_owned()
    };
    match step {
        Step::Ask(Question::Own) => "ask how it is registered".to_owned(),
        Step::Ask(Question::Leases(cluster)) => format!("ask for the leases of {cluster}"),
        Step::Ask(Question::Config(cluster)) => format!("ask for the config of {cluster}"),
        Step::Ask(Question::Peers(cluster)) => format!("ask who passes in {cluster}"),
        Step::Ask(Question::IsWell) => "look whether it is well".to_owned(),
        Step::Write(cluster, leases) => {
            assert_eq!(leases.rev, 8);
            let to = |down: &Down| down.to.as_deref().map_or("nothing".to_owned(), name);
            let down = leases.down.iter().map(|(node, down)| format!("{node} to {}", to(down)));
            let failed = leases.failed.iter().map(|(digest, failed)| format!("{} on {}", name(digest), failed.node));
            let (down, failed) = (down.collect::<Vec<_>>().join(", "), failed.collect::<Vec<_>>().join(", "));
            format!("write {cluster}: down [{down}] failed [{failed}]")
        }
        Step::Note(record) => {
            let unpublished = record.failed.values().filter(|failure| !failure.is_published).count();
            format!("note: owing {}, unpublished {unpublished}", record.is_owing())
        }
        Step::NoteAsked(cluster) => format!("note that {cluster} is asked"),
        Step::Register => "register".to_owned(),
        Step::Report => "report".to_owned(),
        Step::Undrain => "undrain".to_owned(),
        Step::Deregister => "deregister".to_owned(),
        Step::Act(decision) => match decision {
            Decision::Replace { to, .. } => format!("replace it by {}", name(to.digest().as_str())),
            Decision::Remove { .. } => "remove it".to_owned(),
            Decision::FellBack { .. } => "stay fallen back".to_owned(),
            other => format!("{other:?}").split(['(', ' ', '{']).next().unwrap().to_lowercase(),
        },
        Step::Wait(Wait { reason, on }) => match reason {
            Reason::Trial { node, .. } => format!("wait in {on} for {node} to try it"),
            Reason::Minimum { passing, instances, min_nodes, .. } => {
                format!("wait in {on}: {passing} of {instances} pass, {min_nodes} have to")
            }
            Reason::Check => format!("wait in {on} until it is shown passing"),
            Reason::Overtaken => format!("wait: {on} wants something else by now"),
        },
        Step::Held(failed) => format!("hold: it failed on {}", failed.node),
        Step::Away => "the store is away".to_owned(),
    }
}

#[track_caller]
pub(super) fn check(situations: Vec<(&str, Goal, Seen, Told, &str)>) {
    for (situation, goal, seen, told, answer) in situations {
        assert_eq!(said(step(&us(), &goal, &seen, &told)), answer, "{situation}");
    }
}

impl Seen {
    /// A record of nothing.
    pub(super) fn with_record(mut self) -> Self {
        self.record = Some(Record::new(&us().node, Source::Store, &definition_of("2")));
        self
    }

    /// It was begun where nothing was before, and runs.
    pub(super) fn started(self, name: &str) -> Self {
        self.with_record().begun(name)
    }
}

impl Cluster {
    pub(super) fn with_host(mut self, host: &str) -> Self {
        self.alive.insert(host.to_owned());
        self
    }
}
