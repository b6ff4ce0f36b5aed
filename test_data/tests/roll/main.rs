//! Five hosts that replace a version together, and what they do when something is wrong.

mod probe;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Cluster, eventually};
use serde_json::{Value, json};

use probe::{Seen, probing};

/// Longer than a roll takes that is not stuck.
const SOON: Duration = Duration::from_secs(90);
/// Each of these tests runs some forty processes.
static ALONE: Mutex<()> = Mutex::new(());

/// Five hosts, of which three have to pass, with these versions at hand and intent for the first of them.
fn five(versions: &[(&str, Behaviour)]) -> Cluster {
    let cluster = Cluster::up(5);
    for (version, behaviour) in versions {
        cluster.repo.slug(version, *behaviour);
    }
    cluster.put("clusters/slug/live/deploy_config", &json!({"basedir": "/srv/slug", "ports": [8080]}));
    activate(&cluster, versions[0].0, json!({}));
    for host in cluster.hosts() {
        cluster.put(&format!("nodes/{host}/slug"), &json!({"cluster": "live"}));
    }
    cluster
}

fn activate(cluster: &Cluster, version: &str, more: Value) {
    let mut config = json!({
        "versions": {version: "active"},
        "min_nodes": 3,
        "user_config": {"port": 8080, "bind": "0.0.0.0"},
        "health": {"http": {"port": 8080, "path": "/health"}, "deadline_seconds": 3},
        "stop_seconds": 2,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster.put("clusters/slug/live/config", &config);
}

/// The lease document.
fn leases(cluster: &Cluster) -> Value {
    let document = cluster.get("locks/slug/live/shutdown");
    document.map_or(json!({"down": {}, "failed": {}}), |document| serde_json::from_str(&document).unwrap())
}

/// How many instances clients are sent to.
fn passing(cluster: &Cluster) -> usize {
    let (status, body) = cluster.consul("GET", "/v1/health/service/slug?passing&consistent", b"");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Vec<Value>>(&body).unwrap().len()
}

fn down(cluster: &Cluster) -> Vec<String> {
    leases(cluster)["down"].as_object().unwrap().keys().cloned().collect()
}

/// Waits until all five answer with a version, and all is told to the store.
#[track_caller]
fn all_on(cluster: &Cluster, seen: &Seen, version: &str) -> Duration {
    let began = Instant::now();
    let done = || (seen.on(version) == 5 && passing(cluster) == 5 && down(cluster).is_empty()).then_some(());
    let state = || {
        let logs = cluster
            .hosts()
            .iter()
            .map(|host| format!("{host}:\n{}", cluster.log(host, "pp-setlive")))
            .collect::<String>();
        format!("{}\n{logs}", leases(cluster))
    };
    let until = Instant::now() + SOON;
    while done().is_none() {
        assert!(Instant::now() < until, "not all are on {version}: {}", state());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    began.elapsed()
}

fn pids(cluster: &Cluster) -> BTreeMap<String, i64> {
    let pid = |host: &String| {
        let (_, body) = cluster.http_get(host, 8080, "/health")?;
        Some((host.clone(), serde_json::from_str::<Value>(&body).ok()?["pid"].as_i64()?))
    };
    cluster.hosts().iter().filter_map(pid).collect()
}

#[test]
fn a_roll_of_five_hosts_never_goes_below_the_minimum_and_takes_no_longer_than_three_replacements() {
    let _alone = ALONE.lock();
    let cluster = five(&[("1", Behaviour::Good), ("2", Behaviour::Good)]);
    probing(&cluster, |seen| {
        println!("first: {:?}", all_on(&cluster, seen, "1"));
        seen.from_now();
        let began = Instant::now();
        activate(&cluster, "2", json!({}));
        let entered = eventually("one goes first", SOON, || (!down(&cluster).is_empty()).then(Instant::now));
        let back = eventually("it is back", SOON, || {
            (seen.on("2") == 1 && down(&cluster).is_empty() || seen.on("2") > 1).then(Instant::now)
        });
        all_on(&cluster, seen, "2");
        println!(
            "one: {:?} (entered after {:?}), all: {:?}, least {}",
            back - entered,
            entered - began,
            began.elapsed(),
            seen.least()
        );
        for host in cluster.hosts() {
            println!("{host}:\n{}", cluster.log(&host, "pp-setlive"));
        }
    });
}
