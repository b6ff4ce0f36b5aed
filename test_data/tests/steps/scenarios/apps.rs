//! Of pp-setlive: apps that come, go and change.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use fixtures::{SOON, bin, eventually};
use serde_json::{Value, json};

use super::{Check, HTTP, On, SCRIPT, Scenario, rules, scenario, setlive};
use crate::site::Site;

/// What is had of another store, too: a real Consul.
const IN_STORE: &[&str] = &["set leases", "drain", "register", "report", "undrain", "deregister"];
/// Until then it is beside its place.
const RENAMED: &[&str] = &[
    "rename configuration",
    "rename current",
    "rename last",
    "rename link to a service",
    "rename log/run",
    "rename record",
    "rename run",
];
const BUILT: &[&str] = &[
    "run service builder",
    "create description of services",
    "write description of services",
    "chmod description of services",
    "rename description of services",
    "remove description of services",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    // Those first that take longest.
    vec![
        scenario("a first version, on Consul", &[setlive])
            .on(On::Consul)
            .after(Site::installs)
            .when(|site| activate(site, "good", SCRIPT))
            .only(IN_STORE),
        scenario("another version, on Consul", &[setlive])
            .on(On::Consul)
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| activate(site, "other", SCRIPT))
            .only(IN_STORE),
        scenario("an app that leaves the node, on Consul", &[setlive])
            .on(On::Consul)
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| site.host.delete("nodes/web1/slug"))
            .only(IN_STORE),
        scenario("another pass, on Consul", &[setlive]).on(On::Consul).after(|site| runs(site, "good", SCRIPT)),
        scenario("an instance that is drained, on Consul", &[setlive])
            .on(On::Consul)
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| {
                let drain = "/v1/agent/service/maintenance/web1:slug?enable=true&reason=platypus:+x";
                assert_eq!(site.host.consul.as_ref().unwrap().http("PUT", drain, b"").0, 200);
            })
            .only(&["undrain what passes"]),
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
        scenario("a first version of the agent itself", &[setlive])
            .on(On::Platform)
            .after(Site::installs)
            .when(|site| {
                activate_platform(site, "1");
                site.pass(setlive(site));
            })
            .until(|site| is_on(site, "1"))
            .only(&["make directory of marks"]),
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
        scenario("another version that is given up", &[setlive])
            .after(|site| runs(site, "good", HTTP))
            .when(|site| activate(site, "other", HTTP))
            .undone(|site| activate(site, "good", HTTP))
            .only(RENAMED),
        scenario("a version of other services that is given up", &[setlive])
            .after(|site| runs(site, "good", HTTP))
            .when(|site| activate(site, "two", HTTP))
            .undone(|site| activate(site, "good", HTTP))
            .only(RENAMED),
        scenario("an app that leaves where nobody looks after services any more", &[setlive])
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| {
                site.supervisor.as_ref().unwrap().look_no_more();
                site.host.delete("nodes/web1/slug");
            })
            .only(&["tell runsv x"]),
        scenario("an app that does not end", &[setlive])
            .after(|site| {
                site.installs();
                activate(site, "deaf", SCRIPT);
                site.pass(setlive(site));
            })
            .when(|site| put_config(site, "good", SCRIPT, json!({"stop_seconds": 0.2})))
            .only(&["tell runsv k"]),
        scenario("a program that does not end", &[setlive])
            .failing()
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| put_config(site, "hangs", SCRIPT, json!({"enable_seconds": 0.2})))
            .only(&["kill program that was given up"]),
        scenario("a first version", &[setlive])
            .after(|site| {
                site.installs();
                // As a killed pass leaves it.
                fs::create_dir(site.host.path("srv/slug/.data.next")).unwrap();
                fs::remove_dir(site.host.path("service")).unwrap();
            })
            .when(|site| activate(site, "good", HTTP)),
        scenario("a first version as a user of its own", &[setlive])
            .on(On::Accounts)
            .after(Site::installs)
            .when(|site| {
                activate(site, "good", SCRIPT);
                site.host.deploy_config(json!({"runas": "slug"}));
            })
            .only(&["run useradd", "make data", "chown data", "chmod data", "rename data"]),
        scenario("a first version that another program builds", &[building])
            .after(Site::installs)
            .when(|site| activate(site, "good", SCRIPT))
            .only(BUILT),
        scenario("an app that leaves, and that another program built", &[building])
            .after(|site| {
                site.installs();
                activate(site, "good", SCRIPT);
                site.pass(building(site));
            })
            .when(|site| site.host.delete("nodes/web1/slug"))
            .only(BUILT),
        scenario("another version, by runit's own sv", &[by_sv])
            .after(|site| runs(site, "good", SCRIPT))
            .when(|site| activate(site, "other", SCRIPT))
            .only(&["run sv"]),
        scenario("a host that goes by another name", &[adopting]).after(|site| runs(site, "good", HTTP)).when(|site| {
            site.host.put("nodes/web2/slug", &json!({"cluster": "dev"}));
        }),
        scenario("a host that goes by another name in the middle", &[adopting])
            .after(|site| {
                runs(site, "good", HTTP);
                activate(site, "other", HTTP);
                site.dies(setlive(site), "pp-setlive:drain:1");
            })
            .when(|site| site.host.put("nodes/web2/slug", &json!({"cluster": "dev"}))),
        scenario("an instance that somebody deregistered", &[setlive])
            .after(|site| runs(site, "good", HTTP))
            .when(|site| fs::remove_dir_all(site.host.path("store/instances")).unwrap()),
    ]
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

/// Under another name, and told to take over what there is.
fn adopting(site: &Site) -> Command {
    let mut setlive = Command::new(bin("pp-setlive"));
    setlive.arg("--store").arg(site.host.store_url()).args(["--node", "web2", "--adopt"]);
    setlive.arg("--runit").arg(site.host.path("service")).arg("--runit-stage").arg(site.host.path("stage"));
    setlive
}

fn building(site: &Site) -> Command {
    let mut setlive = setlive(site);
    setlive.arg("--servicebuilder").arg(site.host.path("builder"));
    setlive
}

fn by_sv(site: &Site) -> Command {
    let mut setlive = setlive(site);
    setlive.args(["--sv", "sv"]);
    setlive
}
