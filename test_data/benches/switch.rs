//! How long a switch takes: from the `PUT` of a new active version, already prepared, to the new process answering; on
//! both stores, with where the time goes, beside what the same switch takes by hand with `sv`.
//!
//! Run by `kickstart/bench switch`. The service has run for over a second each time, and stops at once. Everything is on
//! tmpfs: what a disk takes for an fsync is the disk's figure, not ours.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Agent, Behaviour, Consul, Host, Scratch, Slug, median};
use serde_json::json;

const SWITCHES: usize = 9;
/// runsv waits until a process has lived a second before it starts the next.
const LIVED: Duration = Duration::from_millis(1200);

fn main() {
    println!("median of {SWITCHES}, from the put to the new process answering:");
    let host = || Host::within(Scratch::in_memory()).with_runsvdir();
    for (store, host) in [("directory", host()), ("consul", host().with_consul(Consul::start_server))] {
        let agent = deploy(&host);
        let mut totals = Vec::new();
        let mut parts = BTreeMap::<String, Vec<f64>>::new();
        for n in 0..SWITCHES {
            thread::sleep(LIVED);
            let version = if n % 2 == 0 { "2" } else { "1" };
            let said = agent.log().matches("is live").count();
            let begun = Instant::now();
            host.activate(version, json!({}));
            host.serves(version);
            totals.push(begun.elapsed().as_secs_f64() * 1000.0);
            for (part, milliseconds) in laps(&agent, said) {
                parts.entry(part).or_default().push(milliseconds);
            }
        }
        let total = median(totals);
        let inside = ["stage", "stop", "write", "start", "sync", "healthy"]
            .map(|part| (part, median(parts.remove(part).unwrap())));
        let shown = inside.iter().map(|(part, milliseconds)| format!("{part} {milliseconds:.1}"));
        let known = inside.iter().map(|(_, milliseconds)| milliseconds).sum::<f64>();
        println!(
            "  {store:<9} {total:6.1} ms = put, wake, read and decide {:.1}, {}",
            (total - known).max(0.0),
            shown.collect::<Vec<_>>().join(", ")
        );
        agent.stop();
        if store == "directory" {
            let by_hand = by_hand(&host);
            println!("  by hand   {by_hand:6.1} ms = sv stop, ln -sfn, sv start: {:.1} times as long", by_hand / total);
        }
    }
}

fn deploy(host: &Host) -> Agent {
    for version in ["1", "2"] {
        host.install(&Slug::new(version, Behaviour::Good));
    }
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let agent = host.watch(host.setlive());
    agent.says("1 is live");
    agent
}

/// What the agent says of the switch that it made last: `slug: 2 is live (stage 1.2 ms, stop 3.4 ms, …)`.
fn laps(agent: &Agent, said: usize) -> Vec<(String, f64)> {
    let line = fixtures::eventually("the agent tells where the time went", Duration::from_secs(10), || {
        let log = agent.log();
        log.lines().filter(|line| line.contains("is live")).nth(said).map(str::to_owned)
    });
    let laps = line.split_once("is live (").expect("it says so").1.trim_end_matches(')');
    let lap =
        |lap: &str| lap.trim_end_matches(" ms").split_once(' ').map(|(part, n)| (part.to_owned(), n.parse().unwrap()));
    laps.split(", ").filter_map(lap).collect()
}

fn by_hand(host: &Host) -> f64 {
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let (service, current) = (host.path("service/slug"), host.path("srv/slug/current"));
    median((0..SWITCHES).map(|_| {
        thread::sleep(LIVED);
        let before = host.pid();
        let begun = Instant::now();
        run("sv", &["stop", service.to_str().unwrap()]);
        run("ln", &["-sfn", "installs/slug_1", current.to_str().unwrap()]);
        run("sv", &["start", service.to_str().unwrap()]);
        fixtures::eventually("it answers again", Duration::from_secs(10), || {
            host.health().filter(|h| h["pid"] != before)
        });
        begun.elapsed().as_secs_f64() * 1000.0
    }))
}
