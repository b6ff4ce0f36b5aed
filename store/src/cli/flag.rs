//! `pp-store hold`, `unhold`, `drain` and `undrain`: what an operator says of apps on one node.
//!
//! Ensures: of the documents nothing else changes, in meaning or in text; a node whose apps are drained keeps those by which
//! it is brought back.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use store::intent::ensure_shown;
use store::schema::{IntentKey, NodeDocument, Parse, node_prefix};
use store::{AppName, NodeName, Store};

use super::write::{Message, Writer};
use super::{Outcome, edit, note, print_json, print_lines};

/// A field of `nodes/<node>/<app>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Hold,
    Drain,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Drain => "drain",
        }
    }

    fn is_set(self, node: &NodeDocument) -> bool {
        match self {
            Self::Hold => node.hold,
            Self::Drain => node.drain,
        }
    }

    /// What an app is then.
    fn says(self, on: bool) -> &'static str {
        match (self, on) {
            (Self::Hold, true) => "held as it is",
            (Self::Hold, false) => "held no more",
            (Self::Drain, true) => "drained: stopped as soon as min_nodes lets it, until undrain",
            (Self::Drain, false) => "drained no more: started as at first",
        }
    }
}

/// Without these a host has nobody to bring the others back, and no store to learn that from. `kickstart/host` calls them so.
const HOSTS_OWN: [&str; 2] = ["platypus", "consul"];

/// What became of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Done,
    Already,
    Absent,
    Lost,
}

/// Sets or clears a flag of one app on one node.
pub(super) async fn one(
    store: &Store,
    (node, app): (&NodeName, &AppName),
    (flag, on): (Flag, bool),
    message: &Message,
    in_json: bool,
) -> Result<Outcome> {
    let intent = IntentKey::Node(node.clone(), app.clone());
    let key = intent.key();
    let set = set(&mut Writer::new(store, message), &intent, flag, on).await?;
    if in_json && matches!(set, Set::Done | Set::Already) {
        print_json(&json!({"key": key.as_str(), "written": set == Set::Done}))?;
    }
    match set {
        Set::Done if in_json => {}
        Set::Done => print_lines([format!("{key}: {}", flag.says(on))])?,
        Set::Already => note(&format!("nothing to do: {key} says so already")),
        Set::Absent => note(&format!("there is no {key}")),
        Set::Lost => note(&format!("nothing was written: others changed {key} each time; try again")),
    }
    Ok(match set {
        Set::Done | Set::Already => Outcome::Done,
        Set::Absent => Outcome::Absent,
        Set::Lost => Outcome::Lost,
    })
}

/// Sets or clears a flag of all apps of a node.
pub(super) async fn all(
    store: &Store,
    node: &NodeName,
    (flag, on): (Flag, bool),
    message: &Message,
    in_json: bool,
) -> Result<Outcome> {
    let (documents, _) = store.read(&[node_prefix(node)]).await?;
    if documents.is_empty() {
        ensure_shown(store, node).await?;
        note(&format!("nothing was written: no app is meant for {node}, there is nothing under {}", node_prefix(node)));
        return Ok(Outcome::Absent);
    }
    let mut writer = Writer::new(store, message);
    let (mut changed, mut already, mut left, mut is_lost) = (Vec::new(), Vec::new(), Vec::new(), false);
    for key in documents.keys() {
        let intent = match IntentKey::parse(key) {
            Ok(IntentKey::Node(_, app)) if on && HOSTS_OWN.contains(&app.as_str()) => {
                note(&format!("{key} stays as it is: it is by this that {node} is brought back"));
                continue;
            }
            Ok(intent) => intent,
            Err(error) => {
                left.push((key, format!("{error:#}")));
                continue;
            }
        };
        match set(&mut writer, &intent, flag, on).await {
            Ok(Set::Done) => {
                changed.push(key);
                if !in_json {
                    print_lines([format!("{key}: {}", flag.says(on))])?;
                }
            }
            Ok(Set::Already) => already.push(key),
            // Somebody has just taken it away.
            Ok(Set::Absent) => {}
            Ok(Set::Lost) => {
                left.push((key, "others changed it each time".to_owned()));
                is_lost = true;
            }
            Err(error) => left.push((key, format!("{error:#}"))),
        }
    }
    if in_json {
        let left = left.iter().map(|(key, reason)| json!({"key": key, "reason": reason})).collect::<Value>();
        print_json(&json!({"node": node, "changed": changed, "already": already, "left": left}))?;
    }
    for (key, reason) in &left {
        note(&format!("{key}: {reason}"));
    }
    match left.len() {
        0 if changed.is_empty() => note(&format!("nothing to do: all of {node}'s apps say so already")),
        0 => {}
        1 if is_lost => return Ok(Outcome::Lost),
        many => bail!("{many} of {node}'s {} documents were left as they are; again for these", documents.len()),
    }
    Ok(Outcome::Done)
}

async fn set(writer: &mut Writer<'_>, intent: &IntentKey, flag: Flag, on: bool) -> Result<Set> {
    let key = intent.key();
    let changed = writer.change(&key, async |found| {
        let Some(found) = found else { return Ok((None, Set::Absent)) };
        let document = NodeDocument::parse(&found.bytes);
        let document = document.with_context(|| format!("{key} is not as it has to be, and was left as it is"))?;
        if flag.is_set(&document) == on {
            return Ok((None, Set::Already));
        }
        let text = str::from_utf8(&found.bytes)?;
        let text = if on { edit::set(text, &[flag.name()], "true") } else { edit::remove(text, &[flag.name()]) }?;
        intent.check(text.as_bytes()).with_context(|| format!("nothing was written, since this would be no {key}"))?;
        Ok((Some(text.into_bytes()), Set::Done))
    });
    Ok(changed.await?.unwrap_or(Set::Lost))
}
