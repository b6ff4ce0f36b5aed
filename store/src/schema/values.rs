//! The values that fields take, each a type that holds nothing else: what is wrong is found where it is read.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::path::{Component, Path};
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::is_name;

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

/// A positive number of seconds, at most a day; fractions are fine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Seconds(f64);

impl Seconds {
    const MOST: f64 = 86_400.0;

    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }

    pub(super) fn one() -> Self {
        Self(1.0)
    }
    pub(super) fn two() -> Self {
        Self(2.0)
    }
    pub(super) fn ten() -> Self {
        Self(10.0)
    }
    pub(super) fn thirty() -> Self {
        Self(30.0)
    }
}

/// Of those that are equal it is the same: they are no zeros, and all of them are numbers.
impl Hash for Seconds {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
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
        let is_normal = |names: &str| names.split('/').all(|name| !matches!(name, "" | "." | ".."));
        let is_good = text.strip_prefix('/').is_some_and(is_normal) && !text.chars().any(char::is_control);
        if is_good {
            return Ok(());
        }
        match text {
            "/" => Err("basedir \"/\" would be the whole host".to_owned()),
            _ if !text.starts_with('/') => Err(format!("basedir {text:?} is not an absolute path")),
            _ if text.chars().any(char::is_control) => Err(format!("basedir {text:?} holds a control character")),
            _ => match normal_path(text) {
                Some(normal) => Err(format!("basedir {text:?} is not in its normal form, {normal:?}")),
                None => Err(format!("basedir {text:?} has a \"..\" in it")),
            },
        }
    }
);

pub(super) use checked_string;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u16")]
pub struct PortNumber(u16);

impl PortNumber {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for PortNumber {
    type Error = String;
    fn try_from(port: i64) -> Result<Self, Self::Error> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self(port)),
            Ok(_) | Err(_) => Err(format!("{port} is no port: those are 1 to 65535")),
        }
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
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port's number, or an object with \"port\"")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
                let port = PortNumber::deserialize(number.into_deserializer())?;
                Ok(Port { port: port.get(), protocol: Protocol::Tcp, source: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Port, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(fields))?;
                let source = long.source.map(|text| canonical_network(&text)).transpose().map_err(A::Error::custom)?;
                Ok(Port { port: long.port.get(), protocol: long.protocol, source })
            }
        }
        deserializer.deserialize_any(Either)
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
pub(crate) fn map_without_duplicates<'de, D, K, V>(
    deserializer: D,
    expecting: &'static str,
) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct Once<K, V>(&'static str, PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> Visitor<'de> for Once<K, V> {
        type Value = BTreeMap<K, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
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
    deserializer.deserialize_map(Once(expecting, PhantomData))
}
