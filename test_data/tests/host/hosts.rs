//! Three hosts upgrade the platform together.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Cluster, SOON, eventually, pause};
use serde_json::{Value, json};

use crate::site::{Packed, platform};
use crate::upgrade::{HANDED_OVER, PATIENCE, activated};

pub(crate) const EXITS: &[u8] = b"#!/bin/sh\nexit 1\n";
const HANGS: &[u8] = b"#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n";
const IS_NO_PROGRAM: &[u8] = b"\x7fELF, but no more of it";

/// Three hosts on which the platform was put by `kickstart/host`, on a real Consul; each runs the sample app.
struct Hosts {
    cluster: Cluster,
    platform: Arc<Packed>,
}

impl Hosts {
    fn up() -> Self {
        let (cluster, platform) = (Cluster::up(3), platform());
        cluster.repo.slug("1", Behaviour::Good);
        thread::scope(|scope| {
            for host in cluster.hosts() {
                let (cluster, platform) = (&cluster, &platform);
                scope.spawn(move || {
                    let disk = cluster.disk(&host).join("var/lib/platform");
                    fs::create_dir(&disk).unwrap();
                    fs::copy(&platform.path, disk.join("platypus.tar.gz")).unwrap();
                    cluster
                        .run(&host, &["tar", "-xzf", "/var/lib/platform/platypus.tar.gz", "-C", "/var/lib/platform"]);
                    // Those that the cluster came with.
                    cluster.run(&host, &["sv", "-w", "10", "force-stop", "pp-preparer", "pp-setlive", "pp-iptables"]);
                    let options = [
                        ["/var/lib/platform/kickstart/host", "--store", "consul://127.0.0.1:8500"],
                        ["--repo", "file:/var/lib/platypus/repo", "--artifact"],
                        ["/var/lib/platform/platypus.tar.gz", "--sha256", &platform.sha256],
                        ["--dir", "/var/lib/own", "--node"],
                    ];
                    cluster.run(&host, &[&options.concat()[..], &[&host]].concat());
                });
            }
        });
        let hosts = Self { cluster, platform };
        let health = json!({"http": {"port": 8080, "path": "/health"}});
        hosts.cluster.put("clusters/slug/live/deploy_config", &json!({"basedir": "/srv/slug", "ports": [8080]}));
        hosts.cluster.put(
            "clusters/slug/live/config",
            &json!({"versions": {"1": "active"}, "user_config": {"port": 8080, "bind": "0.0.0.0"}, "health": health}),
        );
        for host in hosts.cluster.hosts() {
            hosts.cluster.put(&format!("nodes/{host}/slug"), &json!({"cluster": "live"}));
        }
        eventually("each serves", SOON, || (hosts.passing("slug", "1").len() == 3).then_some(()));
        hosts
    }

    /// The nodes whose instance of that version passes, as the store reports.
    fn passing(&self, app: &str, version: &str) -> BTreeSet<String> {
        let (_, body) = self.cluster.consul("GET", &format!("/v1/health/service/{app}?passing&consistent"), b"");
        let instances = serde_json::from_str::<Vec<Value>>(&body).unwrap_or_default();
        let of_version = instances.iter().filter(|it| it["Service"]["Meta"]["version"] == version);
        of_version.map(|it| it["Node"]["Node"].as_str().unwrap().to_owned()).collect()
    }

    fn activate(&self, version: &str, patience: f64) {
        let config = self.cluster.get("clusters/platypus/main/config").expect("it is there");
        let config = activated(serde_json::from_str(&config).unwrap(), version, patience);
        self.cluster.put("clusters/platypus/main/config", &config);
    }

    fn leases(&self) -> Value {
        self.cluster
            .get("locks/platypus/main/shutdown")
            .map_or(json!({"down": {}, "failed": {}}), |text| serde_json::from_str(&text).unwrap())
    }

    /// What the agents of a host have logged of the platform itself.
    fn log(&self, host: &str) -> String {
        let log = |agent| fs::read_to_string(self.cluster.disk(host).join(format!("srv/platypus/log/{agent}/current")));
        ["pp-setlive", "finish"].map(|agent| log(agent).unwrap_or_default()).concat()
    }

    fn said(&self) -> String {
        let logs = self.cluster.hosts().iter().map(|host| format!("{host}:\n{}", self.log(host))).collect::<String>();
        format!("{}\n{logs}", self.leases())
    }

    /// Waits until the store reports all agents on that version, and nobody waits for anybody.
    #[track_caller]
    fn are_on(&self, version: &str) {
        let begun = Instant::now();
        eventually("all are there", 2 * HANDED_OVER, || {
            let is_late = begun.elapsed() > HANDED_OVER.mul_f64(1.8);
            let is_there = self.passing("platypus", version).len() == 3 && self.leases()["down"] == json!({});
            is_there.then_some(()).or_else(|| is_late.then(|| panic!("not on {version}: {}", self.said())))
        });
    }

    fn pids(&self) -> Vec<Value> {
        let health = |host: &String| self.cluster.http_get(host, 8080, "/health").expect("it answers").1;
        self.cluster
            .hosts()
            .iter()
            .map(|host| serde_json::from_str::<Value>(&health(host)).unwrap()["pid"].clone())
            .collect()
    }

    /// Does something while each host is asked 20 times a second; how often they were asked, and how often in vain.
    fn serving<T>(&self, work: impl FnOnce() -> T) -> (T, usize, usize) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = self.cluster.hosts().into_iter().map(|host| {
                let over = &over;
                scope.spawn(move || {
                    let (mut asked, mut failed) = (0, 0);
                    while !over.load(Ordering::Relaxed) {
                        let next = Instant::now() + Duration::from_millis(50);
                        let answer = self.cluster.http_get(&host, 8080, "/");
                        asked += 1;
                        failed += usize::from(answer.is_none_or(|(status, _)| status != 200));
                        pause(next.saturating_duration_since(Instant::now()));
                    }
                    (asked, failed)
                })
            });
            let asking = asking.collect::<Vec<_>>();
            /// Ends the threads also when the work panics.
            struct End<'a>(&'a AtomicBool);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let end = End(&over);
            let done = work();
            drop(end);
            let (asked, failed) =
                asking.into_iter().map(|thread| thread.join().unwrap()).unzip::<_, _, Vec<usize>, Vec<usize>>();
            (done, asked.iter().sum(), failed.iter().sum())
        })
    }
}

#[test]
fn three_hosts_upgrade_their_agents_one_first_and_no_app_notices_and_what_does_not_work_comes_back() {
    let hosts = Hosts::up();
    hosts.are_on(&hosts.platform.version);
    let repo = hosts.cluster.repo.dir();
    let (pids, good) = (hosts.pids(), hosts.platform.successor(repo));
    let begun = Instant::now();
    let ((), asked, failed) = hosts.serving(|| {
        hosts.activate(&good.version, PATIENCE);
        hosts.are_on(&good.version);
    });
    println!("three hosts: {:?}, {failed} of {asked} requests failed", begun.elapsed());
    assert_eq!((failed, hosts.pids()), (0, pids.clone()), "{}", hosts.said());
    assert!(asked > 100, "{asked}");

    for (program, content) in [("pp-setlive", EXITS), ("pp-setlive", HANGS), ("pp-preparer", IS_NO_PROGRAM)] {
        let (bad, begun) = (hosts.platform.with(program, content, repo), Instant::now());
        let (has_failed, asked, failed) = hosts.serving(|| {
            hosts.activate(&bad.version, PATIENCE);
            let is_told = || {
                let failed = hosts.leases()["failed"]
                    .as_object()?
                    .values()
                    .find(|it| it["version"] == bad.version.as_str())
                    .cloned();
                failed.map(|failed| (failed, begun.elapsed()))
            };
            let (told, after) = eventually("all are told that it failed", HANDED_OVER, is_told);
            hosts.are_on(&good.version);
            println!("{program} that {}: told after {after:?}, back after {:?}", told["reason"], begun.elapsed());
            told
        });
        assert!(
            has_failed["reason"].as_str().unwrap().contains(&format!("no first pass of platypus@{program}")),
            "{has_failed}"
        );
        let tried = |host: &&String| hosts.log(host).contains(&format!("Handing over to {}", bad.version));
        assert_eq!(hosts.cluster.hosts().iter().filter(tried).count(), 1, "{}", hosts.said());
        assert_eq!((failed, hosts.pids()), (0, pids.clone()), "of {asked}");
    }
    hosts.cluster.down();
}
