//! What the store costs: requests, time and connections.

mod place;

use std::net::TcpStream;
use std::pin::pin;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fixtures::{Consul, Proxy};
use place::{Place, get, prefix, put, soon};
use serde_json::json;
use store::intent::{self, Follower};
use store::{NodeName, Store};
use tokio::task::JoinSet;

/// Gives the node `n<apps>` that many apps.
fn add_node(consul: &Consul, apps: usize) -> NodeName {
    let node = (0..apps).map(|n| (format!("nodes/n{apps}/app{n}"), r#"{"cluster": "dev"}"#.to_owned()));
    put_all(consul, node);
    format!("n{apps}").parse().unwrap()
}

fn add_clusters(consul: &Consul, apps: usize) {
    let documents = (0..apps).flat_map(|n| {
        [
            (
                format!("clusters/app{n}/dev/config"),
                r#"{"versions": {"1": "active"}, "user_config": {"a": 1}}"#.to_owned(),
            ),
            (format!("clusters/app{n}/dev/deploy_config"), format!(r#"{{"basedir": "/srv/app{n}", "ports": [80]}}"#)),
        ]
    });
    put_all(consul, documents);
}

fn put_all(consul: &Consul, documents: impl Iterator<Item = (String, String)>) {
    let set = |(key, value): (String, String)| json!({"KV": {"Verb": "set", "Key": key, "Value": BASE64_STANDARD.encode(value)}});
    let operations = documents.map(set).collect::<Vec<_>>();
    for operations in operations.chunks(64) {
        let answer = consul.http("PUT", "/v1/txn", &serde_json::to_vec(operations).unwrap());
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
}

#[tokio::test]
async fn a_pass_over_n_apps_costs_one_recursive_read_and_a_transaction_for_each_64() {
    let place = Place::consul();
    let consul = place.consul.as_ref().unwrap();
    add_clusters(consul, 1000);
    let proxy = Proxy::start(consul.addr());
    for apps in [0, 1, 64, 65, 1000] {
        let node = add_node(consul, apps);
        let store = Store::open(Some(&proxy.url())).unwrap();
        let before = proxy.requests();
        let intent = intent::read(&store, &node).await.unwrap();
        assert_eq!(intent.apps.values().filter(|app| app.is_ok()).count(), apps);
        let lines = proxy.request_lines().split_off(before.try_into().unwrap());
        // Where there is none, it is asked whether that is only not shown.
        assert_eq!(lines.len(), 1 + apps.div_ceil(64).max(1), "{apps} apps: {lines:#?}");
    }
    let direct = place.store();
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        intent::read(&direct, &"n1000".parse().unwrap()).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("1000 apps are read in {:?} (median), {:?} at first or worst", times[2], times[4]);
    assert!(times[2] < Duration::from_secs(2), "{times:?}");
}

/// A Consul agent allows each address 200 connections, and one whose query was given up counts until that would have
/// ended, for up to a minute.
#[tokio::test]
async fn an_agent_that_is_woken_often_leaves_connections_for_others() {
    let place = Place::consul();
    let (store, other) = (place.store(), place.store());
    let prefixes = (0..16).map(|n| prefix(&format!("clusters/app{n}/dev/"))).collect::<Vec<_>>();
    for n in 0..40 {
        let (_, token) = store.read(&prefixes).await.unwrap();
        let mut wait = pin!(store.wait(&token));
        // All sixteen queries are under way, and fifteen will have been in vain.
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
        put(&other, &format!("clusters/app{}/dev/config", n % 16), &n.to_string()).await;
        soon(wait).await.unwrap();
    }
    let addr = place.consul.as_ref().unwrap().addr();
    let connections = (0..100).map(|_| TcpStream::connect(&addr).unwrap()).collect::<Vec<_>>();
    assert_eq!(place.consul.as_ref().unwrap().http("GET", "/v1/status/leader", b"").0, 200);
    drop(connections);
}

#[tokio::test]
async fn a_change_of_an_app_costs_a_node_that_runs_it_one_request_and_another_none() {
    let place = Place::consul();
    let (consul, store) = (place.consul.as_ref().unwrap(), place.store());
    add_clusters(consul, 20);
    let [one, two, many] = [1, 2, 20].map(|apps| follow(consul, add_node(consul, apps)));
    // Two reads, and for each prefix a query that is answered at once, and one that waits.
    asked(&one, 2 + 2 * 2).await;
    asked(&two, 2 + 3 * 2).await;
    // What is around many apps is one query more, whose answer is looked into.
    asked(&many, 2 + 2 * 2 + 1).await;
    let change = async |app: &str| put(&store, &format!("clusters/{app}/dev/config"), r#"{"versions": {}}"#).await;
    change("app19").await;
    asked(&many, 7 + 2).await;
    change("app1").await;
    asked(&two, 8 + 1).await;
    // Who was woken by the one change has asked more than who was by the other.
    change("app0").await;
    asked(&two, 8 + 1 + 1).await;
    asked(&one, 6 + 1).await;
    asked(&many, 7 + 3 * 2).await;
}

/// Follows a node's intent, as an agent does; all that it asks goes this way.
fn follow(consul: &Consul, node: NodeName) -> Proxy {
    let proxy = Proxy::start(consul.addr());
    let mut follower = Follower::new(Store::open(Some(&proxy.url())).unwrap(), node);
    tokio::spawn(async move {
        loop {
            follower.next().await.unwrap();
        }
    });
    proxy
}

/// So many requests in all, and no more.
async fn asked(proxy: &Proxy, requests: u64) {
    let all = async {
        while proxy.requests() < requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(all).await;
    assert_eq!(proxy.requests(), requests, "{:#?}", proxy.request_lines());
}

#[tokio::test]
async fn a_wait_that_nothing_ends_costs_a_query_now_and_then_and_nothing_else() {
    let place = Place::consul();
    let proxy = Proxy::start(place.consul.as_ref().unwrap().addr());
    let Store::Consul(consul) = Store::open(Some(&proxy.url())).unwrap() else { unreachable!("it is a Consul's URL") };
    let store = Store::Consul(consul.waiting(Duration::from_millis(200)));
    let clusters = (0..200).map(|n| prefix(&format!("clusters/app{n}/dev/"))).collect::<Vec<_>>();
    // What is around many is read once, in four requests, after the first query has told where that stands.
    for (prefixes, queries, others) in [(&clusters[..3], 3, 0), (&clusters[..], 1, 4)] {
        let (_, token) = store.read(prefixes).await.unwrap();
        let before = usize::try_from(proxy.requests()).unwrap();
        let asked = || proxy.request_lines().split_off(before);
        let waits = |line: &&String| line.contains("&wait=") && !line.contains("index=0&");
        let renewed = async {
            while asked().iter().filter(waits).count() < 5 * queries {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            changed = store.wait(&token) => panic!("nothing has changed: {changed:?}"),
            () = soon(renewed) => {}
        }
        let asked = asked();
        assert_eq!(asked.len() - asked.iter().filter(waits).count(), queries + others, "{asked:#?}");
    }
}

#[tokio::test]
async fn however_much_is_asked_at_once_others_on_the_host_reach_consul_too() {
    let place = Place::consul();
    let (store, consul) = (place.store(), place.consul.as_ref().unwrap());
    put(&store, "clusters/slug/dev/config", "{}").await;
    let mut asking = JoinSet::new();
    for _ in 0..1000 {
        let store = store.clone();
        asking.spawn(async move { get(&store, "clusters/slug/dev/config").await.expect("it is there") });
    }
    while let Some(answer) = asking.join_next().await {
        answer.unwrap();
    }
    // What is kept for the next request counts, too.
    let connections = (0..150).map(|_| TcpStream::connect(consul.addr()).unwrap()).collect::<Vec<_>>();
    assert_eq!(consul.http("GET", "/v1/status/leader", b"").0, 200);
    drop(connections);
}
