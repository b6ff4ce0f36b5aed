//! `pp-store export`, which makes a directory hold what a store's intent is.
//!
//! Ensures: a file that is right is not touched; nothing is written through a link; what somebody else wrote into a file
//! since the comparison stays. A key or document that cannot be exported is named, and the others are; a disk that takes
//! none of them is said once.

mod files;

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use store::{Directory, Documents, Key, Prefix, Store, look_up};

use super::change::{Action, Change, Sides, changes};
use super::import::ensure_whole;
use super::{Outcome, intent, note, number_of_changes, print_diffs, print_lines};
use files::{Files, is_of_the_disk};

/// How to export.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Options {
    /// Show what would change, as diff -u does, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove the .json files under DIR/nodes/ and DIR/clusters/ that the store does not have
    #[arg(long)]
    prune: bool,
}

pub(super) async fn run(store: &Store, dir: &Path, options: Options, in_json: bool) -> Result<Outcome> {
    let wanted = intent::read(store).await?;
    if wanted.is_empty() {
        note("there is no intent in the store: nothing under nodes/ or clusters/");
    }
    let found = found(dir).await?;
    let mut plan = plan(&wanted, &found, options.prune)?;
    plan.keep_what_may_be_there(store).await;
    if options.dry_run {
        show(dir, &plan, in_json)?;
    } else {
        let outcome = act(Files::open(dir)?, &mut plan, in_json)?;
        if outcome == Outcome::Lost {
            return Ok(outcome);
        }
    }
    if !plan.left.is_empty() {
        bail!("{} documents were not exported, as said above", plan.left.len());
    }
    Ok(Outcome::Done)
}

/// What is in `dir` now. A directory that is not there is an empty one.
async fn found(dir: &Path) -> Result<Documents> {
    if std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(Documents::new());
    }
    let prefixes = intent::TREES.into_iter().map(Prefix::parse).collect::<Result<Vec<_>>>()?;
    let (documents, _) = Store::Directory(Directory::open(dir.to_owned())).read(&prefixes).await?;
    Ok(documents)
}

#[derive(Debug)]
struct Plan {
    changes: Vec<Change>,
    /// Whether each of them was made.
    done: Vec<bool>,
    /// What cannot be exported, with the reason.
    left: Vec<(String, String)>,
    identical: usize,
}

fn plan(wanted: &Documents, found: &Documents, prune: bool) -> Result<Plan> {
    if prune {
        ensure_whole(wanted, found, "the store", "the directory")?;
    }
    let mut left = Vec::new();
    for (key, document) in wanted {
        match (document, Key::parse(key), look_up(found, key)) {
            (Err(reason), _, _) => left.push((key.clone(), reason.clone())),
            (Ok(_), Err(error), _) => left.push((key.clone(), format!("no file can have this name: {error:#}"))),
            (Ok(_), Ok(_), Some(Err(reason))) => left.push((key.clone(), reason.clone())),
            (Ok(_), Ok(_), Some(Ok(_)) | None) => {}
        }
    }
    // What could not be read in the store is not known to be gone.
    let (changes, identical) = changes(found, wanted, |key| prune && look_up(wanted, key.as_str()).is_none());
    Ok(Plan { done: vec![false; changes.len()], changes, left, identical })
}

fn act(files: Files, plan: &mut Plan, in_json: bool) -> Result<Outcome> {
    let mut ended = Ok(Outcome::Done);
    for (change, done) in plan.changes.iter().zip(&mut plan.done) {
        let made = match &change.action {
            Action::Create { to } => files.write(&change.key, None, to),
            Action::Replace { from, to } => files.write(&change.key, Some(&from.bytes), to),
            Action::Remove { from } => files.remove(&change.key, &from.bytes),
        };
        match made {
            Ok(true) => {
                *done = true;
                if !in_json {
                    print_lines([format!("{} {}", change.verb().1, change.key)])?;
                }
            }
            Ok(false) => {
                note(&format!(
                    "{}'s file was changed by somebody else meanwhile, and stays as they left it",
                    change.key
                ));
                ended = Ok(Outcome::Lost);
            }
            Err(error) if is_of_the_disk(&error) => {
                ended = Err(error).with_context(|| change.key.to_string());
                break;
            }
            Err(error) => plan.left.push((change.key.to_string(), format!("{error:#}"))),
        }
    }
    if in_json {
        print_lines([plan.json(None).to_string()])?;
    }
    plan.say_what_is_left();
    let done = plan.done.iter().filter(|done| **done).count();
    let again = if ended.is_err() { "; export again for the rest" } else { "" };
    note(&format!("{done} of {} changes made, {} files were right already{again}", plan.changes.len(), plan.identical));
    ended
}

fn show(dir: &Path, plan: &Plan, in_json: bool) -> Result<()> {
    let from = |key: &Key| dir.join(format!("{key}.json")).display().to_string();
    let to = |key: &Key| format!("store: {key}");
    let sides = Sides { from: &from, to: &to };
    if in_json {
        print_lines([plan.json(Some(&sides)).to_string()])?;
    } else {
        print_diffs(&plan.changes, &sides)?;
    }
    plan.say_what_is_left();
    note(&format!("{} to make, {} files are right already", number_of_changes(plan.changes.len()), plan.identical));
    Ok(())
}

impl Plan {
    /// A listing leaves out what a token may not read. Only what the store says is absent, asked for it by its key, is
    /// removed.
    async fn keep_what_may_be_there(&mut self, store: &Store) {
        let mut changes = Vec::with_capacity(self.changes.len());
        for change in std::mem::take(&mut self.changes) {
            let reason = match &change.action {
                Action::Create { .. } | Action::Replace { .. } => None,
                Action::Remove { .. } => match store.get(&change.key).await {
                    Ok(None) => None,
                    Ok(Some(_)) => Some("it is in the store, although a listing did not show it".to_owned()),
                    Err(error) => Some(format!("{error:#}")),
                },
            };
            match reason {
                Some(reason) => self.left.push((change.key.to_string(), reason)),
                None => changes.push(change),
            }
        }
        self.done = vec![false; changes.len()];
        self.changes = changes;
    }

    fn json(&self, sides: Option<&Sides>) -> Value {
        let changes =
            self.changes.iter().zip(&self.done).map(|(change, done)| change.json(*done, sides)).collect::<Value>();
        let left = self.left.iter().map(|(key, reason)| json!({"key": key, "reason": reason})).collect::<Value>();
        json!({"changes": changes, "left": left, "identical": self.identical})
    }

    fn say_what_is_left(&self) {
        for (key, reason) in &self.left {
            note(&format!("{key}: {reason}"));
        }
    }
}
