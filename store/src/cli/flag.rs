//! `pp-store hold` and `unhold`: what an operator says of an app on one node.
//!
//! Ensures: of the document nothing else changes, in meaning or in text.

use anyhow::{Context, Result};
use serde_json::json;
use store::schema::{IntentKey, NodeDocument, Parse};
use store::{AppName, NodeName, Store};

use super::write::{Message, Writer};
use super::{Outcome, edit, note, print_json, print_lines};

/// A field of `nodes/<node>/<app>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Hold,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
        }
    }

    fn is_set(self, node: &NodeDocument) -> bool {
        match self {
            Self::Hold => node.hold,
        }
    }

    /// What an app is then.
    fn says(self, on: bool) -> &'static str {
        match (self, on) {
            (Self::Hold, true) => "held as it is",
            (Self::Hold, false) => "held no more",
        }
    }
}

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
