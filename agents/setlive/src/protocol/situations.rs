//! Situations one by one, each with the next step of web1, which stands on its own here.

mod vocabulary;

use super::*;
use crate::decide::Service;
use vocabulary::{
    UP, away, bare, check, cluster, definition_of, digest, leases, left, nothing, own, runs, said, seen, stopped, told,
    us, want,
};

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
