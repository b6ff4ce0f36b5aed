//! `pp-store rm`, which keeps the order that hosts need to tell a removed app from a store that lost its keys.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::json;
use store::schema::{IntentKey, NodeDocument, Parse};
use store::{AppName, ClusterName, Documents, Key, Prefix, Store};

use super::change::{Action, Change};
use super::write::{Message, TRIES, Writer};
use super::{Outcome, note, print_json};

pub(super) async fn run(
    store: &Store,
    mut keys: Vec<Key>,
    force: bool,
    message: &Message,
    in_json: bool,
) -> Result<Outcome> {
    let clusters = clusters(&keys);
    if !force && !clusters.is_empty() {
        ensure_unused(store, &clusters).await.context("nothing was removed")?;
    }
    keys.sort_by_key(|key| !key.as_str().starts_with("nodes/"));
    let (mut removed, mut absent) = (Vec::new(), Vec::new());
    let mut writer = Writer::new(store, message);
    for key in &keys {
        let done = match remove(&mut writer, store, key).await {
            Ok(true) => &mut removed,
            Ok(false) => &mut absent,
            Err(error) => return Err(error.context(format!("{key} was not removed, {} others were", removed.len()))),
        };
        done.push(key.as_str());
    }
    for key in &absent {
        note(&format!("there is no {key}"));
    }
    for app in removed.iter().filter_map(|key| left(key)).collect::<BTreeSet<_>>() {
        note(&format!(
            "hosts stop {app} as soon as min_nodes lets them; keep its cluster's config until they have, or they keep it \
             running"
        ));
    }
    if in_json {
        print_json(&json!({"removed": removed, "absent": absent}))?;
    }
    Ok(if absent.is_empty() { Outcome::Done } else { Outcome::Absent })
}

/// The app that a host is to run no more without this key.
fn left(key: &str) -> Option<AppName> {
    match IntentKey::parse(key) {
        Ok(IntentKey::Node(_, app)) => Some(app),
        Ok(IntentKey::Config(..) | IntentKey::DeployConfig(..)) | Err(_) => None,
    }
}

/// Whether the document was there.
async fn remove(writer: &mut Writer<'_>, store: &Store, key: &Key) -> Result<bool> {
    for _ in 0..TRIES {
        match store.get(key).await {
            Ok(None) => return Ok(false),
            Ok(Some(from)) => {
                if writer.make(&Change { key: key.clone(), action: Action::Remove { from } }).await? {
                    return Ok(true);
                }
            }
            // A file that cannot be read can be removed all the same.
            Err(_) if matches!(store, Store::Directory(_)) => return writer.overwrite(key, None).await.map(|()| true),
            Err(error) => return Err(error),
        }
    }
    bail!("somebody else wrote it anew {TRIES} times; try again")
}

/// The clusters that some of `keys` are documents of.
fn clusters(keys: &[Key]) -> BTreeSet<(AppName, ClusterName)> {
    let cluster = |key: &Key| match IntentKey::parse(key.as_str()) {
        Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => Some((app, cluster)),
        Ok(IntentKey::Node(..)) | Err(_) => None,
    };
    keys.iter().filter_map(cluster).collect()
}

/// An error if a node is, or for all that can be known may be, to run an app in one of `clusters`.
async fn ensure_unused(store: &Store, clusters: &BTreeSet<(AppName, ClusterName)>) -> Result<()> {
    let (nodes, _) = store.read(&[Prefix::parse("nodes")?]).await?;
    for (app, cluster) in clusters {
        let users = users(&nodes, app, cluster);
        if !users.is_empty() {
            bail!(
                "cluster {cluster} of {app} is in use: {}; remove those first, and the cluster once their hosts have \
                 stopped {app}, or they keep it running as it is (--force: remove it now)",
                users.join(", ")
            );
        }
        if nodes.is_empty() {
            // To a token without rights every listing is empty; this would be an error.
            let probe = Key::parse(&format!("nodes/any/{app}"))?;
            store.get(&probe).await.with_context(|| format!("whether a node runs {app} cannot be known"))?;
        }
    }
    Ok(())
}

/// What keeps the cluster in use: keys, with the reason when it is not that they name it.
pub(super) fn users(nodes: &Documents, app: &AppName, cluster: &ClusterName) -> Vec<String> {
    let mut users = Vec::new();
    for (key, document) in nodes {
        let is_ours = matches!(IntentKey::parse(key), Ok(IntentKey::Node(_, ours)) if ours == *app);
        match document {
            Err(reason) if is_ours || key.ends_with('/') => users.push(format!("perhaps by {key} ({reason})")),
            Ok(document) if is_ours => match NodeDocument::parse(&document.bytes) {
                Ok(node) if node.cluster == *cluster => users.push(key.clone()),
                Ok(_) => {}
                Err(error) => users.push(format!("perhaps by {key} ({error:#})")),
            },
            Ok(_) | Err(_) => {}
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use store::{Document, Revision};

    use super::*;

    #[test]
    fn a_cluster_is_in_use_by_the_nodes_that_name_it_and_by_those_that_cannot_be_read() {
        let document = |text: &str| Ok(Document { bytes: text.into(), revision: Revision(String::new()) });
        let nodes = Documents::from([
            ("nodes/a/slug".to_owned(), document(r#"{"cluster": "dev"}"#)),
            ("nodes/b/slug".to_owned(), document(r#"{"cluster": "live"}"#)),
            ("nodes/c/slug".to_owned(), document("")),
            ("nodes/d/slug".to_owned(), Err("no permission".to_owned())),
            ("nodes/e/".to_owned(), Err("no permission".to_owned())),
            ("nodes/f/other".to_owned(), document("")),
            ("nodes/g/other".to_owned(), document(r#"{"cluster": "dev"}"#)),
        ]);
        let users = users(&nodes, &"slug".parse().unwrap(), &"dev".parse().unwrap());
        assert_eq!(users.len(), 4, "{users:?}");
        for (user, key) in users.iter().zip(["nodes/a/slug", "nodes/c/slug", "nodes/d/slug", "nodes/e/"]) {
            assert!(user.contains(key), "{user}");
        }
    }
}
