//! The documents of intent as people write them: which keys there are, which fields, and which values they take.
//!
//! The one place that says what a single document may hold; what documents mean together is [`crate::intent`].

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Component, Path};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::document::{Key, Prefix};
use crate::name::{AppName, ClusterName, NodeName, Version, is_name};

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
        Ok(match self {
            Self::Node(..) => NodeDocument::parse(bytes)?.unknown.names(""),
            Self::Config(..) => {
                let config = Config::parse(bytes)?;
                config.active()?;
                let health = config.health.map(|health| health.unknown.names("health."));
                [config.unknown.names(""), health.unwrap_or_default()].concat()
            }
            Self::DeployConfig(..) => DeployConfig::parse(bytes)?.unknown.names(""),
        })
    }
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
pub struct NodeDocument {
    pub cluster: ClusterName,
    /// Leave this app on this node alone: an operator is at work on it.
    #[serde(default)]
    pub hold: bool,
    #[serde(flatten)]
    unknown: Unknown,
}

/// `clusters/<app>/<cluster>/config`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    #[serde(deserialize_with = "map_without_duplicates")]
    pub versions: BTreeMap<Version, Status>,
    /// Replacements leave at least this many instances of the cluster passing.
    #[serde(default)]
    pub min_nodes: u32,
    /// Given to the app as the file that `CONFIG_PATH` names, as it is here.
    #[serde(default)]
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
    #[serde(flatten)]
    unknown: Unknown,
}

impl Config {
    /// The active version, or an error when there are several.
    pub fn active(&self) -> Result<Option<&Version>> {
        let mut active = self.versions.iter().filter(|(_, status)| **status == Status::Active).map(|(v, _)| v);
        match (active.next(), active.next()) {
            (Some(one), Some(two)) => bail!("two active versions, {one} and {two}: make all but one \"prep\""),
            (first, _) => Ok(first),
        }
    }
}

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "HealthFields", into = "HealthFields")]
pub struct Health {
    pub check: Check,
    /// Between two tries.
    pub interval: Seconds,
    /// For one try.
    pub timeout: Seconds,
    /// From the start to the first passing try; then the version has failed.
    pub deadline: Seconds,
    unknown: Unknown,
}

/// One way of asking an instance how it is. Ports are on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A GET that answers 2xx.
    Http(HttpCheck),
    /// A connection that is accepted.
    Tcp(TcpCheck),
    /// A program of the install, relative to it, that exits 0. Runs as `runas`.
    Script(InstallPath),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    pub port: PortNumber,
    pub path: UrlPath,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(flatten)]
    unknown: Unknown,
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
            unknown: fields.unknown,
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
            unknown: health.unknown,
        }
    }
}

/// `clusters/<app>/<cluster>/deploy_config`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DeployConfig {
    /// Where installs, logs and configuration live: `<basedir>/installs`, `/log`, `/config`, `/current`.
    pub basedir: BaseDir,
    /// The user that the app, its hooks and its check run as; without one, the agent's own.
    pub runas: Option<UserName>,
    #[serde(default)]
    pub ports: Vec<Port>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// A port that the packet filter lets through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub port: u16,
    pub protocol: Protocol,
    /// From where; `None` is from anywhere.
    pub source: Option<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// Documents that are parsed from the bytes that a store holds.
pub(crate) trait Parse: DeserializeOwned {
    fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.iter().all(u8::is_ascii_whitespace), "the document is empty");
        ensure!(depth(bytes) <= MOST_DEPTH, "objects and lists are nested more than {MOST_DEPTH} deep");
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let document = serde_path_to_error::deserialize(&mut json)?;
        json.end()?;
        Ok(document)
    }
}
/// Parsers stop at 128, and agents keep what a document holds inside documents of their own.
const MOST_DEPTH: usize = 64;

/// How deep JSON's objects and lists are nested in each other.
fn depth(json: &[u8]) -> usize {
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

/// The fields of an object that nobody asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Unknown(Map<String, Value>);

impl Unknown {
    fn names(&self, path: &str) -> Vec<String> {
        self.0.keys().map(|name| format!("{path}{name}")).collect()
    }
}

/// A positive number of seconds, at most a day; fractions are fine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Seconds(f64);

impl Seconds {
    const MOST: f64 = 86_400.0;

    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }

    fn one() -> Self {
        Self(1.0)
    }
    fn two() -> Self {
        Self(2.0)
    }
    fn ten() -> Self {
        Self(10.0)
    }
    fn thirty() -> Self {
        Self(30.0)
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;
    fn try_from(seconds: f64) -> Result<Self, String> {
        if seconds > 0.0 && seconds <= Self::MOST {
            Ok(Self(seconds))
        } else {
            Err(format!("{seconds} is not a time in seconds: more than 0, at most {}", Self::MOST))
        }
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> f64 {
        seconds.0
    }
}

/// A string that some rule has accepted: the types below differ only in their rule.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                let rule: fn(&str) -> Result<(), String> = $rule;
                rule(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(checked: $name) -> String {
                checked.0
            }
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_string!(
    /// An absolute, normal path that is not `/`.
    BaseDir,
    |text| {
        let normal = normal_path(text);
        match text {
            "/" => Err("basedir \"/\" would be the whole host".to_owned()),
            _ if !text.starts_with('/') => Err(format!("basedir {text:?} is not an absolute path")),
            _ if text.chars().any(char::is_control) => Err(format!("basedir {text:?} holds a control character")),
            _ => match normal {
                Some(normal) if normal == text => Ok(()),
                Some(normal) => Err(format!("basedir {text:?} is not in its normal form, {normal:?}")),
                None => Err(format!("basedir {text:?} has a \"..\" in it")),
            },
        }
    }
);

impl BaseDir {
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

checked_string!(
    /// The name of a user of the host.
    UserName,
    |text| {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good = text.starts_with(first) && text.len() <= 32 && text.chars().all(rest);
        if good { Ok(()) } else { Err(format!("runas {text:?} is not a user's name")) }
    }
);

checked_string!(
    /// A path below the install, such as `bin/check`.
    InstallPath,
    |text| {
        let good = !text.is_empty() && text.split('/').all(is_name);
        if good { Ok(()) } else { Err(format!("{text:?} is not a path in the install, such as \"bin/check\"")) }
    }
);

checked_string!(
    /// The path and query of a URL.
    UrlPath,
    |text| {
        let good = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic());
        if good { Ok(()) } else { Err(format!("{text:?} is not a URL's path: it starts with '/', without spaces")) }
    }
);

/// 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PortNumber(u16);

impl PortNumber {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for PortNumber {
    type Error = &'static str;
    fn try_from(port: u16) -> Result<Self, Self::Error> {
        if port == 0 { Err("port 0 is no port") } else { Ok(Self(port)) }
    }
}

impl From<PortNumber> for u16 {
    fn from(port: PortNumber) -> u16 {
        port.0
    }
}

/// `path` without repeated and trailing slashes and `.`; `None` when it has a `..`, whose meaning the disk decides.
fn normal_path(path: &str) -> Option<String> {
    let mut normal = String::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => {
                normal.push('/');
                normal.push_str(name.to_str()?);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// A port is a number, or `{"port", "protocol", "source"}`.
impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Long {
            port: PortNumber,
            #[serde(default)]
            protocol: Protocol,
            source: Option<String>,
        }
        let value = Value::deserialize(deserializer)?;
        if value.is_number() {
            let port = PortNumber::deserialize(value).map_err(D::Error::custom)?;
            return Ok(Self { port: port.get(), protocol: Protocol::Tcp, source: None });
        }
        if !value.is_object() {
            return Err(D::Error::custom("give a port's number, or an object with \"port\""));
        }
        let long = Long::deserialize(value).map_err(D::Error::custom)?;
        let source = long.source.map(|text| canonical_network(&text)).transpose().map_err(D::Error::custom)?;
        Ok(Self { port: long.port.get(), protocol: long.protocol, source })
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({"port": self.port, "protocol": self.protocol, "source": self.source.map(|s| s.to_string())})
            .serialize(serializer)
    }
}

/// Refuses `10.1.2.3/8`: the packet filter would hold `10.0.0.0/8`, and nobody could tell whether that was meant.
fn canonical_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().map_err(|_| format!("source {text:?} is not a network such as 10.0.0.0/8"))?;
    let canonical = network.trunc().to_string();
    if canonical == text { Ok(network) } else { Err(format!("source {text:?} is not canonical: write {canonical:?}")) }
}

/// A map that names each key once. JSON lets a key stand twice, and which one counts would be chance.
fn map_without_duplicates<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct Once<K, V>(PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> Visitor<'de> for Once<K, V> {
        type Value = BTreeMap<K, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map from version to \"prep\" or \"active\"")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<K>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("{key} is there twice")));
                }
                map.insert(key, access.next_value()?);
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Once(PhantomData))
}

#[cfg(test)]
mod tests {
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
                 "health": {"http": {"port": 80, "path": "/health?x=1"}, "interval_seconds": 0.1}}"#,
        )
        .unwrap();
        assert_eq!(config.stop_seconds.duration(), Duration::from_millis(500));
        assert_eq!(config.enable_seconds.duration(), Duration::from_secs(30));
        let health = config.health.unwrap();
        assert_eq!(health.deadline.duration(), Duration::from_secs(30));
        assert!(matches!(health.check, Check::Http(http) if http.port.get() == 80));
        let deploy = DeployConfig::parse(
            br#"{"basedir": "/srv/a b", "runas": "www-data",
                 "ports": [53, {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}, {"port": 1, "source": "fd00::/8"}]}"#,
        )
        .unwrap();
        assert_eq!(deploy.ports[1].source.unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(deploy.ports[1].protocol, Protocol::Udp);
    }

    #[test]
    fn what_is_wrong_with_a_document_is_said_in_its_own_words() {
        for (key, document, says) in [
            ("nodes/web1/slug", "", "empty"),
            ("nodes/web1/slug", " \n", "empty"),
            ("nodes/web1/slug", "{}", "missing field `cluster`"),
            ("nodes/web1/slug", r#"{"cluster": "../x"}"#, "is not a name"),
            ("nodes/web1/slug", r#"{"cluster": "a", "hold": "yes"}"#, "expected a boolean"),
            ("nodes/web1/slug", r#"{"cluster": "a""#, "EOF"),
            (CONFIG, "[]", "expected struct Config"),
            (CONFIG, "{}", "missing field `versions`"),
            (CONFIG, r#"{"versions": null}"#, "a map from version"),
            (CONFIG, r#"{"versions": {"1": "activ"}}"#, "unknown variant `activ`"),
            (CONFIG, r#"{"versions": {"1": "active", "2": "active"}}"#, "two active versions, 1 and 2"),
            (CONFIG, r#"{"versions": {"1": "active", "1": "prep"}}"#, "1 is there twice"),
            (CONFIG, r#"{"versions": {"/../../x": "prep"}}"#, "is not a name"),
            (CONFIG, r#"{"versions": {}, "min_nodes": -1}"#, "min_nodes: invalid value"),
            (CONFIG, r#"{"versions": {}, "min_nodes": "3"}"#, "min_nodes: invalid type"),
            (CONFIG, r#"{"versions": {}, "user_config": 3}"#, "user_config: invalid type"),
            (CONFIG, r#"{"versions": {}, "stop_seconds": 0}"#, "stop_seconds: 0 is not a time"),
            (CONFIG, r#"{"versions": {}, "health": {}}"#, "health: give exactly one of"),
            (CONFIG, r#"{"versions": {}, "health": {"http": {"port": 0, "path": "/"}}}"#, "port 0"),
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
            (DEPLOY, r#"{"basedir": "/a", "ports": [0]}"#, "port 0"),
            (DEPLOY, r#"{"basedir": "/a", "ports": [70000]}"#, "ports[0]: invalid value: integer `70000`"),
            (DEPLOY, r#"{"basedir": "/a", "ports": ["80"]}"#, "ports[0]: give a port's number"),
            (DEPLOY, r#"{"basedir": "/a", "ports": [{"port": 1, "source": "10.1.2.3/8"}]}"#, r#"write "10.0.0.0/8""#),
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
