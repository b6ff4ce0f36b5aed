//! What a node shall run: the pure function from documents to [`NodeIntent`].
//!
//! Ensures: an app whose documents are missing, malformed or contradictory is an error of its own that names the key,
//! and no other app is touched by it. Assumes that the documents were read under [`Listing::prefixes`].

mod follow;
mod incoming;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::document::{Documents, Prefix, in_a_line, look_up};
use crate::name::{AppName, ClusterName, NodeName, Version};
use crate::schema::{
    ArtifactSpec, BaseDir, Config, DeployConfig, Health, IntentKey, Limits, NodeDocument, Parse, Port, Seconds, Status,
    UserName, cluster_prefix, is_reality, node_prefix,
};
use crate::{Document, Gather, Key, Store};

pub use follow::Follower;
pub use incoming::{Fingerprint, Incoming};

/// Why an app is invalid of which no document was read.
const NO_DOCUMENT: &str = "there is no such document";
/// For what is asked only to say more of why an app is held.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node shall run. An app that is not here is not wanted, or not known: see [`crate::Store::get`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeIntent {
    pub apps: BTreeMap<AppName, Result<Arc<App>, Invalid>>,
    /// Keys under `nodes/<node>/` that name no app.
    pub strays: Vec<Invalid>,
}

/// One app on one node, from three documents that agree.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    pub name: AppName,
    pub cluster: ClusterName,
    /// An operator is at work on this app on this node: leave it alone.
    pub hold: bool,
    /// Run nothing of it here for a while, and keep all that it needs.
    pub drain: bool,
    pub active: Option<Version>,
    /// Ready to go, not run.
    pub prep: Vec<Version>,
    /// What is said of versions' artifacts; also of versions that are not wanted.
    pub artifacts: BTreeMap<Version, ArtifactSpec>,
    pub min_nodes: u32,
    pub user_config: Map<String, Value>,
    /// What runs is started anew when this is another.
    pub restart: Option<String>,
    pub health: Option<Health>,
    pub timeouts: Timeouts,
    pub basedir: BaseDir,
    pub runas: Option<UserName>,
    pub ports: Vec<Port>,
    /// Whether files of an artifact keep their set-user-ID and set-group-ID bits.
    pub allow_setuid: bool,
    pub limits: Limits,
}

impl NodeIntent {
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.strays.is_empty()
    }
}

impl App {
    /// Every version that shall be on disk, the active one first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.active.iter().chain(&self.prep)
    }
}

/// How long the steps of a replacement may take.
#[derive(Debug, Clone, Copy, PartialEq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timeouts {
    /// From TERM to KILL.
    pub stop: Seconds,
    pub enable: Seconds,
    pub disable: Seconds,
    /// Between having no more clients sent and the stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Seconds>,
}

/// Why an app is held as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    pub key: String,
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

/// The apps that a node's own documents name: what has to be known before their clusters can be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    apps: BTreeMap<AppName, Result<NodeDocument, Invalid>>,
    strays: Vec<Invalid>,
}

impl Listing {
    /// Reads `nodes/<node>/…` out of `documents`.
    pub fn new(node: &NodeName, documents: &Documents) -> Self {
        let mut listing = Self::default();
        for (key, document) in own(node, documents) {
            match named(key, document) {
                Named::App(app, node) => drop(listing.apps.insert(app, node)),
                Named::Stray(invalid) => listing.strays.push(invalid),
            }
        }
        listing
    }

    /// The cluster that each app is in; of those whose document says so.
    pub fn clusters(&self) -> BTreeMap<AppName, ClusterName> {
        let clusters =
            self.apps.iter().filter_map(|(app, node)| Some((app.clone(), node.as_ref().ok()?.cluster.clone())));
        clusters.gather()
    }

    /// Where the rest of these apps' intent is.
    pub fn prefixes(&self) -> Vec<Prefix> {
        let valid = self.apps.iter().filter_map(|(app, node)| Some((app, node.as_ref().ok()?)));
        valid.map(|(app, node)| cluster_prefix(app, &node.cluster)).collect()
    }

    /// What the node shall run, given its clusters' documents.
    pub fn intent(self, clusters: &Documents) -> NodeIntent {
        let Self { apps, strays } = self;
        let mut together = Together { strays, ..Together::default() };
        for (name, node) in apps {
            match node {
                Ok(node) => drop(together.add([(name, node)], clusters)),
                Err(invalid) => drop(together.apps.insert(name, Err(invalid))),
            }
        }
        together.intent()
    }
}

/// The node's own among `documents`.
fn own<'a>(
    node: &NodeName,
    documents: &'a Documents,
) -> impl Iterator<Item = (&'a String, &'a Result<Document, String>)> + use<'a> {
    let prefix = node_prefix(node);
    documents.iter().filter(move |(key, _)| key.starts_with(prefix.as_str()))
}

/// What one of a node's own documents names.
enum Named {
    App(AppName, Result<NodeDocument, Invalid>),
    Stray(Invalid),
}

fn named(key: &str, document: &Result<Document, String>) -> Named {
    let app = || match IntentKey::parse(key)? {
        IntentKey::Node(_, app) => Ok(app),
        IntentKey::Config(..) | IntentKey::DeployConfig(..) => bail!("it is no key of a node"),
    };
    match (app(), document) {
        (Ok(app), document) => Named::App(app, parse(key, Some(document))),
        (Err(_), Err(reason)) => Named::Stray(Invalid { key: key.to_owned(), reason: reason.clone() }),
        (Err(error), Ok(_)) => Named::Stray(Invalid { key: key.to_owned(), reason: in_a_line(&format!("{error:#}")) }),
    }
}

/// An app's basedir, and the key that says so.
type Claim = (AppName, String, BaseDir);

/// A node's intent, put together.
#[derive(Default)]
struct Together {
    apps: BTreeMap<AppName, Result<Arc<App>, Invalid>>,
    strays: Vec<Invalid>,
    /// Also of an app whose config turns out invalid: what it runs lives there all the same.
    basedirs: Vec<Claim>,
}

impl Together {
    /// Those that are valid, each by itself.
    fn add(&mut self, named: impl IntoIterator<Item = (AppName, NodeDocument)>, clusters: &Documents) -> Vec<Arc<App>> {
        let mut valid = Vec::new();
        for (name, node) in named {
            let app = self.app(&name, node, clusters).map(Arc::new);
            valid.extend(app.iter().cloned());
            self.apps.insert(name, app);
        }
        valid
    }

    fn app(&mut self, name: &AppName, node: NodeDocument, clusters: &Documents) -> Result<App, Invalid> {
        let key = IntentKey::DeployConfig(name.clone(), node.cluster.clone()).key();
        let deploy = parse::<DeployConfig>(key.as_str(), look_up(clusters, key.as_str()))?;
        self.basedirs.push((name.clone(), key.to_string(), deploy.basedir.clone()));
        app(name, node, deploy, clusters)
    }

    fn intent(mut self) -> NodeIntent {
        // What is said of two that overlap does not depend on which came first.
        self.basedirs.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut apps = self.apps;
        for (name, invalid) in overlaps(&self.basedirs) {
            apps.entry(name).and_modify(|app| *app = Err(invalid));
        }
        NodeIntent { apps, strays: self.strays }
    }
}

/// Reads what `node` shall run, as a [`Follower`] does first.
pub async fn read(store: &Store, node: &NodeName) -> Result<NodeIntent> {
    Follower::new(store.clone(), node.clone()).next().await
}

/// Has an app whose document no listing showed say why, where that is that the store does not show it to us. To a token
/// without rights every listing of Consul's is empty; only a read of the one key is refused.
async fn name_refusals(store: &Store, intent: &mut NodeIntent) {
    let Store::Consul(_) = store else { return };
    let invalid = intent.apps.values_mut().filter_map(|app| app.as_mut().err());
    let asking = async {
        for invalid in invalid.filter(|invalid| invalid.reason == NO_DOCUMENT) {
            let Ok(key) = Key::parse(&invalid.key) else { continue };
            if let Err(error) = store.get(&key).await {
                invalid.reason = in_a_line(&format!("{error:#}"));
            }
        }
    };
    // A store that hangs by now must not keep the other apps waiting. Those left over are held all the same.
    let _ = tokio::time::timeout(PATIENCE, asking).await;
}

/// An error unless the store lets us see that no app is meant for `node`, when a listing showed none.
pub async fn ensure_shown(store: &Store, node: &NodeName) -> Result<()> {
    let Store::Consul(_) = store else { return Ok(()) };
    let prefix = node_prefix(node);
    // No document of ours, but one of those that the rule is about.
    let probe = Key::parse(&format!("{prefix}any"))?;
    let read = store.get(&probe).await.with_context(|| {
        format!(
            "whether an app is meant for this node cannot be known without key_prefix \"{prefix}\" {{ policy = \"read\" }}"
        )
    });
    read.map(drop)
}

/// Whether `node` is really to run `app` no more: the store *says* that `nodes/<node>/<app>` is absent, and that the
/// cluster it ran in still has its config. One of the two reads, a second or more apart, that "gone" takes.
///
/// # Errors
/// Every other answer, with what was found instead.
pub async fn looks_gone(store: &Store, node: &NodeName, app: &AppName, cluster: &ClusterName) -> Result<()> {
    let (node, config) =
        (IntentKey::Node(node.clone(), app.clone()).key(), IntentKey::Config(app.clone(), cluster.clone()).key());
    ensure!(store.get(&node).await?.is_none(), "{node} is there, although a listing did not show it");
    ensure!(
        store.get(&config).await?.is_some(),
        "{node} is absent, but so is {config}: this looks like a store that lost its keys, not like a removal; to \
         remove the app from this node put {config} back until it has stopped"
    );
    if let Some(key) = misspelt(store, app).await? {
        bail!(
            "{node} is absent, but {key} is there, which is no key of intent: is it this one, misspelt? Correct or remove it"
        );
    }
    Ok(())
}

/// What may have been meant to be the key of `app` on a node. Files are written by editors, which check no key; in a Consul
/// what is no key of intent is somebody else's.
async fn misspelt(store: &Store, app: &AppName) -> Result<Option<String>> {
    let Store::Directory(_) = store else { return Ok(None) };
    let (documents, _) = store.read(&[Prefix::everything()]).await?;
    let names_it = |key: &str| key.trim_end_matches(['/', ' ']).rsplit('/').next() == Some(app.as_str());
    Ok(documents.into_keys().find(|key| IntentKey::parse(key).is_err() && !is_reality(key) && names_it(key)))
}

/// Reads a cluster's config by itself; `None` when the store says that there is none.
///
/// # Errors
/// Also when agents refuse it.
pub async fn config(store: &Store, app: &AppName, cluster: &ClusterName) -> Result<Option<Config>> {
    let key = IntentKey::Config(app.clone(), cluster.clone()).key();
    let document = store.get(&key).await?.map(Ok);
    Ok(document.map(|document| parse(key.as_str(), Some(&document))).transpose()?)
}

fn app(name: &AppName, node: NodeDocument, deploy: DeployConfig, clusters: &Documents) -> Result<App, Invalid> {
    let key = IntentKey::Config(name.clone(), node.cluster.clone()).key();
    let config = parse::<Config>(key.as_str(), look_up(clusters, key.as_str()))?;
    let active = config.active().map_err(|error| Invalid { key: key.to_string(), reason: error.to_string() })?.cloned();
    let prep = config.versions.into_iter().filter(|(_, status)| *status == Status::Prep).map(|(version, _)| version);
    Ok(App {
        name: name.clone(),
        cluster: node.cluster,
        hold: node.hold,
        drain: node.drain,
        active,
        prep: prep.gather(),
        artifacts: config.artifacts,
        min_nodes: config.min_nodes,
        user_config: config.user_config,
        restart: config.restart,
        health: config.health,
        timeouts: Timeouts {
            stop: config.stop_seconds,
            enable: config.enable_seconds,
            disable: config.disable_seconds,
            drain: config.drain_seconds,
        },
        basedir: deploy.basedir,
        runas: deploy.runas,
        ports: deploy.ports,
        allow_setuid: deploy.allow_setuid,
        limits: deploy.limits,
    })
}

fn parse<T: Parse>(key: &str, document: Option<&Result<Document, String>>) -> Result<T, Invalid> {
    let reason = match document {
        None => NO_DOCUMENT.to_owned(),
        Some(Err(reason)) => reason.clone(),
        Some(Ok(document)) => match T::parse(&document.bytes) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => in_a_line(&format!("{error:#}")),
        },
    };
    Err(Invalid { key: key.to_owned(), reason })
}

/// Apps of which one's basedir is, or is inside, the other's: both are invalid, since each would write into the other.
fn overlaps(basedirs: &[Claim]) -> BTreeMap<AppName, Invalid> {
    let clash = |(_, key, basedir): &Claim, (with, _, other): &Claim| Invalid {
        key: key.clone(),
        reason: format!(
            "basedir {} and {with}'s, {}, overlap: give each app one of its own",
            basedir.as_str(),
            other.as_str()
        ),
    };
    let mut found = BTreeMap::new();
    for (inner, outer) in nested(basedirs, |(_, _, basedir)| basedir) {
        found.insert(inner.0.clone(), clash(inner, outer));
        found.entry(outer.0.clone()).or_insert_with(|| clash(outer, inner));
    }
    found
}

/// Each of `items` whose basedir is, or is inside, another's, with the outermost that it is inside of. Of equal ones the
/// first counts as the outer.
pub(crate) fn nested<T>(items: &[T], basedir: impl Fn(&T) -> &BaseDir) -> Vec<(&T, &T)> {
    let path = |item| basedir(item).path();
    // In the order of their components everything inside a directory follows it directly.
    let mut sorted = items.iter().collect::<Vec<_>>();
    sorted.sort_by(|a, b| path(a).components().cmp(path(b).components()));
    let (mut found, mut outer) = (Vec::new(), None);
    for inner in sorted {
        match outer {
            Some(around) if path(inner).starts_with(path(around)) => found.push((inner, around)),
            _ => outer = Some(inner),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::Revision;

    fn documents(entries: &[(&str, &str)]) -> Documents {
        let document = |text: &str| Ok(Document { bytes: text.into(), revision: Revision(String::new()) });
        entries.iter().map(|(key, text)| ((*key).to_owned(), document(text))).collect()
    }

    fn intent(entries: &[(&str, &str)]) -> NodeIntent {
        let documents = documents(entries);
        Listing::new(&"web1".parse().unwrap(), &documents).intent(&documents)
    }

    const SLUG: [(&str, &str); 3] = [
        ("nodes/web1/slug", r#"{"cluster": "dev"}"#),
        ("clusters/slug/dev/config", r#"{"versions": {"1": "prep", "2": "active"}, "min_nodes": 2}"#),
        ("clusters/slug/dev/deploy_config", r#"{"basedir": "/srv/slug"}"#),
    ];

    /// `SLUG` with one document replaced, or removed when it is `None`.
    fn with(key: &str, document: Option<&str>) -> NodeIntent {
        let mut entries = SLUG.to_vec();
        entries.retain(|(k, _)| *k != key);
        entries.extend(document.map(|document| (key, document)));
        intent(&entries)
    }

    #[test]
    fn three_documents_make_an_app() {
        let intent = intent(&SLUG);
        let app = intent.apps["slug"].as_ref().unwrap();
        assert_eq!(app.versions().map(Version::as_str).collect::<Vec<_>>(), ["2", "1"]);
        assert_eq!((app.min_nodes, app.hold, app.basedir.as_str()), (2, false, "/srv/slug"));
    }

    #[test]
    fn an_invalid_document_is_an_error_that_names_its_key() {
        for (key, _) in SLUG {
            for document in [Some(""), Some("{"), Some("[]"), Some("null"), Some("{}"), None] {
                let intent = with(key, document);
                match intent.apps.get("slug") {
                    Some(app) => assert_eq!(app.as_ref().unwrap_err().key, key, "{document:?}"),
                    None => assert!(document.is_none() && key.starts_with("nodes/"), "{key} {document:?}"),
                }
            }
        }
    }

    #[test]
    fn no_versions_and_no_active_version_are_not_the_same() {
        let none = with("clusters/slug/dev/config", Some(r#"{"versions": {}}"#));
        assert_eq!(none.apps["slug"].as_ref().unwrap().active, None);
        assert!(with("clusters/slug/dev/config", Some(r#"{"min_nodes": 1}"#)).apps["slug"].is_err());
    }

    #[test]
    fn another_nodes_apps_and_keys_that_are_no_app_are_not_ours() {
        let intent =
            intent(&[("nodes/web10/slug", r#"{"cluster": "dev"}"#), ("nodes/web1/a/b", "{}"), ("nodes/web1/.x", "{}")]);
        assert!(intent.apps.is_empty());
        assert_eq!(
            intent.strays.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(),
            ["nodes/web1/.x", "nodes/web1/a/b"]
        );
    }

    #[test]
    fn below_an_unreadable_directory_nothing_is_said_to_be_missing() {
        let mut documents = documents(&[("nodes/web1/slug", r#"{"cluster": "dev"}"#)]);
        for directory in ["nodes/web1/more/", "clusters/slug/dev/"] {
            documents.insert(directory.to_owned(), Err("permission denied".to_owned()));
        }
        let intent = Listing::new(&"web1".parse().unwrap(), &documents).intent(&documents);
        assert_eq!(intent.apps["slug"].as_ref().unwrap_err().reason, "permission denied");
        assert_eq!(intent.strays[0].reason, "permission denied");
    }

    #[test]
    fn overlapping_basedirs_make_both_apps_invalid_and_no_third() {
        let app = |name: &str, basedir: &str| {
            [
                (format!("nodes/web1/{name}"), r#"{"cluster": "dev"}"#.to_owned()),
                (format!("clusters/{name}/dev/config"), r#"{"versions": {}}"#.to_owned()),
                (format!("clusters/{name}/dev/deploy_config"), format!(r#"{{"basedir": "{basedir}"}}"#)),
            ]
        };
        type Basedirs = &'static [(&'static str, &'static str)];
        let table: [(Basedirs, &[&str]); 4] = [
            (&[("a", "/srv/a"), ("b", "/srv/a"), ("c", "/srv/c")], &["a", "b"]),
            (&[("a", "/srv/a"), ("b", "/srv/a/b/c"), ("c", "/srv/a-b")], &["a", "b"]),
            (&[("a", "/srv/a"), ("b", "/srv/ab"), ("c", "/srv/a.b")], &[]),
            (&[("a", "/srv"), ("b", "/srv/b"), ("c", "/srv/c")], &["a", "b", "c"]),
        ];
        for (apps, invalid) in table {
            let entries = apps.iter().flat_map(|(name, basedir)| app(name, basedir)).collect::<Vec<_>>();
            let entries = entries.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>();
            let intent = intent(&entries);
            let found = intent.apps.iter().filter(|(_, app)| app.is_err()).map(|(name, _)| name.as_str());
            assert_eq!(found.collect::<Vec<_>>(), invalid, "{apps:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_one_apps_documents_hold_the_others_are_as_they_were(
            noise in prop::collection::vec((0usize..3, prop::option::of(".{0,40}")), 1..4),
        ) {
            let mut entries = SLUG.to_vec();
            let other = [
                ("nodes/web1/other", r#"{"cluster": "dev"}"#),
                ("clusters/other/dev/config", r#"{"versions": {}}"#),
                ("clusters/other/dev/deploy_config", r#"{"basedir": "/srv/other"}"#),
            ];
            for (which, document) in &noise {
                entries.retain(|(key, _)| *key != other[*which].0);
                entries.extend(document.as_ref().map(|document| (other[*which].0, document.as_str())));
            }
            prop_assert_eq!(&intent(&entries).apps["slug"], &intent(&SLUG).apps["slug"]);
        }

        #[test]
        fn what_is_valid_has_at_most_one_active_version_and_safe_names(
            statuses in prop::collection::btree_map("[a-z./]{1,4}", prop::bool::ANY, 0..4),
        ) {
            let versions = statuses.iter().map(|(v, active)| format!("{v:?}: {:?}", if *active { "active" } else { "prep" }));
            let config = format!(r#"{{"versions": {{{}}}}}"#, versions.collect::<Vec<_>>().join(", "));
            let valid = statuses.keys().all(|v| crate::is_name(v)) && statuses.values().filter(|active| **active).count() < 2;
            let intent = with("clusters/slug/dev/config", Some(&config));
            prop_assert_eq!(intent.apps["slug"].is_ok(), valid, "{}", config);
        }
    }
}
