//! `pp-store import`, which makes a store's intent what a directory holds.
//!
//! Ensures: nothing is written while one document would be refused; nobody's change since the comparison is overwritten; one
//! who is interrupted leaves intent that harms no host, and the same command again does the rest. So clusters come
//! before the nodes that point at them, removals come last, and a cluster's documents stay as long as a host may need
//! them to know that it shall stop the app.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use store::check::{self, Severity};
use store::schema::IntentKey;
use store::{Directory, Documents, Expected, Key, Prefix, Store};

use super::change::{Action, Change, Sides, changes};
use super::{Outcome, finding, intent, note, print_diffs, print_lines, rm};

/// How to import.
#[derive(Debug, Clone, Copy, clap::Args)]
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
}

pub(super) async fn run(store: &Store, dir: &Path, options: Options, in_json: bool) -> Result<Outcome> {
    let wanted = wanted(dir, options.force).await.context("nothing was imported")?;
    let found = intent::read(store).await?;
    let plan = plan(&wanted, &found, options.prune).context("nothing was imported")?;
    if options.dry_run {
        show(store, dir, &plan, in_json)?;
        return Ok(Outcome::Done);
    }
    let mut done = 0;
    let ended = act(store, &plan, &mut done, in_json).await;
    if in_json {
        print_lines([plan.json(done, None).to_string()])?;
    }
    plan.conclude(done, &ended);
    ended
}

/// The documents of intent in `dir`, all of which may be written.
async fn wanted(dir: &Path, force: bool) -> Result<Documents> {
    let source = Store::Directory(Directory::open(dir.to_owned()));
    let (documents, _) = source.read(&[Prefix::everything()]).await?;
    let (all, mut wanted, mut refused, mut skipped) = (documents.len(), Documents::new(), 0, 0);
    for (key, document) in documents {
        let findings = check::document(&key, &document);
        let is_intent = intent::TREES.iter().any(|tree| key.starts_with(tree));
        let is_right =
            IntentKey::parse(&key).is_ok() && findings.iter().all(|found| found.severity != Severity::Invalid);
        let can_be_forced = document.is_ok() && (!is_intent || Key::parse(&key).is_ok());
        for found in &findings {
            note(&finding::line(&source, found));
        }
        match (is_right || force && can_be_forced, is_intent) {
            (true, true) => drop(wanted.insert(key, document)),
            (_, false) if findings.is_empty() || force => skipped += 1,
            _ => refused += 1,
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

/// What to do, in this order.
#[derive(Debug)]
struct Plan {
    changes: Vec<Change>,
    /// Documents that `--prune` has to leave, with the reason.
    left: Vec<(Key, String)>,
    identical: usize,
}

fn plan(wanted: &Documents, found: &Documents, prune: bool) -> Result<Plan> {
    if let Some((key, Err(reason))) = found.iter().find(|(_, document)| document.is_err()) {
        bail!("{key} cannot be read in the store: {reason}; make it readable, or remove it");
    }
    if prune {
        ensure_whole(wanted, found, "the directory", "the store")?;
    }
    let (all, identical) = changes(found, wanted, |_| prune);
    let (mut changes, mut left) = (Vec::new(), Vec::new());
    for change in all {
        match in_use(&change, wanted, found) {
            Some(reason) => left.push((change.key, reason)),
            None => changes.push(change),
        }
    }
    changes.sort_by_key(order);
    Ok(Plan { changes, left, identical })
}

/// An error if `to` has nothing at all of a tree of which `from` has something: most likely it is not all there, and
/// removing the rest would remove every app from every host.
pub(super) fn ensure_whole(to: &Documents, from: &Documents, of: &str, other: &str) -> Result<()> {
    for tree in intent::TREES {
        ensure!(
            intent::has(to, tree) || !intent::has(from, tree),
            "with --prune all that {other} has under {tree} would go, since {of} has nothing there at all: is it all \
             there? To remove documents for good there is `pp-store rm`"
        );
    }
    Ok(())
}

/// Clusters before the nodes that point at them. Removals last: an app that moves is on its new host before it leaves the
/// old one, and whatever fails before removes nothing.
fn order(change: &Change) -> u8 {
    match (&change.action, IntentKey::parse(change.key.as_str())) {
        (Action::Create { .. } | Action::Replace { .. }, Ok(IntentKey::DeployConfig(..))) => 0,
        (Action::Create { .. } | Action::Replace { .. }, Ok(IntentKey::Config(..))) => 1,
        (Action::Create { .. } | Action::Replace { .. }, Ok(IntentKey::Node(..)) | Err(_)) => 2,
        (Action::Remove { .. }, Ok(IntentKey::Node(..)) | Err(_)) => 3,
        (Action::Remove { .. }, Ok(IntentKey::DeployConfig(..))) => 4,
        (Action::Remove { .. }, Ok(IntentKey::Config(..))) => 5,
    }
}

/// Why a document must not be removed yet.
fn in_use(change: &Change, wanted: &Documents, found: &Documents) -> Option<String> {
    let Action::Remove { .. } = change.action else { return None };
    let (app, cluster) = match IntentKey::parse(change.key.as_str()) {
        Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => (app, cluster),
        Ok(IntentKey::Node(..)) | Err(_) => return None,
    };
    let users = |documents| rm::users(documents, &app, &cluster).into_iter().collect::<BTreeSet<_>>();
    let (before, after) = (users(found), users(wanted));
    match (after.first(), before.first()) {
        (Some(user), _) => Some(format!("{user} of the directory needs it")),
        (None, Some(user)) => {
            Some(format!("the host of {user} needs it to stop {app}; import again once that has been done"))
        }
        (None, None) => None,
    }
}

/// Makes the changes, and counts in `done`.
async fn act(store: &Store, plan: &Plan, done: &mut usize, in_json: bool) -> Result<Outcome> {
    for change in &plan.changes {
        let key = &change.key;
        let made = match &change.action {
            Action::Create { to } => store.compare_and_set(key, to, &Expected::Absent).await,
            Action::Replace { from, to } => store.compare_and_set(key, to, &Expected::At(from.revision.clone())).await,
            Action::Remove { from } => store.compare_and_delete(key, &from.revision).await,
        };
        if !made? {
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
fn show(store: &Store, dir: &Path, plan: &Plan, in_json: bool) -> Result<()> {
    let from = |key: &Key| match store {
        Store::Directory(directory) => directory.file(key.as_str()).display().to_string(),
        Store::Consul(_) => format!("store: {key}"),
    };
    let to = |key: &Key| dir.join(format!("{key}.json")).display().to_string();
    let sides = Sides { from: &from, to: &to };
    if in_json {
        return print_lines([plan.json(0, Some(&sides)).to_string()]);
    }
    print_diffs(&plan.changes, &sides)?;
    plan.say_what_stays();
    note(&format!("{} changes to make, {} documents are right already", plan.changes.len(), plan.identical));
    Ok(())
}

impl Plan {
    fn json(&self, done: usize, sides: Option<&Sides>) -> Value {
        let changes =
            self.changes.iter().enumerate().map(|(n, change)| change.json(n < done, sides)).collect::<Value>();
        let left =
            self.left.iter().map(|(key, reason)| json!({"key": key.as_str(), "reason": reason})).collect::<Value>();
        json!({"changes": changes, "left": left, "identical": self.identical})
    }

    /// Says what is left, and how much was done.
    fn conclude(&self, done: usize, ended: &Result<Outcome>) {
        self.say_what_stays();
        let again = match ended {
            Ok(Outcome::Done) => "",
            Ok(_) | Err(_) => "; import again for the rest",
        };
        let all = self.changes.len();
        note(&format!("{done} of {all} changes made, {} documents were right already{again}", self.identical));
    }

    fn say_what_stays(&self) {
        for (key, reason) in &self.left {
            note(&format!("{key} stays: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use store::{Document, Revision};

    use super::*;

    fn documents(entries: &[(&str, &str)]) -> Documents {
        let document = |text: &str| Ok(Document { bytes: text.into(), revision: Revision("1".to_owned()) });
        entries.iter().map(|(key, text)| ((*key).to_owned(), document(text))).collect()
    }

    const DEV: &str = r#"{"cluster": "dev"}"#;
    const LIVE: &str = r#"{"cluster": "live"}"#;

    fn planned(wanted: &Documents, found: &Documents) -> (Vec<String>, Vec<String>) {
        let plan = plan(wanted, found, true).unwrap();
        let changes = plan.changes.iter().map(|change| format!("{} {}", change.verb().0, change.key));
        (changes.collect(), plan.left.iter().map(|(key, _)| key.to_string()).collect())
    }

    #[test]
    fn clusters_come_before_their_nodes_and_removals_last() {
        let found = documents(&[
            ("nodes/web1/slug", DEV),
            ("nodes/web2/slug", DEV),
            ("clusters/slug/dev/config", ""),
            ("clusters/slug/dev/deploy_config", ""),
            ("clusters/slug/old/config", ""),
            ("clusters/slug/old/deploy_config", ""),
        ]);
        let wanted = documents(&[
            ("nodes/web1/slug", LIVE),
            ("nodes/web3/slug", LIVE),
            ("clusters/slug/live/config", ""),
            ("clusters/slug/live/deploy_config", ""),
        ]);
        let (changes, left) = planned(&wanted, &found);
        assert_eq!(
            changes,
            [
                "create clusters/slug/live/deploy_config",
                "create clusters/slug/live/config",
                "change nodes/web1/slug",
                "create nodes/web3/slug",
                "remove nodes/web2/slug",
                "remove clusters/slug/old/deploy_config",
                "remove clusters/slug/old/config",
            ]
        );
        // The hosts of web1 and web2 may have to stop what they run in it.
        assert_eq!(left, ["clusters/slug/dev/config", "clusters/slug/dev/deploy_config"]);
    }

    #[test]
    fn a_cluster_that_a_node_of_the_directory_points_at_stays() {
        let found = documents(&[("clusters/slug/dev/config", ""), ("nodes/web1/tool", DEV)]);
        let wanted = documents(&[("clusters/tool/dev/config", ""), ("nodes/web1/slug", DEV), ("nodes/web1/tool", DEV)]);
        assert_eq!(planned(&wanted, &found).1, ["clusters/slug/dev/config"]);
    }

    #[test]
    fn a_directory_that_lacks_a_whole_tree_prunes_nothing() {
        let found = documents(&[("nodes/web1/slug", DEV), ("clusters/slug/dev/config", "")]);
        for tree in ["nodes/web1/slug", "clusters/slug/dev/config"] {
            let wanted = documents(&[(tree, DEV)]);
            assert!(plan(&wanted, &found, true).unwrap_err().to_string().contains("is it all there?"));
            assert!(plan(&wanted, &found, false).is_ok());
        }
    }
}
