//! Leases as operators look at them and change them.
//!
//! Ensures: that there is no document is only said when the store said so by a read of the one key, which a listing does
//! not do; a change is made to what it was decided on, or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{Leases, lease_key, parse};
use crate::{AppName, ClusterName, Expected, Gather, Key, Prefix, Revision, Store};

/// How often a change is decided on anew when somebody else was faster.
const TRIES: u32 = 10;
/// Between two tries, at the most.
const PAUSE: Duration = Duration::from_millis(50);

/// The leases of some clusters, or why they cannot be known and what to do, by their keys. A key that ends in `/` stands
/// for all below it.
pub type AllLeases = BTreeMap<String, Result<(AppName, ClusterName, Leases), String>>;

impl Store {
    /// Reads the leases of every cluster that has a document.
    ///
    /// # Errors
    /// Also when nothing is seen, and Consul does not let us see whether that is so.
    pub async fn all_leases(&self) -> Result<AllLeases> {
        let (documents, _) = self.read(&[Prefix::from_names(&["locks"])]).await?;
        if documents.is_empty() && matches!(self, Self::Consul(_)) {
            // No document of ours; only a read of a single key is refused.
            self.get(&Key::from_names(&["locks", "any", "any", "shutdown"])).await.context(
                "whether there is anything under locks/ cannot be known without key_prefix \"locks/\" { policy = \"read\" }",
            )?;
        }
        let leases = documents.into_iter().filter_map(|(key, document)| {
            let names = names(&key);
            let leases = match (names, document) {
                (Some((app, cluster)), Ok(document)) => parse(&key, &document).map(|leases| (app, cluster, leases)),
                (Some(_), Err(reason)) => Err(format!("{reason}; make it readable")),
                (None, Err(reason)) if key.ends_with('/') => Err(format!("{reason}; make it readable")),
                (None, Ok(_) | Err(_)) => return None,
            };
            Some((key, leases))
        });
        Ok(leases.gather())
    }

    /// Reads the leases of one cluster, if there is a document.
    pub async fn one_clusters_leases(
        &self,
        app: &AppName,
        cluster: &ClusterName,
    ) -> Result<Option<(Leases, Revision)>> {
        let key = lease_key(app, cluster);
        let Some(document) = self.get(&key).await? else { return Ok(None) };
        let leases = parse(key.as_str(), &document).map_err(|reason| anyhow!("{key}: {reason}"))?;
        Ok(Some((leases, document.revision)))
    }

    /// Decides on a change of a cluster's leases and makes it; again from the start when somebody else was faster, and
    /// `None` when that was so each time. Without a document it decides on leases that nobody was ever given; `None` in
    /// place of new leases changes nothing.
    pub async fn change_leases<T>(
        &self,
        app: &AppName,
        cluster: &ClusterName,
        mut decide: impl AsyncFnMut(&Leases) -> Result<(Option<Leases>, T)>,
    ) -> Result<Option<T>> {
        for _ in 0..TRIES {
            let (leases, expected) = match self.one_clusters_leases(app, cluster).await? {
                Some((leases, revision)) => (leases, Expected::At(revision)),
                None => (Leases::default(), Expected::Absent),
            };
            let (next, outcome) = decide(&leases).await?;
            match next {
                None => return Ok(Some(outcome)),
                Some(next) if self.set_leases(app, cluster, &next, &expected).await? => return Ok(Some(outcome)),
                Some(_) => tokio::time::sleep(PAUSE.mul_f64(fastrand::f64())).await,
            }
        }
        Ok(None)
    }
}

/// App and cluster, if `key` is one of leases.
fn names(key: &str) -> Option<(AppName, ClusterName)> {
    match key.split('/').collect::<Vec<_>>()[..] {
        ["locks", app, cluster, "shutdown"] => Some((app.parse().ok()?, cluster.parse().ok()?)),
        _ => None,
    }
}
