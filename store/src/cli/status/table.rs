//! The table of `status`. Pure.

use time::OffsetDateTime;

use super::super::fleet::{Deployment, Trouble};
use super::super::legible;

const HEAD: [&str; 9] = ["APP", "CLUSTER", "WANTED", "NODES", "PREPARED", "LIVE", "HEALTHY", "LAG", "STATE"];
/// Escape sequences of a terminal.
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// A line for each, under a head; the last column, the reason, is as long as it has to be.
pub(super) fn of(deployments: &[Deployment], now: OffsetDateTime, in_colour: bool) -> String {
    if deployments.is_empty() {
        return String::new();
    }
    let rows = deployments.iter().map(|of| row(of, now)).collect::<Vec<_>>();
    let widths = std::array::from_fn::<_, 8, _>(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: &[String; 9], colour: &str| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect::<String>();
        match (in_colour, colour) {
            (true, colour) if !colour.is_empty() => format!("{padded}{colour}{}{PLAIN}\n", cells[8]),
            _ => format!("{padded}{}\n", cells[8]),
        }
    };
    let head = line(&HEAD.map(str::to_owned), "");
    let rows = deployments.iter().zip(&rows).map(|(of, row)| line(row, colour(of)));
    [head].into_iter().chain(rows).collect()
}

fn row(of: &Deployment, now: OffsetDateTime) -> [String; 9] {
    let healthy = of.instances.as_ref().map(|_| of.count(|node| node.healthy).to_string());
    [
        of.app.to_string(),
        of.cluster.to_string(),
        of.wanted.as_ref().map_or("-".to_owned(), ToString::to_string),
        of.nodes.len().to_string(),
        of.count(|node| node.prepared).to_string(),
        of.count(|node| node.live).to_string(),
        healthy.unwrap_or_else(|| "?".to_owned()),
        of.lag(now).map_or("-".to_owned(), |seconds| format!("{seconds} s")),
        legible(&state(of)),
    ]
}

fn state(of: &Deployment) -> String {
    let Some((node, obstacle)) = of.obstacle() else {
        return if of.nodes.is_empty() { "no node points at it".to_owned() } else { "converged".to_owned() };
    };
    let others = of.count(|node| node.obstacle.is_some()) - 1;
    let others = if others == 0 { String::new() } else { format!(" (and {others} more)") };
    format!("{}: {}: {}{others}", obstacle.trouble, node.name, obstacle.says)
}

fn colour(of: &Deployment) -> &'static str {
    match of.obstacle().map(|(_, obstacle)| obstacle.trouble) {
        None => GREEN,
        Some(Trouble::Converging | Trouble::Unseen | Trouble::Held | Trouble::Waiting) => YELLOW,
        Some(Trouble::Unknown | Trouble::Invalid | Trouble::Dead | Trouble::Failing) => RED,
    }
}
