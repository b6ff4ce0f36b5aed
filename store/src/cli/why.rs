//! `pp-store why`: what has to happen next, and who waits for whom.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use store::Store;
use time::OffsetDateTime;

use super::fleet::{Deployment, Node, Which, observe};
use super::status::node_json;
use super::{Outcome, age, cluster, note, print_json, print_lines};

pub(super) async fn run(store: &Store, which: &Which, in_json: bool) -> Result<Outcome> {
    let fleet = observe(store, which).await?;
    let now = OffsetDateTime::now_utc();
    if in_json {
        let problems = fleet.problems.iter().map(|(key, error)| json!({"key": key, "error": error}));
        print_json(&fleet.deployments.iter().map(json_of).chain(problems).collect::<Value>())?;
    } else {
        let mut lines = Vec::new();
        for of in &fleet.deployments {
            lines.push(head(of));
            lines.extend(of.nodes.iter().flat_map(|node| about(node, of, now)));
            if !of.leases.is_empty() {
                let cluster = cluster::observe(store, of.app.clone(), of.cluster.clone(), of.leases.clone()).await;
                lines.extend(cluster::lines(&cluster, now).into_iter().map(|line| format!("  {line}")));
            }
        }
        print_lines(lines)?;
        fleet.problems.iter().for_each(|(key, reason)| note(&format!("{key}: {reason}")));
    }
    ensure!(fleet.problems.is_empty(), "{} of these cannot be read or known", fleet.problems.len());
    if fleet.deployments.iter().all(|of| of.nodes.is_empty()) {
        note("no node is to run this: nothing under nodes/ says so");
        return Ok(Outcome::Absent);
    }
    Ok(Outcome::Done)
}

/// The one sentence.
fn head(of: &Deployment) -> String {
    let Deployment { app, cluster, wanted, nodes, .. } = of;
    match (of.obstacle(), wanted) {
        (Some((node, obstacle)), _) => format!("{app} {cluster}: {}: {}", node.name, obstacle.says),
        (None, Some(version)) => {
            let (healthy, drained) = (of.count(|it| it.healthy), of.count(|it| it.drained));
            let drained = if drained == 0 { String::new() } else { format!("; drained: {drained}") };
            format!("{app} {cluster}: converged: {version} passes on {healthy} of {} nodes{drained}", nodes.len())
        }
        (None, None) => format!("{app} {cluster}: converged: no version is active, so that nothing runs"),
    }
}

/// One node, and the last lines of what would not start there.
fn about(node: &Node, of: &Deployment, now: OffsetDateTime) -> Vec<String> {
    let Some(obstacle) = &node.obstacle else {
        if node.drained {
            return vec![format!("  {0}: drained: `pp-store undrain {0}` brings it back", node.name)];
        }
        let version = of.wanted.as_ref().map_or("nothing".to_owned(), ToString::to_string);
        return vec![format!("  {}: converged: runs {version}", node.name)];
    };
    let age = obstacle.since.as_deref().map(|since| format!(" {}", age::since(since, now))).unwrap_or_default();
    let line = format!("  {}: {}{age}: {}", node.name, obstacle.trouble, obstacle.says);
    [line].into_iter().chain(obstacle.log.iter().map(|line| format!("    | {line}"))).collect()
}

/// As `--help` describes it.
fn json_of(of: &Deployment) -> Value {
    json!({
        "app": of.app,
        "cluster": of.cluster,
        "wanted": of.wanted,
        "why": head(of),
        "on": of.nodes.iter().map(node_json).collect::<Value>(),
        "leases": of.leases,
    })
}
