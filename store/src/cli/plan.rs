//! `pp-store plan`: what an import would do to which hosts, before anything is written.
//!
//! Ensures: nothing is written; a plan is made only of what could be read, all of it; who imports with its token writes what
//! was planned, over what was there then, to hosts that would do what was said, or nothing.

mod differences;
mod foresee;
mod host;
mod observe;
mod sides;
mod words;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use store::check::{Finding, Severity};
use store::{Directory, Store};

use super::import::{self, Import};
use super::{Outcome, finding, note, number_of_changes, print_json, print_lines};
use foresee::{Foreseen, Sides, foresee};

pub(super) async fn run(store: &Store, dir: &Path, prune: bool, in_json: bool) -> Result<Outcome> {
    let import = import::compare(store, dir, prune, false).await.context("there is no plan")?;
    let foreseen = of(store, &import).await.context("there is no plan")?;
    let faults = import.plan.faults(&import.found);
    let token = token(&import, &foreseen, &faults);
    if in_json {
        print_json(&as_json(&import, &foreseen, &faults, token.as_deref()))?;
    } else {
        print_lines(words::lines(&foreseen))?;
        import::say_what_stays(&import.plan);
        for fault in &faults {
            note(&format!("from then on: {}", line(&import.source, fault)));
        }
    }
    let count = import.plan.changes.len();
    let Some(token) = token else {
        if count == 0 {
            note(&format!("nothing would change: {} documents are right already", import.plan.identical));
            return Ok(Outcome::Done);
        }
        note("there is no token for this: it would be invalid; see `pp-store check --help`");
        return Ok(Outcome::Invalid);
    };
    if !in_json {
        let prune = if prune { " --prune" } else { "" };
        let dir = dir.display();
        note(&format!("{} to make; pp-store import {dir}{prune} --if-plan {token}", number_of_changes(count)));
        print_lines([format!("token: {token}")])?;
    }
    Ok(Outcome::ToDo)
}

/// An error unless an import would still do what this token stands for.
pub(super) async fn ensure_same(store: &Store, import: &Import, seen: &str) -> Result<()> {
    let foreseen = of(store, import).await?;
    let faults = import.plan.faults(&import.found);
    let again = "run `pp-store plan` again, with the same DIR and options";
    ensure!(!import.plan.changes.is_empty(), "the plan is another one now: nothing is left to do; {again}");
    ensure!(is_valid(&faults), "the plan is another one now: it would be invalid; {again}");
    match foreseen.token.differs(seen) {
        None => Ok(()),
        Some(what) => anyhow::bail!("the plan is another one now: {what}; {again}"),
    }
}

async fn of(store: &Store, import: &Import) -> Result<Foreseen> {
    let after = import.plan.after(&import.found);
    let (was, is) = (sides::intents(&import.found), sides::intents(&after));
    let touched = sides::touched(&was, &is);
    let known = observe::observe(store, &touched).await?;
    let sides = Sides { before: &import.found, after: &after, intents: &is };
    Ok(foresee(sides, &touched, &import.plan.changes, &known))
}

/// The one that stands for it; none for what would not be written, or should not.
fn token(import: &Import, foreseen: &Foreseen, faults: &[Finding]) -> Option<String> {
    (!import.plan.changes.is_empty() && is_valid(faults)).then(|| foreseen.token.text())
}

fn is_valid(faults: &[Finding]) -> bool {
    faults.iter().all(|fault| fault.severity != Severity::Invalid)
}

fn line(source: &Directory, fault: &Finding) -> String {
    finding::line(&Store::Directory(source.clone()), fault)
}

/// As `--help` describes it.
fn as_json(import: &Import, foreseen: &Foreseen, faults: &[Finding], token: Option<&str>) -> Value {
    let (changes, clusters) = words::json(foreseen);
    let source = Store::Directory(import.source.clone());
    json!({
        "token": token,
        "changes": changes,
        "left": import.plan.left.iter().map(|(key, reason)| json!({"key": key.as_str(), "reason": reason})).collect::<Value>(),
        "identical": import.plan.identical,
        "clusters": clusters,
        "findings": faults.iter().map(|fault| finding::json(&source, fault)).collect::<Value>(),
    })
}
