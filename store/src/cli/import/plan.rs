//! What an import will do. Pure.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use store::check::{self, Finding};
use store::schema::IntentKey;
use store::{Document, Documents, Key, Revision};

use crate::cli::change::{Action, Change, Sides, changes};
use crate::cli::{intent, rm};

/// What to do, in this order.
#[derive(Debug)]
pub(in crate::cli) struct Plan {
    pub(in crate::cli) changes: Vec<Change>,
    /// Documents that `--prune` has to leave, with the reason.
    pub(in crate::cli) left: Vec<(Key, String)>,
    pub(in crate::cli) identical: usize,
}

pub(super) fn plan(wanted: &Documents, found: &Documents, prune: bool) -> Result<Plan> {
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
pub(in crate::cli) fn ensure_whole(to: &Documents, from: &Documents, of: &str, other: &str) -> Result<()> {
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

impl Plan {
    /// What there will be then, of what was found.
    pub(in crate::cli) fn after(&self, found: &Documents) -> Documents {
        let mut after = found.clone();
        for Change { key, action } in &self.changes {
            match action {
                Action::Create { to: bytes } | Action::Replace { to: bytes, .. } => {
                    let document = Document { bytes: bytes.clone(), revision: Revision(String::new()) };
                    after.insert(key.to_string(), Ok(document));
                }
                Action::Remove { .. } => drop(after.remove(key.as_str())),
            }
        }
        after
    }

    /// What `pp-store check` will find then, and does not find now.
    pub(in crate::cli) fn faults(&self, found: &Documents) -> Vec<Finding> {
        let after = self.after(found);
        let now = check::check(found).into_iter().map(|fault| (fault.key, fault.reason)).collect::<BTreeSet<_>>();
        let is_known = |fault: &Finding| now.contains(&(fault.key.clone(), fault.reason.clone()));
        // Of what has to stay for a while, its reason says more.
        let stays = |fault: &Finding| self.left.iter().any(|(key, _)| key.as_str() == fault.key);
        check::check(&after).into_iter().filter(|fault| !is_known(fault) && !stays(fault)).collect()
    }

    pub(super) fn json(&self, done: usize, sides: Option<&Sides>) -> Value {
        let changes =
            self.changes.iter().enumerate().map(|(n, change)| change.json(n < done, sides)).collect::<Value>();
        let left =
            self.left.iter().map(|(key, reason)| json!({"key": key.as_str(), "reason": reason})).collect::<Value>();
        json!({"changes": changes, "left": left, "identical": self.identical})
    }
}

#[cfg(test)]
mod tests {
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
    fn what_will_be_wrong_and_is_not_yet_is_said() {
        let versions = r#"{"versions": {}}"#;
        let found = documents(&[("nodes/web1/slug", ""), ("clusters/slug/dev/config", versions)]);
        let wanted = documents(&[("nodes/web2/slug", LIVE), ("clusters/slug/dev/config", versions)]);
        let faults = plan(&wanted, &found, false).unwrap().faults(&found);
        assert_eq!(faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), ["nodes/web2/slug"]);
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
