//! The steps of an agent that is at work by which it says something of itself: they come when they will, and no matter what
//! the host is like, so that they are in no scenario's list.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};

use fixtures::{Behaviour, Host, SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::names::OF_ITSELF;

#[test]
fn whatever_an_agent_dies_at_that_it_says_of_itself_the_next_one_says_it() {
    let host = Host::without_runit().with_consul(fixtures::Consul::start);
    host.repo.slug("1", Behaviour::Good);
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let metrics = host.path("metrics.prom");
    for step in OF_ITSELF {
        host.consul.as_ref().unwrap().http("DELETE", "/v1/kv/reality/?recurse", b"");
        let _ = fs::remove_file(&metrics);
        let mut dies = preparer(&host, &metrics);
        let mut agent = dies.env("PLATYPUS_DIE_AT", format!("pp-preparer:{step}:1")).spawn().unwrap();
        if step == "say gone" {
            eventually("it is alive", SOON, || (lives(&host) == ["passing"]).then_some(()));
            end(&agent);
        }
        let died = eventually("it dies", SOON, || agent.try_wait().unwrap());
        assert_eq!(died.signal(), Some(9), "at {step}: {died}");

        let mut agent = preparer(&host, &metrics).spawn().unwrap();
        let is_said = || {
            let report = host.consul.as_ref().unwrap().get("reality/web1/pp-preparer")?;
            let report = serde_json::from_str::<Value>(&report).ok()?;
            let metrics = fs::read_to_string(&metrics).ok()?;
            let is_counted = metrics.contains("platypus_apps{agent=\"pp-preparer\",state=\"converged\"} 1\n");
            (report["apps"]["slug"]["state"] == "converged" && is_counted && lives(&host) == ["passing"]).then_some(())
        };
        eventually(&format!("all is said after a death at {step}"), SOON, is_said);
        end(&agent);
        assert_eq!(agent.wait().unwrap().code(), Some(143));
        assert_eq!(lives(&host), [""; 0], "it took its leave");
    }
}

fn preparer(host: &Host, metrics: &Path) -> Command {
    let mut preparer = host.preparer();
    preparer.arg("--metrics").arg(metrics).stderr(std::process::Stdio::null());
    preparer
}

fn end(agent: &Child) {
    kill_process(Pid::from_child(agent), Signal::TERM).unwrap();
}

/// The states of the checks of agents.
fn lives(host: &Host) -> Vec<String> {
    let checks = host.consul.as_ref().unwrap().http("GET", "/v1/health/checks/platypus-agent", b"").1;
    let checks = serde_json::from_str::<Vec<Value>>(&checks).unwrap_or_default();
    checks.iter().map(|check| check["Status"].as_str().unwrap().to_owned()).collect()
}
