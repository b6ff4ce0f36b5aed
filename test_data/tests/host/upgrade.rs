//! The platform is upgraded through intent, by its own agents.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Cluster, SOON, eventually};
use serde_json::{Value, json};

use crate::site::{Packed, Site, platform};

/// Longer than a hand-over takes, and the way back from one.
const HANDED_OVER: Duration = Duration::from_secs(60);
/// What a version that does not work has, in place of a minute.
const PATIENCE: u32 = 4;

const EXITS: &[u8] = b"#!/bin/sh\nexit 1\n";
const HANGS: &[u8] = b"#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n";
const IS_NO_PROGRAM: &[u8] = b"\x7fELF, but no more of it";

/// A config in which that version of the platform is active, from which the next one has so many seconds.
fn activated(mut config: Value, version: &str, patience: u32) -> Value {
    let versions = config["versions"].as_object_mut().unwrap();
    versions.values_mut().for_each(|status| *status = json!("prep"));
    versions.insert(version.to_owned(), json!("active"));
    config["user_config"]["pp-setlive"]["handover-timeout"] = json!(patience);
    config["stop_seconds"] = json!(2);
    config
}

impl Site {
    /// An operator makes another version of the platform the active one.
    #[track_caller]
    fn activate(&self, version: &str, patience: u32) {
        let config = activated(self.get("clusters/platypus/main/config"), version, patience);
        self.put("clusters/platypus/main/config", &config);
    }

    #[track_caller]
    fn upgrades(&self, to: &Packed) {
        self.activate(&to.version, PATIENCE);
        self.is_on(to);
    }

    /// All agents are of that version, and nothing is left of what led there.
    #[track_caller]
    fn is_on(&self, platform: &Packed) {
        let is_there = || {
            let record = self.record();
            let finished = record["handover"].is_null() && record["healthy"]["version"] == platform.version.as_str();
            let settled = record["services"].as_array()?.len() == 3 && record["unregistered"].is_null();
            (finished && settled && self.marked(&platform.version)).then_some(())
        };
        let begun = Instant::now();
        eventually("the hand-over is finished", HANDED_OVER, || {
            let is_late = begun.elapsed() > HANDED_OVER.mul_f64(0.9);
            is_there().or_else(|| is_late.then(|| panic!("not on {}: {}", platform.version, self.said())))
        });
        assert!(!self.host.disk("var/lib/platypus/stage/platypus@finish").exists());
        assert_eq!(self.running("--finish"), [""; 0]);
    }

    fn record(&self) -> Value {
        let record = fs::read(self.host.disk("var/lib/platypus/stage/.platypus/platypus.json")).unwrap();
        serde_json::from_slice(&record).unwrap()
    }

    /// What was logged about it.
    fn said(&self) -> String {
        let log = |agent| fs::read_to_string(self.host.disk(&format!("srv/platypus/log/{agent}/current")));
        let logs = ["finish", "pp-setlive"].map(|agent| format!("{agent}:\n{}", log(agent).unwrap_or_default()));
        format!("{}\n{}", self.record(), logs.concat())
    }

    /// The sample app's process, by its own word.
    #[track_caller]
    fn pid(&self) -> i64 {
        let (_, health) = self.host.http_get(8080, "/health").expect("the sample app answers");
        serde_json::from_str::<Value>(&health).unwrap()["pid"].as_i64().unwrap()
    }
}

#[test]
fn an_upgrade_ends_well_though_the_store_is_away_for_long_and_whoever_is_at_work_is_killed() {
    let site = Site::new();
    site.kickstart(&[]);
    site.serves();
    let (repo, app) = (site.host.disk("mnt/repo"), site.pid());
    let good = site.platform.successor(&repo);
    let begun = Instant::now();
    site.upgrades(&good);
    println!("an upgrade: {:?}", begun.elapsed());

    // A store that is away for longer than a version may take condemns none.
    let next = site.platform.successor(&repo);
    let (store, away) = (site.host.disk("mnt/store"), site.host.disk("mnt/away"));
    site.activate(&next.version, 60);
    eventually("it is handed over", HANDED_OVER, || site.record()["handover"].is_object().then_some(()));
    fs::rename(&store, &away).unwrap();
    let begun = Instant::now();
    eventually("it has been away for long enough", SOON, || {
        assert!(site.record()["converging"]["version"] == next.version.as_str(), "{}", site.said());
        (begun.elapsed() > Duration::from_secs(2 * u64::from(PATIENCE))).then_some(())
    });
    assert!(!site.running("/bin/pp-setlive --settings").is_empty());
    fs::rename(&away, &store).unwrap();
    site.is_on(&next);

    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let last = site.platform.successor(&repo);
    site.activate(&last.version, 60);
    eventually("it is handed over", HANDED_OVER, || site.record()["handover"].is_object().then_some(()));
    let mut kills = 0;
    while kills < 20 && !site.record()["handover"].is_null() {
        thread::park_timeout(Duration::from_millis(random.u64(0..200)));
        let victim = ["--finish", "/bin/pp-setlive --settings", "/bin/pp-preparer --settings"][random.usize(0..3)];
        for process in
            site.running(victim).iter().filter(|process| !process.contains("--finish") || victim == "--finish")
        {
            let pid = process.split_whitespace().next().unwrap();
            // By now it may be gone.
            kills += usize::from(site.host.command("kill").args(["-9", pid]).status().unwrap().success());
        }
    }
    println!("{kills} kills");
    assert!(kills > 2);
    site.is_on(&last);
    assert_eq!(site.pid(), app);
}

/// Three hosts on which the platform was put by `kickstart/host`, on a real Consul; each runs the sample app.
struct Hosts {
    cluster: Cluster,
    platform: std::sync::Arc<Packed>,
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

    fn activate(&self, version: &str, patience: u32) {
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
                        while let Some(left) = next.checked_duration_since(Instant::now()) {
                            thread::park_timeout(left);
                        }
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
