//! Following a roll until its outcome is known: what `--wait` does once the change is written.
//!
//! Ensures: it only looks. Whoever ends it ends nothing else; a store that is away is waited for.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use anyhow::{Result, bail};
use store::{AppName, ClusterName, Refused, Store, Version, bar};

use super::fleet::{Deployment, Trouble, Which, observe};
use super::{Outcome, note};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Characters of a line that no terminal folds.
const LINE: usize = 79;
/// To the beginning of a terminal's line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";

/// How far a roll is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Everywhere, and clients are sent there.
    Done,
    /// It does not go on by itself.
    Failed(String),
    Going {
        arrived: usize,
        nodes: usize,
        reason: String,
    },
}

/// A command that has written what is to run: how it ended, and the version that is active since.
pub(super) type Written = (Outcome, Option<Version>);

/// What `--wait` does after that, where there is anything to follow.
pub(super) async fn follow_if(
    wait: bool,
    store: &Store,
    (app, cluster): (&AppName, &ClusterName),
    (outcome, active): Written,
) -> Result<Outcome> {
    match active {
        Some(version) if wait && outcome == Outcome::Done => follow(store, app, cluster, &version).await,
        Some(_) | None => Ok(outcome),
    }
}

/// Until `version` passes on each node of the cluster.
///
/// # Errors
/// When it has failed, or intent no longer wants it.
async fn follow(store: &Store, app: &AppName, cluster: &ClusterName, version: &Version) -> Result<Outcome> {
    let which = Which { app: Some(app.clone()), cluster: Some(cluster.clone()), node: None };
    let (is_terminal, mut said) = (stderr().is_terminal(), String::new());
    loop {
        let line = match observe(store, &which).await {
            Ok(fleet) => match fleet.deployments.first().map(|of| progress(of, version)) {
                Some(Progress::Done) => {
                    end_line(is_terminal);
                    note(&format!("{version} passes on every node of {app} {cluster}"));
                    return Ok(Outcome::Done);
                }
                Some(Progress::Failed(reason)) => {
                    end_line(is_terminal);
                    bail!("{app} {cluster}: {reason}");
                }
                Some(Progress::Going { arrived, nodes, reason }) => {
                    let bar = if is_terminal { bar(arrived as u64, nodes as u64) + " " } else { String::new() };
                    format!("{bar}{version} passes on {arrived} of {nodes} nodes: {reason}")
                }
                None => format!("{app} {cluster} is not there"),
            },
            Err(error) if error.chain().any(<dyn std::error::Error>::is::<Refused>) => {
                end_line(is_terminal);
                return Err(error.context("it is written; how the roll goes cannot be seen"));
            }
            // What is written goes on without us.
            Err(error) => format!("{error:#}; asking again"),
        };
        if is_terminal {
            let line = super::legible(&line).chars().take(LINE).collect::<String>();
            let _ = write!(stderr(), "{CLEAR}{line}");
        } else if line != said {
            note(&line);
        }
        said = line;
        tokio::time::sleep(PAUSE).await;
    }
}

fn end_line(is_terminal: bool) {
    if is_terminal {
        let _ = write!(stderr(), "{CLEAR}");
    }
}

fn progress(of: &Deployment, version: &Version) -> Progress {
    if let Some((node, obstacle)) = of.obstacle().filter(|(_, obstacle)| obstacle.trouble == Trouble::Invalid) {
        return Progress::Failed(format!("{}: {}", node.name, obstacle.says));
    }
    if of.wanted.as_ref() != Some(version) {
        let wanted = of.wanted.as_ref().map_or("none".to_owned(), ToString::to_string);
        return Progress::Failed(format!("{version} is not the active version any more: {wanted} is"));
    }
    // Whatever else is the matter with a node, a version that is only to be at hand say, this is not waited for.
    let (arrived, nodes) = (of.count(|node| node.arrived), of.count(|node| !node.drained));
    if arrived == nodes {
        return Progress::Done;
    }
    let has =
        |troubles: &[Trouble]| of.count(|node| node.obstacle.as_ref().is_some_and(|it| troubles.contains(&it.trouble)));
    let failed = of.leases.failed.values().find(|failed| failed.version == *version && failed.retry.is_none());
    // It may be of another configuration of this version, while this one is on its way.
    if let Some(failed) = failed
        && has(&[Trouble::Failing]) > 0
        && has(&[Trouble::Converging, Trouble::Unseen]) == 0
    {
        let last = failed.log.last().map(|line| format!("; it logged: {line}")).unwrap_or_default();
        return Progress::Failed(format!("{version} failed on {}: {}{last}", failed.node, failed.reason));
    }
    let reason = of.obstacle().map_or("not everybody has registered yet".to_owned(), |(node, obstacle)| {
        format!("{}: {}", node.name, obstacle.says)
    });
    Progress::Going { arrived, nodes, reason }
}

#[cfg(test)]
mod tests {
    use store::lease::Leases;

    use super::super::fleet::{Node, Obstacle};
    use super::*;

    fn of(obstacles: &[Option<(Trouble, &str)>], leases: &serde_json::Value) -> Deployment {
        let node = |(number, obstacle): (usize, &Option<(Trouble, &str)>)| Node {
            name: format!("web{number}").parse().unwrap(),
            prepared: true,
            live: true,
            healthy: true,
            arrived: obstacle.is_none(),
            drained: false,
            obstacle: obstacle.map(|(trouble, says)| Obstacle {
                trouble,
                says: says.to_owned(),
                since: None,
                log: vec![],
            }),
        };
        Deployment {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            wanted: Some("2".parse().unwrap()),
            nodes: obstacles.iter().enumerate().map(node).collect(),
            leases: serde_json::from_value::<Leases>(leases.clone()).unwrap(),
            instances: Some(Vec::new()),
        }
    }

    #[test]
    fn a_roll_goes_on_until_it_is_everywhere_or_cannot() {
        let none = serde_json::json!({"rev": 1});
        let two = "2".parse().unwrap();
        assert_eq!(progress(&of(&[None, None], &none), &two), Progress::Done);
        let waits = [None, Some((Trouble::Waiting, "pp-setlive waits: min 1")), Some((Trouble::Unseen, "yet to see"))];
        let reason = "web1: pp-setlive waits: min 1".to_owned();
        assert_eq!(progress(&of(&waits, &none), &two), Progress::Going { arrived: 1, nodes: 3, reason });
        let failed = serde_json::json!({"rev": 1, "failed": {"d2": {
            "version": "2", "node": "web0", "reason": "503", "at": "2026-11-22T03:14:08Z", "log": ["a", "b"]}}});
        let stopped = [Some((Trouble::Failing, "pp-setlive fails: 503")), Some((Trouble::Waiting, "for web0"))];
        let says = "2 failed on web0: 503; it logged: b".to_owned();
        assert_eq!(progress(&of(&stopped, &failed), &two), Progress::Failed(says));
        // What failed was another configuration of it, and this one is on its way or there.
        assert!(matches!(progress(&of(&waits, &failed), &two), Progress::Going { arrived: 1, nodes: 3, .. }));
        assert_eq!(progress(&of(&[None, None], &failed), &two), Progress::Done);
        let mut drained = of(&[None, Some((Trouble::Held, "drained"))], &none);
        (drained.nodes[1].drained, drained.nodes[1].obstacle) = (true, None);
        assert_eq!(progress(&drained, &two), Progress::Done);
        let mut beside = of(&[Some((Trouble::Failing, "pp-preparer fails: no 3"))], &none);
        beside.nodes[0].arrived = true;
        assert_eq!(progress(&beside, &two), Progress::Done);
        let gone = "3 is not the active version any more: 2 is".to_owned();
        assert_eq!(progress(&of(&[None], &none), &"3".parse().unwrap()), Progress::Failed(gone));
    }
}
