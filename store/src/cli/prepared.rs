//! Which versions of an app nodes have on disk, as their preparers report.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use store::reality::{Report, reality_prefix, report_key, whose};
use store::{AppName, ClusterName, Documents, Store, Version};

/// The agent that prepares, as its reports are called.
const PREPARER: &str = "pp-preparer";
/// As many nodes as one cares to read of.
const SHOWN: usize = 10;

/// What agents report.
///
/// # Errors
/// Also where nothing is seen, and Consul does not let us see whether that is so.
pub(super) async fn reports(store: &Store) -> Result<Documents> {
    let (reports, _) = store.read(&[reality_prefix()]).await?;
    if reports.is_empty()
        && let Store::Consul(_) = store
        && let Some(probe) = report_key(&"any".parse()?, PREPARER)
    {
        // No report of ours; only a read of a single key is refused.
        store.get(&probe).await.context(
            "what nodes have prepared cannot be known without key_prefix \"reality/\" { policy = \"read\" }",
        )?;
    }
    Ok(reports)
}

/// What the nodes of one cluster have, by node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prepared(BTreeMap<String, BTreeSet<Version>>);

impl Prepared {
    /// # Errors
    /// Also where nothing is seen, and Consul does not let us see whether that is so.
    pub(super) async fn read(store: &Store, app: &AppName, cluster: &ClusterName) -> Result<Self> {
        Ok(Self::of(&reports(store).await?, app, cluster))
    }

    fn of(reports: &Documents, app: &AppName, cluster: &ClusterName) -> Self {
        let there = reports.iter().filter_map(|(key, document)| {
            let (node, _) = whose(key).filter(|(_, agent)| *agent == PREPARER)?;
            let mut report = Report::parse(document.as_ref().ok()?).ok()?;
            let ours = report.apps.remove(app)?;
            let is_of_cluster = ours.cluster.is_none_or(|named| named == *cluster);
            is_of_cluster.then(|| (node.to_string(), ours.there))
        });
        Self(there.collect())
    }

    pub(super) fn has(&self, version: &Version) -> bool {
        self.0.values().any(|there| there.contains(version))
    }

    /// `web1 has 0.1, 0.2; web2 has nothing`
    pub(super) fn line(&self) -> String {
        if self.0.is_empty() {
            return "no node's pp-preparer reports anything of it".to_owned();
        }
        let names = |there: &BTreeSet<Version>| match there.len() {
            0 => "nothing".to_owned(),
            _ => there.iter().map(Version::as_str).collect::<Vec<_>>().join(", "),
        };
        let nodes = self.0.iter().take(SHOWN).map(|(node, there)| format!("{node} has {}", names(there)));
        let rest = self.0.len().saturating_sub(SHOWN);
        let rest = (rest > 0).then(|| format!("and {rest} more nodes"));
        nodes.chain(rest).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use store::{Document, Revision};

    use super::*;

    #[test]
    fn what_preparers_of_the_cluster_report_counts_and_nothing_else() {
        let report = |cluster: &str, there: &str| {
            let text = format!(
                r#"{{"version": "1", "apps": {{"slug": {{{cluster} "state": "converged", "since": "", "there": {there}}}}}}}"#
            );
            Ok(Document { bytes: text.into_bytes(), revision: Revision(String::new()) })
        };
        let dev = r#""cluster": "dev","#;
        let reports = Documents::from([
            ("reality/web1/pp-preparer".to_owned(), report(dev, r#"["1", "2"]"#)),
            ("reality/web2/pp-preparer".to_owned(), report("", "[]")),
            ("reality/web3/pp-preparer".to_owned(), report(r#""cluster": "live","#, r#"["3"]"#)),
            ("reality/web4/pp-setlive".to_owned(), report(dev, r#"["3"]"#)),
            ("reality/web5/pp-preparer".to_owned(), Err("no permission".to_owned())),
            ("reality/web6/pp-preparer".to_owned(), report(dev, r#"["../3"]"#)),
        ]);
        let of = |app: &str| Prepared::of(&reports, &app.parse().unwrap(), &"dev".parse().unwrap());
        assert_eq!(of("slug").line(), "web1 has 1, 2; web2 has nothing");
        assert!(of("slug").has(&"2".parse().unwrap()) && !of("slug").has(&"3".parse().unwrap()));
        assert_eq!(of("other").line(), "no node's pp-preparer reports anything of it");
    }
}
