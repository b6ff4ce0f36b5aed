//! A Consul with the intent of many nodes, whose operator makes changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use converge::SignsOfLife;
use fixtures::{Consul, Scratch, cpu_seconds, eventually};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::counting::Counting;
use crate::watchers::{Watchers, node_name};
use crate::{agents, peer};

/// The app that all nodes run.
pub(crate) const EVERYWHERE: &str = "everywhere";
/// So many apps are on one node each, and on no other.
pub(crate) const LONE: usize = 8;
/// All that the store knows of, most of them on nodes that are not here.
pub(crate) const APPS: usize = 100;

/// So long nothing is to be seen before all is over.
const QUIET: Duration = Duration::from_millis(300);

/// Who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Agents,
    /// Those that also say that they are alive, all of them to this one Consul.
    AgentsAlive,
    Peers,
}

pub(crate) struct Site {
    pub(crate) nodes: usize,
    consul: Consul,
    _scratch: Scratch,
    /// That is active of every app that was changed last.
    version: u32,
}

/// What a change was to those who watch.
#[derive(Debug)]
pub(crate) struct Change {
    /// From the put on until each of those it was waited for had seen it, in milliseconds.
    pub(crate) times: BTreeMap<usize, f64>,
    /// Of the processor until then, in seconds: of Consul, and of all who watch.
    pub(crate) consul: f64,
    pub(crate) watchers: f64,
}

impl Site {
    /// Of a Consul that may have this many descriptors.
    pub(crate) fn new(nodes: usize, descriptors: usize) -> Self {
        let scratch = Scratch::in_memory();
        // All come from one address, of which Consul takes 200 by default. It does not start where more are to be taken than
        // there are descriptors.
        let limits = json!({"limits": {"http_max_conns_per_client": descriptors - 64}});
        let consul = Consul::start_server_with(&scratch, &limits.to_string());
        let site = Self { nodes, consul, _scratch: scratch, version: 1 };
        for node in 1..=nodes {
            site.put(&format!("nodes/{}/{EVERYWHERE}", node_name(node)), &json!({"cluster": "production"}));
        }
        for n in 1..=LONE {
            site.put(&format!("nodes/{}/{}", node_name(n), lone(n)), &json!({"cluster": "production"}));
        }
        let others = (LONE + 2..=APPS).map(|n| format!("other-{n:03}"));
        for (n, app) in (1..).zip((1..=LONE).map(lone).chain([EVERYWHERE.to_owned()]).chain(others)) {
            let port = 20_000 + n;
            site.put(&format!("clusters/{app}/production/config"), &config(1));
            let ports = json!([port, {"port": port, "protocol": "udp", "source": "10.0.0.0/8"}]);
            let deploy = json!({"basedir": format!("/srv/{app}"), "ports": ports});
            site.put(&format!("clusters/{app}/production/deploy_config"), &deploy);
        }
        site
    }

    fn put(&self, key: &str, document: &Value) {
        self.consul.put(key, &document.to_string());
    }

    pub(crate) fn addr(&self) -> String {
        self.consul.addr()
    }

    /// Has every node watch, by way of `counting` if there is one, and waits until all of them have seen what there is. With
    /// how many seconds that took, and how many connections each came to have.
    pub(crate) fn watch(&mut self, who: Who, counting: Option<&Counting>) -> (Watchers, [f64; 2]) {
        // A query whose asker is gone waits on in Consul, up to a minute. This ends those that the next change would.
        self.version += 1;
        self.put(&format!("clusters/{EVERYWHERE}/production/config"), &config(self.version));
        let addr = counting.map_or_else(|| self.addr(), Counting::addr);
        let (began, before) = (Instant::now(), sockets());
        let watchers = match who {
            Who::Agents => Self::agents(self.nodes, addr, SignsOfLife::Withheld),
            Who::AgentsAlive => Self::agents(self.nodes, addr, SignsOfLife::Given),
            Who::Peers => Watchers::start(self.nodes, move |node, tell| peer::run(node, addr.clone(), tell)),
        };
        self.until_seen(&watchers, &self.all(), |active| active.is_none_or(|(app, _)| app == EVERYWHERE));
        let took = began.elapsed().as_secs_f64();
        if who != Who::Peers {
            eventually("every agent has a report", PATIENCE, || (self.reports().len() == self.nodes).then_some(()));
        }
        thread::sleep(QUIET);
        (watchers, [took, (sockets() - before) as f64 / self.nodes as f64])
    }

    fn agents(nodes: usize, addr: String, signs: SignsOfLife) -> Watchers {
        Watchers::start(nodes, move |node, tell| agents::run(node, format!("consul://{addr}"), signs, tell))
    }

    /// How many agents are said to be alive.
    pub(crate) fn alive(&self) -> usize {
        let (_, answer) = self.consul.http("GET", "/v1/health/service/platypus-agent?passing", b"");
        serde_json::from_str::<Vec<Value>>(&answer).map_or(0, |alive| alive.len())
    }

    /// Makes another version of the app the active one, and waits until these nodes have seen it, and all is quiet.
    pub(crate) fn change(&mut self, watchers: &Watchers, app: &str, nodes: &[usize]) -> Change {
        while watchers.seen.try_recv().is_ok() {}
        self.version += 1;
        let (version, document) = (self.version.to_string(), config(self.version));
        let before = self.cpu();
        let began = Instant::now();
        self.put(&format!("clusters/{app}/production/config"), &document);
        let is_it = |active: Option<(&str, &str)>| active.is_none_or(|active| active == (app, &version));
        let seen = self.until_seen(watchers, nodes, is_it);
        let after = self.cpu();
        let took = |(node, at): (usize, Instant)| (node, at.duration_since(began).as_secs_f64() * 1000.0);
        let times = seen.into_iter().map(took).collect();
        thread::sleep(QUIET);
        Change { times, consul: after.0 - before.0, watchers: after.1 - before.1 }
    }

    fn until_seen(
        &self,
        watchers: &Watchers,
        nodes: &[usize],
        is_it: impl Fn(Option<(&str, &str)>) -> bool,
    ) -> BTreeMap<usize, Instant> {
        let deadline = Instant::now() + PATIENCE;
        let mut at = BTreeMap::new();
        while at.len() < nodes.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(seen) = watchers.seen.recv_timeout(left) else {
                panic!("of {} nodes only {} have seen it within {PATIENCE:?}", nodes.len(), at.len());
            };
            let active = seen.active.as_ref().map(|(app, version)| (app.as_str(), version.as_str()));
            if nodes.contains(&seen.node) && is_it(active) {
                at.entry(seen.node).or_insert(seen.at);
            }
        }
        at
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (1..=self.nodes).collect()
    }

    /// Waits until each of these has written a report since the store was at this index.
    pub(crate) fn wait_for_reports(&self, nodes: &[usize], index: u64) {
        eventually("every agent has reported what it did", PATIENCE, || {
            let reports = self.reports();
            let is_new = |node: &usize| reports.get(&node_name(*node)).is_some_and(|at| *at > index);
            nodes.iter().all(is_new).then_some(())
        });
    }

    /// At which index each node's report was written.
    fn reports(&self) -> BTreeMap<String, u64> {
        let (status, answer) = self.consul.http("GET", "/v1/kv/reality/?recurse", b"");
        let answer = if status == 200 { serde_json::from_str::<Vec<Value>>(&answer).unwrap() } else { Vec::new() };
        // Whatever waits for them is not to keep Consul busy meanwhile.
        thread::sleep(Duration::from_millis(50));
        let report = |entry: &Value| {
            let node = entry["Key"].as_str()?.split('/').nth(1)?.to_owned();
            Some((node, entry["ModifyIndex"].as_u64()?))
        };
        answer.iter().filter_map(report).collect()
    }

    /// The index that the store is at.
    pub(crate) fn index(&self) -> u64 {
        self.consul.index("")
    }

    fn cpu(&self) -> (f64, f64) {
        (cpu_seconds(self.consul.pid()), cpu_seconds(std::process::id()))
    }
}

/// That this process has.
fn sockets() -> usize {
    let all = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let is_socket = |path: PathBuf| path.to_string_lossy().starts_with("socket:");
    all.filter(|entry| fs::read_link(entry.path()).is_ok_and(is_socket)).count()
}

/// The app that only the node with this number runs.
pub(crate) fn lone(node: usize) -> String {
    format!("lone-{node}")
}

/// As an app's developers write it.
fn config(version: u32) -> Value {
    let mut versions = BTreeMap::from([(version.to_string(), "active")]);
    versions.insert((version - 1).to_string(), "prep");
    let database = json!({"host": "db1.example.com", "port": 5432, "name": "app", "pool": 8});
    let user_config = json!({"port": 8080, "log": "info", "database": database, "features": ["search", "export"]});
    json!({"versions": versions, "min_nodes": 2, "user_config": user_config, "stop_seconds": 5})
}
