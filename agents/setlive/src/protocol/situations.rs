//! Situations one by one, each with the next step of web1, which stands on its own here.

use converge::Source;
use store::lease::{Down, FailedDigest, Leases};

use super::*;
use crate::decide::{Owner, Part, Service};
use crate::definition::tests::definition;

const UP: Service = Service::Running { pid: 7 };

fn us() -> Us {
    Us { node: "web1".parse().unwrap(), host: "host1".to_owned(), now: "now".to_owned() }
}

/// `1`, or `1@other` where it runs in another cluster than dev.
fn definition_of(name: &str) -> Definition {
    let (version, cluster) = name.split_once('@').unwrap_or((name, "dev"));
    let mut definition = definition(version);
    definition.cluster = cluster.parse().unwrap();
    definition
}

fn digest(name: &str) -> String {
    definition_of(name).digest().as_str().to_owned()
}

fn want(name: &str) -> Goal {
    Goal::Run(definition_of(name))
}

fn left() -> Goal {
    Goal::Nothing { why: "it was taken off this node", heeds_minimum: true }
}

fn stopped() -> Goal {
    Goal::Nothing { why: "no version is active", heeds_minimum: false }
}

/// A host on which this was healthy, and runs.
fn runs(name: &str) -> Seen {
    let healthy = definition_of(name);
    let mut record = Record::new(&us().node, Source::Store, &healthy);
    record.services = ["slug".to_owned()].into();
    record.healthy = Some(healthy.clone());
    seen(Some(record), UP, name)
}

fn bare() -> Seen {
    seen(None, Service::Absent, "")
}

fn seen(record: Option<Record>, slug: Service, on_disk: &str) -> Seen {
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
    fn with(mut self, change: impl FnOnce(&mut Record)) -> Self {
        change(self.record.as_mut().unwrap());
        self
    }

    fn is(mut self, slug: Service) -> Self {
        self.services.insert("slug".to_owned(), slug);
        self
    }

    /// This node may stand in the leases of these.
    fn asked(self, clusters: &[&str]) -> Self {
        self.with(|record| record.asked = clusters.iter().map(|cluster| cluster.parse().unwrap()).collect())
    }

    /// It was begun, and its files are written.
    fn begun(mut self, name: &str) -> Self {
        self.on_disk = [definition_of(name).digest()].into();
        self.with(|record| *record = record.clone().begun(&definition_of(name)))
    }

    fn failed(self, name: &str, is_published: bool) -> Self {
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
fn told(clusters: &[(&str, Cluster)]) -> Told {
    let clusters = clusters.iter().map(|(name, known)| (name.parse().unwrap(), known.clone()));
    Told { clusters: clusters.collect(), ..Told::default() }
}

fn nothing() -> Told {
    Told::default()
}

fn away() -> Told {
    Told { away: true, ..Told::default() }
}

fn own(is_current: bool, check_passes: bool, is_drained: bool) -> Told {
    Told { own: Some(Some(Own { is_current, check_passes, is_drained })), ..Told::default() }
}

/// Version 2 is active, so many have to pass, and what there is of leases and instances: `web2 passes 1`.
fn cluster(min_nodes: u32, down: &[(&str, &str)], peers: &[&str]) -> Cluster {
    Cluster {
        leases: Some(leases(down)),
        config: Some(Config { active: Some("2".parse().unwrap()), min_nodes }),
        peers: Some(peers.iter().map(|peer| self::peer(peer)).collect()),
        alive: ["host1".to_owned(), "host2".to_owned(), "host3".to_owned()].into(),
    }
}

fn leases(down: &[(&str, &str)]) -> Leases {
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
    fn failed(mut self, check: &str, retry: Option<&str>) -> Self {
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

    fn active(mut self, version: Option<&str>) -> Self {
        self.config.as_mut().unwrap().active = version.map(|version| version.parse().unwrap());
        self
    }

    fn without_host(mut self, host: &str) -> Self {
        self.alive.remove(host);
        self
    }
}

/// A step in a few words.
fn said(step: Step) -> String {
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
fn check(situations: Vec<(&str, Goal, Seen, Told, &str)>) {
    for (situation, goal, seen, told, answer) in situations {
        assert_eq!(said(step(&us(), &goal, &seen, &told)), answer, "{situation}");
    }
}

#[test]
fn leave_is_asked_for_in_an_order_in_which_nothing_that_was_told_can_be_too_old() {
    let three = ["web1 passes 1", "web2 passes 1", "web3 passes 1"];
    let all = cluster(1, &[], &three);
    let to_go = || runs("1").asked(&["dev"]);
    check(vec![
        ("nothing is known", want("2"), runs("1"), nothing(), "ask for the leases of dev"),
        (
            "then the config, in which what failed may not be active any more",
            want("2"),
            runs("1"),
            told(&[("dev", Cluster { config: None, peers: None, ..all.clone() })]),
            "ask for the config of dev",
        ),
        (
            "then who passes, of whom none was given leave since",
            want("2"),
            runs("1"),
            told(&[("dev", Cluster { peers: None, ..all.clone() })]),
            "ask who passes in dev",
        ),
        ("noted before it is so", want("2"), runs("1"), told(&[("dev", all.clone())]), "note that dev is asked"),
        (
            "the first to try it",
            want("2"),
            to_go(),
            told(&[("dev", all.clone())]),
            "write dev: down [web1 to 2] failed []",
        ),
        (
            "given leave: who passes is asked once more",
            want("2"),
            to_go(),
            told(&[("dev", Cluster { peers: None, ..cluster(1, &[("web1", "2")], &three) })]),
            "ask who passes in dev",
        ),
        (
            "given leave, and it counts still",
            want("2"),
            to_go(),
            told(&[("dev", cluster(1, &[("web1", "2")], &three))]),
            "replace it by 2",
        ),
        (
            "given leave, and somebody failed since",
            want("2"),
            to_go(),
            told(&[("dev", cluster(2, &[("web1", "2")], &["web1 passes 1", "web2 passes 1", "web3 fails 1"]))]),
            "write dev: down [] failed []",
        ),
        (
            "given leave for something else before",
            want("2"),
            to_go(),
            told(&[("dev", cluster(1, &[("web1", "3")], &three))]),
            "write dev: down [web1 to 2] failed []",
        ),
        ("the store is away", want("2"), runs("1"), away(), "the store is away"),
        (
            "the active version is another by now",
            want("2"),
            runs("1"),
            told(&[("dev", all.active(Some("3")))]),
            "wait: dev wants something else by now",
        ),
        ("there is nobody to ask", want("2"), Seen { alone: true, ..runs("1") }, nothing(), "replace it by 2"),
        ("nothing is to be done", want("1"), runs("1"), nothing(), "converged"),
    ]);
    let mut known = told(&[("dev", cluster(1, &[], &three))]);
    known.learn(&"dev".parse().unwrap(), leases(&[]));
    assert_eq!(
        said(step(&us(), &want("2"), &runs("1"), &known)),
        "ask for the config of dev",
        "leases make all else old"
    );
}

#[test]
fn one_node_tries_what_nobody_runs_and_the_minimum_is_kept() {
    let tries = [("web2", "2")];
    let two = ["web1 passes 1", "web2 passes 1"];
    let asked = || runs("1").asked(&["dev"]);
    check(vec![
        (
            "another tries it",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(0, &tries, &two))]),
            "wait in dev for web2 to try it",
        ),
        (
            "another tried it, and its host is lost",
            want("2"),
            asked(),
            told(&[("dev", cluster(0, &tries, &two).without_host("host2"))]),
            "write dev: down [web1 to 2, web2 to 2] failed []",
        ),
        (
            "another is down for something else",
            want("2"),
            asked(),
            told(&[("dev", cluster(0, &[("web2", "3")], &two))]),
            "write dev: down [web1 to 2, web2 to 3] failed []",
        ),
        (
            "it passes somewhere, so that only the minimum counts",
            want("2"),
            asked(),
            told(&[("dev", cluster(1, &[("web2", "2")], &["web1 passes 1", "web2 fails 1", "web3 passes 2"]))]),
            "write dev: down [web1 to 2, web2 to 2] failed []",
        ),
        (
            "all are needed",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(2, &[], &two))]),
            "wait in dev: 2 of 2 pass, 2 have to",
        ),
        (
            "who is down does not count, also while it passes still",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(1, &[("web2", "3")], &two))]),
            "wait in dev: 2 of 2 pass, 1 have to",
        ),
        (
            "registered and not passing does not count",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(1, &[], &["web1 passes 1", "web2 fails 1"]))]),
            "wait in dev: 1 of 2 pass, 1 have to",
        ),
        (
            "all are needed, but this one is not shown passing",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(1, &[], &["web1 fails 1"]))]),
            "look whether it is well",
        ),
        (
            "it is not shown passing, and is well",
            want("2"),
            runs("1"),
            Told { is_well: Some(true), ..told(&[("dev", cluster(1, &[], &["web1 fails 1"]))]) },
            "wait in dev: 0 of 1 pass, 1 have to",
        ),
        (
            "nobody counts on it, and it fails here, too",
            want("2"),
            asked(),
            Told { is_well: Some(false), ..told(&[("dev", cluster(1, &[], &["web1 fails 1"]))]) },
            "write dev: down [web1 to 2] failed []",
        ),
        (
            "it fails here, and is shown passing still",
            want("2"),
            runs("1"),
            Told { is_well: Some(false), ..told(&[("dev", cluster(1, &[], &["web1 passes 1"]))]) },
            "wait in dev: 1 of 1 pass, 1 have to",
        ),
        (
            "nothing serves here, so that the minimum does not matter",
            want("2"),
            bare().with_record(),
            told(&[("dev", cluster(5, &[], &["web2 passes 2"]))]),
            "replace it by 2",
        ),
        (
            "nothing serves here, and nobody has tried it",
            want("2"),
            bare(),
            told(&[("dev", cluster(5, &[], &[]))]),
            "note that dev is asked",
        ),
        (
            "while it waits, what runs is started again when it fails",
            want("2"),
            runs("1").is(Service::Failing),
            told(&[("dev", cluster(0, &tries, &two))]),
            "start",
        ),
    ]);
}

#[test]
fn a_restarted_agent_finds_what_it_was_given_and_goes_on() {
    let given = cluster(1, &[("web1", "2")], &["web1 passes 1", "web2 passes 1"]);
    let begun = || runs("1").asked(&["dev"]).begun("2");
    check(vec![
        ("before it began", want("2"), runs("1").asked(&["dev"]), told(&[("dev", given)]), "replace it by 2"),
        ("after the stop, also without the store", want("2"), begun().is(Service::Stopped), away(), "replace it by 2"),
        ("after the start, also without the store", want("2"), begun(), away(), "awaithealth"),
        (
            "nothing is wanted any more for which it was given leave",
            want("1"),
            runs("1").asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "2")], &[]))]),
            "write dev: down [] failed []",
        ),
        (
            "nothing was begun and nothing is owed, so that the store may be away",
            want("1"),
            runs("1"),
            away(),
            "converged",
        ),
    ]);
}

#[test]
fn what_was_replaced_counts_again_once_everybody_sees_it_pass() {
    let back = || runs("2").asked(&["dev"]).with(|record| record.unregistered = true);
    let with_own = |passes: &str, own: Told| Told {
        own: own.own,
        ..told(&[("dev", cluster(1, &[("web1", "2")], &[&format!("web1 {passes} 2")]))])
    };
    let disproved = || {
        let mut known = cluster(1, &[("web1", "2")], &["web1 passes 2"]).failed("", None);
        let failed = &mut known.leases.as_mut().unwrap().failed;
        let (elsewhere, mut here) = (failed[&digest("2")].clone(), failed[&digest("2")].clone());
        here.node = us().node;
        failed.extend([(digest("2"), here), (digest("3"), elsewhere)]);
        Told { own: own(true, true, false).own, ..told(&[("dev", known)]) }
    };
    check(vec![
        ("it is healthy here", want("2"), back(), nothing(), "ask how it is registered"),
        ("as what ran before", want("2"), back(), own(false, true, true), "register"),
        ("not at all", want("2"), back(), Told { own: Some(None), ..Told::default() }, "register"),
        ("its check does not pass yet", want("2"), back(), own(true, false, true), "report"),
        ("it is drained, by us", want("2"), back(), own(true, true, true), "undrain"),
        (
            "it is in service, for all that this node knows",
            want("2"),
            back(),
            own(true, true, false),
            "ask for the leases of dev",
        ),
        (
            "others do not see it pass",
            want("2"),
            back(),
            with_own("fails", own(true, true, false)),
            "wait in dev until it is shown passing",
        ),
        (
            "others see it pass",
            want("2"),
            back(),
            with_own("passes", own(true, true, false)),
            "write dev: down [] failed []",
        ),
        (
            "it is in no leases any more",
            want("2"),
            back(),
            Told { own: own(true, true, false).own, ..told(&[("dev", cluster(1, &[], &[]))]) },
            "note: owing false, unpublished 0",
        ),
        ("the store is away", want("2"), back(), away(), "the store is away"),
        (
            "others see it pass, who were told that it failed",
            want("2"),
            back(),
            disproved(),
            "write dev: down [] failed [3 on web3]",
        ),
        (
            "where nothing was begun there is no check to wait for, and nobody waits for this node",
            want("1"),
            runs("1").asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "2")], &["web1 fails 1"]))]),
            "write dev: down [] failed []",
        ),
    ]);
}

#[test]
fn what_failed_is_told_and_held_until_somebody_thinks_better_of_it() {
    let three = ["web1 passes 1", "web2 passes 1", "web3 passes 1"];
    let held = || cluster(1, &[], &three).failed("", None);
    let fell_back = |is_published| runs("1").failed("2", is_published);
    let mut ours = held();
    ours.leases.as_mut().unwrap().failed.get_mut(&digest("2")).unwrap().node = us().node;
    let mut again = definition_of("2");
    again.health = serde_json::from_value(serde_json::json!({"tcp": {"port": 1}})).unwrap();
    check(vec![
        ("it failed elsewhere", want("2"), runs("1"), told(&[("dev", held())]), "hold: it failed on web3"),
        (
            "it failed elsewhere, before an operator let it be tried again",
            want("2"),
            runs("1"),
            told(&[("dev", cluster(1, &[], &three).failed("", Some("now")))]),
            "note that dev is asked",
        ),
        (
            "it failed elsewhere, by another check",
            Goal::Run(again),
            runs("1"),
            told(&[("dev", held())]),
            "note that dev is asked",
        ),
        (
            "it failed elsewhere while this node was down for it",
            want("2"),
            runs("1").asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "2")], &three).failed("", None))]),
            "write dev: down [] failed [2 on web3]",
        ),
        ("it failed here", want("2"), fell_back(false), nothing(), "ask for the leases of dev"),
        (
            "it failed here, and nobody knows",
            want("2"),
            fell_back(false),
            told(&[("dev", cluster(1, &[], &three))]),
            "write dev: down [] failed [2 on web1]",
        ),
        (
            "it failed here, and all know",
            want("2"),
            fell_back(false),
            told(&[("dev", ours.clone())]),
            "note: owing false, unpublished 0",
        ),
        (
            "it is known to have failed here",
            want("2"),
            fell_back(true),
            told(&[("dev", ours.clone())]),
            "stay fallen back",
        ),
        (
            "the store lost what was known",
            want("2"),
            fell_back(true),
            told(&[("dev", cluster(1, &[], &three))]),
            "note: owing true, unpublished 1",
        ),
        (
            "it failed here, and may be tried again",
            want("2"),
            fell_back(true),
            told(&[("dev", cluster(1, &[], &three).failed("", Some("now")))]),
            "forget",
        ),
        ("it failed here, and the store is away", want("2"), fell_back(true), away(), "stay fallen back"),
        (
            "it failed where this node is not any more",
            want("2@other"),
            runs("1").failed("2@other", false),
            nothing(),
            "ask for the leases of other",
        ),
        (
            "it failed here with nothing to go back to, and something else is not begun",
            want("2@other"),
            seen(None, UP, "").started("2").failed("2", true).asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "3")], &[])), ("other", cluster(0, &[("web2", "2@other")], &[]))]),
            "write dev: down [] failed []",
        ),
        (
            "what failed is past, and ours to clear",
            want("3"),
            fell_back(true),
            told(&[("dev", ours.active(Some("3")))]),
            "write dev: down [] failed []",
        ),
        (
            "what failed is past, and another's to clear",
            want("3"),
            fell_back(true),
            told(&[("dev", held().active(Some("3")))]),
            "forget",
        ),
    ]);
}

#[test]
fn who_leaves_a_cluster_asks_it_and_who_comes_enters_nothing_while_the_other_says_no() {
    let others = ["web1 passes 1", "web2 passes 1"];
    let spares = || cluster(1, &[], &others);
    let needs = || cluster(2, &[], &others);
    let open = || cluster(0, &[], &[]);
    let taken = || cluster(0, &[("web9", "2@other")], &[]).with_host("host9");
    let asked = |clusters: &[&str]| runs("1").asked(clusters);
    check(vec![
        (
            "leaves a cluster that can spare it",
            left(),
            asked(&["dev"]),
            told(&[("dev", spares())]),
            "write dev: down [web1 to nothing] failed []",
        ),
        (
            "leaves a cluster that needs it",
            left(),
            runs("1"),
            told(&[("dev", needs())]),
            "wait in dev: 2 of 2 pass, 2 have to",
        ),
        (
            "leaves a cluster in which nothing is to run any more",
            left(),
            asked(&["dev"]),
            told(&[("dev", needs().active(None))]),
            "write dev: down [web1 to nothing] failed []",
        ),
        ("leaves a cluster, and nothing runs here", left(), runs("1").is(Service::Stopped), nothing(), "remove it"),
        (
            "leaves a cluster in which it has only ever failed",
            left(),
            seen(None, UP, "").started("2").failed("2", true),
            nothing(),
            "remove it",
        ),
        ("no version is active: nobody is asked", stopped(), runs("1"), nothing(), "remove it"),
        (
            "is removed",
            left(),
            runs("1").asked(&["dev"]).with(|record| *record = record.clone().emptied()),
            nothing(),
            "ask how it is registered",
        ),
        (
            "is removed, and registered",
            left(),
            runs("1").with(|record| *record = record.clone().emptied()),
            own(false, true, true),
            "deregister",
        ),
        (
            "is removed, registered, wanted again, and not allowed to run",
            want("2"),
            runs("1").with(|record| *record = record.clone().emptied()).is(Service::Absent),
            Told { own: own(false, true, true).own, ..told(&[("dev", spares().failed("", None))]) },
            "deregister",
        ),
        (
            "is removed, and in the leases",
            left(),
            runs("1").asked(&["dev"]).with(|record| *record = record.clone().emptied()),
            Told { own: Some(None), ..told(&[("dev", cluster(1, &[("web1", "")], &[]))]) },
            "write dev: down [] failed []",
        ),
        (
            "moves: the one that loses it is asked first",
            want("2@other"),
            runs("1"),
            nothing(),
            "ask for the leases of dev",
        ),
        (
            "moves: both are asked",
            want("2@other"),
            runs("1"),
            told(&[("dev", spares())]),
            "ask for the leases of other",
        ),
        (
            "moves: where it leaves says no",
            want("2@other"),
            runs("1"),
            told(&[("dev", needs()), ("other", open())]),
            "wait in dev: 2 of 2 pass, 2 have to",
        ),
        (
            "moves: where it comes says no",
            want("2@other"),
            runs("1"),
            told(&[("dev", spares()), ("other", taken())]),
            "wait in other for web9 to try it",
        ),
        (
            "moves: where it comes says no after it was let go",
            want("2@other"),
            asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "")], &others)), ("other", taken())]),
            "write dev: down [] failed []",
        ),
        (
            "moves: both say yes",
            want("2@other"),
            asked(&["dev", "other"]),
            told(&[("dev", spares()), ("other", open())]),
            "write dev: down [web1 to nothing] failed []",
        ),
        (
            "moves: it was let go",
            want("2@other"),
            asked(&["dev", "other"]),
            told(&[("dev", cluster(1, &[("web1", "")], &others)), ("other", open())]),
            "write other: down [web1 to 2@other] failed []",
        ),
        (
            "moves: it was let go and let in",
            want("2@other"),
            asked(&["dev", "other"]),
            told(&[("dev", cluster(1, &[("web1", "")], &others)), ("other", cluster(0, &[("web1", "2@other")], &[]))]),
            "replace it by 2@other",
        ),
    ]);
}

#[test]
fn while_nothing_is_known_what_was_begun_is_finished_and_nothing_else_is_touched() {
    let unprepared = || Goal::Unprepared { version: "2".parse().unwrap(), install: "/srv/slug/installs/slug_2".into() };
    let unusable = || Goal::Unusable { reason: "no bin/launch".to_owned() };
    check(vec![
        ("nothing was begun", Goal::Finish, runs("1"), away(), "converged"),
        (
            "it was begun and stopped",
            Goal::Finish,
            runs("1").begun("2").is(Service::Stopped),
            away(),
            "replace it by 2",
        ),
        ("it was begun and started", Goal::Finish, runs("1").begun("2"), away(), "awaithealth"),
        ("it was begun and failed", Goal::Finish, runs("1").begun("2").failed("2", false), away(), "replace it by 1"),
        ("it is not prepared", unprepared(), runs("1"), away(), "wait"),
        (
            "it is not prepared, and what ran was stopped for something else",
            unprepared(),
            runs("1").begun("3").is(Service::Stopped),
            away(),
            "replace it by 1",
        ),
        ("it cannot be run", unusable(), runs("1"), away(), "refuse"),
        (
            "it cannot be run, and this node was given leave for something else",
            unusable(),
            runs("1").asked(&["dev"]),
            told(&[("dev", cluster(1, &[("web1", "3")], &[]))]),
            "write dev: down [] failed []",
        ),
    ]);
}

impl Seen {
    /// A record of nothing.
    fn with_record(mut self) -> Self {
        self.record = Some(Record::new(&us().node, Source::Store, &definition_of("2")));
        self
    }

    /// It was begun where nothing was before, and runs.
    fn started(self, name: &str) -> Self {
        self.with_record().begun(name)
    }
}

impl Cluster {
    fn with_host(mut self, host: &str) -> Self {
        self.alive.insert(host.to_owned());
        self
    }
}
