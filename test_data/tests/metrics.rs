//! What agents write with `--metrics`, and what `kickstart/metrics` makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use fixtures::{Behaviour, Host, SOON, eventually};
use serde_json::{Value, json};

fn kickstart(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../kickstart/metrics").join(file)).unwrap()
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.match_indices("platypus_").map(|(at, _)| text[at..].split(|c| !is_of_name(c)).next().unwrap());
    names.collect()
}

/// Whatever promtool makes of this text, where the machine has it (Debian package `prometheus`).
fn check(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool");
    promtool.arg("check").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        return println!("there is no promtool here: {arguments:?} is not checked by it");
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

#[test]
fn what_the_alerts_and_the_dashboard_go_by_agents_write_and_prometheus_reads() {
    let host = Host::new();
    host.repo.slug("1", Behaviour::Good);
    host.deploy_config(json!({}));
    host.activate("1", json!({"versions": {"1": "active", "2": "prep"}}));
    let mut iptables = host.iptables();
    iptables.arg("--rules").arg(host.path("rules"));
    let agents = [("pp-preparer", host.preparer()), ("pp-setlive", host.setlive()), ("pp-iptables", iptables)];
    let running = agents.map(|(name, mut agent)| {
        agent.arg("--metrics").arg(host.path(&format!("{name}.prom")));
        (host.watch(agent), name)
    });
    let text = |name: &str| fs::read_to_string(host.path(&format!("{name}.prom"))).unwrap_or_default();
    let has = |name: &'static str, line: &str| {
        let what = format!("{name} writes {line}");
        eventually(&what, SOON, || text(name).lines().any(|it| it.starts_with(line)).then_some(()));
    };
    has("pp-setlive", "platypus_apps{agent=\"pp-setlive\",state=\"converged\"} 1");
    has("pp-setlive", "platypus_replacements_total{agent=\"pp-setlive\"} 1");
    has("pp-setlive", "platypus_converged_timestamp_seconds{agent=\"pp-setlive\"} ");
    has("pp-iptables", "platypus_passes_total{agent=\"pp-iptables\",outcome=\"converged\"} ");
    let failing = "{agent=\"pp-preparer\",app=\"slug\",state=\"failing\"} ";
    has("pp-preparer", &format!("platypus_app_unconverged_since_timestamp_seconds{failing}"));
    host.repo.slug("2", Behaviour::Good);
    has("pp-preparer", "platypus_apps{agent=\"pp-preparer\",state=\"converged\"} 1");

    let all = running.iter().map(|(_, name)| text(name)).collect::<String>();
    let written = named(&all);
    for file in ["alerts.yml", "dashboard.json"] {
        let unknown = named(&kickstart(file)).difference(&written).copied().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(unknown, [""; 0], "{file}");
    }
    serde_json::from_str::<Value>(&kickstart("dashboard.json")).unwrap();
    check(&["rules", concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/metrics/alerts.yml")], "");
    for (agent, name) in running {
        check(&["metrics"], &text(name));
        agent.stop();
    }
}
