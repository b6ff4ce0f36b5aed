//! Five hosts that replace a version together, and what they do when something is wrong. A probe asks every instance ten
//! times a second: those that answer are never fewer than `min_nodes`.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Fleet, probing};
use serde_json::json;

/// Two of these tests run at a time, one in each lane: each has some forty processes, which wait most of the time, but it is
/// about who is in time.
static LANES: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

fn lane(lane: usize) -> MutexGuard<'static, ()> {
    LANES[lane].lock().unwrap_or_else(PoisonError::into_inner)
}

/// So that a replacement takes longer than the probe's step.
const SLOW: Behaviour = Behaviour::SlowStart(700);

/// The first of all lines that say this, and when: their times sort as text.
fn first<'a>(logs: &'a str, what: &str) -> &'a str {
    let time = |line: &'a str| Some(line.split_once('[')?.1.split_once(']')?.0);
    logs.lines()
        .filter(|line| line.contains(what))
        .filter_map(time)
        .min()
        .unwrap_or_else(|| panic!("nobody said {what}"))
}

#[test]
fn rolls_go_one_first_then_the_rest_never_below_the_minimum_and_who_waits_says_what_for() {
    let _lane = lane(1);
    let fleet = Fleet::up(&[("1", SLOW), ("2", SLOW)]);
    probing(&fleet.cluster, |probe| {
        fleet.settles(probe, 5, "1");
        let logs = fleet.logs();
        let is_live = first(&logs, "slug: 1 is live");
        let started = logs.lines().filter(|line| line.contains("Starting 1"));
        let before = started.filter(|line| line.split_once('[').is_some_and(|(_, time)| time < is_live)).count();
        assert_eq!(before, 1, "one goes first: {logs}");
        assert!(logs.contains(" first, since "), "{logs}");

        probe.from_now();
        let pids = fleet.pids();
        fleet.activate("2", json!({}));
        fleet.settles(probe, 5, "2");
        assert!(probe.least() >= 3, "{} answered: {}", probe.least(), fleet.logs());
        assert!(fleet.pids().iter().all(|(host, pid)| pids[host] != *pid));
        println!("at least {} of 5 answered at any time", probe.least());

        // A minimum that nobody can meet is said as that.
        probe.from_now();
        fleet.activate("1", json!({"min_nodes": 5}));
        fleet.until("they say so", || fleet.said("all 5 that are registered are needed for min_nodes 5") >= 5);
        assert_eq!((probe.on("2"), probe.least()), (5, 5));
        // They are woken by that alone.
        fleet.activate("1", json!({"min_nodes": 4}));
        fleet.settles(probe, 5, "1");
        assert!(probe.least() >= 4, "{}", fleet.logs());
    });
}

#[test]
fn what_serves_goes_on_while_servers_client_agents_and_agents_are_killed() {
    let _lane = lane(0);
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::up(&[("1", SLOW), ("2", SLOW)]);
    let cluster = &fleet.cluster;
    probing(cluster, |probe| {
        fleet.settles(probe, 5, "1");
        probe.from_now();
        let mut kills = 0;
        for (fault, version) in [("server", "2"), ("leader", "1"), ("clients", "2"), ("agents", "1")] {
            fleet.activate(version, json!({}));
            fleet.until("one is down", || !fleet.down().is_empty() || probe.on(version) == 5);
            match fault {
                "server" => {
                    cluster.kill("server1");
                    cluster.start("server1");
                }
                "leader" => {
                    let (_, leader) = cluster.consul("GET", "/v1/status/leader", b"");
                    let addressed = |server: &&str| leader.contains(&format!("{}:", cluster.address(server)));
                    let leader =
                        ["server1", "server2", "server3"].into_iter().find(addressed).expect("there is a leader");
                    cluster.kill(leader);
                    cluster.start(leader);
                }
                "clients" => cluster.hosts().iter().for_each(|host| cluster.kill_agent(host, "consul")),
                _ => {
                    let end = Instant::now() + Duration::from_secs(6);
                    while Instant::now() < end {
                        let host = &cluster.hosts()[random.usize(0..5)];
                        // It may just have been killed, and not be started again yet.
                        let agent = ["pp-setlive", "pp-preparer", "consul"][random.usize(0..3)];
                        kills += usize::from(cluster.try_kill_agent(host, agent));
                    }
                }
            }
            fleet.settles(probe, 5, version);
            assert!(probe.least() >= 3, "{fault}: {} answered: {}", probe.least(), fleet.logs());
        }
        println!("{kills} agents killed; at least {} of 5 answered at any time", probe.least());
    });
}

#[test]
fn one_host_that_a_version_fails_on_or_that_is_cut_off_holds_nobody_up() {
    let _lane = lane(1);
    let fleet =
        Fleet::up(&[("bad0", Behaviour::NeverHealthy), ("1", SLOW), ("2", SLOW), ("bad", Behaviour::NeverHealthy)]);
    let failed = |times: usize| {
        fleet.until("it has failed", || {
            fleet.leases()["failed"].as_object().is_some_and(|failed| failed.len() == times)
        });
    };
    probing(&fleet.cluster, |probe| {
        // Also when there is nothing to go back to.
        failed(1);
        assert_eq!((fleet.said("Starting bad0"), probe.on("bad0")), (1, 1), "{}", fleet.logs());
        fleet.activate("1", json!({}));
        fleet.settles(probe, 5, "1");

        probe.from_now();
        fleet.activate("bad", json!({}));
        failed(1);
        fleet.until("the others hold", || fleet.said("bad failed on web") >= 4);
        fleet.settles(probe, 5, "1");
        let shown = fleet.pp_store(&["leases", "slug", "live"]);
        assert!(
            shown.contains("failed on web") && shown.contains("answered 500") && shown.contains("listening"),
            "{shown}"
        );
        // An edit of the minimum alone lets nobody try it again.
        fleet.activate("bad", json!({"min_nodes": 2}));
        fleet.activate("2", json!({"min_nodes": 2}));
        fleet.settles(probe, 5, "2");
        assert_eq!(fleet.said("Starting bad\n"), 1, "{}", fleet.logs());
        assert!(probe.least() >= 2, "{} answered", probe.least());

        probe.from_now();
        fleet.activate("1", json!({}));
        let mut cut = None;
        fleet.until("one is down after the first is back", || {
            cut = fleet.down().into_iter().next().filter(|_| probe.on("1") > 0);
            cut.is_some()
        });
        let cut = cut.expect("one is");
        let cluster = &fleet.cluster;
        cluster.cut(&cut);
        fleet.until("the other four are on 1", || probe.on("1") == 4 && fleet.down() == [cut.clone()]);
        assert!(probe.least() >= 3, "{} answered: {}", probe.least(), fleet.logs());
        cluster.heal(&cut);
        fleet.settles(probe, 5, "1");
    });
}

#[test]
fn a_store_that_lost_everything_stops_nothing_and_the_same_intent_restarts_nothing() {
    let _lane = lane(0);
    let fleet = Fleet::up(&[("1", Behaviour::Good), ("2", Behaviour::Good)]);
    let cluster = &fleet.cluster;
    probing(cluster, |probe| {
        fleet.settles(probe, 5, "1");
        let pids = fleet.pids();
        probe.from_now();
        let servers = ["server1", "server2", "server3"];
        servers.iter().for_each(|server| cluster.kill(server));
        for node in cluster.hosts().iter().map(String::as_str).chain(servers) {
            fs::remove_dir_all(cluster.disk(node).join("var/lib/consul/data")).unwrap();
        }
        cluster.hosts().iter().for_each(|host| cluster.kill_agent(host, "consul"));
        servers.iter().for_each(|server| cluster.start(server));
        fleet.until("all notice that intent is gone", || fleet.said("slug: held as it is") >= 5);
        fleet.intend("1");
        fleet.settles(probe, 5, "1");
        assert_eq!((fleet.pids(), probe.least()), (pids, 5), "{}", fleet.logs());
        // It rolls as before.
        fleet.activate("2", json!({}));
        fleet.settles(probe, 5, "2");
        assert!(probe.least() >= 3);
    });
}
