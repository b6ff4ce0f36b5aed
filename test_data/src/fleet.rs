//! Five hosts that run the sample app together, and what the store and the hosts say of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Behaviour, Cluster, Probe, pause};

/// Longer than a roll takes that is not stuck.
const SOON: Duration = Duration::from_secs(90);
/// Between two looks at the store.
const LOOK: Duration = Duration::from_millis(20);

/// A cluster on which `slug` runs in the cluster `live`, on port 8080.
#[derive(Debug)]
pub struct Fleet {
    pub cluster: Cluster,
}

impl Fleet {
    /// Five hosts, of which three have to pass, with these versions to be had and intent for the first of them.
    pub fn up(versions: &[(&str, Behaviour)]) -> Self {
        let fleet = Self { cluster: Cluster::up(5) };
        for (version, behaviour) in versions {
            fleet.cluster.repo.slug(version, *behaviour);
        }
        fleet.intend(versions[0].0);
        fleet
    }

    /// All of intent, as it is after a deployment of this version.
    pub fn intend(&self, version: &str) {
        self.cluster.put("clusters/slug/live/deploy_config", &json!({"basedir": "/srv/slug", "ports": [8080]}));
        self.activate(version, json!({}));
        for host in self.cluster.hosts() {
            self.cluster.put(&format!("nodes/{host}/slug"), &json!({"cluster": "live"}));
        }
    }

    /// Makes a version the active one, with all others at hand; `more` goes into the config.
    pub fn activate(&self, version: &str, more: Value) {
        let of_repo = |path: PathBuf| {
            Some(path.file_name()?.to_str()?.strip_prefix("slug_")?.strip_suffix(".tar.gz")?.to_owned())
        };
        let artifacts = std::fs::read_dir(self.cluster.repo.dir().join("slug")).expect("it has artifacts");
        let all = artifacts.filter_map(|entry| of_repo(entry.ok()?.path()));
        let status = |each: &String| if each == version { "active" } else { "prep" };
        let versions = all.map(|each| (each.clone(), json!(status(&each)))).collect::<serde_json::Map<_, _>>();
        let mut config = json!({
            "versions": versions,
            "min_nodes": 3,
            "user_config": {"port": 8080, "bind": "0.0.0.0"},
            "health": {"http": {"port": 8080, "path": "/health"}, "deadline_seconds": 4},
            "stop_seconds": 2,
        });
        config.as_object_mut().expect("it is one").extend(more.as_object().expect("an object").clone());
        self.cluster.put("clusters/slug/live/config", &config);
    }

    /// The lease document.
    pub fn leases(&self) -> Value {
        let document = self.cluster.get("locks/slug/live/shutdown");
        document
            .map_or(json!({"down": {}, "failed": {}}), |document| serde_json::from_str(&document).expect("it is JSON"))
    }

    /// Who is in `down`.
    pub fn down(&self) -> Vec<String> {
        self.leases()["down"].as_object().expect("an object").keys().cloned().collect()
    }

    /// How many instances the store would send clients to.
    pub fn passing(&self) -> usize {
        let (status, body) = self.cluster.consul("GET", "/v1/health/service/slug?passing&consistent", b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Vec<Value>>(&body).expect("Consul answers in JSON").len()
    }

    /// Waits until so many answer with a version, all that answer are known to the store, and nobody else is waited for.
    #[track_caller]
    pub fn settles(&self, probe: &Probe, hosts: usize, version: &str) {
        let done = || probe.on(version) == hosts && self.passing() == hosts && self.down().len() == 5 - hosts;
        self.until(&format!("{hosts} are on {version}"), done);
    }

    #[track_caller]
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !done() {
            assert!(Instant::now() < deadline, "not in time: {what}: {}\n{}", self.leases(), self.logs());
            pause(LOOK);
        }
    }

    /// What all the pp-setlives logged.
    pub fn logs(&self) -> String {
        let log = |host: &String| format!("{host}:\n{}", self.cluster.log(host, "pp-setlive"));
        self.cluster.hosts().iter().map(log).collect()
    }

    /// How often all the pp-setlives said this.
    pub fn said(&self, what: &str) -> usize {
        self.logs().matches(what).count()
    }

    /// The app's processes by host.
    pub fn pids(&self) -> BTreeMap<String, i64> {
        let pid = |host: &String| {
            let (_, body) = self.cluster.http_get(host, 8080, "/health")?;
            Some((host.clone(), serde_json::from_str::<Value>(&body).ok()?["pid"].as_i64()?))
        };
        self.cluster.hosts().iter().filter_map(pid).collect()
    }

    /// What `pp-store` prints, asked on the first host.
    pub fn pp_store(&self, words: &[&str]) -> String {
        let output = self.pp_store_command(words).output().expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn pp_store_command(&self, words: &[&str]) -> Command {
        let mut command = self.cluster.command("web1", "pp-store");
        command.args(["--store", "consul://127.0.0.1:8500"]).args(words);
        command
    }
}
