//! Instances: one set of tests for a real Consul, which checks real ports, and for a directory, to which is reported.

mod agents;
mod app;
mod in_consul;
mod in_directory;
mod stamp;
#[macro_use]
#[path = "../place/mod.rs"]
mod place;

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use store::{Instance, InstanceCheck, Registered, Reports, Store};

use app::{App, instance, name, reported};
use place::{Place, QUIET, error, soon};

on_both_stores_async! {
    registered_it_is_passing_once_its_check_is
    drained_it_is_not_passing_although_its_check_is
    an_operators_maintenance_is_neither_replaced_nor_lifted
    registering_a_new_version_keeps_the_drain_and_what_the_check_says
    a_changed_check_replaces_the_old_one_and_takes_no_instance_out
    a_changed_check_of_another_definition_has_to_pass_first
    a_report_counts_until_the_next
    what_was_deregistered_is_gone_and_what_is_not_there_is_no_matter
    only_the_clusters_own_instances_count
    an_instance_that_moves_to_another_cluster_leaves_the_first
    a_host_sees_what_is_registered_on_it_by_app
    to_register_what_is_registered_changes_nothing
    a_wait_ends_with_every_kind_of_change
    a_wait_does_not_end_with_what_does_not_matter
    a_host_is_alive_and_one_that_nobody_knows_is_not
    an_agent_is_alive_and_one_that_never_said_so_is_not_known
    an_app_that_is_called_as_agents_are_is_not_mixed_up_with_them
}

use agents::{
    an_agent_is_alive_and_one_that_never_said_so_is_not_known,
    an_app_that_is_called_as_agents_are_is_not_mixed_up_with_them,
};

async fn registered_it_is_passing_once_its_check_is(place: Place) {
    let mut app = App::new(&place, "web1").await;
    app.stop().await;
    app.store.register(&app.instance).await.unwrap();
    let found = app.only().await;
    assert!(found.is(&app.instance), "{found:?}");
    assert_eq!((found.passing, found.check_passes, found.drained), (false, false, None));
    app.start().await;
    let found = app.until(|it| it.passing).await;
    assert!(found.check_passes);
    app.stop().await;
    app.until(|it| !it.passing && !it.check_passes).await;
}

async fn drained_it_is_not_passing_although_its_check_is(place: Place) {
    let app = App::passing(&place, "web1").await;
    app.store.drain(&app.instance.node, &app.instance.app, "to 0.2").await.unwrap();
    let found = app.only().await;
    assert_eq!((found.passing, found.check_passes, found.drained.as_deref()), (false, true, Some("to 0.2")));
    assert_eq!(found.maintenance, None);
    app.store.drain(&app.instance.node, &app.instance.app, "again").await.unwrap();
    assert_eq!(app.only().await.drained.as_deref(), Some("to 0.2"));
    for _ in 0..2 {
        app.store.undrain(&app.instance.node, &app.instance.app).await.unwrap();
        let found = app.only().await;
        assert_eq!((found.passing, found.drained), (true, None));
    }
}

async fn an_operators_maintenance_is_neither_replaced_nor_lifted(place: Place) {
    let app = App::passing(&place, "web1").await;
    let (node, name) = (&app.instance.node, &app.instance.app);
    app.maintain("a new disk");
    for step in 0..3 {
        let found = app.only().await;
        assert_eq!((found.passing, found.drained), (false, None), "step {step}");
        assert_eq!(found.maintenance.as_deref(), Some("a new disk"), "step {step}");
        match step {
            0 => app.store.drain(node, name, "to 0.2").await.unwrap(),
            _ => app.store.undrain(node, name).await.unwrap(),
        }
    }
}

async fn registering_a_new_version_keeps_the_drain_and_what_the_check_says(place: Place) {
    let app = App::passing(&place, "web1").await;
    app.store.drain(&app.instance.node, &app.instance.app, "to 0.2").await.unwrap();
    let new = Instance { version: name("0.2"), digest: "d2".to_owned(), ..app.instance.clone() };
    app.store.register(&new).await.unwrap();
    let found = app.only().await;
    assert!(found.is(&new) && !found.is(&app.instance), "{found:?}");
    assert_eq!((found.passing, found.check_passes, found.drained.as_deref()), (false, true, Some("to 0.2")));
    app.store.undrain(&app.instance.node, &app.instance.app).await.unwrap();
    assert!(app.only().await.passing);
}

/// A check of the same port as `instance`'s, and of another definition.
fn another_check(instance: &Instance) -> InstanceCheck {
    let port = instance.port.unwrap();
    InstanceCheck::Tcp { port, interval: Duration::from_secs(1), timeout: Duration::from_millis(1500) }
}

async fn a_changed_check_replaces_the_old_one_and_takes_no_instance_out(place: Place) {
    let app = App::passing(&place, "web1").await;
    let new = Instance { check: another_check(&app.instance), ..app.instance.clone() };
    app.store.register(&new).await.unwrap();
    let found = app.only().await;
    assert!(found.is(&new), "{found:?}");
    assert!(found.passing, "{found:?}");
    let gone = Instance { check: InstanceCheck::Reported, ..new };
    app.store.register(&gone).await.unwrap();
    assert!(app.only().await.is(&gone));
}

async fn a_changed_check_of_another_definition_has_to_pass_first(place: Place) {
    let mut app = App::passing(&place, "web1").await;
    let check = another_check(&app.instance);
    app.stop().await;
    let new = Instance { check, digest: "d2".to_owned(), ..app.instance.clone() };
    app.store.register(&new).await.unwrap();
    let found = app.only().await;
    assert_eq!((found.is(&new), found.passing, found.check_passes), (true, false, false));
    app.start().await;
    app.until(|it| it.passing).await;
}

async fn a_report_counts_until_the_next(place: Place) {
    let app = reported(&place, "web1").await;
    let (node, name) = (&app.instance.node, &app.instance.app);
    app.store.register(&app.instance).await.unwrap();
    let found = app.only().await;
    assert!(!found.passing && found.wants_report(true, "runs", SystemTime::now()));
    for (passes, says) in [(true, "runs since noon"), (false, "exited with 1\nand is started again"), (true, "")] {
        app.store.report(node, name, passes, says).await.unwrap();
        let here = app.store.registered(node).await.unwrap().remove(name).unwrap();
        for found in [here.clone(), app.only().await] {
            assert_eq!((found.passing, found.check_passes), (passes, passes));
        }
        assert_eq!(here.says, says);
        assert!(!here.wants_report(passes, says, SystemTime::now()));
        assert!(here.wants_report(!passes, says, SystemTime::now()));
        assert!(here.wants_report(passes, "something else", SystemTime::now()));
        let later = SystemTime::now() + Duration::from_secs(61);
        assert_eq!(here.wants_report(passes, says, later), here.reports != Reports::Lasting);
    }
    app.store.drain(node, name, "to 0.2").await.unwrap();
    app.store.report(node, name, true, "runs").await.unwrap();
    assert!(!app.only().await.passing);
}

async fn what_was_deregistered_is_gone_and_what_is_not_there_is_no_matter(place: Place) {
    let app = App::passing(&place, "web1").await;
    let (node, name) = (&app.instance.node, &app.instance.app);
    for _ in 0..2 {
        app.store.deregister(node, name).await.unwrap();
        assert_eq!(app.all().await, []);
        assert!(app.store.registered(node).await.unwrap().is_empty());
        app.store.drain(node, name, "to 0.2").await.unwrap();
        app.store.undrain(node, name).await.unwrap();
        assert_eq!(app.all().await, []);
    }
    let refused = error(app.store.report(node, name, true, "runs").await);
    assert!(refused.contains("slug") && refused.contains("web1"), "{refused}");
}

async fn only_the_clusters_own_instances_count(place: Place) {
    let one = App::passing(&place, "web1").await;
    let mut two = App::new(&place, "web2").await;
    two.instance.cluster = name("live");
    two.store.register(&two.instance).await.unwrap();
    let mut other = App::new(&place, "web1").await;
    other.instance.app = name("other");
    other.store.register(&other.instance).await.unwrap();
    let nodes = |found: Vec<Registered>| found.into_iter().map(|it| it.node.to_string()).collect::<Vec<_>>();
    assert_eq!(nodes(one.all().await), ["web1"]);
    assert_eq!(nodes(two.all().await), ["web2"]);
    assert_eq!(nodes(other.all().await), ["web1"]);
}

async fn an_instance_that_moves_to_another_cluster_leaves_the_first(place: Place) {
    let app = App::passing(&place, "web1").await;
    app.store.drain(&app.instance.node, &app.instance.app, "to live").await.unwrap();
    let moved = Instance { cluster: name("live"), ..app.instance.clone() };
    app.store.register(&moved).await.unwrap();
    assert_eq!(app.all().await, []);
    let found = app.store.instances(&moved.app, &moved.cluster).await.unwrap();
    assert!(found[0].is(&moved) && found.len() == 1, "{found:?}");
    assert_eq!(found[0].drained.as_deref(), Some("to live"));
}

async fn a_host_sees_what_is_registered_on_it_by_app(place: Place) {
    let store = place.store();
    let mut wanted = Vec::new();
    for (node, app, port) in [("web1", "slug", Some(80)), ("web1", "Other_one.x", None), ("web10", "slug", Some(81))] {
        let check = InstanceCheck::Reported;
        let instance = Instance { node: name(node), app: name(app), port, check, ..instance("web1", 0) };
        store.register(&instance).await.unwrap();
        wanted.push(instance);
    }
    let found = store.registered(&name("web1")).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(wanted[..2].iter().all(|instance| found[&instance.app].is(instance)), "{found:?}");
    assert!(store.registered(&name("web10")).await.unwrap()["slug"].is(&wanted[2]));
    assert!(store.registered(&name("web")).await.unwrap().is_empty());
}

async fn to_register_what_is_registered_changes_nothing(place: Place) {
    let app = App::passing(&place, "web1").await;
    let before = app.trace();
    app.store.register(&app.instance).await.unwrap();
    app.store.undrain(&app.instance.node, &app.instance.app).await.unwrap();
    assert_eq!(app.trace(), before);
    let new = Instance { digest: "d2".to_owned(), ..app.instance.clone() };
    app.store.register(&new).await.unwrap();
    assert_ne!(app.trace(), before);
}

async fn a_wait_ends_with_every_kind_of_change(place: Place) {
    let mut app = App::passing(&place, "web1").await;
    let mut second = App::new(&place, "web2").await;
    let Instance { node, app: name, cluster, .. } = app.instance.clone();
    let (waiting, other) = (place.store(), place.store());
    for step in 0..8 {
        let seen = app.all().await;
        let mut wait = pin!(waiting.wait_instances(&name, &cluster, &seen));
        let before = tokio::time::timeout(QUIET, &mut wait).await;
        assert!(before.is_err(), "step {step}: it ended before anything changed: {before:?}");
        match step {
            0 => other.drain(&node, &name, "to 0.2").await.unwrap(),
            1 => other.undrain(&node, &name).await.unwrap(),
            2 => other.register(&second.instance).await.unwrap(),
            3 => second.start().await,
            4 => app.stop().await,
            5 => other.register(&Instance { digest: "d2".to_owned(), ..app.instance.clone() }).await.unwrap(),
            6 => app.maintain_another(&second.instance.node, "a new disk"),
            _ => other.deregister(&node, &name).await.unwrap(),
        }
        let ended = tokio::time::timeout(Duration::from_secs(5), wait).await;
        ended.unwrap_or_else(|_| panic!("step {step} was missed")).unwrap();
    }
}

async fn a_wait_does_not_end_with_what_does_not_matter(place: Place) {
    let app = reported(&place, "web1").await;
    let (node, name, cluster) = (&app.instance.node, &app.instance.app, &app.instance.cluster);
    app.store.register(&app.instance).await.unwrap();
    app.store.report(node, name, true, "runs").await.unwrap();
    let seen = app.until(|it| it.passing).await;
    let seen = [seen];
    let mut wait = pin!(app.store.wait_instances(name, cluster, &seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    let other = place.store();
    other.register(&app.instance).await.unwrap();
    other.report(node, name, true, "runs on").await.unwrap();
    let elsewhere = Instance { cluster: app::name("live"), ..instance("web2", 1) };
    other.register(&elsewhere).await.unwrap();
    other.drain(&elsewhere.node, name, "to 0.2").await.unwrap();
    other.deregister(&elsewhere.node, name).await.unwrap();
    // Longer than between two looks for the dead.
    assert!(tokio::time::timeout(Duration::from_millis(1500), &mut wait).await.is_err());
    soon(wait_again(&other, &app, &[])).await;
}

async fn wait_again(store: &Store, app: &App<'_>, seen: &[Registered]) {
    store.wait_instances(&app.instance.app, &app.instance.cluster, seen).await.unwrap();
}

async fn a_host_is_alive_and_one_that_nobody_knows_is_not(place: Place) {
    let store = place.store();
    let _alive = store.stay_alive(&name("web1"), "pp-setlive").await.unwrap();
    let host = store.host_of(&name("web1")).await.unwrap();
    let hosts = [host.as_str(), "web2", "web", "", ".", "..", "../web1", "no such\nhost?"].map(str::to_owned);
    let alive = store.alive(&BTreeSet::from(hosts)).await.unwrap();
    assert_eq!(alive, BTreeSet::from([host]));
    assert_eq!(store.alive(&BTreeSet::new()).await.unwrap(), BTreeSet::new());
}
