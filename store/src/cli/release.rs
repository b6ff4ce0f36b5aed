//! `pp-store release`: for a node whose host is alive while its agent is gone for good.

use anyhow::{Result, bail};
use serde_json::json;
use store::lease::{Down, lease_key};
use store::{AppName, ClusterName, NodeName, Store};
use time::OffsetDateTime;

use super::cluster::{self, Cluster, Service, ensure_leases};
use super::{Outcome, note, print_json, print_lines};

/// What became of the entry.
enum Done {
    /// This was it, and this is what may follow.
    Released { line: String, risk: String },
    /// There is none.
    Absent,
    /// It is not the one any more that was there when we looked first.
    Another,
}

pub(super) async fn run(
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    node: &NodeName,
    force: bool,
    in_json: bool,
) -> Result<Outcome> {
    ensure_leases(store)?;
    let (mut seen, mut others, mut nothing) = (None::<Down>, Vec::new(), None);
    let changed = store.change_leases(app, cluster, async |leases| {
        others = leases.down.keys().filter(|other| *other != node).map(ToString::to_string).collect();
        let Some(down) = leases.down.get(node) else {
            nothing = cluster::observe(store, app.clone(), cluster.clone(), leases.clone()).await.nothing();
            return Ok((None, Done::Absent));
        };
        if seen.get_or_insert_with(|| down.clone()) != down {
            return Ok((None, Done::Another));
        }
        let cluster = cluster::observe(store, app.clone(), cluster.clone(), leases.clone()).await;
        let now = OffsetDateTime::now_utc();
        let risk = match judge(&cluster, node, down) {
            Risk::Low(risk) => risk,
            Risk::High(risk) if force => risk,
            Risk::High(risk) => bail!(
                "nothing was changed. {}. {risk}. Restarted, an agent goes on, and takes its entry out by itself; if \
                 this one is gone for good, --force",
                cluster::entry(&cluster, node, down, now)
            ),
        };
        let line = cluster::given(&cluster, node, down, now);
        Ok((Some(leases.changed(|next| drop(next.down.remove(node)))), Done::Released { line, risk }))
    });
    let changed = changed.await?;
    if in_json {
        let released = if let Some(Done::Released { .. }) = changed { vec![node] } else { Vec::new() };
        print_json(&json!({"key": lease_key(app, cluster).as_str(), "released": released, "down": others}))?;
    }
    match changed {
        Some(Done::Released { line, risk }) => {
            if !in_json {
                print_lines([format!("released {line}")])?;
            }
            note(&risk);
            Ok(Outcome::Done)
        }
        Some(Done::Absent) => {
            let who = if others.is_empty() { "nobody is".to_owned() } else { others.join(", ") };
            let absent = || format!("there is no entry of {node} in {app} {cluster}; down on purpose: {who}");
            note(&nothing.unwrap_or_else(absent));
            Ok(Outcome::Absent)
        }
        Some(Done::Another) => {
            note(&format!("nothing was changed: {node}'s entry is another by now, so its agent is at work"));
            Ok(Outcome::Lost)
        }
        None => {
            note("nothing was changed: others changed the document each time; try again");
            Ok(Outcome::Lost)
        }
    }
}

/// What releasing an entry may lead to.
#[derive(Debug, PartialEq, Eq)]
enum Risk {
    Low(String),
    /// More than an operator would do by a slip.
    High(String),
}

fn judge(cluster: &Cluster, node: &NodeName, down: &Down) -> Risk {
    // What an agent has begun it goes on with, without asking again: also after a crash, however much later.
    let below = "goes on with what it has begun, fewer than min_nodes may pass for a while";
    if cluster.is_alive(down) == Some(false) {
        let kept = format!("the host {} is dead, so the entry kept nobody waiting", down.host);
        return Risk::Low(format!("{kept}; if it comes back and its agent {below}"));
    }
    match cluster.service(node) {
        Service::Passing => {
            Risk::High(format!("{node} passes, and others will count on it: if its agent comes back and {below}"))
        }
        Service::Unknown => Risk::High(format!(
            "whether {node} passes cannot be seen: if it does, and its agent comes back and {below}"
        )),
        Service::Drained | Service::NotPassing | Service::NotRegistered => {
            let next = if down.to.is_some() { "; another node may try what it was to try" } else { "" };
            Risk::Low(format!(
                "{node} does not pass, and nobody counts on it{next}; if its agent comes back and {below}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use store::lease::Leases;

    use super::*;

    #[test]
    fn only_what_may_pass_on_a_host_that_may_be_alive_needs_force() {
        let alive = || Ok(BTreeSet::from(["web1".to_owned()]));
        let (dead, unknown) = (|| Ok(BTreeSet::new()), || Err("403".to_owned()));
        for (alive, instances, hides_instances, is_high) in [
            (alive(), Ok(vec![]), false, false),
            (alive(), Ok(vec![]), true, true),
            (alive(), Err("503".to_owned()), false, true),
            (unknown(), Ok(vec![]), false, false),
            (unknown(), Ok(vec![]), true, true),
            (dead(), Ok(vec![]), true, false),
            (dead(), Err("503".to_owned()), false, false),
        ] {
            let (app, name) = ("slug".parse().unwrap(), "dev".parse().unwrap());
            let (leases, config, held) = (Leases::default(), Ok(None), BTreeSet::new());
            let cluster = Cluster { app, cluster: name, leases, config, instances, alive, held, hides_instances };
            let down = Down { to: None, since: String::new(), why: String::new(), host: "web1".to_owned() };
            let risk = judge(&cluster, &"web1".parse().unwrap(), &down);
            assert_eq!(matches!(risk, Risk::High(_)), is_high, "{cluster:?}: {risk:?}");
        }
    }
}
