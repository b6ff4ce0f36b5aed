//! Shutdown leases: which instances of a cluster are down on purpose, and which definitions have failed in it.
//!
//! All of a cluster is one document, `locks/<app>/<cluster>/shutdown`, changed only by compare-and-set. So whoever has read
//! it and then counted who passes knows, if his change is taken, that nobody else was allowed to go down in between. An
//! entry has no clock and no owning process: a node that was killed finds its own and goes on, and one that is dead is
//! not passing anyway. Assumes that whoever is not in `down` takes no healthy instance down.

mod operate;

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::{AppName, ClusterName, Document, Expected, Key, NodeName, Prefix, Store, Token, Version};
pub use operate::AllLeases;

/// The document of one cluster of an app.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct Leases {
    /// One more with each change, so that no two states of the document are the same bytes.
    pub rev: u64,
    /// Who may be down, or is.
    #[serde(default)]
    pub down: BTreeMap<NodeName, Down>,
    /// What nobody tries again, by the definition's digest.
    #[serde(default)]
    pub failed: BTreeMap<String, FailedDigest>,
}

/// One node's leave to be down.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Down {
    /// The digest of the definition that it goes to; `None` when it leaves the cluster.
    pub to: Option<String>,
    /// When it was given, in UTC: `2026-11-22T03:14:08Z`.
    pub since: String,
    pub why: String,
    /// What the store calls the host that the node is on: see [`Store::host_of`].
    pub host: String,
}

/// A definition that was not healthy in time where it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailedDigest {
    pub version: Version,
    /// Where it was tried.
    pub node: NodeName,
    pub reason: String,
    /// When it failed, in UTC.
    pub at: String,
    /// The last lines that it logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Which check it did not pass, as a hash of it: with another one it may be tried again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub check: String,
    /// When an operator said that it may be tried again. It stays until then, so that the node that tried it can tell
    /// that from a store that lost its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

impl Leases {
    /// Why nobody is to try this digest with this check, if so.
    pub fn held(&self, digest: &str, check: &str) -> Option<&FailedDigest> {
        self.failed.get(digest).filter(|failed| failed.retry.is_none() && failed.check == check)
    }

    /// Whether nobody is down and nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.down.is_empty() && self.failed.is_empty()
    }

    /// The next state, after `change`.
    #[must_use]
    pub fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        // Whoever wrote the largest number there is stops nobody.
        next.rev = next.rev.wrapping_add(1);
        change(&mut next);
        next
    }
}

/// A cluster's leases as they were read.
#[derive(Debug, Clone)]
pub struct ReadLeases {
    pub leases: Leases,
    /// What a change of them expects to find.
    pub expected: Expected,
    /// To wait for somebody else's change.
    pub token: Token,
}

/// `locks/<app>/<cluster>/shutdown`.
pub fn lease_key(app: &AppName, cluster: &ClusterName) -> Key {
    Key::from_names(&["locks", app.as_str(), cluster.as_str(), "shutdown"])
}

impl Store {
    /// Reads the leases of a cluster; none were ever given when there is no document.
    pub async fn leases(&self, app: &AppName, cluster: &ClusterName) -> Result<ReadLeases> {
        let prefix = Prefix::from_names(&["locks", app.as_str(), cluster.as_str()]);
        let (mut documents, token) = self.read(&[prefix]).await?;
        let key = lease_key(app, cluster);
        let found = match (documents.remove(key.as_str()), self) {
            // To a token without rights the listing looks like this, too: then the key itself is refused.
            (None, Self::Consul(_)) => self.get(&key).await?.map(Ok),
            (found, _) => found,
        };
        let (leases, expected) = match found {
            None => (Leases::default(), Expected::Absent),
            Some(Err(reason)) => anyhow::bail!("{key}: {reason}"),
            Some(Ok(document)) => {
                let leases = parse(key.as_str(), &document).map_err(|reason| anyhow!("{key}: {reason}"))?;
                (leases, Expected::At(document.revision))
            }
        };
        Ok(ReadLeases { leases, expected, token })
    }

    /// Writes the leases of a cluster, if they are still as they were read; false, and nothing changed, if not.
    pub async fn set_leases(
        &self,
        app: &AppName,
        cluster: &ClusterName,
        leases: &Leases,
        expected: &Expected,
    ) -> Result<bool> {
        let json = serde_json::to_vec(leases).context("writing leases as JSON")?;
        self.compare_and_set(&lease_key(app, cluster), &json, expected).await
    }
}

/// The leases that are under `key`, or why there are none, and what to do.
fn parse(key: &str, document: &Document) -> Result<Leases, String> {
    serde_json::from_slice(&document.bytes).map_err(|error| {
        format!(
            "this is not what agents write there: {error}; once no host is in the middle of a replacement, \
             `pp-store rm {key}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(text: &str) -> Result<Leases, String> {
        let key = lease_key(&"slug".parse().unwrap(), &"dev".parse().unwrap());
        parse(key.as_str(), &Document { bytes: text.into(), revision: crate::Revision("1".to_owned()) })
    }

    #[test]
    fn the_document_is_as_the_design_has_it() {
        let text = r#"{"rev": 3, "down": {"web2": {"to": "9f2c", "since": "2026-11-22T03:14:08Z", "why": "", "host": "web2"}},
            "failed": {"9f2c": {"version": "2", "node": "web1", "reason": "503", "at": "2026-11-22T03:14:08Z"}}}"#;
        let leases = leases(text).unwrap();
        assert_eq!(leases.down[&"web2".parse::<NodeName>().unwrap()].to.as_deref(), Some("9f2c"));
        assert!(leases.held("9f2c", "").is_some());
        assert!(leases.held("9f2c", "another check").is_none() && leases.held("another", "").is_none());
        let retried = leases.changed(|leases| leases.failed.get_mut("9f2c").unwrap().retry = Some("now".to_owned()));
        assert!(retried.held("9f2c", "").is_none() && retried.rev == 4);
        assert_eq!(Leases { rev: u64::MAX, ..Leases::default() }.changed(|_| {}).rev, 0);
        assert_eq!(serde_json::from_slice::<Leases>(&serde_json::to_vec(&retried).unwrap()).unwrap(), retried);
    }

    #[test]
    fn what_is_no_such_document_is_an_error_that_says_what_to_do() {
        for text in ["", "[]", "null", r#"{"rev": -1}"#, r#"{"rev": 1, "down": {"../x": {}}}"#] {
            let error = leases(text).unwrap_err();
            assert!(error.contains("pp-store rm locks/slug/dev/shutdown"), "{error}");
        }
    }
}
