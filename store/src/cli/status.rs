//! `pp-store status`: how far everything is, in one table.

mod table;

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use store::Store;
use time::OffsetDateTime;

use super::fleet::{Deployment, Fleet, Node, Which, observe};
use super::{Outcome, note, print};

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);
/// To the first place of a terminal, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(store: &Store, which: &Which, watch: bool, in_json: bool) -> Result<Outcome> {
    if watch {
        return follow(store, which, in_json).await;
    }
    let fleet = observe(store, which).await?;
    print(shown(&fleet, in_json).as_bytes())?;
    conclude(&fleet, which, in_json)
}

/// Until somebody ends it. A store that cannot be read is said, and asked again.
async fn follow(store: &Store, which: &Which, in_json: bool) -> Result<Outcome> {
    let (is_terminal, mut before, mut said) = (stdout().is_terminal() && !in_json, String::new(), Vec::new());
    loop {
        match observe(store, which).await {
            Ok(fleet) => {
                let text = shown(&fleet, in_json);
                // Somebody's eyes are on the ages; a file's reader wants what is new.
                if is_terminal {
                    print(format!("{CLEAR}{text}").as_bytes())?;
                } else if text != before {
                    print(text.as_bytes())?;
                }
                before = text;
                let problems = fleet.problems;
                if problems != said {
                    problems.iter().for_each(|(key, reason)| note(&format!("{key}: {reason}")));
                    said = problems;
                }
            }
            Err(error) => note(&format!("{error:#}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn shown(fleet: &Fleet, in_json: bool) -> String {
    let now = OffsetDateTime::now_utc();
    if in_json {
        let problems = fleet.problems.iter().map(|(key, error)| json!({"key": key, "error": error}));
        let all = fleet.deployments.iter().map(|of| json_of(of, now)).chain(problems).collect::<Value>();
        return format!("{all}\n");
    }
    table::of(&fleet.deployments, now, stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

fn conclude(fleet: &Fleet, which: &Which, in_json: bool) -> Result<Outcome> {
    if !in_json {
        fleet.problems.iter().for_each(|(key, reason)| note(&format!("{key}: {reason}")));
    }
    ensure!(fleet.problems.is_empty(), "{} of these cannot be read or known", fleet.problems.len());
    if !fleet.deployments.is_empty() {
        return Ok(Outcome::Done);
    }
    note(match which {
        Which { app: None, cluster: None, node: None } => "there is no intent at all",
        _ => "there is no intent of that name",
    });
    Ok(Outcome::Absent)
}

/// As `--help` describes it.
fn json_of(of: &Deployment, now: OffsetDateTime) -> Value {
    let obstacle = of.obstacle();
    json!({
        "app": of.app,
        "cluster": of.cluster,
        "wanted": of.wanted,
        "nodes": of.nodes.len(),
        "prepared": of.count(|node| node.prepared),
        "live": of.count(|node| node.live),
        "healthy": of.instances.as_ref().map(|_| of.count(|node| node.healthy)),
        "lag_seconds": of.lag(now),
        "state": obstacle.map_or("converged".to_owned(), |(_, obstacle)| obstacle.trouble.to_string()),
        "node": obstacle.map(|(node, _)| &node.name),
        "reason": obstacle.map(|(_, obstacle)| &obstacle.says),
        "on": of.nodes.iter().map(node_json).collect::<Value>(),
    })
}

pub(super) fn node_json(node: &Node) -> Value {
    let Node { name, prepared, live, healthy, arrived: _, drained, obstacle } = node;
    json!({
        "node": name, "prepared": prepared, "live": live, "healthy": healthy, "drained": drained,
        "state": obstacle.as_ref().map_or("converged".to_owned(), |it| it.trouble.to_string()),
        "reason": obstacle.as_ref().map(|it| &it.says),
        "since": obstacle.as_ref().and_then(|it| it.since.as_ref()),
        "log": obstacle.as_ref().map(|it| &it.log),
    })
}
