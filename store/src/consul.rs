//! Consul's key-value store and its catalog, over its HTTP API.
//!
//! Ensures: everything is read consistently, so that a server that has just become leader cannot pass off an old state
//! as the present one. A document is absent only if Consul answers a *single-key* read with 404 and an index: to a token
//! without rights a listing looks empty, and a proxy's 404 has no index. Assumes nothing of the values: keys that end in
//! `/` are folders of Consul's own UI and ignored, a null value is an empty document.

mod agents;
mod client;
mod hosts;
mod instances;
mod reads;
mod settings;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, StatusCode};

pub use self::client::Refused;
use self::client::{Answer, Client, Entry, Request, TIMEOUT};
pub(crate) use self::reads::{Read, Reads};
use self::settings::Settings;
use self::watch::Queries;
use crate::{Document, Documents, Expected, Gather, Key, News, Prefix, Revision, Token};

/// Consul as a store. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Consul {
    client: Client,
    queries: Arc<Queries>,
    wait: Duration,
}

impl Consul {
    /// How long Consul lets a query wait for a change before it answers that there was none.
    const WAIT: Duration = Duration::from_secs(60);

    /// The Consul at `http://host:port` or `https://host:port`, by default at the ports 8500 and 8501. All else is as the
    /// environment says.
    pub(crate) fn open(url: &str) -> Result<Self> {
        Self::new(&with_default_port(url)?)
    }

    /// The Consul that the `consul` command would use.
    pub(crate) fn from_environment() -> Result<Self> {
        Self::new(&std::env::var("CONSUL_HTTP_ADDR").context("CONSUL_HTTP_ADDR")?)
    }

    fn new(address: &str) -> Result<Self> {
        let settings = Settings::new(address, |name| std::env::var(name).ok())?;
        Ok(Self { client: Client::new(settings)?, queries: Arc::default(), wait: Self::WAIT })
    }

    /// Asks Consul to let queries wait for this long. Tests want less than operators.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    pub(crate) async fn documents(&self, prefixes: &[Prefix]) -> Result<Documents> {
        let everything = [Prefix::everything()];
        // A transaction takes no empty prefix, and nothing is missing from everything.
        let asked = if prefixes.contains(&everything[0]) { &everything } else { prefixes };
        let (mut reads, mut documents) = (Reads::new(self.clone()), Documents::new());
        for prefix in asked {
            reads.add(prefix.clone()).await;
        }
        while let Some(read) = reads.next().await {
            documents.append(&mut read?.documents()?.1);
        }
        Ok(documents)
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Document>> {
        let answer = self
            .client
            .send(Request {
                method: Method::GET,
                path: format!("/v1/kv/{key}?consistent"),
                body: Vec::new(),
                timeout: TIMEOUT,
                about: key.as_str(),
                rule: rule("key", key.as_str(), "read"),
            })
            .await?;
        if answer.status == StatusCode::NOT_FOUND && answer.index.is_some() {
            return Ok(None);
        }
        let entries = answer.json::<Vec<Entry<'_>>>()?;
        let [entry] = <[Entry<'_>; 1]>::try_from(entries).ok().context("Consul answered with several keys, or none")?;
        ensure!(entry.key == key.as_str(), "Consul was asked for {key} and answered with {}", entry.key);
        entry.document().map(|(_, document)| Some(document))
    }

    pub(crate) async fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let written = self.write(Method::PUT, key, "", bytes).await?;
        ensure!(written, "Consul did not write {key}");
        Ok(())
    }

    pub(crate) async fn compare_and_set(&self, key: &Key, bytes: &[u8], expected: &Expected) -> Result<bool> {
        let index = match expected {
            Expected::Absent => 0,
            Expected::At(revision) => index(revision)?,
        };
        self.write(Method::PUT, key, &format!("?cas={index}"), bytes).await
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<()> {
        let deleted = self.write(Method::DELETE, key, "", &[]).await?;
        ensure!(deleted, "Consul did not delete {key}");
        Ok(())
    }

    pub(crate) async fn compare_and_delete(&self, key: &Key, expected: &Revision) -> Result<bool> {
        self.write(Method::DELETE, key, &format!("?cas={}", index(expected)?), &[]).await
    }

    pub(crate) async fn wait(&self, token: &Token) -> Result<News> {
        watch::changed(self, token).await
    }

    async fn write(&self, method: Method, key: &Key, query: &str, bytes: &[u8]) -> Result<bool> {
        let request = Request {
            method,
            path: format!("/v1/kv/{key}{query}"),
            body: bytes.to_vec(),
            timeout: TIMEOUT,
            about: key.as_str(),
            rule: rule("key", key.as_str(), "write"),
        };
        self.client.send(request).await?.json()
    }
}

impl Entry<'_> {
    fn document(self) -> Result<(String, Document)> {
        let bytes = BASE64_STANDARD.decode(self.value.unwrap_or_default().as_bytes());
        let bytes = bytes.with_context(|| format!("Consul's answer about {} is not base64", self.key))?;
        Ok((self.key, Document { bytes, revision: Revision(self.modify_index.to_string()) }))
    }
}

/// The `ModifyIndex` that a revision is. To Consul, 0 would mean "absent".
fn index(revision: &Revision) -> Result<u64> {
    match revision.0.parse::<u64>() {
        Ok(index) if index > 0 => Ok(index),
        _ => bail!("{revision:?} is no revision of Consul's: those are numbers from 1"),
    }
}

/// The documents in the answer to a recursive read, and the index they were read at.
fn listed(answer: &Answer) -> Result<(u64, Documents)> {
    let index = indexed(answer)?;
    let entries = if answer.status == StatusCode::NOT_FOUND { Vec::new() } else { answer.json::<Vec<Entry<'_>>>()? };
    Ok((index, documents(entries)?))
}

/// The index in an answer about a prefix. 404 means that there is no key, if there is an index.
fn indexed(answer: &Answer) -> Result<u64> {
    match (answer.status, answer.index) {
        (StatusCode::OK | StatusCode::NOT_FOUND, Some(index)) => Ok(index),
        _ => Err(answer.error()),
    }
}

fn documents<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Result<Documents> {
    let entries = entries.into_iter().filter(|entry| !entry.key.ends_with('/'));
    entries.map(|entry| entry.document().map(|(key, document)| (key, Ok(document)))).try_gather()
}

fn path(prefix: &Prefix) -> String {
    format!("/v1/kv/{prefix}")
}

/// A rule of Consul's access control.
fn rule(resource: &str, name: &str, policy: &str) -> String {
    format!("{resource} \"{name}\" {{ policy = \"{policy}\" }}")
}

/// Consul's own ports, where `url` names none. The URL standard's would be 80 and 443.
fn with_default_port(url: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").context("no '//' before the host")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    let port = match (host.contains(':'), scheme) {
        (true, _) => "",
        (false, "https") => ":8501",
        (false, _) => ":8500",
    };
    Ok(format!("{scheme}://{authority}{port}/{path}").trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consuls_own_ports_are_the_default() {
        for (url, expected) in [
            ("http://consul", "http://consul:8500"),
            ("https://consul/", "https://consul:8501"),
            ("http://consul:80", "http://consul:80"),
            ("http://[::1]", "http://[::1]:8500"),
            ("http://[::1]:1/behind", "http://[::1]:1/behind"),
        ] {
            assert_eq!(with_default_port(url).unwrap(), expected);
        }
        assert!(with_default_port("http:consul").is_err());
    }
}
