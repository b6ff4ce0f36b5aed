//! What is wrong between documents, each of which may be right by itself.
//!
//! Only documents that are valid are compared: of the others there is a finding already.

mod clusters;
mod nodes;

use std::collections::BTreeSet;

use super::Finding;
use crate::document::{Documents, look_up};
use crate::name::{AppName, ClusterName, NodeName};
use crate::schema::{IntentKey, NodeDocument, Parse};

type Cluster = (AppName, ClusterName);

/// What the documents say, as far as they are valid.
pub(super) struct Intent<'a> {
    documents: &'a Documents,
    apps: Vec<NodeApp<'a>>,
    /// The clusters of which there is any document.
    clusters: BTreeSet<Cluster>,
}

/// An app on a node.
struct NodeApp<'a> {
    key: &'a str,
    node: NodeName,
    app: AppName,
    cluster: Pointer<'a>,
}

enum Pointer<'a> {
    To(ClusterName),
    /// The document is invalid, and holds this.
    Unknown(&'a [u8]),
}

impl NodeApp<'_> {
    fn is_in(&self, (app, cluster): &Cluster) -> bool {
        self.app == *app && matches!(&self.cluster, Pointer::To(to) if to == cluster)
    }

    /// Also when its document is invalid: it is a node of some cluster of the app.
    fn counts_in(&self, cluster: &Cluster) -> bool {
        self.is_in(cluster) || self.app == cluster.0 && matches!(self.cluster, Pointer::Unknown(_))
    }

    /// Also when its document is invalid, and either says nothing or has the cluster's name somewhere in it.
    fn may_be_in(&self, cluster: &Cluster) -> bool {
        let mentions = |bytes: &[u8]| {
            let name = cluster.1.as_str().as_bytes();
            bytes.iter().all(u8::is_ascii_whitespace) || bytes.windows(name.len()).any(|part| part == name)
        };
        self.is_in(cluster)
            || matches!(self.cluster, Pointer::Unknown(bytes) if self.app == cluster.0 && mentions(bytes))
    }

    fn cluster(&self) -> Option<Cluster> {
        match &self.cluster {
            Pointer::To(cluster) => Some((self.app.clone(), cluster.clone())),
            Pointer::Unknown(_) => None,
        }
    }
}

impl<'a> Intent<'a> {
    pub(super) fn of(documents: &'a Documents) -> Self {
        let (mut apps, mut clusters) = (Vec::new(), BTreeSet::new());
        for (key, document) in documents {
            match IntentKey::parse(key) {
                Ok(IntentKey::Node(node, app)) => {
                    let bytes = document.as_ref().map_or(&[][..], |document| &document.bytes);
                    let cluster = match NodeDocument::parse(bytes) {
                        Ok(document) => Pointer::To(document.cluster),
                        Err(_) => Pointer::Unknown(bytes),
                    };
                    apps.push(NodeApp { key, node, app, cluster });
                }
                Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => {
                    clusters.insert((app, cluster));
                }
                Err(_) => {}
            }
        }
        Self { documents, apps, clusters }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        [self.missing(), self.unused(), self.unsatisfiable(), self.overlaps(), self.ports()].concat()
    }

    /// The keys of documents that nodes need and that are not there.
    pub(super) fn absent(&self) -> Vec<String> {
        let keys = self.used_clusters().into_iter().flat_map(|cluster| [config_key(&cluster), deploy_key(&cluster)]);
        keys.filter(|key| look_up(self.documents, key).is_none()).collect()
    }

    /// The keys of the apps that cannot be known while the document, or the directory, `key` is invalid.
    pub(super) fn held_by(&self, key: &str) -> Vec<String> {
        let concerns = |document: &str| document == key || key.ends_with('/') && document.starts_with(key);
        let needs = |app: &NodeApp| {
            let cluster = app.cluster().map(|cluster| [config_key(&cluster), deploy_key(&cluster)]);
            concerns(app.key) || cluster.iter().flatten().any(|key| concerns(key) && self.is_unknown(key))
        };
        self.apps.iter().filter(|app| needs(app)).map(|app| app.key.to_owned()).collect()
    }

    /// Whether nothing is known of it: below an unreadable directory a document may have been read by itself.
    fn is_unknown(&self, key: &str) -> bool {
        look_up(self.documents, key).is_some_and(|found| {
            found.as_ref().map_or(true, |document| {
                IntentKey::parse(key).is_ok_and(|intent| intent.check(&document.bytes).is_err())
            })
        })
    }

    /// Whether there may be apps on nodes that are not in our list.
    fn lacks_nodes(&self) -> bool {
        let mut nodes = self.documents.iter().filter(|(key, _)| key.starts_with("nodes/"));
        nodes.any(|(key, document)| key.ends_with('/') && document.is_err())
    }

    fn valid<T: Parse>(&self, key: &str) -> Option<T> {
        T::parse(&look_up(self.documents, key)?.as_ref().ok()?.bytes).ok()
    }

    fn apps_in(&self, cluster: &Cluster) -> impl Iterator<Item = &NodeApp<'a>> {
        self.apps.iter().filter(move |app| app.is_in(cluster))
    }

    fn used_clusters(&self) -> BTreeSet<Cluster> {
        self.apps.iter().filter_map(NodeApp::cluster).collect()
    }
}

fn config_key((app, cluster): &Cluster) -> String {
    IntentKey::Config(app.clone(), cluster.clone()).key().to_string()
}

fn deploy_key((app, cluster): &Cluster) -> String {
    IntentKey::DeployConfig(app.clone(), cluster.clone()).key().to_string()
}
