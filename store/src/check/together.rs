//! What is wrong between documents, each of which may be right by itself.
//!
//! Only documents that are valid are compared: of the others there is a finding already.

mod clusters;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::document::{Documents, look_up};
use crate::name::{AppName, ClusterName, NodeName};
use crate::schema::{IntentKey, NodeDocument, Parse};

type Cluster = (AppName, ClusterName);

/// What the documents say, as far as they are valid.
pub(super) struct Intent<'a> {
    documents: &'a Documents,
    /// The clusters that nodes point at, and which do.
    used: BTreeMap<Cluster, Vec<NodeApp<'a>>>,
    /// By app, how many of its documents of nodes are invalid: these nodes are in some cluster of it.
    invalid: BTreeMap<AppName, usize>,
    /// The clusters of which there is any document.
    there: BTreeSet<Cluster>,
}

/// An app on a node.
struct NodeApp<'a> {
    key: &'a str,
    node: NodeName,
    is_drained: bool,
}

impl<'a> Intent<'a> {
    pub(super) fn of(documents: &'a Documents) -> Self {
        let mut intent = Self { documents, used: BTreeMap::new(), invalid: BTreeMap::new(), there: BTreeSet::new() };
        for (key, document) in documents {
            match IntentKey::parse(key) {
                Ok(IntentKey::Node(node, app)) => {
                    let bytes = document.as_ref().map_or(&[][..], |document| &document.bytes);
                    match NodeDocument::parse(bytes) {
                        Ok(NodeDocument { cluster, hold: _, drain: is_drained }) => {
                            intent.used.entry((app, cluster)).or_default().push(NodeApp { key, node, is_drained });
                        }
                        Err(_) => *intent.invalid.entry(app).or_default() += 1,
                    }
                }
                Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => {
                    intent.there.insert((app, cluster));
                }
                Err(_) => {}
            }
        }
        intent
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        [self.missing(), self.unused(), self.unsatisfiable(), self.overlaps(), self.ports()].concat()
    }

    /// The keys of documents that nodes need and that are not there.
    pub(super) fn absent(&self) -> Vec<String> {
        let keys = self.used.keys().flat_map(|cluster| [config_key(cluster), deploy_key(cluster)]);
        keys.filter(|key| look_up(self.documents, key).is_none()).collect()
    }

    /// The keys of the apps that are held while the document, or the directory, `key` is invalid.
    pub(super) fn held_by(&self, key: &str) -> Vec<String> {
        let apps = |apps: &Vec<NodeApp>| apps.iter().map(|app| app.key.to_owned()).collect::<Vec<_>>();
        match IntentKey::parse(key) {
            Ok(IntentKey::Node(..)) => vec![key.to_owned()],
            Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => {
                self.used.get(&(app, cluster)).map(apps).unwrap_or_default()
            }
            Err(_) if key.ends_with('/') => {
                // Some of what is in it may have been read all the same.
                let lacks = |document: &String| document.starts_with(key) && !self.documents.contains_key(document);
                let used = self.used.iter();
                let needs = used.filter(|(cluster, _)| lacks(&config_key(cluster)) || lacks(&deploy_key(cluster)));
                needs.flat_map(|(_, found)| apps(found)).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Whether there may be apps on nodes that are not among our documents.
    fn lacks_nodes(&self) -> bool {
        let mut nodes = self.documents.iter().filter(|(key, _)| key.starts_with("nodes/"));
        nodes.any(|(key, document)| key.ends_with('/') && document.is_err())
    }

    fn valid<T: Parse>(&self, key: &str) -> Option<T> {
        T::parse(&look_up(self.documents, key)?.as_ref().ok()?.bytes).ok()
    }
}

fn config_key((app, cluster): &Cluster) -> String {
    IntentKey::Config(app.clone(), cluster.clone()).key().to_string()
}

fn deploy_key((app, cluster): &Cluster) -> String {
    IntentKey::DeployConfig(app.clone(), cluster.clone()).key().to_string()
}
