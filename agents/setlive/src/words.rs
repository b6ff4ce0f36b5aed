//! What is said to people about other nodes: who is waited for, and what they have failed with.

use std::time::SystemTime;

pub(crate) use converge::now;
use store::lease::{Down, FailedDigest};
use store::{AppName, ClusterName, NodeName, Registered};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::protocol::Reason;
use crate::record::Record;

/// `since 40 s`, in steps that do not make a new message of each look.
fn since(since: &str, now: SystemTime) -> String {
    let Ok(since) = OffsetDateTime::parse(since, &Rfc3339) else { return format!("since {since:?}") };
    // Another host's clock may be ahead.
    let seconds = (OffsetDateTime::from(now) - since).whole_seconds().max(0);
    match seconds {
        ..10 => "since a moment ago".to_owned(),
        10..120 => format!("since {} s", seconds / 10 * 10),
        120..3600 => {
            let minutes = [30, 20, 10, 5].into_iter().find(|minutes| seconds >= minutes * 60);
            format!("since {} min", minutes.unwrap_or(2))
        }
        // Each is a line in the log of everybody who waits, and each app's.
        3600..172_800 => format!("since {} h", seconds / 3600),
        _ => format!("since {} days", seconds / 86_400),
    }
}

fn is_down(node: &NodeName, down: &Down, now: SystemTime) -> String {
    let since = since(&down.since, now);
    match &down.to {
        Some(to) => format!("{node} is down for {} {since}", digits(to)),
        None => format!("{node} is leaving {since}"),
    }
}

/// As much of a digest as tells two apart.
fn digits(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

pub(crate) fn reason(reason: &Reason, now: SystemTime) -> String {
    match reason {
        Reason::Trial { node, down } => {
            let to = down.to.as_deref().unwrap_or_default();
            format!("{node} tries {} first, {}", digits(to), since(&down.since, now))
        }
        Reason::Minimum { passing, instances, min_nodes, down } => {
            let all = instances.saturating_sub(1) < usize::try_from(*min_nodes).unwrap_or(usize::MAX);
            let mut said = vec![format!("{passing} of {instances} healthy, min {min_nodes}")];
            if all {
                said.push(format!(
                    "all {instances} that are registered are needed for min_nodes {min_nodes}, so that none may go down: \
                     lower it, or add a node"
                ));
            } else if *passing < usize::try_from(*min_nodes).unwrap_or(usize::MAX) {
                said.push("so that none may go down: mend those that do not pass, or lower min_nodes".to_owned());
            }
            said.extend(down.iter().map(|(node, down)| is_down(node, down, now)));
            said.join(", ")
        }
        Reason::Check => "for the store to show it passing".to_owned(),
        Reason::Overtaken => "intent changed on the way".to_owned(),
    }
}

/// Why nobody tries what failed, and what can be done.
pub(crate) fn held(app: &AppName, cluster: &ClusterName, failed: &FailedDigest, record: Option<&Record>) -> String {
    let FailedDigest { version, node, reason, log, .. } = failed;
    let runs = record.and_then(|record| record.healthy.as_ref());
    let runs = runs.map(|healthy| format!("{} goes on here", healthy.version));
    let runs = runs.unwrap_or_else(|| "it is not tried here".to_owned());
    let log = log.iter().map(|line| format!("; it logged: {line}")).next_back().unwrap_or_default();
    format!(
        "{version} failed on {node} ({reason}{log}); {runs}, until another version is active in \
         clusters/{app}/{cluster}/config, or `pp-store retry {app} {cluster}` lets it be tried again"
    )
}

pub(crate) fn why_not_passing(ours: &Registered) -> String {
    match (&ours.drained, &ours.maintenance) {
        (_, Some(notes)) => format!("an operator's maintenance is on ({notes})"),
        (Some(why), None) => format!("it is drained ({why})"),
        (None, None) if ours.check_passes => "its host, or another check of it, is not passing".to_owned(),
        (None, None) => format!("its check says: {}", ours.says),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn down(to: Option<&str>) -> Down {
        Down {
            to: to.map(str::to_owned),
            since: "1970-01-01T00:01:40Z".to_owned(),
            why: String::new(),
            host: "web2".to_owned(),
        }
    }

    #[test]
    fn how_long_ago_is_said_in_steps() {
        for (now, said) in [
            (100, "since a moment ago"),
            (0, "since a moment ago"),
            (147, "since 40 s"),
            (100 + 120, "since 2 min"),
            (400, "since 5 min"),
            (100 + 1700, "since 20 min"),
            (100 + 3 * 3600, "since 3 h"),
            (100 + 50 * 3600, "since 2 days"),
        ] {
            assert_eq!(since("1970-01-01T00:01:40Z", at(now)), said);
        }
        assert_eq!(since("yesterday", at(0)), "since \"yesterday\"");
    }

    #[test]
    fn who_is_waited_for_is_named_and_a_minimum_that_cannot_be_met_is_said_as_that() {
        let web2 = "web2".parse::<NodeName>().unwrap();
        let minimum = |passing, instances, down: Vec<(NodeName, Down)>| {
            let minimum = Reason::Minimum { passing, instances, min_nodes: 3, down: BTreeMap::from_iter(down) };
            reason(&minimum, at(140))
        };
        let waits = minimum(3, 5, vec![(web2.clone(), down(Some("9f2c4711aa")))]);
        assert_eq!(waits, "3 of 5 healthy, min 3, web2 is down for 9f2c4711 since 40 s");
        let never = minimum(3, 3, Vec::new());
        assert!(never.contains("all 3 that are registered are needed for min_nodes 3"), "{never}");
        let short = minimum(0, 5, Vec::new());
        let expected =
            "0 of 5 healthy, min 3, so that none may go down: mend those that do not pass, or lower min_nodes";
        assert_eq!(short, expected);
        let trial = Reason::Trial { node: web2, down: down(Some("9f2c4711aa")) };
        assert_eq!(reason(&trial, at(140)), "web2 tries 9f2c4711 first, since 40 s");
    }
}
