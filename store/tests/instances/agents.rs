//! Which agents are alive, as they say and as others see it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use store::{Alive, Instance, Life, NodeName, Store};

use crate::app::{App, instance, name};
use crate::place::{Place, error, soon};

/// What is known of the agents of these nodes.
async fn known(store: &Store, nodes: &[&str]) -> Vec<(String, Life)> {
    let nodes = nodes.iter().map(|node| name(node)).collect::<BTreeSet<NodeName>>();
    let agents = store.alive_agents(&nodes).await.unwrap();
    agents.into_iter().map(|((node, agent), life)| (format!("{agent} of {node}"), life)).collect()
}

/// As a daemon does when it starts.
async fn start(store: &Store, node: &str, agent: &str) -> Alive {
    let alive = store.stay_alive(&name(node), agent).await.unwrap();
    store.say_alive(&name(node), agent, true).await.unwrap();
    alive
}

fn all(agents: &[(&str, Life)]) -> Vec<(String, Life)> {
    agents.iter().map(|(agent, life)| ((*agent).to_owned(), *life)).collect()
}

pub(crate) async fn an_agent_is_alive_and_one_that_never_said_so_is_not_known(place: Place) {
    let store = place.store();
    assert_eq!(known(&store, &["web1", "web2"]).await, []);
    let mut agents = BTreeMap::new();
    for (node, agent) in [("web1", "pp-setlive"), ("web1", "pp-preparer"), ("web1.x", "pp-setlive"), ("web3", "pp-x")] {
        agents.insert((node, agent), start(&store, node, agent).await);
        store.say_alive(&name(node), agent, false).await.unwrap();
    }
    let alive = |agent| (agent, Life::Alive);
    let expected = ["pp-preparer of web1", "pp-setlive of web1", "pp-setlive of web1.x"].map(alive);
    assert_eq!(known(&store, &["web1", "web2", "web1.x"]).await, all(&expected));
    assert_eq!(known(&store, &[]).await, []);
    for bad in ["", "a.b", "a/b", "a@b"] {
        let said = error(match store {
            Store::Consul(_) => store.say_alive(&name("web1"), bad, true).await,
            Store::Directory(_) => store.stay_alive(&name("web1"), bad).await.map(drop),
        });
        assert!(said.contains("is no agent's name"), "{said}");
    }

    // As when it dies, in a directory; Consul waits for a while before it says so of its own accord.
    drop(agents.remove(&("web1", "pp-setlive")));
    if let Some(consul) = &place.consul {
        assert_eq!(consul.http("PUT", "/v1/agent/check/fail/pp-setlive@web1", b"").0, 200);
    }
    let dead = async {
        while known(&store, &["web1"]).await != all(&[alive("pp-preparer of web1"), ("pp-setlive of web1", Life::Dead)])
        {
        }
    };
    soon(dead).await;
    let _again = start(&store, "web1", "pp-setlive").await;
    let alive = async { while known(&store, &["web1"]).await != all(&expected[..2]) {} };
    soon(alive).await;
}

pub(crate) async fn an_app_that_is_called_as_agents_are_is_not_mixed_up_with_them(place: Place) {
    let mut app = App::new(&place, "web1").await;
    let (app_name, cluster) = (name("platypus-agent"), name("pp-setlive"));
    app.instance = Instance { app: app_name, cluster, ..instance("web1", app.instance.port.unwrap()) };
    let (store, Instance { node, app: app_name, cluster, .. }) = (place.store(), &app.instance);
    let _alive = start(&store, "web1", "pp-setlive").await;
    assert_eq!(store.instances(app_name, cluster).await.unwrap(), []);
    assert!(store.registered(node).await.unwrap().is_empty());
    store.register(&app.instance).await.unwrap();
    let found = app.only().await;
    assert!(found.is(&app.instance), "{found:?}");
    assert_eq!(store.registered(node).await.unwrap().len(), 1);
    store.say_gone(node, "pp-setlive").await.unwrap();
    assert_eq!(app.only().await.digest, app.instance.digest);
    let _alive = start(&store, "web1", "pp-setlive").await;
    store.deregister(node, app_name).await.unwrap();
    assert_eq!(known(&store, &["web1"]).await, all(&[("pp-setlive of web1", Life::Alive)]));
}

fn checks(place: &Place) -> Value {
    let answer = place.consul.as_ref().unwrap().http("GET", "/v1/agent/checks", b"").1;
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn consul_is_told_again_what_it_has_forgotten_and_forgets_what_is_taken_back() {
    let place = Place::consul();
    let store = place.store();
    let say = async || store.say_alive(&name("web1"), "pp-setlive", false).await.unwrap();
    let put = |path: &str, body: Value| {
        let answer =
            place.consul.as_ref().unwrap().http("PUT", &format!("/v1/agent/{path}"), body.to_string().as_bytes());
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
    };
    let shown = async || soon(async { while known(&store, &["web1"]).await.is_empty() {} }).await;
    say().await;
    shown().await;
    let check = checks(&place)["pp-setlive@web1"].clone();
    assert_eq!((&check["ServiceName"], &check["Type"]), (&json!("platypus-agent"), &json!("ttl")), "{check}");
    assert_eq!(check["ServiceID"], "pp-setlive@web1", "a check of the host would fail every instance on it");
    for forget in ["service/deregister/pp-setlive@web1", "check/deregister/pp-setlive@web1"] {
        put(forget, json!(null));
        say().await;
        assert_eq!(checks(&place)["pp-setlive@web1"]["Status"], "passing", "{forget}");
    }
    // What an agent before this one said has run out, and its service is still there.
    put("check/fail/pp-setlive@web1", json!(null));
    store.say_alive(&name("web1"), "pp-setlive", true).await.unwrap();
    assert_eq!(checks(&place)["pp-setlive@web1"]["Status"], "passing");
    for _ in 0..2 {
        store.say_gone(&name("web1"), "pp-setlive").await.unwrap();
        assert_eq!(checks(&place).as_object().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn who_may_not_say_that_it_is_alive_is_told_which_right_that_takes() {
    let place = Place::consul_with_access_control();
    let without = Store::open(Some(&place.url)).unwrap();
    for is_new in [true, false] {
        let said = error(without.say_alive(&name("web1"), "pp-setlive", is_new).await);
        assert!(said.contains(r#"service "platypus-agent" { policy = "write" }"#), "{said}");
    }
    assert_eq!(known(&without, &["web1"]).await, [], "nothing is known, and nobody dead");
}
