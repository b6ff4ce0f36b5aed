//! `pp-store set`: which versions of an app a cluster has, and which one runs.
//!
//! Ensures: of the document nothing else changes, in meaning or in text; the old active version is at hand for the way
//! back. What would leave hosts without what they need takes `--force`.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use store::schema::{Config, IntentKey, Parse, Status};
use store::{AppName, ClusterName, Document, Key, Store, Version};

use super::prepared::Prepared;
use super::roll::Written;
use super::write::{Message, Writer};
use super::{Outcome, edit, note, print_json, print_lines};

/// `0.2=active`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    version: Version,
    /// `None` takes it out.
    status: Option<Status>,
}

impl Assignment {
    /// The version that is to be the active one.
    fn activated(&self) -> Option<&Version> {
        (self.status == Some(Status::Active)).then_some(&self.version)
    }
}

impl FromStr for Assignment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (version, status) = text.split_once('=').ok_or("say VERSION=active, VERSION=prep or VERSION=rm")?;
        let status = match status {
            "active" => Some(Status::Active),
            "prep" => Some(Status::Prep),
            "rm" => None,
            _ => return Err(format!("{status:?} is none of active, prep and rm")),
        };
        Ok(Self { version: version.parse().map_err(|error| format!("{error}"))?, status })
    }
}

/// What is to change, by version: from what, to what.
type Changes = BTreeMap<Version, (Option<Status>, Option<Status>)>;

pub(super) async fn run(
    store: &Store,
    (app, cluster): (&AppName, &ClusterName),
    assignments: &[Assignment],
    force: bool,
    message: &Message,
    in_json: bool,
) -> Result<Written> {
    let intent = IntentKey::Config(app.clone(), cluster.clone());
    let key = intent.key();
    let mut writer = Writer::new(store, message);
    let changed = writer.change(&key, async |found| {
        let Some(found) = found else { return Ok((None, None)) };
        let config = Config::parse(&found.bytes).and_then(|config| {
            config.active()?;
            Ok(config)
        });
        let config = config.with_context(|| format!("{key} is not as it has to be, and was left as it is"))?;
        let changes = changes(&config, assignments)?;
        if !force {
            ensure_left(&key, &config, &changes)?;
            ensure_prepared(store, (app, cluster), &changes).await?;
        }
        let text = edited(&key, found, &changes)?;
        intent.check(text.as_bytes()).with_context(|| format!("nothing was written, since this would be no {key}"))?;
        let versions = Config::parse(text.as_bytes())?.versions;
        Ok((Some(text.into_bytes()), Some((changes, versions))))
    });
    let Some(done) = changed.await? else {
        note(&format!("nothing was written: others changed {key} each time; try again"));
        return Ok((Outcome::Lost, None));
    };
    let Some((changes, versions)) = done else {
        note(&format!("there is no {key}; pp-store put writes one"));
        return Ok((Outcome::Absent, None));
    };
    if in_json {
        print_json(&json!({"key": key.as_str(), "written": !changes.is_empty(), "versions": versions}))?;
    } else {
        print_lines(changes.iter().map(|(version, (from, to))| {
            format!("{app} {cluster}: {version} is {}, and was {}", word(*to), word(*from))
        }))?;
    }
    if changes.is_empty() {
        note(&format!("nothing to do: {key} says so already"));
    }
    let activated = assignments.iter().find_map(Assignment::activated).cloned();
    Ok((Outcome::Done, activated))
}

/// What makes `config` say what is asked for. Who is active no more stays at hand, unless something else is said of it.
fn changes(config: &Config, assignments: &[Assignment]) -> Result<Changes> {
    let mut wanted = BTreeMap::new();
    for Assignment { version, status } in assignments {
        ensure!(wanted.insert(version.clone(), *status).is_none(), "{version} is there twice");
    }
    let active = wanted.iter().filter(|(_, status)| **status == Some(Status::Active)).map(|(version, _)| version);
    let active = active.map(Version::as_str).collect::<Vec<_>>();
    ensure!(active.len() <= 1, "one version can be active, not {}", active.join(" and "));
    if let ([_], Some(before)) = (&active[..], config.active()?) {
        wanted.entry(before.clone()).or_insert(Some(Status::Prep));
    }
    let change = |(version, to): (Version, Option<Status>)| {
        let from = config.versions.get(&version).copied();
        (from != to).then_some((version, (from, to)))
    };
    Ok(wanted.into_iter().filter_map(change).collect())
}

/// An error if hosts would lose what they run, or may have to come back to.
fn ensure_left(key: &Key, config: &Config, changes: &Changes) -> Result<()> {
    let Some(active) = config.active()? else { return Ok(()) };
    let becomes = |status: Status| changes.values().any(|(_, to)| *to == Some(status));
    match changes.get(active) {
        Some((_, None)) => bail!(
            "nothing was written: {active} is the active version of {key}; hosts that cannot run another one come back to \
             it. Take it out later, or now with --force"
        ),
        Some(_) if !becomes(Status::Active) => bail!(
            "nothing was written: without an active version all hosts stop what {key} has them run, at once, whatever \
             min_nodes says. Activate another version, or give --force"
        ),
        Some(_) | None => Ok(()),
    }
}

/// An error if nobody is known to have what is to be active.
async fn ensure_prepared(store: &Store, (app, cluster): (&AppName, &ClusterName), changes: &Changes) -> Result<()> {
    let activated = changes.iter().find(|(_, (_, to))| *to == Some(Status::Active));
    let Some((version, _)) = activated else { return Ok(()) };
    let all_the_same =
        "with --force it is activated all the same, and hosts go on with what they run until they have it";
    let prepared = Prepared::read(store, app, cluster).await;
    let prepared = prepared.with_context(|| format!("nothing was written ({all_the_same})"))?;
    ensure!(
        prepared.has(version),
        "nothing was written: no node of {app} {cluster} is known to have {version}: {}. Have it fetched first by `pp-store \
         set {app} {cluster} {version}=prep`; {all_the_same}",
        prepared.line()
    );
    Ok(())
}

fn edited(key: &Key, found: &Document, changes: &Changes) -> Result<String> {
    let mut text = str::from_utf8(&found.bytes).with_context(|| key.to_string())?.to_owned();
    for (version, (_, to)) in changes {
        let path = ["versions", version.as_str()];
        text = match to {
            Some(_) => edit::set(&text, &path, &format!("\"{}\"", word(*to)))?,
            None => edit::remove(&text, &path)?,
        };
    }
    Ok(text)
}

fn word(status: Option<Status>) -> &'static str {
    match status {
        Some(Status::Active) => "active",
        Some(Status::Prep) => "prep",
        None => "not there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(versions: &str) -> Config {
        Config::parse(format!(r#"{{"versions": {versions}}}"#).as_bytes()).unwrap()
    }

    /// What changes, in words.
    fn said(versions: &str, assignments: &[&str]) -> Result<Vec<String>> {
        let assignments = assignments.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let changes = changes(&config(versions), &assignments)?;
        Ok(changes.iter().map(|(version, (_, to))| format!("{version} {}", word(*to))).collect())
    }

    #[test]
    fn what_was_active_stays_at_hand_and_what_is_so_already_does_not_change() {
        let versions = r#"{"1": "active", "2": "prep"}"#;
        for (assignments, expected) in [
            (&["2=active"][..], &["1 prep", "2 active"][..]),
            (&["3=active"], &["1 prep", "3 active"]),
            (&["3=active", "1=rm"], &["1 not there", "3 active"]),
            (&["3=prep", "2=rm"], &["2 not there", "3 prep"]),
            (&["1=active", "2=prep", "9=rm"], &[]),
            (&["1=prep"], &["1 prep"]),
        ] {
            assert_eq!(said(versions, assignments).unwrap(), expected, "{assignments:?}");
        }
        assert_eq!(said("{}", &["1=active"]).unwrap(), ["1 active"]);
        assert!(said(versions, &["2=active", "3=active"]).unwrap_err().to_string().contains("not 2 and 3"));
        assert!(said(versions, &["2=active", "2=rm"]).unwrap_err().to_string().contains("2 is there twice"));
        for bad in ["2", "2=on", "=active", "../2=prep"] {
            assert!(bad.parse::<Assignment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_hosts_run_is_not_taken_from_them_by_a_slip() {
        let before = config(r#"{"1": "active", "2": "prep"}"#);
        let key = Key::parse("clusters/slug/dev/config").unwrap();
        for (assignments, says) in [
            (&["2=active"][..], None),
            (&["2=rm"], None),
            (&["1=rm"], Some("1 is the active version")),
            (&["1=rm", "2=active"], Some("1 is the active version")),
            (&["1=prep"], Some("without an active version all hosts stop")),
        ] {
            let assignments = assignments.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
            let left = ensure_left(&key, &before, &changes(&before, &assignments).unwrap());
            match (left, says) {
                (Ok(()), None) => {}
                (Err(error), Some(says)) => assert!(error.to_string().contains(says), "{error}"),
                (left, _) => panic!("{assignments:?}: {left:?}"),
            }
        }
    }
}
