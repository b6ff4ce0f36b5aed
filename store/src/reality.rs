//! What agents say of themselves: `reality/<node>/<agent>`, one document of each agent of each node.
//!
//! Ensures: nothing here is intent, and no agent acts on what another one says: it is for people, and for what they look
//! through. A report that cannot be read is an error of that report alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::document::in_a_line;
use crate::{AppName, ClusterName, Document, Key, NodeName, Prefix, Version};

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct Report {
    /// Of the agent itself.
    pub version: String,
    #[serde(default)]
    pub apps: BTreeMap<AppName, AppReport>,
    /// Of what all apps come to together, as a packet filter does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<AppReport>,
}

/// What one agent says of one app on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct AppReport {
    /// In which intent has the app, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    pub state: State,
    /// Since when it is in this state, for this reason: in UTC, `2026-11-22T03:14:08Z`.
    pub since: String,
    /// In a sentence; of an app that is converged, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What this agent is to have there: of pp-preparer every version that intent names, of pp-setlive the active one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wanted: BTreeSet<Version>,
    /// What is there: of pp-preparer the installs, of pp-setlive the version that runs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub there: BTreeSet<Version>,
    /// The last lines that a version logged that would not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// How far an agent is with an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is as intent wants it.
    Converged,
    /// At work on it.
    Converging,
    /// Somebody else has something to do first.
    Waiting,
    /// Left as it is: an operator says so, or what intent says is not known or makes no sense.
    Held,
    /// Tried again and again.
    Failing,
}

/// `reality/`, under which all reports are.
pub fn reality_prefix() -> Prefix {
    Prefix::from_names(&["reality"])
}

/// `reality/<node>/<agent>`. `None` where the agent's name cannot be a part of a key.
pub fn report_key(node: &NodeName, agent: &str) -> Option<Key> {
    Key::parse(&format!("reality/{node}/{agent}")).ok()
}

/// Whose report is under this key: the node's, and the agent's name. `None` of what is no report.
pub fn whose(key: &str) -> Option<(NodeName, &str)> {
    let (node, agent) = key.strip_prefix("reality/")?.split_once('/')?;
    (!agent.contains('/')).then_some((node.parse().ok()?, agent))
}

impl Report {
    /// The report that a document is, or why it is none.
    pub fn parse(document: &Document) -> Result<Self, String> {
        serde_json::from_slice(&document.bytes)
            .map_err(|error| in_a_line(&format!("this is no report of an agent: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written_and_says_nothing_that_is_empty() {
        let text = r#"{"version":"0.1.0","apps":{"slug":{"cluster":"dev","state":"failing","since":"2026-11-22T03:14:08Z","reason":"503","wanted":["2"],"there":["1"],"log":["no"]},"two":{"state":"converged","since":"2026-11-22T03:14:08Z"}}}"#;
        let document = Document { bytes: text.into(), revision: crate::Revision("1".to_owned()) };
        assert_eq!(serde_json::to_string(&Report::parse(&document).unwrap()).unwrap(), text);
        let broken = Document { bytes: b"[]".into(), ..document };
        assert!(Report::parse(&broken).unwrap_err().starts_with("this is no report"));
    }

    #[test]
    fn a_key_of_a_report_names_a_node_and_an_agent() {
        let web1 = "web1".parse::<NodeName>().unwrap();
        assert_eq!(report_key(&web1, "pp-setlive").unwrap().as_str(), "reality/web1/pp-setlive");
        assert_eq!(whose("reality/web1/pp-setlive"), Some((web1, "pp-setlive")));
        assert!(["reality/web1", "reality/web1/a/b", "nodes/web1/slug"].map(whose).iter().all(Option::is_none));
    }
}
