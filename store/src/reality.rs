//! What agents say of themselves: `reality/<node>/<agent>`, one document of each agent of each node.
//!
//! Ensures: nothing here is intent, and no agent acts on what another one says: it is for people, and for what they look
//! through. A report that cannot be read is an error of that report alone, and none is larger than [`MOST_BYTES`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::document::{in_a_line, shortened};
use crate::{AppName, ClusterName, Document, Key, NodeName, Prefix, Version};

/// The most bytes that a report has as a document: every one of them is read to show a fleet.
pub const MOST_BYTES: usize = 256 * 1024;
/// The most characters of a reason.
const MOST_REASON: usize = 400;
/// The most lines of a log, and characters of each.
const MOST_LINES: usize = 10;
const MOST_LINE: usize = 200;

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
    /// Since when it is in this state, for whatever reasons: in UTC, `2026-11-22T03:14:08Z`.
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
    /// What the version that runs was started with: see [`configuration`]. Of pp-setlive alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
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

/// Names what a version is started with: eight digits, by which another configuration is told. They do not give one away, but
/// show whether a guess of it is right, as does the digest that is registered.
pub fn configuration(user_config: &Map<String, Value>, restart: Option<&str>) -> String {
    let text = serde_json::to_vec(&(user_config, restart)).expect("its keys are strings");
    format!("{:x}", Sha256::digest(text))[..8].to_owned()
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

    /// The document that this report is, within bounds: every text is one line, and short. Where all together is too much,
    /// logs go first, then what reasons are cut to; of more apps than can be told, those that are converged go.
    pub fn bytes(mut self) -> Vec<u8> {
        self.each(|app| {
            app.shorten_reason(MOST_REASON);
            let lines = app.log.split_off(app.log.len().saturating_sub(MOST_LINES));
            app.log = lines.iter().map(|line| shortened(line, MOST_LINE)).collect();
        });
        type Cut = fn(&mut Report);
        let cuts: [Cut; 6] = [
            |_| {},
            |report| report.each(|app| app.log.clear()),
            |report| report.each(|app| app.shorten_reason(MOST_REASON / 8)),
            |report| report.each(|app| app.reason = None),
            |report| report.each(|app| (app.wanted, app.there) = Default::default()),
            |report| report.apps.retain(|_, app| app.state != State::Converged),
        ];
        for cut in cuts {
            cut(&mut self);
            let bytes = serde_json::to_vec(&self).expect("names and texts are JSON");
            if bytes.len() <= MOST_BYTES {
                return bytes;
            }
        }
        loop {
            let half = self.apps.keys().nth(self.apps.len() / 2).cloned();
            drop(half.map(|half| self.apps.split_off(&half)));
            let bytes = serde_json::to_vec(&self).expect("names and texts are JSON");
            if bytes.len() <= MOST_BYTES || self.apps.is_empty() {
                return bytes;
            }
        }
    }

    fn each(&mut self, change: impl FnMut(&mut AppReport)) {
        self.apps.values_mut().chain(&mut self.host).for_each(change);
    }
}

impl AppReport {
    fn shorten_reason(&mut self, most: usize) {
        self.reason = self.reason.take().map(|reason| shortened(&reason, most));
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

    fn failing(reason: &str, log: &[String]) -> AppReport {
        AppReport {
            cluster: Some("dev".parse().unwrap()),
            state: State::Failing,
            since: "2026-11-22T03:14:08Z".to_owned(),
            reason: Some(reason.to_owned()),
            wanted: BTreeSet::from(["2".parse().unwrap()]),
            there: BTreeSet::from(["1".parse().unwrap()]),
            configuration: None,
            log: log.to_vec(),
        }
    }

    fn report(apps: usize, app: &AppReport) -> Report {
        let apps = (0..apps).map(|n| (format!("app{n}").parse().unwrap(), app.clone())).collect();
        Report { version: "0.1.0".to_owned(), apps, host: None }
    }

    fn read(bytes: Vec<u8>) -> Report {
        assert!(bytes.len() <= MOST_BYTES, "{}", bytes.len());
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn what_a_report_quotes_is_short_and_on_one_line() {
        let lines = (0..30).map(|n| format!("{n} \u{1b}[31m {}", "é".repeat(10_000))).collect::<Vec<_>>();
        let app = failing(&format!("first\nsecond\r\0 {}", "x".repeat(100_000)), &lines);
        let told = read(Report { host: Some(app.clone()), ..report(1, &app) }.bytes());
        for app in told.apps.values().chain(&told.host) {
            let reason = app.reason.as_deref().unwrap();
            assert!(reason.starts_with("first\\nsecond\\r\\u{0} xx") && reason.ends_with("xx"), "{reason}");
            assert_eq!(reason.chars().count(), 400);
            assert_eq!((app.log.len(), app.log[9].starts_with("29 \\u{1b}[31m é")), (10, true), "{:?}", app.log);
            assert!(app.log.iter().all(|line| line.chars().count() == 200 && !line.contains('\u{1b}')));
        }
        let short = report(1, &failing("503", &["no".to_owned()]));
        assert_eq!(read(short.clone().bytes()), short);
    }

    #[test]
    fn of_a_thousand_apps_that_fail_at_length_logs_go_first_and_then_reasons_are_cut() {
        let reason = |n: usize| "\"".repeat(n);
        let logs = vec!["x".repeat(200); 10];
        let told = read(report(1000, &failing("503", &logs)).bytes());
        assert!(told.apps.values().all(|app| app.log.is_empty() && app.reason.as_deref() == Some("503")));
        let told = read(report(1000, &failing(&reason(400), &logs)).bytes());
        assert!(told.apps.len() == 1000 && told.apps.values().all(|app| app.reason.as_ref().unwrap().len() >= 50));
        let told = read(report(2000, &failing(&reason(400), &logs)).bytes());
        assert!(told.apps.len() == 2000 && told.apps.values().all(|app| app.reason.is_none()));
        assert!(told.apps.values().all(|app| app.there.len() == 1));
    }

    #[test]
    fn a_report_of_however_many_apps_and_versions_is_no_error() {
        let versions = (0..1000).map(|n| format!("{n}").parse().unwrap()).collect::<BTreeSet<_>>();
        let told = read(report(1000, &AppReport { wanted: versions, ..failing("503", &[]) }).bytes());
        assert!(told.apps.len() == 1000 && told.apps.values().all(|app| app.wanted.is_empty()));
        let mut many = report(5000, &failing("503", &[]));
        let converged = AppReport { state: State::Converged, reason: None, ..failing("", &[]) };
        many.apps.extend((0..5000).map(|n| (format!("well{n}").parse().unwrap(), converged.clone())));
        let told = read(many.bytes());
        assert!(told.apps.len() >= 2000 && told.apps.keys().all(|app| app.as_str().starts_with("app")));
    }

    #[test]
    fn another_user_config_and_another_restart_are_another_configuration() {
        let of = |user_config: Value, restart| configuration(user_config.as_object().unwrap(), restart);
        let names = [
            of(serde_json::json!({}), None),
            of(serde_json::json!({"port": 80}), None),
            of(serde_json::json!({"port": 81}), None),
            of(serde_json::json!({}), Some("now")),
            of(serde_json::json!({}), Some("")),
        ];
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 5, "{names:?}");
        assert!(names.iter().all(|name| name.len() == 8));
        assert_eq!(of(serde_json::json!({"a": 1, "b": 2}), None), of(serde_json::json!({"b": 2, "a": 1}), None));
    }

    #[test]
    fn a_key_of_a_report_names_a_node_and_an_agent() {
        let web1 = "web1".parse::<NodeName>().unwrap();
        assert_eq!(report_key(&web1, "pp-setlive").unwrap().as_str(), "reality/web1/pp-setlive");
        assert_eq!(whose("reality/web1/pp-setlive"), Some((web1, "pp-setlive")));
        assert!(["reality/web1", "reality/web1/a/b", "nodes/web1/slug"].map(whose).iter().all(Option::is_none));
    }
}
