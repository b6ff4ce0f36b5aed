//! A plan as people read it, and in JSON. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::foresee::{Changed, Cluster, Foreseen, Pace};
use super::host::{Does, Ends, Host, Unless};
use super::sides::Place;

/// A paragraph for each cluster: its keys, its hosts, warnings.
pub(super) fn lines(foreseen: &Foreseen) -> Vec<String> {
    let mut lines = keys(&foreseen.others);
    for (place, cluster) in &foreseen.clusters {
        lines.extend(paragraph(place, cluster));
    }
    lines
}

fn paragraph((app, name): &Place, cluster: &Cluster) -> Vec<String> {
    let mut lines = vec![format!("{app} {name}")];
    lines.extend(keys(&cluster.changed).into_iter().map(|line| format!("  {line}")));
    if cluster.hosts.is_empty() {
        lines.push("  no host does anything because of it".to_owned());
    }
    for (what, hosts) in grouped(cluster.hosts.iter().map(|host| (consequence(host, cluster.pace), host))) {
        let nodes = hosts.iter().map(|host| host.node.as_str()).collect::<Vec<_>>().join(" ");
        lines.push(format!("  {nodes}: {what}"));
        lines.extend(hindrances(&hosts));
    }
    lines.extend(cluster.warnings.iter().map(|warning| format!("  warning: {warning}")));
    lines
}

fn keys(changed: &[Changed]) -> Vec<String> {
    let all = grouped(changed.iter().map(|Changed { key, verb: _, how }| (how.join("; "), key.as_str())));
    all.into_iter().map(|(how, keys)| format!("{}: {how}", keys.join(" "))).collect()
}

/// What is the same of several is said once, where the first of them is.
fn grouped<T>(all: impl Iterator<Item = (String, T)>) -> Vec<(String, Vec<T>)> {
    let (mut places, mut groups) = (BTreeMap::new(), Vec::<(String, Vec<T>)>::new());
    for (what, of) in all {
        let place = *places.entry(what.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, those)) => those.push(of),
            None => groups.push((what, vec![of])),
        }
    }
    groups
}

fn consequence(Host { node: _, does, unless }: &Host, pace: Pace) -> String {
    match (does.is_empty(), unless.is_empty()) {
        (true, true) => "goes on as it is".to_owned(),
        (true, false) => "is left as it is".to_owned(),
        (false, _) => does.iter().map(|does| said(does, pace)).collect::<Vec<_>>().join("; "),
    }
}

/// What keeps those of one line from it. Of several the reason is said once, and none by its name.
fn hindrances(hosts: &[&Host]) -> Vec<String> {
    let all = hosts.iter().flat_map(|host| host.unless.iter().map(move |unless| (host, unless)));
    let each = all.map(|(host, Unless { state, reason })| {
        let nobody = |text: String, with: char| {
            text.replace(&format!("{with}{}{with}", host.node), &format!("{with}<node>{with}"))
        };
        (format!("{state}: {}", nobody(nobody(reason.clone(), ' '), '/')), (*host, format!("{state}: {reason}")))
    });
    let line = |(alike, those): (String, Vec<(&Host, String)>)| {
        let nodes = those.iter().map(|(host, _)| host.node.as_str()).collect::<Vec<_>>().join(" ");
        let but = if those.iter().all(|(host, _)| host.does.is_empty()) { "" } else { "but " };
        match &those[..] {
            [(_, says)] => format!("    {but}{nodes}: {says}"),
            _ => format!("    {but}{nodes}: {alike}"),
        }
    };
    grouped(each).into_iter().map(line).collect()
}

fn said(does: &Does, pace: Pace) -> String {
    let how = at_a_time(pace);
    match does {
        Does::Prepare { versions } => format!("fetch and prepare {}", names(versions)),
        Does::PrepareUnlessThere { versions } => format!("fetch and prepare {}, unless it is there", names(versions)),
        Does::Prepared { version } => format!("{version} is prepared"),
        Does::Replace { from, to } => format!("replace {from} by {to}{how}"),
        Does::Restart { version, because } => format!("restart {version}{how}, for another {}", because.join(", ")),
        Does::Start { version } => format!("start {version}"),
        Does::Run { version } => format!("run {version}{how}; what it runs now, and how, is not known"),
        Does::Stop { version, because } => {
            let version = version.as_ref().map_or("what runs", |version| version.as_str());
            match because {
                Ends::Leaves => format!("stop {version} and remove its services, as min_nodes lets it"),
                Ends::Drained => format!("stop {version}, as min_nodes lets it"),
                Ends::Inactive => format!("stop {version} and remove its services, at once"),
            }
        }
        Does::Note => "judge and stop it otherwise from now on, restart nothing".to_owned(),
        Does::Open { ports } => format!("open {}", ports.join(", ")),
        Does::Close { ports } => format!("close {}", ports.join(", ")),
        Does::GoOver { to } => format!("goes over to {to}"),
    }
}

/// How a roll goes: what no instance runs yet one host tries first.
fn at_a_time(pace: Pace) -> String {
    match pace.at_once() {
        0 if pace.min_nodes > 0 => ", which min_nodes never lets it while it passes".to_owned(),
        0 | 1 if pace.nodes > 1 => ", one at a time".to_owned(),
        0 | 1 => String::new(),
        all if all == pace.nodes => ", one first, then all others".to_owned(),
        most => format!(", one first, then at most {most} at a time"),
    }
}

fn names(versions: &[store::Version]) -> String {
    versions.iter().map(store::Version::as_str).collect::<Vec<_>>().join(", ")
}

/// As `--help` describes it.
pub(super) fn json(foreseen: &Foreseen) -> (Value, Value) {
    let changed = |Changed { key, verb, how }: &Changed| json!({"key": key.as_str(), "change": verb, "how": how});
    let of_clusters = foreseen.clusters.values().flat_map(|cluster| &cluster.changed);
    let changes = foreseen.others.iter().chain(of_clusters).map(changed).collect::<Value>();
    let clusters = foreseen.clusters.iter().map(|((app, name), cluster)| {
        let Cluster { changed: _, hosts, pace, warnings } = cluster;
        json!({
            "app": app, "cluster": name, "nodes": pace.nodes, "min_nodes": pace.min_nodes, "at_once": pace.at_once(),
            "hosts": hosts, "warnings": warnings,
        })
    });
    (changes, clusters.collect())
}
