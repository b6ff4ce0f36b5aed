//! What Consul does with instances when something is wrong, and what somebody else does.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use fixtures::{Consul, HttpFault, HttpServer, Proxy, Scratch};
use serde_json::{Value, json};
use store::{Instance, InstanceCheck, Store};

use crate::app::{App, instance, name, reported};
use crate::place::{Place, QUIET, error, soon};

#[tokio::test]
async fn a_page_that_answers_with_an_error_does_not_pass() {
    let place = Place::consul();
    std::fs::write(place.scratch.path().join("up"), "fine").unwrap();
    let server = HttpServer::start(place.scratch.path());
    let port = server.addr().rsplit_once(':').unwrap().1.parse().unwrap();
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let mut app = App::new(&place, "web1").await;
    app.instance.check = InstanceCheck::Http { port, path: "/up".to_owned(), interval, timeout };
    app.store.register(&app.instance).await.unwrap();
    let found = app.until(|it| it.passing).await;
    assert!(found.says.contains("/up: 200"), "{found:?}");
    server.set(HttpFault::Status(500));
    let found = app.until(|it| !it.passing).await;
    assert!(found.says.contains("/up: 500"), "{found:?}");
}

/// Somebody else's word to the catalog itself, past any agent.
fn catalog(consul: &Consul, what: &Value) {
    let answer = consul.http("PUT", "/v1/catalog/register", what.to_string().as_bytes());
    assert_eq!(answer.0, 200, "{}", answer.1);
}

/// Another host with an instance whose check passes.
fn host(name: &str, serf: &str) -> Value {
    let node = format!("{name}-node");
    let meta = json!({"platypus": "1", "node": node, "cluster": "dev", "version": "0.1", "digest": "d1"});
    json!({
        "Node": name,
        "Address": "192.0.2.1",
        "Service": {"ID": format!("{node}:slug"), "Service": "slug", "Tags": ["dev"], "Meta": meta, "Port": 80},
        "Checks": [
            {"Node": name, "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": serf},
            {"Node": name, "CheckID": format!("{node}:slug:abc"), "Name": "ours", "Status": "passing",
                "ServiceID": format!("{node}:slug")},
        ],
    })
}

#[tokio::test]
async fn an_instance_on_a_dead_host_is_not_passing_and_the_host_is_not_alive() {
    let place = Place::consul();
    let consul = place.consul.as_ref().unwrap();
    let app = App::new(&place, "web1").await;
    for (name, serf) in [("up", "passing"), ("down", "critical")] {
        catalog(consul, &host(name, serf));
    }
    let passing = |all: Vec<store::Registered>| {
        all.iter().map(|it| (it.host.clone(), it.check_passes, it.passing)).collect::<BTreeSet<_>>()
    };
    let expected = [("up".to_owned(), true, true), ("down".to_owned(), true, false)];
    assert_eq!(passing(app.all().await), BTreeSet::from(expected));
    let seen = app.all().await;
    let mut wait = pin!(app.store.wait_instances(&app.instance.app, &app.instance.cluster, &seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    catalog(consul, &host("up", "critical"));
    soon(wait).await.unwrap();
    assert!(app.all().await.iter().all(|it| !it.passing));

    catalog(consul, &host("up", "passing"));
    catalog(consul, &json!({"Node": "without any check", "Address": "192.0.2.2"}));
    let hosts = ["up", "down", "without any check", "unknown"].map(str::to_owned);
    let alive = app.store.alive(&BTreeSet::from(hosts.clone())).await.unwrap();
    assert_eq!(alive, BTreeSet::from([hosts[0].clone(), hosts[2].clone()]));
}

#[tokio::test]
async fn services_that_are_not_ours_do_not_count_and_are_in_nobodys_way() {
    let place = Place::consul();
    let consul = place.consul.as_ref().unwrap();
    let app = App::new(&place, "web1").await;
    let register = |what: Value| {
        let answer = consul.http("PUT", "/v1/agent/service/register", what.to_string().as_bytes());
        assert_eq!(answer.0, 200, "{}", answer.1);
    };
    let ours = json!({"platypus": "1", "node": "web9", "cluster": "dev", "version": "0.1", "digest": "d1"});
    for what in [
        json!({"Name": "slug", "Tags": ["dev"]}),
        json!({"ID": "other", "Name": "slug", "Tags": ["dev"], "Meta": {"version": "0.1"}}),
        json!({"ID": "copied", "Name": "slug", "Tags": ["dev"], "Meta": ours}),
        json!({"ID": "web1:slug", "Name": "slug", "Tags": ["dev"], "Meta": {"node": "web1", "platypus": "a b"}}),
    ] {
        register(what);
    }
    assert_eq!(app.all().await, []);
    assert!(app.store.registered(&app.instance.node).await.unwrap().is_empty());
    app.store.register(&app.instance).await.unwrap();
    assert!(app.only().await.is(&app.instance));
    assert_eq!(app.store.registered(&app.instance.node).await.unwrap().len(), 1);
}

#[tokio::test]
async fn somebody_elses_check_of_our_instance_counts_and_stays() {
    let place = Place::consul();
    let app = App::passing(&place, "web1").await;
    let check = json!({"Name": "theirs", "ServiceID": "web1:slug", "TTL": "10m"}).to_string();
    assert_eq!(place.consul.as_ref().unwrap().http("PUT", "/v1/agent/check/register", check.as_bytes()).0, 200);
    let found = app.until(|it| !it.passing).await;
    assert!(found.check_passes && found.is(&app.instance), "{found:?}");
    let new = Instance { check: InstanceCheck::Reported, ..app.instance.clone() };
    app.store.register(&new).await.unwrap();
    let found = app.only().await;
    assert!(found.is(&new) && found.check_passes && !found.passing, "{found:?}");
}

#[tokio::test]
async fn a_restart_of_the_agent_keeps_what_was_registered_drained_and_reported() {
    let scratch = Scratch::new();
    let consul = Consul::start_server(&scratch);
    let place = Place { url: consul.url(), consul: Some(consul), scratch };
    let mut checked = App::passing(&place, "web1").await;
    let told = reported(&place, "web2").await;
    told.store.register(&told.instance).await.unwrap();
    told.store.report(&told.instance.node, &told.instance.app, true, "runs").await.unwrap();
    told.store.drain(&told.instance.node, &told.instance.app, "to 0.2").await.unwrap();
    place.consul.as_ref().unwrap().restart();
    checked.store = place.store();
    // It comes back to the catalog when the agent has told the servers.
    let is_there = async || {
        loop {
            let all = checked.store.instances(&told.instance.app, &told.instance.cluster).await.unwrap_or_default();
            if all.len() == 2 {
                return all;
            }
            tokio::task::yield_now().await;
        }
    };
    let all = soon(is_there()).await;
    let told_of = all.iter().find(|it| it.node == told.instance.node).unwrap();
    assert_eq!((told_of.check_passes, told_of.drained.as_deref()), (true, Some("to 0.2")));
    assert!(told_of.is(&told.instance));
    // Critical until its check runs.
    assert!(checked.until(|it| it.passing).await.is(&checked.instance));
}

#[tokio::test]
async fn to_a_token_without_rights_nothing_passes_and_errors_name_the_rule() {
    let place = Place::consul_with_access_control();
    let store = place.store();
    let instance = instance("web1", 80);
    let Instance { node, app, cluster, .. } = &instance;
    // There is one.
    let meta = json!({"platypus": "1", "node": "web1", "cluster": "dev", "version": "0.1", "digest": "d1"});
    let service = json!({"ID": "web1:slug", "Name": "slug", "Tags": ["dev"], "Meta": meta}).to_string();
    let answer = place.consul.as_ref().unwrap().http("PUT", "/v1/agent/service/register", service.as_bytes());
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert_eq!(store.instances(app, cluster).await.unwrap(), []);
    assert!(store.registered(node).await.unwrap().is_empty());
    for refused in [
        error(store.register(&instance).await),
        error(store.drain(node, app, "to 0.2").await),
        error(store.undrain(node, app).await),
        error(store.deregister(node, app).await),
        error(store.report(node, app, true, "runs").await),
    ] {
        assert!(refused.contains(r#"needs service "slug" { policy = "write" }"#), "{refused}");
    }
    let refused = error(store.host_of(node).await);
    assert!(refused.contains(r#"needs agent_prefix "" { policy = "read" }"#), "{refused}");
    assert!(store.alive(&BTreeSet::from(["web1".to_owned()])).await.is_err());
    assert!(store.registered_stamp(node).await.is_err() && store.shows_own_host().await.is_err());
}

/// Gives everybody who has no token these rights.
fn allow(consul: &Consul, rules: &str) {
    let put = |path: &str, body: Value| {
        let answer = consul.http("PUT", path, body.to_string().as_bytes());
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str::<Value>(&answer.1).unwrap()
    };
    let policy = put("/v1/acl/policy", json!({"Name": rules.len().to_string(), "Rules": rules}));
    let anonymous = "00000000-0000-0000-0000-000000000002";
    let token = json!({"AccessorID": anonymous, "Policies": [{"ID": policy["ID"]}]});
    put(&format!("/v1/acl/token/{anonymous}"), token);
}

#[tokio::test]
async fn the_rights_that_errors_name_are_enough_and_without_those_to_see_hosts_none_is_said_to_be_dead() {
    let place = Place::consul_with_access_control();
    let (consul, store) = (place.consul.as_ref().unwrap(), place.store());
    let instance = Instance { check: InstanceCheck::Reported, ..instance("web1", 80) };
    let Instance { node, app, cluster, .. } = &instance;
    let rules = r#"service "slug" { policy = "write" } agent_prefix "" { policy = "read" }"#;
    allow(consul, rules);
    let hosts = BTreeSet::from([store.host_of(node).await.unwrap(), "unknown".to_owned()]);
    let refused = error(store.alive(&hosts).await);
    assert!(refused.contains(r#"needs node_prefix "" { policy = "read" }"#), "{refused}");
    assert!(!store.shows_own_host().await.unwrap());
    // An agent of Consul's registers by the rights of its own token or by ours.
    allow(consul, &format!(r#"{rules} node_prefix "" {{ policy = "read" }}"#));
    assert_eq!(store.alive(&hosts).await.unwrap().len(), 1);
    store.register(&instance).await.unwrap();
    store.drain(node, app, "to 0.2").await.unwrap();
    store.undrain(node, app).await.unwrap();
    store.report(node, app, true, "runs").await.unwrap();
    assert!(store.registered(node).await.unwrap()["slug"].is(&instance));
    let passing = async {
        while !store.instances(app, cluster).await.unwrap().iter().any(|it| it.passing) {
            tokio::task::yield_now().await;
        }
    };
    soon(passing).await;
    store.deregister(node, app).await.unwrap();
}

#[tokio::test]
async fn to_wait_for_a_service_that_nobody_registered_is_no_work() {
    let place = Place::consul();
    let proxy = Proxy::start(place.consul.as_ref().unwrap().addr());
    let (store, other) = (Store::open(Some(&proxy.url())).unwrap(), place.store());
    let (app, cluster) = (name("nobodys"), name("dev"));
    let mut wait = pin!(store.wait_instances(&app, &cluster, &[]));
    for port in 1..=20 {
        other.register(&instance("web1", port)).await.unwrap();
        other.deregister(&name("web1"), &name("slug")).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
    }
    assert!(proxy.requests() < 20, "{}", proxy.requests());
}

#[tokio::test]
async fn waits_that_were_given_up_hold_one_connection() {
    let place = Place::consul();
    let proxy = Proxy::start(place.consul.as_ref().unwrap().addr());
    let store = Store::open(Some(&proxy.url())).unwrap();
    let app = App::passing(&place, "web1").await;
    let Instance { app: slug, cluster, node, .. } = &app.instance;
    let seen = app.all().await;
    for _ in 0..50 {
        let wait = store.wait_instances(slug, cluster, &seen);
        assert!(tokio::time::timeout(Duration::from_millis(10), wait).await.is_err());
    }
    assert!(proxy.requests() < 5, "{}", proxy.requests());
    let wait = store.wait_instances(slug, cluster, &seen);
    let change = app.store.drain(node, slug, "to 0.2");
    let (ended, drained) = soon(async { tokio::join!(wait, change) }).await;
    ended.and(drained).unwrap();
    app.store.undrain(node, slug).await.unwrap();
    let is_quiet = async || tokio::time::timeout(QUIET, store.wait_instances(slug, cluster, &seen)).await.is_err();
    assert!(is_quiet().await);
    // What was answered while nobody waited is not taken for how it is.
    app.store.drain(node, slug, "to 0.2").await.unwrap();
    assert!(tokio::time::timeout(QUIET, std::future::pending::<()>()).await.is_err());
    app.store.undrain(node, slug).await.unwrap();
    assert!(is_quiet().await);
    soon(store.wait_instances(slug, cluster, &[])).await.unwrap();
}
