//! `pp-store retry`: has what failed be tried again.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use store::lease::{FailedDigest, Leases, lease_key};
use store::{AppName, ClusterName, Store, Version};
use time::OffsetDateTime;

use super::age::{ago, stamp};
use super::cluster::{self, definition, ensure_leases};
use super::{Outcome, note, print_json, print_lines};

/// What was chosen: by digest.
#[derive(Default)]
struct Chosen {
    /// Marked just now.
    marked: BTreeMap<String, FailedDigest>,
    /// Marked by an earlier call, and not tried since.
    already: BTreeMap<String, FailedDigest>,
}

pub(super) async fn run(
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    which: Option<&str>,
    in_json: bool,
) -> Result<Outcome> {
    ensure_leases(store)?;
    let now = OffsetDateTime::now_utc();
    let changed = store.change_leases(app, cluster, async |leases| {
        let mut chosen = Chosen::default();
        for digest in choose(&leases.failed, which)? {
            let failed = leases.failed[&digest].clone();
            let to = if failed.retry.is_none() { &mut chosen.marked } else { &mut chosen.already };
            to.insert(digest, failed);
        }
        let mark = |(digest, failed): (&String, &FailedDigest)| {
            (digest.clone(), FailedDigest { retry: Some(stamp(now)), ..failed.clone() })
        };
        let next = leases.changed(|next| next.failed.extend(chosen.marked.iter().map(mark)));
        Ok(((!chosen.marked.is_empty()).then_some(next), chosen))
    });
    let changed = changed.await?;
    let chosen = changed.as_ref();
    if in_json {
        let digests = |of: fn(&Chosen) -> &BTreeMap<String, FailedDigest>| {
            chosen.map(|chosen| of(chosen).keys().collect::<Vec<_>>()).unwrap_or_default()
        };
        let key = lease_key(app, cluster);
        let (marked, already) = (digests(|chosen| &chosen.marked), digests(|chosen| &chosen.already));
        print_json(&json!({"key": key.as_str(), "retried": marked, "already": already}))?;
    }
    let Some(chosen) = chosen else {
        note("nothing was changed: others changed the document each time; try again");
        return Ok(Outcome::Lost);
    };
    if chosen.marked.is_empty() && chosen.already.is_empty() {
        let seen = cluster::observe(store, app.clone(), cluster.clone(), Leases::default()).await;
        note(&seen.nothing().unwrap_or_else(|| format!("nothing has failed in {app} {cluster}")));
        return Ok(Outcome::Absent);
    }
    let name = |(digest, failed): (&String, &FailedDigest)| definition(failed.version.as_str(), digest);
    if !in_json {
        let line = |it| format!("{app} {cluster}: {} may be tried again", name(it));
        print_lines(chosen.marked.iter().map(line))?;
    }
    for it in &chosen.already {
        let when = it.1.retry.as_ref().map(|retry| ago(retry, now)).unwrap_or_default();
        note(&format!("{} may be tried again already, as was said {when}; no node is through with it yet", name(it)));
    }
    note("one node tries it, and is out of service meanwhile; min_nodes holds as ever");
    warn_of_what_nobody_wants(store, app, cluster, chosen).await;
    Ok(Outcome::Done)
}

/// Says if that alone has no effect.
async fn warn_of_what_nobody_wants(store: &Store, app: &AppName, cluster: &ClusterName, chosen: &Chosen) {
    // What cannot be read is no reason to fail: it is done.
    let Ok(Some(config)) = cluster::config(store, app, cluster).await else { return };
    let Ok(active) = config.active() else { return };
    let is_unwanted = |failed: &&FailedDigest| active != Some(&failed.version);
    for failed in chosen.marked.values().chain(chosen.already.values()).filter(is_unwanted) {
        let active = active.map_or("none", Version::as_str);
        note(&format!("{} is not the active version ({active} is): nobody tries it", failed.version));
    }
}

/// The digests that `which` means: by a version all of that version, by how a digest begins that one; all without it.
fn choose(failed: &BTreeMap<String, FailedDigest>, which: Option<&str>) -> Result<Vec<String>> {
    let Some(which) = which else { return Ok(failed.keys().cloned().collect()) };
    let names = |of: &mut dyn Iterator<Item = (&String, &FailedDigest)>| {
        of.map(|(digest, failed)| format!("{} {digest}", failed.version)).collect::<Vec<_>>().join(", ")
    };
    let is_version = |it: &(&String, &FailedDigest)| it.1.version.as_str() == which;
    let is_digest = |it: &(&String, &FailedDigest)| it.0.starts_with(which);
    let by_version = failed.iter().filter(is_version).map(|(digest, _)| digest.clone()).collect::<Vec<_>>();
    let by_digest = failed.iter().filter(is_digest).map(|(digest, _)| digest.clone()).collect::<Vec<_>>();
    ensure!(
        !by_version.is_empty() || !by_digest.is_empty(),
        "no failed digest begins with {which}, and none is of a version {which}; failed: {}",
        if failed.is_empty() { "nothing".to_owned() } else { names(&mut failed.iter()) }
    );
    match (&by_version[..], &by_digest[..]) {
        (versions, []) => Ok(versions.to_vec()),
        ([], [_]) => Ok(by_digest),
        (versions, digests) if versions == digests => Ok(by_digest),
        _ => bail!(
            "{which} may mean several; which? {}",
            names(&mut failed.iter().filter(|it| is_version(it) || is_digest(it)))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_chosen_by_how_they_begin_or_by_version_and_never_by_chance() {
        let entry = |(digest, version): (&str, &str)| {
            let (version, node) = (version.parse().unwrap(), "web1".parse().unwrap());
            let (reason, at, log, check) = (String::new(), String::new(), Vec::new(), String::new());
            (digest.to_owned(), FailedDigest { version, node, reason, at, log, check, retry: None })
        };
        let failed = [("ab12", "0.1"), ("ab34", "0.2"), ("cd", "0.2"), ("77", "77"), ("9f", "8"), ("88", "9")];
        let failed = failed.map(entry).into();
        for (which, expected) in [
            (None, Ok(&["77", "88", "9f", "ab12", "ab34", "cd"][..])),
            (Some("ab1"), Ok(&["ab12"][..])),
            (Some("cd"), Ok(&["cd"])),
            (Some("0.1"), Ok(&["ab12"])),
            (Some("0.2"), Ok(&["ab34", "cd"])),
            (Some("77"), Ok(&["77"])),
            (Some("ab"), Err("ab may mean several; which? 0.1 ab12, 0.2 ab34")),
            (Some("9"), Err("9 may mean several; which? 9 88, 8 9f")),
            (
                Some("0"),
                Err("no failed digest begins with 0, and none is of a version 0; failed: 77 77, 9 88, 8 9f, 0"),
            ),
            (Some("ab123"), Err("no failed digest begins with ab123")),
        ] {
            let chosen = choose(&failed, which).map_err(|error| error.to_string());
            match (chosen, expected) {
                (Ok(chosen), Ok(expected)) => assert_eq!(chosen, expected, "{which:?}"),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
                (chosen, _) => panic!("{which:?}: {chosen:?}"),
            }
        }
        assert_eq!(choose(&BTreeMap::new(), None).unwrap(), [""; 0]);
        assert!(choose(&BTreeMap::new(), Some("ab")).unwrap_err().to_string().ends_with("failed: nothing"));
    }
}
