//! A host with many apps: in a real Consul, prepared, and running under a real runsvdir.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use fixtures::{Consul, Host, Scratch, bin, pass};
use serde_json::json;

use crate::client::Client;

/// Under this name every app is on hold: intent is read, and nothing looked at.
pub(crate) const HELD: &str = "held1";

/// How many transactions an agent has under way at once, each of so many operations.
const AT_ONCE: usize = 4;
const OPERATIONS: usize = 64;

pub(crate) struct Fleet {
    pub(crate) host: Host,
    apps: usize,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { host: Host::within(Scratch::in_memory()).with_runsvdir().with_consul(Consul::start_server), apps: 0 }
    }

    /// Makes it so many apps, all converged.
    pub(crate) fn grow(&mut self, apps: usize) {
        for n in std::mem::replace(&mut self.apps, apps)..apps {
            self.add(n);
        }
        let mut said = String::new();
        for _ in 0..5 {
            let prepared = pass(self.host.preparer().arg("--once"));
            assert_eq!((prepared.ok, prepared.log.as_str()), (true, ""), "everything is prepared");
            let all = apps.to_string();
            let live = pass(self.host.setlive().args(["--once", "--parallel", &all]));
            if live.ok && live.log.is_empty() {
                return;
            }
            said = live.log;
        }
        panic!("{apps} apps do not converge: {said}");
    }

    fn add(&self, n: usize) {
        let (host, app) = (&self.host, name(n));
        let basedir = host.path("srv").join(&app);
        for version in ["1.4.1", "1.4.2"] {
            install(&basedir.join(format!("installs/{app}_{version}")));
        }
        let port = 20_000 + n;
        let database = json!({"host": "db1.example.com", "port": 5432, "name": app, "pool": 8});
        let user_config = json!({"port": port, "log": "info", "database": database, "features": ["search", "export"]});
        host.put(
            &format!("clusters/{app}/production/config"),
            &json!({
                "versions": {"1.4.1": "prep", "1.4.2": "active"},
                "min_nodes": 2, "user_config": user_config, "stop_seconds": 5,
            }),
        );
        let ports = json!([port, {"port": port, "protocol": "udp", "source": "10.0.0.0/8"}]);
        host.put(&format!("clusters/{app}/production/deploy_config"), &json!({"basedir": basedir, "ports": ports}));
        host.put(&format!("nodes/{}/{app}", host.node), &json!({"cluster": "production"}));
        host.put(&format!("nodes/{HELD}/{app}"), &json!({"cluster": "production", "hold": true}));
    }

    fn consul(&self) -> String {
        self.host.consul.as_ref().expect("a fleet has one").addr()
    }

    /// Reads intent as the prototype did, in a process of its own.
    pub(crate) fn read_as_the_prototype(&self) {
        let output =
            Command::new(bin("examples/serial")).arg(self.host.store_url()).arg(self.host.node).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), self.apps.to_string());
    }

    /// What the prototype asked of the store in a pass: one listing, then two keys of each app, one after the other.
    pub(crate) fn ask_as_the_prototype(&self) {
        let mut client = Client::connect(&self.consul());
        client.ask("GET", &format!("/v1/kv/nodes/{}/?recurse", self.host.node), b"");
        for app in (0..self.apps).map(name) {
            for key in ["config", "deploy_config"] {
                client.ask("GET", &format!("/v1/kv/clusters/{app}/production/{key}"), b"");
            }
        }
    }

    /// What an agent asks of the store in a pass.
    pub(crate) fn ask_as_an_agent(&self) {
        Client::connect(&self.consul()).ask(
            "GET",
            &format!("/v1/kv/nodes/{}/?recurse&consistent", self.host.node),
            b"",
        );
        let prefixes = (0..self.apps).map(|n| format!("clusters/{}/production/", name(n))).collect::<Vec<_>>();
        if let [prefix] = &prefixes[..] {
            return Client::connect(&self.consul()).ask("GET", &format!("/v1/kv/{prefix}?recurse&consistent"), b"");
        }
        let get = |prefix: &String| json!({"KV": {"Verb": "get-tree", "Key": prefix}});
        let transaction =
            |prefixes: &[String]| serde_json::to_vec(&prefixes.iter().map(get).collect::<Vec<_>>()).unwrap();
        let transactions = prefixes.chunks(OPERATIONS).map(transaction).collect::<Vec<_>>();
        thread::scope(|scope| {
            for first in 0..AT_ONCE.min(transactions.len()) {
                let mine = transactions.iter().skip(first).step_by(AT_ONCE);
                scope.spawn(move || {
                    let mut client = Client::connect(&self.consul());
                    mine.for_each(|transaction| client.ask("PUT", "/v1/txn?consistent", transaction));
                });
            }
        });
    }
}

fn name(n: usize) -> String {
    format!("app{n:04}")
}

/// The cheapest app there is: it sleeps.
fn install(install: &Path) {
    let bin = install.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("launch"), "#!/bin/sh\nexec sleep 1000000\n").unwrap();
    fs::set_permissions(bin.join("launch"), fs::Permissions::from_mode(0o755)).unwrap();
}
