//! What intent has each app do on each node, before a change and after it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::intent::{App, Invalid, Listing};
use store::schema::IntentKey;
use store::{AppName, ClusterName, Documents, NodeName};

/// One app in one cluster.
pub(super) type Place = (AppName, ClusterName);
pub(super) type Intents = BTreeMap<(AppName, NodeName), Side>;

/// What intent says of one app on one node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Side {
    /// `None` where nobody can tell: its document is invalid.
    pub(super) cluster: Option<ClusterName>,
    pub(super) intent: Result<Arc<App>, Invalid>,
}

/// An app on a node of which intent says another thing afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touched<'a> {
    pub(super) app: &'a AppName,
    pub(super) node: &'a NodeName,
    /// `None` where intent does not have the app on this node.
    pub(super) before: Option<&'a Side>,
    pub(super) after: Option<&'a Side>,
}

pub(super) fn intents(documents: &Documents) -> Intents {
    let node = |key: &String| match IntentKey::parse(key) {
        Ok(IntentKey::Node(node, _)) => Some(node),
        Ok(IntentKey::Config(..) | IntentKey::DeployConfig(..)) | Err(_) => None,
    };
    let nodes = documents.keys().filter_map(node).collect::<BTreeSet<_>>();
    let mut intents = Intents::new();
    for node in nodes {
        let listing = Listing::new(&node, documents);
        let mut clusters = listing.clusters();
        for (app, intent) in listing.intent(documents).apps {
            let cluster = clusters.remove(&app);
            intents.insert((app, node.clone()), Side { cluster, intent });
        }
    }
    intents
}

pub(super) fn touched<'a>(before: &'a Intents, after: &'a Intents) -> Vec<Touched<'a>> {
    let all = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
    let each = all.into_iter().map(|at| {
        let (app, node) = at;
        Touched { app, node, before: before.get(at), after: after.get(at) }
    });
    each.filter(|touched| touched.before != touched.after).collect()
}

impl Side {
    /// What it says, where that makes sense.
    pub(super) fn app(&self) -> Option<&App> {
        self.intent.as_deref().ok()
    }
}

impl Touched<'_> {
    /// Under which cluster to tell of it: where it is afterwards, or was.
    pub(super) fn place(&self) -> Option<Place> {
        let cluster = |side: Option<&Side>| side.and_then(|side| side.cluster.clone());
        Some((self.app.clone(), cluster(self.after).or_else(|| cluster(self.before))?))
    }

    /// The cluster that it leaves for another one.
    pub(super) fn left(&self) -> Option<Place> {
        let (before, after) = (self.before?.cluster.clone()?, self.after?.cluster.as_ref()?);
        (before != *after).then(|| (self.app.clone(), before))
    }
}
