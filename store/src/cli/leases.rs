//! `pp-store leases`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use store::lease::Leases;
use store::{AppName, ClusterName, Store};
use time::OffsetDateTime;

use super::cluster::{self, Cluster, ensure_leases};
use super::{Outcome, note, print_json, print_lines};

pub(super) async fn run(store: &Store, one: Option<(AppName, ClusterName)>, in_json: bool) -> Result<Outcome> {
    ensure_leases(store)?;
    let is_asked_for = one.is_some();
    let (clusters, problems) = match one {
        Some((app, cluster)) => observe_one(store, app, cluster).await?,
        None => observe_all(store).await?,
    };
    show(&clusters, &problems, in_json)?;
    ensure!(problems.is_empty(), "{} of these cannot be read or known", problems.len());
    if let [cluster] = &clusters[..]
        && is_asked_for
        && let Some(nothing) = cluster.nothing()
    {
        note(&nothing);
        return Ok(Outcome::Absent);
    }
    if clusters.iter().all(|cluster| cluster.leases.is_empty()) {
        let others = "; who waits all the same waits for min_nodes: see `pp-store leases APP CLUSTER`";
        note(&format!("nobody is down on purpose, and nothing has failed{}", if is_asked_for { "" } else { others }));
    }
    Ok(Outcome::Done)
}

/// What was seen, and what could not be, by keys.
type Seen = (Vec<Cluster>, Vec<(String, String)>);

async fn observe_one(store: &Store, app: AppName, cluster: ClusterName) -> Result<Seen> {
    let leases = store.one_clusters_leases(&app, &cluster).await?.map_or_else(Leases::default, |(leases, _)| leases);
    let cluster = cluster::observe(store, app, cluster, leases).await;
    let problems = cluster.problems();
    Ok((vec![cluster], problems))
}

/// Those clusters of which there is something to say.
async fn observe_all(store: &Store) -> Result<Seen> {
    let (mut clusters, mut problems) = Seen::default();
    for (key, leases) in store.all_leases().await? {
        match leases {
            Err(reason) => problems.push((key, reason)),
            Ok((_, _, leases)) if leases.is_empty() => {}
            Ok((app, cluster, leases)) => {
                let cluster = cluster::observe(store, app, cluster, leases).await;
                problems.extend(cluster.problems());
                clusters.push(cluster);
            }
        }
    }
    Ok((clusters, problems))
}

fn show(clusters: &[Cluster], problems: &[(String, String)], in_json: bool) -> Result<()> {
    if in_json {
        let problems = problems.iter().map(|(key, error)| json!({"key": key, "error": error}));
        return print_json(&clusters.iter().map(cluster::json).chain(problems).collect::<Value>());
    }
    let now = OffsetDateTime::now_utc();
    print_lines(clusters.iter().filter(|cluster| !cluster.is_nothing()).flat_map(|it| cluster::lines(it, now)))?;
    for (key, reason) in problems {
        note(&format!("{key}: {reason}"));
    }
    Ok(())
}
