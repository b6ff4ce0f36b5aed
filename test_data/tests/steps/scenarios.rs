//! What happens to a host while its agents die.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use fixtures::{SOON, bin, eventually};
use serde_json::{Value, json};

use crate::site::Site;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Of one round.
    pub(crate) agents: &'static [fn(&Site) -> Command],
    /// What the host is before.
    pub(crate) before: fn(&Site),
    /// And what happens then.
    pub(crate) change: fn(&Site),
    /// What is intended cannot be had, which the agents say each time.
    pub(crate) fails: bool,
    pub(crate) on: On,
    /// Agents are at work all the time, and done once this holds.
    pub(crate) is_done: Option<fn(&Site) -> bool>,
}

/// What is there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// Intent is in a directory.
    Directory,
    Consul,
    /// A directory, and an app whose process is pp-setlive.
    Platform,
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    // Those first that take longest.
    vec![
        scenario("a first version, on Consul", &[setlive]).on(On::Consul).after(Site::installs).when(|site| {
            activate(site, "good", SCRIPT);
        }),
        scenario("another version, on Consul", &[setlive])
            .on(On::Consul)
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| activate(site, "other", SCRIPT)),
        scenario("an app that leaves the node, on Consul", &[setlive])
            .on(On::Consul)
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| site.host.delete("nodes/web1/slug")),
        scenario("another version of the agent itself", &[setlive])
            .on(On::Platform)
            .after(|site| {
                site.installs();
                activate_platform(site, "1");
                site.pass(setlive(site));
                eventually("it is at work", SOON, || is_on(site, "1").then_some(()));
            })
            .when(|site| activate_platform(site, "2"))
            .until(|site| is_on(site, "2")),
        scenario("a version that fails", &[setlive])
            .failing()
            .after(|site| runs(site, "good", HTTP))
            .when(|site| activate(site, "bad", Check { deadline: 0.5, ..HTTP })),
        scenario("an app that leaves the node", &[rules, setlive])
            .after(|site| {
                runs(site, "good", HTTP);
                site.pass(rules(site));
            })
            .when(|site| site.host.delete("nodes/web1/slug")),
        scenario("a version of other services", &[setlive]).after(|site| runs(site, "two", HTTP)).when(|site| {
            leave_a_process(site);
            activate(site, "good", HTTP);
        }),
        scenario("another configuration", &[setlive]).after(|site| runs(site, "forks", HTTP)).when(|site| {
            let port = site.host.port;
            put_config(site, "forks", HTTP, json!({"user_config": {"port": port, "greeting": "again"}}));
        }),
        scenario("a first version", &[setlive]).after(Site::installs).when(|site| activate(site, "good", HTTP)),
        scenario("a host that goes by another name", &[adopting]).after(|site| runs(site, "good", HTTP)).when(|site| {
            site.host.put("nodes/web2/slug", &json!({"cluster": "dev"}));
        }),
        scenario("an instance that somebody deregistered", &[setlive])
            .after(|site| runs(site, "good", HTTP))
            .when(|site| fs::remove_dir_all(site.host.path("store/instances")).unwrap()),
        scenario("an artifact", &[preparer]).when(|site| {
            add_artifact(site, "1");
            prepare(site, &json!({"1": "active"}));
        }),
        scenario("an install that intent names no more", &[pruning])
            .after(|site| {
                prepare(site, &json!({"1": "active"}));
                add_artifact(site, "1");
                site.pass(preparer(site));
            })
            .when(|site| {
                add_artifact(site, "2");
                prepare(site, &json!({"2": "active"}));
            }),
        scenario("an install that intent has not named for long", &[pruning])
            .after(|site| {
                add_artifact(site, "1");
                add_artifact(site, "2");
                prepare(site, &json!({"1": "prep", "2": "active"}));
                site.pass(preparer(site));
                prepare(site, &json!({"2": "active"}));
                site.pass(pruning(site));
            })
            .when(|site| {
                let note = site.host.path("srv/parcel/installs/.unwanted-parcel_1");
                let since = SystemTime::now() - Duration::from_secs(3600);
                File::options().write(true).open(note).unwrap().set_modified(since).unwrap();
            }),
        scenario("a packet filter", &[filter]).after(|site| opened(site, filter)).when(open_others),
        scenario("a packet filter in a file", &[rules]).after(|site| opened(site, rules)).when(open_others),
        scenario("a packet filter of another program", &[authority])
            .after(|site| opened(site, authority))
            .when(open_others),
        scenario("a file of intent", &[direct]).when(|site| {
            add_artifact(site, "1");
            let intent = json!({
                "nodes/web1/parcel": {"cluster": "dev"},
                "clusters/parcel/dev/config": {"versions": {"1": "active"}, "health": SCRIPT.json(site)},
                "clusters/parcel/dev/deploy_config": {"basedir": site.host.path("srv/parcel"), "ports": [80]},
            });
            fs::write(site.host.path("intent.json"), intent.to_string()).unwrap();
        }),
    ]
}

fn scenario(name: &'static str, agents: &'static [fn(&Site) -> Command]) -> Scenario {
    Scenario { name, agents, before: |_| {}, change: |_| {}, fails: false, on: On::Directory, is_done: None }
}

impl Scenario {
    fn after(self, before: fn(&Site)) -> Self {
        Self { before, ..self }
    }

    fn when(self, change: fn(&Site)) -> Self {
        Self { change, ..self }
    }

    fn failing(self) -> Self {
        Self { fails: true, ..self }
    }

    fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    fn until(self, is_done: fn(&Site) -> bool) -> Self {
        Self { is_done: Some(is_done), ..self }
    }
}

/// How a version is found healthy.
#[derive(Clone, Copy)]
struct Check {
    by_script: bool,
    deadline: f64,
}

const HTTP: Check = Check { by_script: false, deadline: 20.0 };
/// To Consul, whose own checks take a second, this is for the agent to say.
const SCRIPT: Check = Check { by_script: true, ..HTTP };

impl Check {
    fn json(self, site: &Site) -> Value {
        let mut check = json!({"interval_seconds": 0.05, "deadline_seconds": self.deadline});
        match self.by_script {
            true => check["script"] = json!("bin/check"),
            false => check["http"] = json!({"port": site.host.port, "path": "/health"}),
        }
        check
    }
}

fn put_config(site: &Site, version: &str, check: Check, mut more: Value) {
    more["health"] = check.json(site);
    site.host.activate(version, more);
}

fn activate(site: &Site, version: &str, check: Check) {
    site.host.deploy_config(json!({"ports": [site.host.port]}));
    put_config(site, version, check, json!({}));
}

fn runs(site: &Site, version: &str, check: Check) {
    site.installs();
    activate(site, version, check);
    site.pass(setlive(site));
}

/// One that the app started, and that nothing looks after.
fn leave_a_process(site: &Site) {
    let install = site.host.path("srv/slug/installs/slug_two");
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 1000 >/dev/null 2>&1 &"]).current_dir(install).process_group(0);
    shell.env("CONFIG_PATH", site.host.path("srv/slug/config/old.json"));
    assert!(shell.status().unwrap().success());
}

fn activate_platform(site: &Site, version: &str) {
    site.host.deploy_config_as("platform", json!({}));
    let config = json!({"versions": {version: "active"}, "health": SCRIPT.json(site), "stop_seconds": 1});
    site.host.put("clusters/platform/dev/config", &config);
    site.host.put("nodes/web1/platform", &json!({"cluster": "dev"}));
}

/// Whether the agent of this version is at work, and nothing is left of what led there.
fn is_on(site: &Site, version: &str) -> bool {
    let read = |path: &str| fs::read(site.host.path(path)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let record = read("stage/.platypus/platform.json").unwrap_or(Value::Null);
    let mark = read("srv/platform/data/passed/pp-setlive").unwrap_or(Value::Null);
    let is_settled = ["handover", "converging", "unregistered", "asked"].iter().all(|field| record[field].is_null());
    let is_alone = record["services"].as_array().is_some_and(|services| services.len() == 1);
    let program = format!("platform_{version}/bin/pp-setlive");
    let runs = fs::read_link(format!("/proc/{}/exe", mark["pid"])).is_ok_and(|exe| exe.ends_with(program));
    record["healthy"]["version"] == version && is_settled && is_alone && runs
}

fn setlive(site: &Site) -> Command {
    site.host.setlive()
}

/// Under another name, and told to take over what there is.
fn adopting(site: &Site) -> Command {
    let mut setlive = Command::new(bin("pp-setlive"));
    setlive.arg("--store").arg(site.host.store_url()).args(["--node", "web2", "--adopt"]);
    setlive.arg("--runit").arg(site.host.path("service")).arg("--runit-stage").arg(site.host.path("stage"));
    setlive
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
    let mut iptables = site.namespace().command(bin("pp-iptables"));
    iptables.arg("--store").arg(site.host.store_url()).args(["--node", "web1", "--apply", "--lock"]);
    iptables.arg(site.host.path("stage/lock")).current_dir(site.host.scratch.path());
    // Legacy iptables has one lock for all network namespaces.
    iptables.env("XTABLES_LOCKFILE", site.host.path("xtables.lock"));
    iptables
}

fn authority(site: &Site) -> Command {
    let mut iptables = site.host.iptables();
    iptables.arg("--cmd").arg(site.host.path("authority")).args(["--config-dir", "ports.d"]);
    iptables
}

fn direct(site: &Site) -> Command {
    let mut direct = site.host.direct();
    direct.arg("--rules").arg(site.host.path("rules"));
    direct
}

/// Everything that an artifact can hold, in a few entries; and it runs.
fn add_artifact(site: &Site, version: &str) {
    site.host.repo.artifact("parcel", version, |archive| {
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
