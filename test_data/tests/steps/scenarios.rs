//! What happens to a host while its agents die.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, SystemTime};

use fixtures::bin;
use serde_json::{Value, json};

use crate::site::Site;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Of one round.
    pub(crate) agents: &'static [fn(&Site) -> Command],
    /// What the host is before, and what is intended then.
    pub(crate) before: fn(&Site),
    pub(crate) change: fn(&Site),
    /// What is intended cannot be had, which the agents say each time.
    pub(crate) fails: bool,
    pub(crate) on_consul: bool,
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scenario =
        |name, agents, before, change| Scenario { name, agents, before, change, fails: false, on_consul: false };
    vec![
        scenario(
            "another version, with a store of instances",
            &[setlive],
            |site| runs_checked(site, "good"),
            |site| {
                runs_checked_by_script(site, "other");
            },
        )
        .on_consul(),
        scenario(
            "a version that fails",
            &[setlive],
            |site| runs(site, "good"),
            |site| {
            let health = json!({"http": {"port": site.host.port, "path": "/health"}, "interval_seconds": 0.05, "deadline_seconds": 0.5});
            activate(site, "bad", json!({"health": health}));
        },
        )
        .failing(),
        scenario("a first version", &[setlive], Site::installs, |site| activate(site, "good", json!({}))),
        scenario(
            "a version of other services",
            &[setlive],
            |site| runs(site, "two"),
            |site| {
                activate(site, "good", json!({}));
            },
        ),
        scenario(
            "another configuration",
            &[setlive],
            |site| runs(site, "forks"),
            |site| {
                activate(site, "forks", json!({"user_config": {"port": site.host.port, "greeting": "again"}}));
            },
        ),
        scenario(
            "an app that leaves the node",
            &[rules, setlive],
            |site| {
                runs(site, "good");
                site.pass(rules(site));
            },
            |site| site.host.delete("nodes/web1/slug"),
        ),
        scenario(
            "an artifact",
            &[preparer],
            |_| {},
            |site| {
                artifact(site);
                prepare(site, &json!({"1": "active"}));
            },
        ),
        scenario(
            "an install that intent names no more",
            &[pruning],
            |site| {
                artifact(site);
                fs::copy(site.host.repo.path("parcel", "1"), site.host.repo.path("parcel", "2")).unwrap();
                prepare(site, &json!({"1": "active"}));
                site.pass(preparer(site));
            },
            |site| prepare(site, &json!({"2": "active"})),
        ),
        scenario(
            "an install that intent has not named for long",
            &[pruning],
            |site| {
                artifact(site);
                fs::copy(site.host.repo.path("parcel", "1"), site.host.repo.path("parcel", "2")).unwrap();
                prepare(site, &json!({"1": "prep", "2": "active"}));
                site.pass(preparer(site));
                prepare(site, &json!({"2": "active"}));
                site.pass(pruning(site));
            },
            |site| {
                let note = site.host.path("srv/parcel/installs/.unwanted-parcel_1");
                let since = SystemTime::now() - Duration::from_secs(3600);
                File::options().write(true).open(note).unwrap().set_modified(since).unwrap();
            },
        ),
        scenario("a packet filter", &[filter], |site| opened(site, filter), open_others),
        scenario("a packet filter in a file", &[rules], |site| opened(site, rules), open_others),
        scenario("a packet filter of another program", &[authority], |site| opened(site, authority), open_others),
        scenario(
            "a file of intent",
            &[direct],
            |_| {},
            |site| {
                let intent = json!({
                    "nodes/web1/parcel": {"cluster": "dev"},
                    "clusters/parcel/dev/config": {
                        "versions": {"1": "active"},
                        "health": {"script": "bin/check", "interval_seconds": 0.1, "deadline_seconds": 3},
                    },
                    "clusters/parcel/dev/deploy_config": {"basedir": site.host.path("srv/parcel"), "ports": [80]},
                });
                artifact(site);
                fs::write(site.host.path("intent.json"), intent.to_string()).unwrap();
            },
        ),
    ]
}

impl Scenario {
    fn failing(self) -> Self {
        Self { fails: true, ..self }
    }

    fn on_consul(self) -> Self {
        Self { on_consul: true, ..self }
    }
}

fn setlive(site: &Site) -> Command {
    site.host.setlive()
}

fn preparer(site: &Site) -> Command {
    site.host.preparer()
}

fn pruning(site: &Site) -> Command {
    let mut preparer = preparer(site);
    preparer.args(["--keep", "0"]);
    preparer
}

fn rules(site: &Site) -> Command {
    let mut iptables = site.host.iptables();
    iptables.arg("--rules").arg(site.host.path("rules"));
    iptables
}

fn filter(site: &Site) -> Command {
    let mut iptables = site.namespace.command(bin("pp-iptables"));
    iptables.arg("--store").arg(site.host.store_url()).args(["--node", "web1", "--apply", "--lock"]);
    iptables.arg(site.host.path("stage/lock")).current_dir(site.host.scratch.path());
    // Legacy iptables has one lock for all network namespaces.
    iptables.env("XTABLES_LOCKFILE", site.host.path("xtables.lock"));
    iptables
}

fn authority(site: &Site) -> Command {
    let fake = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/port_authority");
    let mut iptables = site.host.iptables();
    iptables.args(["--cmd", fake, "--config-dir", "ports.d"]).env("PORT_AUTHORITY_LOG", site.host.path("calls"));
    iptables
}

fn direct(site: &Site) -> Command {
    let mut direct = site.host.direct();
    direct.arg("--rules").arg(site.host.path("rules"));
    direct
}

fn activate(site: &Site, version: &str, more: Value) {
    site.host.deploy_config(json!({"ports": [site.host.port]}));
    site.host.activate(version, more);
}

fn runs(site: &Site, version: &str) {
    site.installs();
    activate(site, version, json!({}));
    site.pass(setlive(site));
}

/// As far as Consul is concerned, by the agent's word: its own checks take a second.
fn runs_checked_by_script(site: &Site, version: &str) {
    let health = json!({"script": "bin/check", "interval_seconds": 0.1, "deadline_seconds": 3});
    activate(site, version, json!({"health": health}));
}

fn runs_checked(site: &Site, version: &str) {
    site.installs();
    runs_checked_by_script(site, version);
    site.pass(setlive(site));
}

/// Everything that an artifact can hold, in a few entries; and it runs.
fn artifact(site: &Site) {
    site.host.repo.artifact("parcel", "1", |archive| {
        let mut add = |kind: tar::EntryType, path: &str, mode: u32, target: Option<&str>, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_mtime(1_400_000_000);
            header.set_size(content.len() as u64);
            match target {
                Some(target) => archive.append_link(&mut header, path, target).unwrap(),
                None => archive.append_data(&mut header, path, content).unwrap(),
            }
        };
        add(tar::EntryType::Directory, "bin/", 0o755, None, b"");
        add(tar::EntryType::Regular, "bin/launch", 0o755, None, b"#!/bin/sh\nexec sleep 1000\n");
        add(tar::EntryType::Regular, "bin/check", 0o755, None, b"#!/bin/sh\n");
        add(tar::EntryType::Regular, "deep/down/data", 0o644, None, &[b'x'; 100_000]);
        add(tar::EntryType::Link, "same", 0o644, Some("deep/down/data"), b"");
        add(tar::EntryType::Symlink, "link", 0o777, Some("nowhere"), b"");
        add(tar::EntryType::Symlink, "link", 0o777, Some("deep"), b"");
    });
}

fn prepare(site: &Site, versions: &Value) {
    site.host.deploy_config_as("parcel", json!({}));
    site.host.put("clusters/parcel/dev/config", &json!({"versions": versions}));
    site.host.put("nodes/web1/parcel", &json!({"cluster": "dev"}));
}

/// Two apps whose ports are open.
fn opened(site: &Site, agent: fn(&Site) -> Command) {
    open(site, "one", json!([80]));
    open(site, "two", json!([81]));
    site.pass(agent(site));
}

/// One of them is gone, the other is on other ports, and there is a third.
fn open_others(site: &Site) {
    site.host.delete("nodes/web1/two");
    open(site, "one", json!([443, {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}]));
    open(site, "three", json!([90]));
}

fn open(site: &Site, app: &str, ports: Value) {
    site.host.deploy_config_as(app, json!({"ports": ports}));
    site.host.put(&format!("clusters/{app}/dev/config"), &json!({"versions": {}}));
    site.host.put(&format!("nodes/web1/{app}"), &json!({"cluster": "dev"}));
}
