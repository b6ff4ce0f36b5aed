//! The documents of intent as people write them: which keys there are, which fields, and (in `values` and `artifact`) what
//! they take.
//!
//! The one place that says what a single document may hold; what documents mean together is [`crate::intent`].

mod artifact;
mod values;

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use anyhow::{Result, bail, ensure};
use serde::de::{DeserializeOwned, Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::document::{Key, Prefix};
use crate::name::{AppName, ClusterName, NodeName, Version};

pub(crate) use artifact::plain;
pub use artifact::{ArtifactSpec, ArtifactUrl, Sha256Digest};
pub(crate) use values::map_without_duplicates;
pub use values::{BaseDir, InstallPath, Port, PortNumber, Protocol, Seconds, UrlPath, UserName};

/// A key of intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentKey {
    /// `nodes/<node>/<app>`: this node runs this app, in that cluster.
    Node(NodeName, AppName),
    /// `clusters/<app>/<cluster>/config`: what the app's developers say.
    Config(AppName, ClusterName),
    /// `clusters/<app>/<cluster>/deploy_config`: what only the privileged may say.
    DeployConfig(AppName, ClusterName),
}

impl IntentKey {
    /// The key of intent that `key` is, or an error that lists those there are.
    pub fn parse(key: &str) -> Result<Self> {
        Ok(match key.split('/').collect::<Vec<_>>()[..] {
            ["nodes", node, app] => Self::Node(node.parse()?, app.parse()?),
            ["clusters", app, cluster, "config"] => Self::Config(app.parse()?, cluster.parse()?),
            ["clusters", app, cluster, "deploy_config"] => Self::DeployConfig(app.parse()?, cluster.parse()?),
            _ => bail!(
                "{key} is not a key of intent; those are nodes/<node>/<app>, clusters/<app>/<cluster>/config and \
                 clusters/<app>/<cluster>/deploy_config"
            ),
        })
    }

    pub fn key(&self) -> Key {
        match self {
            Self::Node(node, app) => Key::from_names(&["nodes", node.as_str(), app.as_str()]),
            Self::Config(app, cluster) => Key::from_names(&["clusters", app.as_str(), cluster.as_str(), "config"]),
            Self::DeployConfig(app, cluster) => {
                Key::from_names(&["clusters", app.as_str(), cluster.as_str(), "deploy_config"])
            }
        }
    }

    /// Checks a document for this key as every agent will. `Ok` carries the fields that nobody knows, as dotted paths:
    /// allowed, but often a slip of the pen.
    pub fn check(&self, bytes: &[u8]) -> Result<Vec<String>> {
        match self {
            Self::Node(..) => NodeDocument::parse(bytes).map(|_| unknown::<NodeDocument>(bytes)),
            Self::Config(..) => {
                Config::parse(bytes)?.active()?;
                Ok(unknown::<Config>(bytes))
            }
            Self::DeployConfig(..) => DeployConfig::parse(bytes).map(|_| unknown::<DeployConfig>(bytes)),
        }
    }
}

/// Whether `key` is where agents and `pp-store` write: no intent, and nobody's mistake.
pub(crate) fn is_reality(key: &str) -> bool {
    ["instances/", "locks/", "reality/", "history/"].iter().any(|tree| key.starts_with(tree))
}

/// All of a node's documents.
pub fn node_prefix(node: &NodeName) -> Prefix {
    Prefix::from_names(&["nodes", node.as_str()])
}

/// All documents of an app in a cluster.
pub fn cluster_prefix(app: &AppName, cluster: &ClusterName) -> Prefix {
    Prefix::from_names(&["clusters", app.as_str(), cluster.as_str()])
}

/// `nodes/<node>/<app>`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct NodeDocument {
    pub cluster: ClusterName,
    /// Leave this app on this node alone: an operator is at work on it.
    #[serde(default)]
    pub hold: bool,
    /// Run nothing of it on this node for a while, and keep all that it needs there: the host is taken away.
    #[serde(default)]
    pub drain: bool,
}

/// `clusters/<app>/<cluster>/config`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct Config {
    #[serde(deserialize_with = "versions")]
    pub versions: BTreeMap<Version, Status>,
    /// Of versions whose artifact has to be a certain one, or is not in the hosts' repository.
    #[serde(default, deserialize_with = "artifacts")]
    pub artifacts: BTreeMap<Version, ArtifactSpec>,
    /// Replacements leave at least this many instances of the cluster passing.
    #[serde(default)]
    pub min_nodes: u32,
    /// Given to the app as the file that `CONFIG_PATH` names, as it is here.
    #[serde(default, deserialize_with = "unquoted")]
    pub user_config: Map<String, Value>,
    pub health: Option<Health>,
    /// From TERM to KILL.
    #[serde(default = "Seconds::ten")]
    pub stop_seconds: Seconds,
    /// For `bin/enable`.
    #[serde(default = "Seconds::thirty")]
    pub enable_seconds: Seconds,
    /// For `bin/disable`.
    #[serde(default = "Seconds::thirty")]
    pub disable_seconds: Seconds,
    /// Between maintenance in the store and the stop, for clients that keep an address for a while.
    pub drain_seconds: Option<Seconds>,
    /// Any text; another one has every instance started anew, one after the other.
    pub restart: Option<String>,
}

fn versions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Version, Status>, D::Error> {
    map_without_duplicates(deserializer, "a map from version to \"prep\" or \"active\"")
}

/// An object. What is in its place may be secret, and what is wrong with a document is there for everybody to read.
fn unquoted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(D::Error::invalid_type(Unexpected::Other("something else"), &"a JSON object")),
    }
}

fn artifacts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Version, ArtifactSpec>, D::Error> {
    map_without_duplicates(deserializer, "a map from version to what is known of its artifact")
}

impl Config {
    /// The active version, or an error when there are several.
    pub fn active(&self) -> Result<Option<&Version>, SeveralActive> {
        let mut active = self.versions.iter().filter(|(_, status)| **status == Status::Active).map(|(v, _)| v);
        match (active.next(), active.next()) {
            (Some(one), Some(two)) => Err(SeveralActive(one.clone(), two.clone())),
            (first, _) => Ok(first),
        }
    }
}

/// Which of them is to run cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two active versions, {0} and {1}: make all but one \"prep\"")]
pub struct SeveralActive(pub Version, pub Version);

/// What is wanted of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Fetched and unpacked, not run.
    Prep,
    /// Fetched, unpacked and run.
    Active,
}

/// When a started instance counts as healthy: `{"http": {"port": 80, "path": "/health"}, "deadline_seconds": 60}`.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
#[serde(try_from = "HealthFields", into = "HealthFields")]
pub struct Health {
    pub check: Check,
    /// Between two tries.
    pub interval: Seconds,
    /// For one try.
    pub timeout: Seconds,
    /// From the start to the first passing try; then the version has failed.
    pub deadline: Seconds,
}

/// One way of asking an instance how it is. Ports are on this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Check {
    /// A GET that answers 2xx.
    Http(HttpCheck),
    /// A connection that is accepted.
    Tcp(TcpCheck),
    /// A program of the install, relative to it, that exits 0. Runs as `runas`.
    Script(InstallPath),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpCheck {
    pub port: PortNumber,
    pub path: UrlPath,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TcpCheck {
    pub port: PortNumber,
}

/// [`Health`] as it is written.
#[derive(Clone, Serialize, Deserialize)]
struct HealthFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<InstallPath>,
    #[serde(default = "Seconds::one")]
    interval_seconds: Seconds,
    #[serde(default = "Seconds::two")]
    timeout_seconds: Seconds,
    #[serde(default = "Seconds::thirty")]
    deadline_seconds: Seconds,
}

impl TryFrom<HealthFields> for Health {
    type Error = &'static str;
    fn try_from(fields: HealthFields) -> Result<Self, Self::Error> {
        let check = match (fields.http, fields.tcp, fields.script) {
            (Some(http), None, None) => Check::Http(http),
            (None, Some(tcp), None) => Check::Tcp(tcp),
            (None, None, Some(script)) => Check::Script(script),
            _ => return Err("give exactly one of \"http\", \"tcp\" and \"script\""),
        };
        Ok(Self {
            check,
            interval: fields.interval_seconds,
            timeout: fields.timeout_seconds,
            deadline: fields.deadline_seconds,
        })
    }
}

impl From<Health> for HealthFields {
    fn from(health: Health) -> Self {
        let (http, tcp, script) = match health.check {
            Check::Http(http) => (Some(http), None, None),
            Check::Tcp(tcp) => (None, Some(tcp), None),
            Check::Script(script) => (None, None, Some(script)),
        };
        Self {
            http,
            tcp,
            script,
            interval_seconds: health.interval,
            timeout_seconds: health.timeout,
            deadline_seconds: health.deadline,
        }
    }
}

/// `clusters/<app>/<cluster>/deploy_config`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct DeployConfig {
    /// Where installs, logs and configuration live: `<basedir>/installs`, `/log`, `/config`, `/current`.
    pub basedir: BaseDir,
    /// The user that the app, its hooks and its check run as; without one, the agent's own.
    pub runas: Option<UserName>,
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Files of the artifact keep a set-user-ID or set-group-ID bit: an install is root's, so that they run as root.
    #[serde(default)]
    pub allow_setuid: bool,
    #[serde(default)]
    pub limits: Limits,
}

/// What an artifact may hold at the most. The defaults leave room for every honest one, and keep a hostile one from
/// filling the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct Limits {
    /// Files, directories and links.
    pub entries: NonZeroU64,
    /// Of all files together, unpacked.
    pub total_bytes: NonZeroU64,
    /// Of one file, unpacked.
    pub file_bytes: NonZeroU64,
    /// Unpacked bytes for each compressed one, beyond the first few MiB: what is small may well be all zeros.
    pub ratio: NonZeroU64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        let limit = |number| NonZeroU64::new(number).expect("it is not zero");
        Self { entries: limit(1_000_000), total_bytes: limit(16 * GIB), file_bytes: limit(8 * GIB), ratio: limit(1000) }
    }
}

/// Documents that are parsed from the bytes that a store holds.
pub trait Parse: DeserializeOwned {
    /// As every agent parses it; an error says where, and what is wrong.
    fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.iter().all(u8::is_ascii_whitespace), "the document is empty");
        ensure!(depth(bytes) <= MOST_DEPTH, "objects and lists are nested more than {MOST_DEPTH} deep");
        // All of it at once: of bytes the parser would look at each string by itself, and at no field that nobody knows.
        let text = std::str::from_utf8(bytes).map_err(|error| NotUtf8::after(&bytes[..error.valid_up_to()]))?;
        serde_json::from_str(text).or_else(|_| Self::parse_or_say_where(text))
    }

    /// To keep track of where one is takes longer than to parse, and most documents are fine.
    fn parse_or_say_where(text: &str) -> Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let document = serde_path_to_error::deserialize(&mut json)?;
        json.end()?;
        Ok(document)
    }
}

/// Where a document holds what no text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid UTF-8 at line {line} column {column}")]
pub(crate) struct NotUtf8 {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl NotUtf8 {
    fn after(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        Self { line: lines.clone().count(), column: { lines }.next_back().map_or(0, <[u8]>::len) + 1 }
    }
}

/// Parsers stop at 128, and agents keep what a document holds inside documents of their own.
const MOST_DEPTH: usize = 64;

/// How deep JSON's objects and lists are nested in each other, or a number that is no less and not too much either.
fn depth(json: &[u8]) -> usize {
    let openings = json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if openings <= MOST_DEPTH {
        return openings;
    }
    let (mut now, mut most, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => now += 1,
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

impl Parse for NodeDocument {}
impl Parse for Config {}
impl Parse for DeployConfig {}

/// The fields of a document that nobody asks for.
fn unknown<T: Parse>(bytes: &[u8]) -> Vec<String> {
    let mut unknown = Vec::new();
    let Ok(text) = std::str::from_utf8(bytes) else { return unknown };
    let mut json = serde_json::Deserializer::from_str(text);
    // What it parses to, if it does, is known already.
    let _ = serde_ignored::deserialize::<_, _, T>(&mut json, |path| unknown.push(dotted(&path)));
    unknown
}

/// `ports[0].prot`.
fn dotted(path: &serde_ignored::Path) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent: Path::Root, key } => key.clone(),
        Path::Map { parent, key } => format!("{}.{key}", dotted(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reason(key: &str, document: &str) -> String {
        format!("{:#}", IntentKey::parse(key).unwrap().check(document.as_bytes()).expect_err(document))
    }

    const CONFIG: &str = "clusters/slug/dev/config";
    const DEPLOY: &str = "clusters/slug/dev/deploy_config";

    #[test]
    fn the_prototypes_documents_are_valid_as_they_are() {
        for (key, document) in [
            ("nodes/web1/slug", r#"{"cluster": "development"}"#),
            (CONFIG, r#"{"versions": {"0.1": "prep", "0.2": "active"}, "min_nodes": 0, "user_config": {"a": [1]}}"#),
            (CONFIG, r#"{"versions": {}}"#),
            (DEPLOY, r#"{"basedir": "/tmp/slug", "ports": [1212, 1231]}"#),
        ] {
            assert_eq!(
                IntentKey::parse(key).unwrap().check(document.as_bytes()).unwrap(),
                Vec::<String>::new(),
                "{key}"
            );
        }
    }

    #[test]
    fn every_new_field_is_understood() {
        let config = Config::parse(
            br#"{"versions": {"1": "active"}, "stop_seconds": 0.5,
                 "artifacts": {"1": {"url": "https://h/a.tar.gz"}, "2": {}},
                 "health": {"http": {"port": 80, "path": "/health?x=1"}, "interval_seconds": 0.1},
                 "restart": "2026-11-22T03:14:08Z"}"#,
        )
        .unwrap();
        assert_eq!(config.restart.as_deref(), Some("2026-11-22T03:14:08Z"));
        assert_eq!(config.artifacts["1"].url.as_ref().unwrap().get().as_str(), "https://h/a.tar.gz");
        assert_eq!(config.artifacts["1"].sha256, None);
        assert_eq!(config.stop_seconds.duration(), Duration::from_millis(500));
        assert_eq!(config.enable_seconds.duration(), Duration::from_secs(30));
        let health = config.health.unwrap();
        assert_eq!(health.deadline.duration(), Duration::from_secs(30));
        assert!(matches!(health.check, Check::Http(http) if http.port.get() == 80));
        let deploy = DeployConfig::parse(
            br#"{"basedir": "/srv/a b", "runas": "www-data",
                 "ports": [53, {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}, {"port": 1, "source": "fd00::/8"}],
                 "allow_setuid": true, "limits": {"entries": 10, "ratio": 2000}}"#,
        )
        .unwrap();
        assert_eq!(deploy.ports[1].source.unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(deploy.ports[1].protocol, Protocol::Udp);
        assert!(deploy.allow_setuid);
        assert_eq!((deploy.limits.entries.get(), deploy.limits.ratio.get()), (10, 2000));
        assert_eq!(deploy.limits.total_bytes, Limits::default().total_bytes);
    }

    #[test]
    fn without_a_word_about_it_nothing_is_set_user_id_and_artifacts_have_limits() {
        let deploy = DeployConfig::parse(br#"{"basedir": "/srv/a"}"#).unwrap();
        let Limits { entries, total_bytes, file_bytes, ratio } = deploy.limits;
        assert!(!deploy.allow_setuid);
        let limits = [entries, total_bytes, file_bytes, ratio].map(NonZeroU64::get);
        assert_eq!(limits, [1_000_000, 17_179_869_184, 8_589_934_592, 1000]);
    }

    #[test]
    fn what_is_wrong_with_a_document_is_said_in_its_own_words() {
        for (key, document, says) in [
            ("nodes/web1/slug", "", "empty"),
            ("nodes/web1/slug", " \n", "empty"),
            ("nodes/web1/slug", "{}", "missing field `cluster`"),
            ("nodes/web1/slug", r#"{"cluster": "../x"}"#, "is not a name"),
            ("nodes/web1/slug", r#"{"cluster": "a", "hold": "yes"}"#, "expected a boolean"),
            ("nodes/web1/slug", r#"{"cluster": "a", "drain": 1}"#, "expected a boolean"),
            ("nodes/web1/slug", r#"{"cluster": "a""#, "EOF"),
            (CONFIG, "[]", "expected a JSON object"),
            (CONFIG, "{}", "missing field `versions`"),
            (CONFIG, r#"{"versions": null}"#, "a map from version"),
            (CONFIG, r#"{"versions": {"1": "activ"}}"#, "unknown variant `activ`"),
            (CONFIG, r#"{"versions": {"1": "active", "2": "active"}}"#, "two active versions, 1 and 2"),
            (CONFIG, r#"{"versions": {"1": "active", "1": "prep"}}"#, "1 is there twice"),
            (CONFIG, r#"{"versions": {"/../../x": "prep"}}"#, "is not a name"),
            (CONFIG, r#"{"versions": {}, "artifacts": []}"#, "a map from version to what is known"),
            (CONFIG, r#"{"versions": {}, "artifacts": {"1": "ab"}}"#, "artifacts.1: invalid type: string"),
            (CONFIG, r#"{"versions": {}, "artifacts": {"1": {}, "1": {}}}"#, "1 is there twice"),
            (CONFIG, r#"{"versions": {}, "artifacts": {"../1": {}}}"#, "is not a name"),
            (
                CONFIG,
                r#"{"versions": {}, "artifacts": {"1": {"sha256": "abc"}}}"#,
                "artifacts.1.sha256: \"abc\" is no SHA-256",
            ),
            (CONFIG, r#"{"versions": {}, "artifacts": {"1": {"url": "file:///a"}}}"#, "artifacts.1.url: \"file:///a\""),
            (CONFIG, r#"{"versions": {}, "min_nodes": -1}"#, "min_nodes: invalid value"),
            (CONFIG, r#"{"versions": {}, "min_nodes": "3"}"#, "min_nodes: invalid type"),
            (
                CONFIG,
                r#"{"versions": {}, "user_config": "hunter2"}"#,
                "user_config: invalid type: something else, expected a JSON object",
            ),
            (CONFIG, r#"{"versions": {}, "stop_seconds": 0}"#, "stop_seconds: 0 is not a time"),
            (CONFIG, r#"{"versions": {}, "restart": true}"#, "restart: invalid type: boolean"),
            (CONFIG, r#"{"versions": {}, "health": {}}"#, "health: give exactly one of"),
            (CONFIG, r#"{"versions": {}, "health": {"http": {"port": 0, "path": "/"}}}"#, "0 is no port"),
            (CONFIG, r#"{"versions": {}, "health": {"http": {"port": 1, "path": "x"}}}"#, "URL's path"),
            (CONFIG, r#"{"versions": {}, "health": {"script": "../../bin/sh"}}"#, "path in the install"),
            (DEPLOY, "{}", "missing field `basedir`"),
            (DEPLOY, r#"{"basedir": "/"}"#, "whole host"),
            (DEPLOY, r#"{"basedir": "srv/a"}"#, "not an absolute path"),
            (DEPLOY, r#"{"basedir": "/srv//a/"}"#, r#"normal form, "/srv/a""#),
            (DEPLOY, r#"{"basedir": "/srv/./a"}"#, "normal form"),
            (DEPLOY, r#"{"basedir": "/srv/../a"}"#, r#"has a "..""#),
            (DEPLOY, "{\"basedir\": \"/srv\\na\"}", "control character"),
            (DEPLOY, r#"{"basedir": "/a", "runas": "root:x"}"#, "not a user's name"),
            (DEPLOY, r#"{"basedir": "/a", "ports": [0]}"#, "0 is no port"),
            (DEPLOY, r#"{"basedir": "/a", "ports": [70000]}"#, "ports[0]: 70000 is no port: those are 1 to 65535"),
            (
                DEPLOY,
                r#"{"basedir": "/a", "ports": ["80"]}"#,
                "ports[0]: invalid type: string \"80\", expected a port's number",
            ),
            (DEPLOY, r#"{"basedir": "/a", "ports": [{"port": 1, "source": "10.1.2.3/8"}]}"#, r#"write "10.0.0.0/8""#),
            (DEPLOY, r#"{"basedir": "/a", "allow_setuid": "no"}"#, "allow_setuid: invalid type"),
            (DEPLOY, r#"{"basedir": "/a", "limits": 3}"#, "limits: invalid type: integer `3`, expected a JSON object"),
            (DEPLOY, r#"{"basedir": "/a", "limits": {"entries": 0}}"#, "limits.entries: invalid value: integer `0`"),
            (DEPLOY, r#"{"basedir": "/a", "limits": {"ratio": -1}}"#, "limits.ratio: invalid value: integer `-1`"),
            (DEPLOY, r#"{"basedir": "/a", "limits": {"file_bytes": 0.5}}"#, "limits.file_bytes: invalid type"),
            (DEPLOY, r#"{"basedir": "/a", "limits": {"total_bytes": "8G"}}"#, "limits.total_bytes: invalid type"),
        ] {
            let reason = reason(key, document);
            assert!(reason.contains(says), "{document}: {reason}");
        }
    }

    #[test]
    fn a_document_that_agents_could_not_keep_is_refused() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"versions": {{}}, "user_config": {{"a": {open}{close}, "b": "\"[["}}}}"#)
        };
        let check = |text: String| IntentKey::parse(CONFIG).unwrap().check(text.as_bytes());
        check(nested(62)).unwrap();
        assert!(check(nested(63)).unwrap_err().to_string().contains("nested more than 64 deep"));
    }

    #[test]
    fn a_number_is_the_same_after_it_was_written_and_read_again() {
        for number in ["96.469423867157872", "1.602176634e-19", "0.1", "1e300"] {
            let value = serde_json::from_str::<Value>(number).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value, "{number}");
        }
    }

    #[test]
    fn an_unknown_field_is_allowed_and_named() {
        let check = |key: &str, document: &str| IntentKey::parse(key).unwrap().check(document.as_bytes()).unwrap();
        assert_eq!(check(CONFIG, r#"{"versions": {}, "min_node": 3}"#), ["min_node"]);
        assert_eq!(
            check(CONFIG, r#"{"versions": {}, "health": {"tcp": {"port": 1}, "dead_line": 3}}"#),
            ["health.dead_line"]
        );
        assert_eq!(
            check(CONFIG, r#"{"versions": {"1": "prep"}, "artifacts": {"1": {"sha265": "ab"}}}"#),
            ["artifacts.1.sha265"]
        );
        assert_eq!(
            check(CONFIG, r#"{"versions": {}, "health": {"http": {"port": 1, "path": "/", "host": "a"}}}"#),
            ["health.http.host"]
        );
        // It would be open to the world.
        let ports = r#"[80, {"port": 53, "sources": "10.0.0.0/8"}]"#;
        assert_eq!(check(DEPLOY, &format!(r#"{{"basedir": "/a", "ports": {ports}}}"#)), ["ports[1].sources"]);
        assert_eq!(check(DEPLOY, r#"{"basedir": "/a", "limits": {"total_byte": 1}}"#), ["limits.total_byte"]);
        let limits = r#"{"entries": 1, "total_bytes": 1, "file_bytes": 1, "ratio": 1}"#;
        let all = format!(r#"{{"basedir": "/a", "runas": "www", "allow_setuid": true, "limits": {limits}}}"#);
        assert_eq!(check(DEPLOY, &all), [""; 0]);
    }

    #[test]
    fn only_the_three_kinds_of_key_are_intent() {
        for bad in [
            "nodes/web1",
            "nodes/web1/a/b",
            "nodes/../a",
            "clusters/a/b/c",
            "clusters/a/b/config/",
            "locks/a/b/shutdown",
        ] {
            assert!(IntentKey::parse(bad).is_err(), "{bad}");
        }
        let key = "clusters/slug/dev/deploy_config";
        assert_eq!(IntentKey::parse(key).unwrap().key().as_str(), key);
    }
}
