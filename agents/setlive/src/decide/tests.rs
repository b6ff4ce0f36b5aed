//! The answers one by one, and a simulated host on which a crash may come between any two steps.

use super::*;
use crate::definition::tests::definition;
use crate::record::Record;

fn record(healthy: Option<&str>, converging: Option<&str>) -> Record {
    let mut record = Record::new(&"web1".parse().unwrap(), Source::Store, &definition("1"));
    record.services = ["slug".to_owned()].into();
    record.healthy = healthy.map(definition);
    record.converging = converging.map(definition);
    record
}

fn failed(mut record: Record, version: &str) -> Record {
    let failure = Failure {
        version: version.parse().unwrap(),
        reason: "503".to_owned(),
        log: Vec::new(),
        health: None,
        is_published: true,
    };
    record.failed.insert(definition(version).digest(), failure);
    record
}

const UP: Service = Service::Running { pid: 7 };

fn seen(record: Option<Record>, slug: Service, on_disk: &str) -> Seen {
    let on_disk = if on_disk.is_empty() { BTreeSet::new() } else { [definition(on_disk).digest()].into() };
    let installed = ["1", "2", "3", "4"].map(|version| definition(version).digest()).into();
    Seen {
        record,
        services: [("slug".to_owned(), slug)].into(),
        on_disk,
        installed,
        owner: Owner::Us,
        alone: false,
        adopt: false,
        part: Part::None,
    }
}

fn want(version: &str) -> Goal {
    Goal::Run(definition(version))
}

fn unprepared(version: &str) -> Goal {
    Goal::Unprepared { version: version.parse().unwrap(), install: "/srv/slug/installs/x".into() }
}

fn unusable() -> Goal {
    Goal::Unusable { reason: "broken".to_owned() }
}

const NOTHING: Goal = Goal::Nothing { why: "no version is active", heeds_minimum: false };

/// As of an app that is drained.
const DRAINED: Goal = Goal::Nothing { why: "it is drained on this node", heeds_minimum: true };

fn replace(from: Option<&str>, to: &str, permission: Permission) -> Decision {
    Decision::Replace { from: from.map(definition), to: definition(to), permission }
}

#[test]
fn every_state_of_a_host_has_its_answer() {
    use Permission::{Given, Needed, NotNeeded};
    use Service::{Absent, Failing, Stopped, Unsupervised};
    let live = || record(Some("1"), None);
    let started = |version: &str| Decision::Start(definition(version));
    let fell_back = Decision::FellBack {
        digest: definition("2").digest(),
        failure: failed(live(), "2").failed[&definition("2").digest()].clone(),
        running: definition("1"),
    };
    for (case, goal, seen, decision) in [
        ("nothing there, nothing wanted", NOTHING, seen(None, Absent, ""), Decision::Converged),
        ("the first deployment", want("1"), seen(None, Absent, ""), replace(None, "1", NotNeeded)),
        ("converged", want("1"), seen(Some(live()), UP, "1"), Decision::Converged),
        ("died, runsv is at it", want("1"), seen(Some(live()), Failing, "1"), started("1")),
        ("was told to stop by somebody", want("1"), seen(Some(live()), Stopped, "1"), started("1")),
        ("runsv is gone", want("1"), seen(Some(live()), Unsupervised, "1"), started("1")),
        ("a changed run script", want("1"), seen(Some(live()), UP, ""), Decision::Repair(definition("1"))),
        ("a new version", want("2"), seen(Some(live()), UP, "1"), replace(Some("1"), "2", Needed)),
        (
            "a new version, the old one is down",
            want("2"),
            seen(Some(live()), Stopped, "1"),
            replace(Some("1"), "2", NotNeeded),
        ),
        (
            "a new version, nobody knows of the old one",
            want("2"),
            seen(Some(live()), Unsupervised, "1"),
            replace(Some("1"), "2", Needed),
        ),
        (
            "killed before the stop",
            want("2"),
            seen(Some(record(Some("1"), Some("2"))), UP, "1"),
            replace(Some("1"), "2", Needed),
        ),
        (
            "killed before the start",
            want("2"),
            seen(Some(record(Some("1"), Some("2"))), Stopped, "2"),
            replace(Some("2"), "2", Given),
        ),
        (
            "killed after the start",
            want("2"),
            seen(Some(record(Some("1"), Some("2"))), UP, "2"),
            Decision::AwaitHealth(definition("2")),
        ),
        (
            "started, not found by runsvdir yet",
            want("2"),
            seen(Some(record(None, Some("2"))), Unsupervised, "2"),
            started("2"),
        ),
        (
            "back before anything was stopped",
            want("1"),
            seen(Some(record(Some("1"), Some("2"))), UP, "1"),
            Decision::AwaitHealth(definition("1")),
        ),
        (
            "back after the start",
            want("1"),
            seen(Some(record(Some("1"), Some("2"))), UP, "2"),
            replace(Some("2"), "1", Given),
        ),
        (
            "not healthy in time",
            want("2"),
            seen(Some(failed(record(Some("1"), Some("2")), "2")), UP, "2"),
            replace(Some("2"), "1", Given),
        ),
        ("went back", want("2"), seen(Some(failed(live(), "2")), UP, "1"), fell_back),
        ("went back, then it died", want("2"), seen(Some(failed(live(), "2")), Failing, "1"), started("1")),
        (
            "the next version after a failure",
            want("3"),
            seen(Some(failed(live(), "2")), UP, "1"),
            Decision::Forget([definition("2").digest()].into()),
        ),
        (
            "not prepared, nothing runs",
            unprepared("1"),
            seen(None, Absent, ""),
            Decision::Wait("1 is not prepared yet: there is no /srv/slug/installs/x".to_owned()),
        ),
        (
            "not prepared, something runs",
            unprepared("2"),
            seen(Some(live()), UP, "1"),
            Decision::Wait("2 is not prepared yet: there is no /srv/slug/installs/x".to_owned()),
        ),
        (
            "not prepared, and what ran is down",
            unprepared("3"),
            seen(Some(record(Some("1"), Some("2"))), Stopped, "1"),
            replace(Some("1"), "1", Given),
        ),
        ("nothing known, nothing begun", Goal::Finish, seen(Some(live()), Stopped, "1"), Decision::Converged),
        (
            "nothing known, begun",
            Goal::Finish,
            seen(Some(record(Some("1"), Some("2"))), Stopped, "1"),
            replace(Some("1"), "2", Given),
        ),
        (
            "nothing known, begun and failed",
            Goal::Finish,
            seen(Some(failed(record(Some("1"), Some("2")), "2")), UP, "2"),
            replace(Some("2"), "1", Given),
        ),
        (
            "nothing known, on the way back",
            Goal::Finish,
            seen(Some(failed(record(Some("1"), Some("1")), "2")), Stopped, "1"),
            replace(Some("1"), "1", Given),
        ),
        (
            "nothing known, noted but not begun",
            Goal::Finish,
            seen(Some(record(Some("1"), Some("2"))), UP, "1"),
            Decision::Converged,
        ),
        ("unusable, nothing runs", unusable(), seen(None, Absent, ""), Decision::Refuse("broken".to_owned())),
        ("unusable, something runs", unusable(), seen(Some(live()), UP, "1"), Decision::Refuse("broken".to_owned())),
        ("unusable, and what ran is down", unusable(), seen(Some(live()), Stopped, "1"), started("1")),
        (
            "no active version",
            NOTHING,
            seen(Some(live()), UP, "1"),
            Decision::Remove { running: Some(definition("1")), why: "no version is active" },
        ),
    ] {
        assert_eq!(decide(&goal, &seen), decision, "{case}");
    }
}

#[test]
fn a_failed_version_with_nothing_to_go_back_to_stays_started_and_may_recover() {
    let goal = want("1");
    for service in [UP, Service::Failing] {
        let seen = seen(Some(failed(record(None, Some("1")), "1")), service, "1");
        assert!(matches!(decide(&goal, &seen), Decision::Recheck(..)), "{service:?}");
    }
}

#[test]
fn when_what_was_gone_back_to_fails_too_it_stays_started_and_both_failures_are_kept() {
    let both = failed(failed(record(Some("1"), Some("1")), "2"), "1");
    let decision = decide(&want("2"), &seen(Some(both), UP, "1"));
    assert!(matches!(decision, Decision::Recheck(to, _) if to == definition("1")));
}

#[test]
fn nothing_is_gone_back_to_whose_install_is_gone() {
    let mut seen = seen(Some(failed(record(Some("1"), Some("2")), "2")), UP, "2");
    seen.installed.remove(&definition("1").digest());
    assert!(matches!(decide(&want("2"), &seen), Decision::Recheck(to, _) if to == definition("2")));
}

#[test]
fn a_failed_definition_is_tried_again_with_another_check() {
    let mut wanted = definition("2");
    wanted.health = serde_json::from_value(serde_json::json!({"tcp": {"port": 1}})).unwrap();
    let decision = decide(&Goal::Run(wanted.clone()), &seen(Some(failed(record(Some("1"), None), "2")), UP, "1"));
    assert_eq!(decision, Decision::Forget([wanted.digest()].into()));
}

#[test]
fn new_checks_and_time_outs_restart_nothing() {
    let mut wanted = definition("1");
    wanted.timeouts.stop = 3.0.try_into().unwrap();
    let decision = decide(&Goal::Run(wanted.clone()), &seen(Some(record(Some("1"), None)), UP, "1"));
    assert_eq!(decision, Decision::Note(wanted));
}

#[test]
fn services_that_the_new_version_no_longer_has_are_removed_once_it_is_healthy() {
    let mut record = record(Some("2"), None);
    record.services.insert("slug@old".to_owned());
    let decision = decide(&want("2"), &seen(Some(record), UP, "2"));
    assert_eq!(decision, Decision::RemoveServices(["slug@old".to_owned()].into()));
}

#[test]
fn what_is_not_ours_is_refused_until_it_is_adopted() {
    let mut foreign = seen(None, UP, "");
    assert!(matches!(decide(&want("1"), &foreign), Decision::Refuse(reason) if reason.contains("--adopt")));
    assert_eq!(decide(&NOTHING, &foreign), Decision::Converged);
    foreign.adopt = true;
    assert_eq!(decide(&want("1"), &foreign), replace(None, "1", Permission::Needed));
}

#[test]
fn what_another_runs_passes_to_the_store_when_it_is_the_same_and_is_left_alone_when_it_is_not() {
    let of = |owner: Owner, adopt: bool| Seen { owner, adopt, ..seen(Some(record(Some("1"), None)), UP, "1") };
    let node = || Owner::Node("web2".parse().unwrap());
    let (direct, store) = (|| Owner::Source(Source::Direct), || Owner::Source(Source::Store));
    assert_eq!(decide(&want("1"), &of(direct(), false)), Decision::Adopt);
    assert_eq!(decide(&want("1"), &of(store(), false)), Decision::Converged);
    for owner in [direct(), store(), node()] {
        for goal in [want("2"), unprepared("2"), unusable(), NOTHING] {
            let decision = decide(&goal, &of(owner.clone(), false));
            assert!(matches!(decision, Decision::Refuse(reason) if reason.contains("--adopt")), "{owner:?} {goal:?}");
            assert_eq!(decide(&goal, &of(owner.clone(), true)), Decision::Adopt, "{owner:?} {goal:?}");
        }
    }
    assert!(matches!(decide(&want("1"), &of(node(), false)), Decision::Refuse(_)), "two nodes may share a host");
    let begun = Seen { owner: direct(), ..seen(Some(record(Some("1"), Some("2"))), UP, "2") };
    assert_eq!(decide(&want("2"), &begun), Decision::Adopt, "what was begun goes on");
    assert!(matches!(decide(&want("1"), &begun), Decision::Refuse(_)));
    for record in [failed(record(Some("1"), None), "2"), failed(record(Some("1"), Some("1")), "2")] {
        let went_back = |owner| Seen { owner, ..seen(Some(record.clone()), UP, "1") };
        assert_eq!(decide(&want("2"), &went_back(direct())), Decision::Adopt, "both want what has failed");
        assert_eq!(decide(&want("2"), &went_back(store())), Decision::Converged);
        assert!(matches!(decide(&want("3"), &went_back(direct())), Decision::Refuse(_)));
    }
}

/// A host with one service, on which every step of `act` is one change.
#[derive(Clone, Debug, PartialEq)]
struct Host {
    record: Option<Record>,
    /// What the files on disk are rendered from.
    files: Option<Definition>,
    linked: bool,
    told_to_run: bool,
    /// What the running process was started from.
    running: Option<Definition>,
    prepared: BTreeSet<String>,
    healthy: BTreeSet<String>,
    /// How often each version was started.
    starts: BTreeMap<String, usize>,
}

/// The steps that `act` takes, each safe to be the last.
#[derive(Clone, Debug)]
enum Step {
    Save(Box<Record>),
    Stop,
    Write(Box<Definition>),
    Start,
    RemoveService,
    RemoveRecord,
}

impl Host {
    fn seen(&self) -> Seen {
        let service = match (self.linked, self.told_to_run, &self.running) {
            (false, ..) => Service::Absent,
            (true, false, _) => Service::Stopped,
            (true, true, Some(_)) => UP,
            (true, true, None) => Service::Failing,
        };
        let on_disk = self.files.iter().map(Definition::digest).collect();
        let installed = self.prepared.iter().map(|version| definition(version).digest()).collect();
        let services = [("slug".to_owned(), service)].into();
        Seen {
            record: self.record.clone(),
            services,
            on_disk,
            installed,
            owner: Owner::Us,
            alone: false,
            adopt: false,
            part: Part::None,
        }
    }

    fn is_healthy(&self, version: &Version) -> bool {
        self.healthy.contains(version.as_str())
    }

    /// What `act` does for a decision; `None` when it is one that changes nothing.
    fn steps(&self, decision: Decision) -> Option<Vec<Step>> {
        let record = || self.record.clone().expect("decided on a record");
        let save = |record: Record| Step::Save(Box::new(record));
        let write = |definition: Definition| Step::Write(Box::new(definition));
        let judged = |to: &Definition, record: Record| {
            save(if self.is_healthy(&to.version) { record.arrived(to) } else { failed(record, to.version.as_str()) })
        };
        Some(match decision {
            Decision::Converged | Decision::Wait(_) | Decision::Refuse(_) | Decision::FellBack { .. } => return None,
            Decision::Recheck(to, _) if self.is_healthy(&to.version) => vec![save(record().arrived(&to))],
            Decision::Recheck(..) => return None,
            Decision::Forget(digests) => {
                let mut record = record();
                record.failed.retain(|digest, _| !digests.contains(digest));
                vec![save(record)]
            }
            Decision::Adopt => unreachable!("no other has written this record"),
            Decision::Repair(to) => vec![write(to)],
            Decision::Note(to) => vec![save(Record { healthy: Some(to), ..record() })],
            Decision::Start(_) => vec![Step::Start],
            Decision::AwaitHealth(to) => vec![judged(&to, record())],
            Decision::Replace { to, .. } => {
                let begun = self
                    .record
                    .clone()
                    .unwrap_or_else(|| Record::new(&"web1".parse().unwrap(), Source::Store, &to))
                    .begun(&to);
                vec![save(begun.clone()), Step::Stop, write(to.clone()), Step::Start, judged(&to, begun)]
            }
            Decision::HandOver { .. } | Decision::Finish(_) => unreachable!("the agent is not of this app"),
            Decision::RemoveServices(_) => unreachable!("there is one service"),
            Decision::Remove { .. } => vec![Step::Stop, Step::RemoveService, save(record().emptied())],
            Decision::Clear => vec![Step::RemoveRecord],
        })
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Save(record) => self.record = Some(*record),
            Step::Stop => {
                assert!(self.running.is_none() || self.record.is_some(), "nothing is stopped that is not recorded");
                (self.told_to_run, self.running) = (false, None);
            }
            Step::Write(to) => {
                (self.files, self.linked) = (Some(*to), true);
            }
            Step::Start => {
                let files = self.files.clone().expect("started without files");
                *self.starts.entry(files.version.to_string()).or_default() += 1;
                (self.told_to_run, self.running) = (true, Some(files));
            }
            Step::RemoveService => (self.linked, self.files) = (false, None),
            Step::RemoveRecord => self.record = None,
        }
    }

    fn goal(&self, active: Option<&str>) -> Goal {
        match active {
            None => NOTHING,
            Some(version) if self.prepared.contains(version) => want(version),
            Some(version) => unprepared(version),
        }
    }

    /// What runsv does by itself: it starts again what died.
    fn runsv(&mut self) {
        if self.linked && self.told_to_run && self.running.is_none() {
            self.running = self.files.clone();
        }
    }

    /// Passes until nothing is left to do; dies after `lives` steps, if it comes to that.
    fn pass(&mut self, active: Option<&str>, lives: Option<usize>) {
        let mut taken = 0;
        for _ in 0..20 {
            let Some(steps) = self.steps(decide(&self.goal(active), &self.seen())) else { return };
            for step in steps {
                if lives == Some(taken) {
                    return;
                }
                self.apply(step);
                taken += 1;
            }
        }
        panic!("does not settle: {self:?}");
    }
}

#[test]
fn whatever_happened_before_a_host_converges_and_a_further_pass_changes_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let versions = ["1", "2", "3", "4"];
    for _ in 0..4_000 {
        let mut host = Host {
            record: None,
            files: None,
            linked: false,
            told_to_run: false,
            running: None,
            prepared: BTreeSet::new(),
            healthy: ["1", "2"].map(str::to_owned).into(),
            starts: BTreeMap::new(),
        };
        let mut active = None;
        for _ in 0..random.usize(1..10) {
            match random.u8(0..6) {
                0..3 => active = random.choice(versions),
                3 => active = None,
                4 => host.running = None,
                _ => host.files = None.or(host.files.filter(|_| random.bool())),
            }
            host.prepared.extend(random.choice(versions).map(str::to_owned));
            host.pass(active, Some(random.usize(0..9)));
        }
        host.prepared.extend(versions.map(str::to_owned));
        let had_healthy = host.record.as_ref().and_then(|record| record.healthy.clone());
        host.starts.clear();
        host.runsv();
        host.pass(active, None);

        let running = host.running.as_ref().map(|definition| definition.version.to_string());
        match active {
            None => assert_eq!((running, &host.record, host.linked), (None, &None, false)),
            Some(version) if host.healthy.contains(version) => assert_eq!(running.as_deref(), Some(version)),
            Some(version) => {
                let fallback = had_healthy.map_or(version.to_owned(), |healthy| healthy.version.to_string());
                assert_eq!(running, Some(fallback), "the last healthy one, or the bad one when there is none");
                assert!(host.starts.get(version).is_none_or(|starts| *starts <= 1), "a bad version is tried once");
            }
        }
        let before = host.clone();
        host.pass(active, None);
        assert_eq!(host, before, "a further pass changes nothing");
    }
}

#[test]
fn the_app_that_the_agent_is_of_is_handed_over_and_never_stopped() {
    let ours = |seen: Seen| Seen { part: Part::Service("slug".to_owned()), ..seen };
    let by_hand = |seen: Seen| Seen { part: Part::Program, ..seen };
    let gone = Goal::Nothing { why: "gone", heeds_minimum: true };
    let running = || seen(Some(record(Some("1"), None)), UP, "1");
    let begun = || seen(Some(record(Some("1"), Some("2"))), UP, "1");
    let hand_over = |permission| Decision::HandOver {
        from: definition("1"),
        to: definition("2"),
        permission,
        service: "slug".to_owned(),
    };
    assert_eq!(decide(&want("2"), &ours(running())), hand_over(Permission::Needed));
    assert_eq!(decide(&want("2"), &ours(begun())), hand_over(Permission::Needed), "a crash came before the finisher");
    assert_eq!(decide(&want("1"), &ours(running())), Decision::Converged);
    // Brought there from outside, and not judged yet.
    let brought = || seen(Some(record(Some("1"), Some("2"))), UP, "2");
    assert_eq!(decide(&want("3"), &ours(brought())), Decision::AwaitHealth(definition("2")));

    let refused = |goal: &Goal, seen: Seen, says: &str| match decide(goal, &seen) {
        Decision::Refuse(reason) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{other:?}"),
    };
    refused(&gone, ours(running()), "kickstart/host --remove");
    refused(&gone, by_hand(running()), "kickstart/host --remove");
    refused(&want("2"), by_hand(running()), "was started by hand");
    let another = Seen { part: Part::Service("slug@agent".to_owned()), ..running() };
    refused(&want("2"), another, "2 has no slug@agent");
    let drifted = || seen(Some(record(Some("1"), None)), UP, "");
    assert_eq!(decide(&want("2"), &ours(drifted())), Decision::Repair(definition("1")));

    let unfit = |change: &dyn Fn(&mut Definition), says: &str| {
        let mut to = definition("2");
        change(&mut to);
        let mut seen = ours(running());
        seen.services.insert("slug@finish".to_owned(), Service::Absent);
        refused(&Goal::Run(to), seen, says);
    };
    unfit(&|to| to.basedir = "/srv/elsewhere".to_owned().try_into().unwrap(), "another basedir");
    unfit(&|to| drop(to.user_config.insert("runit".to_owned(), "/x".into())), "another runit:");
    let own = serde_json::json!({"runit-stage": "/x"});
    unfit(&|to| drop(to.user_config.insert("pp-setlive".to_owned(), own.clone())), "another runit-stage:");
    unfit(&|to| drop(to.entries.insert("slug@finish".to_owned(), String::new())), "bin/launch/finish");
    let nowhere_back = Seen { installed: [definition("2").digest()].into(), ..running() };
    refused(&want("2"), ours(nowhere_back), "the install of 1 is gone");
}

#[test]
fn what_is_drained_is_removed_whatever_came_before_and_then_there_is_nothing_to_do() {
    use Service::{Absent, Failing, Stopped};
    let remove = |running: Option<&str>| Decision::Remove {
        running: running.map(definition),
        why: "it is drained on this node",
    };
    for (seen, expected) in [
        (seen(None, Absent, ""), Decision::Converged),
        (seen(Some(record(Some("1"), None)), UP, "1"), remove(Some("1"))),
        (seen(Some(record(Some("1"), None)), Failing, "1"), remove(Some("1"))),
        (seen(Some(record(Some("1"), Some("2"))), Stopped, "1"), remove(Some("1"))),
        (seen(Some(record(None, Some("2"))), UP, "2"), remove(None)),
        (seen(Some(record(Some("1"), None).emptied()), Absent, ""), Decision::Clear),
    ] {
        assert_eq!(decide(&DRAINED, &seen), expected, "{seen:?}");
    }
}

#[test]
fn what_a_finisher_has_in_hand_is_left_to_it_whatever_is_wanted_unless_all_of_it_is_taken_away() {
    let handed_over = record(Some("1"), None).begun(&definition("2")).handed_over(&"slug".parse().unwrap(), "slug");
    let gone = Goal::Nothing { why: "gone", heeds_minimum: false };
    for part in [Part::None, Part::Program, Part::Service("slug".to_owned())] {
        for on_disk in ["1", "2"] {
            let seen = Seen { part: part.clone(), ..seen(Some(handed_over.clone()), UP, on_disk) };
            for goal in [want("1"), want("2"), want("3"), Goal::Finish, Goal::Barred] {
                assert_eq!(decide(&goal, &seen), Decision::Finish(definition("2")));
            }
            let is_removed = matches!(decide(&gone, &seen), Decision::Remove { .. });
            assert_eq!(is_removed, part == Part::None);
        }
    }
}
