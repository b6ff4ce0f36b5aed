//! `pp-store import`, which makes a store's intent what a directory holds.
//!
//! Ensures: nothing is written while one document would be refused; nobody's change since the comparison is
//! overwritten; an import that is interrupted leaves intent that harms no host, and the same command again does the rest.
//! So clusters come before the nodes that point at them, removals come last, and a cluster's documents stay as long as a
//! host may need them to know that it shall stop the app.

mod plan;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use store::check::{self, Severity};
use store::schema::IntentKey;
use store::{Directory, Documents, Key, Prefix, Store};

use super::change::Sides;
use super::write::{Message, Writer};
use super::{Outcome, finding, intent, note, number_of_changes, print_diffs, print_lines};
pub(super) use plan::Plan;
pub(super) use plan::ensure_whole;
use plan::plan;

/// How to import.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// Show what would change, as diff -u does, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove the documents under nodes/ and clusters/ that DIR does not have
    ///
    /// A cluster's documents stay while a node points at it, and, so that its hosts can stop the app, for the whole run
    /// in which the last such node is removed: import again once they have.
    #[arg(long)]
    prune: bool,
    /// Write documents that agents refuse, too: they hold the apps as they are
    #[arg(long)]
    force: bool,
    /// Only if it would still do what `pp-store plan DIR` showed with this token; else change nothing
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["dry_run", "force"])]
    if_plan: Option<String>,
    #[command(flatten)]
    message: Message,
}

/// A directory beside a store.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) source: Directory,
    pub(super) plan: Plan,
    /// The store's intent, as the plan goes by it.
    pub(super) found: Documents,
}

/// What an import has to do. Where `force` is not, all that is written is valid by itself.
pub(super) async fn compare(store: &Store, dir: &Path, prune: bool, force: bool) -> Result<Import> {
    let source = Directory::open(dir.to_owned());
    let wanted = wanted(&source, dir, force).await?;
    let found = intent::read(store).await?;
    let plan = plan(&wanted, &found, prune)?;
    Ok(Import { source, plan, found })
}

pub(super) async fn run(store: &Store, dir: &Path, options: Options, in_json: bool) -> Result<Outcome> {
    let import = compare(store, dir, options.prune, options.force).await.context("nothing was imported")?;
    if let Some(token) = &options.if_plan {
        super::plan::ensure_same(store, &import, token).await.context("nothing was imported")?;
    }
    let Import { source, plan, found } = import;
    for fault in plan.faults(&found) {
        note(&format!("from then on: {}", finding::line(&Store::Directory(source.clone()), &fault)));
    }
    if options.dry_run {
        show(store, &source, &plan, in_json)?;
        return Ok(Outcome::Done);
    }
    let mut done = 0;
    let ended = act(Writer::new(store, &options.message), &plan, &mut done, in_json).await;
    if in_json {
        print_lines([plan.json(done, None).to_string()])?;
    }
    conclude(&plan, done, &ended);
    ended
}

/// The documents of intent in `dir`, all of which may be written.
async fn wanted(source: &Directory, dir: &Path, force: bool) -> Result<Documents> {
    let source = Store::Directory(source.clone());
    let (documents, _) = source.read(&[Prefix::everything()]).await?;
    let (all, mut wanted, mut refused, mut skipped) = (documents.len(), Documents::new(), 0, 0);
    for (key, document) in documents {
        let findings = check::document(&key, &document);
        let is_intent = intent::TREES.iter().any(|tree| key.starts_with(tree));
        let is_right =
            IntentKey::parse(&key).is_ok() && findings.iter().all(|found| found.severity != Severity::Invalid);
        let can_be_forced = document.is_ok() && (!is_intent || Key::parse(&key).is_ok());
        match (is_right || force && can_be_forced, is_intent) {
            (true, true) => drop(wanted.insert(key, document)),
            (_, false) if findings.is_empty() || force => skipped += 1,
            (true | false, true | false) => {
                findings.iter().for_each(|found| note(&finding::line(&source, found)));
                refused += 1;
            }
        }
    }
    let what_force_does = if force { "" } else { " (--force: write what agents refuse, too)" };
    ensure!(
        refused == 0,
        "{refused} of {all} documents in {} are not as they have to be; correct or remove them{what_force_does}",
        dir.display()
    );
    ensure!(
        !wanted.is_empty(),
        "there is no intent in {0}: no {0}/nodes/<node>/<app>.json and no {0}/clusters/<app>/<cluster>/config.json",
        dir.display()
    );
    if skipped > 0 {
        note(&format!("left out: {skipped} documents that are not under nodes/ or clusters/"));
    }
    Ok(wanted)
}

/// Makes the changes, and counts in `done`.
async fn act(mut writer: Writer<'_>, plan: &Plan, done: &mut usize, in_json: bool) -> Result<Outcome> {
    for change in &plan.changes {
        let key = &change.key;
        if !writer.make(change).await? {
            note(&format!("{key} was changed by somebody else meanwhile, and stays as they left it"));
            return Ok(Outcome::Lost);
        }
        *done += 1;
        if !in_json {
            print_lines([format!("{} {key}", change.verb().1)])?;
        }
    }
    Ok(Outcome::Done)
}

/// Shows what would be done.
fn show(store: &Store, source: &Directory, plan: &Plan, in_json: bool) -> Result<()> {
    let from = |key: &Key| match store {
        Store::Directory(directory) => place(directory, key),
        Store::Consul(_) => format!("store: {key}"),
    };
    let to = |key: &Key| place(source, key);
    let sides = Sides { from: &from, to: &to };
    if in_json {
        return print_lines([plan.json(0, Some(&sides)).to_string()]);
    }
    print_diffs(&plan.changes, &sides)?;
    say_what_stays(plan);
    note(&format!("{} to make, {} documents are right already", number_of_changes(plan.changes.len()), plan.identical));
    Ok(())
}

/// Where a document is, for people: in a file of its own, or in one with all of them.
fn place(directory: &Directory, key: &Key) -> String {
    let file = directory.file(key.as_str());
    if !file.ends_with(format!("{key}.json")) {
        return format!("{}: {key}", file.display());
    }
    file.display().to_string()
}

/// Says how much was done, and what is left.
fn conclude(plan: &Plan, done: usize, ended: &Result<Outcome>) {
    say_what_stays(plan);
    let again = match ended {
        Ok(Outcome::Done) => "",
        Ok(_) | Err(_) => "; import again for the rest",
    };
    let all = plan.changes.len();
    note(&format!("{done} of {all} changes made, {} documents were right already{again}", plan.identical));
}

pub(super) fn say_what_stays(plan: &Plan) {
    for (key, reason) in &plan.left {
        note(&format!("{key} stays: {reason}"));
    }
}
