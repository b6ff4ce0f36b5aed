//! Where intent is kept, and what it says.
//!
//! [`Store`] is one small interface over two backends: Consul, and a directory of JSON files. [`intent`] turns what was
//! read into what a node shall run, by a pure function. Ensures: an answer is what the store said; that a document is
//! *absent* is only said when the store said so, never because it could not be asked. Assumes nothing about who else
//! writes: every document may be missing, torn or hostile.

mod alive;
mod bar;
pub mod check;
mod consul;
mod directory;
mod document;
mod gather;
pub mod history;
mod http;
mod instance;
pub mod intent;
pub mod lease;
mod name;
pub mod reality;
pub mod repository;
pub mod schema;

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub use alive::{ALIVE_AGAIN, ALIVE_LASTS, Life};
pub use bar::bar;
pub use consul::{Consul, Refused};
pub use directory::{Alive, Directory};
pub use document::{Document, Documents, Key, News, Prefix, Revision, Token, look_up};
pub use gather::Gather;
pub use http::http_client;
pub use instance::{Instance, InstanceCheck, REPORT_LASTS, Registered, Reports};
pub use name::{AppName, BadName, ClusterName, NodeName, Version, is_name};

/// A store of documents. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub enum Store {
    Consul(Consul),
    Directory(Directory),
}

/// What a compare-and-set expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// No document under this key yet.
    Absent,
    /// The document is still as it was when this was read.
    At(Revision),
}

/// What a `--store` names.
enum Named {
    Directory(PathBuf),
    /// By its HTTP address.
    Consul(String),
}

/// The text of a `--store`, if it names one: for command lines, where a slip is wrong usage.
pub fn store_url(text: &str) -> Result<String> {
    named(text).map(|_| text.to_owned())
}

fn named(url: &str) -> Result<Named> {
    let consul = |scheme: &str, rest: &str| {
        let host = rest.trim_start_matches('/');
        anyhow::ensure!(!host.trim_end_matches('/').contains('/'), "a path has no place behind the port of a Consul");
        Ok(Named::Consul(format!("{scheme}:{rest}")))
    };
    match url.split_once(':') {
        Some(("file", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            anyhow::ensure!(!path.is_empty(), "no path after 'file:'");
            Ok(Named::Directory(PathBuf::from(path)))
        }
        Some(("consul", rest)) => consul("http", rest),
        Some(("consul+https", rest)) => consul("https", rest),
        _ => anyhow::bail!("not a store: consul://host:8500, consul+https://host:8501 or file:path"),
    }
}

impl Store {
    /// Opens the store that `--store` names: `consul://host:8500`, `consul+https://host:8501`, `file:path`. Without
    /// one: Consul when `CONSUL_HTTP_ADDR` is set, else a developer's checkout, `file:test_data/intent`.
    ///
    /// No connection is made yet, so a store that is down is not an error here.
    pub fn open(url: Option<&str>) -> Result<Self> {
        match url {
            Some(url) => Self::open_url(url).with_context(|| format!("--store {url}")),
            None if std::env::var_os("CONSUL_HTTP_ADDR").is_some_and(|addr| !addr.is_empty()) => {
                Consul::from_environment().map(Self::Consul).context("opening the store that CONSUL_HTTP_ADDR names")
            }
            None => Ok(Self::Directory(Directory::open(PathBuf::from("test_data/intent")))),
        }
    }

    fn open_url(url: &str) -> Result<Self> {
        match named(url)? {
            Named::Directory(path) => Ok(Self::Directory(Directory::open(path))),
            Named::Consul(url) => Consul::open(&url).map(Self::Consul),
        }
    }

    /// Reads every document under `prefixes`, and the token that [`Store::wait`] takes.
    pub async fn read(&self, prefixes: &[Prefix]) -> Result<(Documents, Token)> {
        let documents = self.documents(prefixes).await?;
        let token = Token::of(prefixes, &documents);
        Ok((documents, token))
    }

    /// Reads every document under `prefixes`.
    ///
    /// On Consul one prefix costs one request, more cost one transaction per 64. Not atomic across transactions.
    /// A prefix under which nothing is found is not an error, and, on Consul, says nothing: a token without rights sees
    /// the same (see [`Store::get`]).
    pub async fn documents(&self, prefixes: &[Prefix]) -> Result<Documents> {
        match self {
            Self::Consul(consul) => consul.documents(prefixes).await,
            Self::Directory(directory) => directory.documents(prefixes).await,
        }
    }

    /// Reads as [`Store::documents`] does, and begins before all prefixes are known.
    pub(crate) fn reads(&self) -> Reads {
        match self {
            Self::Consul(consul) => Reads::Consul(consul::Reads::new(consul.clone())),
            Self::Directory(directory) => Reads::Directory(directory.clone(), Vec::new()),
        }
    }

    /// Reads one document. `None` means that the store said that it is absent; a store that refuses, is down or
    /// answers nonsense is an error.
    pub async fn get(&self, key: &Key) -> Result<Option<Document>> {
        match self {
            Self::Consul(consul) => consul.get(key).await,
            Self::Directory(directory) => directory.get(key).await,
        }
    }

    /// Writes one document, whatever was there.
    pub async fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.put(key, bytes).await,
            Self::Directory(directory) => directory.put(key, bytes).await,
        }
    }

    /// Writes one document if the store still holds what is expected; false, and nothing changed, if it does not.
    pub async fn compare_and_set(&self, key: &Key, bytes: &[u8], expected: &Expected) -> Result<bool> {
        match self {
            Self::Consul(consul) => consul.compare_and_set(key, bytes, expected).await,
            Self::Directory(directory) => directory.compare_and_set(key, bytes, expected).await,
        }
    }

    /// Deletes one document; deleting what is not there is fine.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.delete(key).await,
            Self::Directory(directory) => directory.delete(key).await,
        }
    }

    /// Deletes one document if the store still holds what was read; false, and nothing changed, if it holds another.
    /// True also when it is gone already.
    pub async fn compare_and_delete(&self, key: &Key, expected: &Revision) -> Result<bool> {
        match self {
            Self::Consul(consul) => consul.compare_and_delete(key, expected).await,
            Self::Directory(directory) => directory.compare_and_delete(key, expected).await,
        }
    }

    /// Returns once something under the token's prefixes differs from what the token was made of; at once if it does
    /// already. With what is there now, if the store said so; whatever else differs is told by the next wait. An error when
    /// the store cannot be watched: read again, after a while.
    pub async fn wait(&self, token: &Token) -> Result<Option<News>> {
        match self {
            Self::Consul(consul) => consul.wait(token).await.map(Some),
            Self::Directory(directory) => directory.wait(token).await.map(|()| None),
        }
    }
}

/// Reads under way.
pub(crate) enum Reads {
    Consul(consul::Reads),
    /// It is read once.
    Directory(Directory, Vec<Prefix>),
}

impl Reads {
    /// Also of every document under `prefix`.
    pub(crate) async fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Consul(reads) => reads.add(prefix).await,
            Self::Directory(_, prefixes) => prefixes.push(prefix),
        }
    }

    /// What is under some of the prefixes, all of it. `None` once all has come.
    pub(crate) async fn next(&mut self) -> Option<Result<Read>> {
        match self {
            Self::Consul(reads) => reads.next().await.map(|read| read.map(Read::Consul)),
            Self::Directory(_, prefixes) if prefixes.is_empty() => None,
            Self::Directory(directory, prefixes) => {
                let prefixes = std::mem::take(prefixes);
                let documents = directory.documents(&prefixes).await;
                Some(documents.map(|documents| Read::Directory(prefixes, documents)))
            }
        }
    }
}

/// What there is under some prefixes, which nobody has made sense of.
pub(crate) enum Read {
    Consul(consul::Read),
    Directory(Vec<Prefix>, Documents),
}

impl Read {
    /// The prefixes, and every document under them.
    pub(crate) fn documents(&self) -> Result<(&[Prefix], Cow<'_, Documents>)> {
        match self {
            Self::Consul(read) => read.documents().map(|(prefixes, documents)| (prefixes, Cow::Owned(documents))),
            Self::Directory(prefixes, documents) => Ok((prefixes, Cow::Borrowed(documents))),
        }
    }

    /// Where it is the same, so are the documents; of the same documents there may be several.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Consul(read) => read.fingerprint(),
            Self::Directory(_, documents) => document::fingerprint(&Prefix::everything(), documents),
        }
    }
}
