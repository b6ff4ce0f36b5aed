//! What is wrong with the documents of a store, or looks wrong. Pure.
//!
//! Ensures: each fault is one [`Finding`], under the key that has to be changed; no fault makes a second finding
//! elsewhere; an app is held on a node by what [`crate::intent`] calls invalid if and only if a finding says so in
//! [`Finding::holds`]; and nothing is called missing or unused where something could not be read. Assumes that the
//! documents are all there are under `nodes/` and `clusters/`.

mod document;
#[cfg(test)]
mod tests;
mod together;
mod twice;

use serde::Serialize;

use crate::document::{Documents, in_a_line};
use crate::repository::Repo;
use crate::schema::{Config, IntentKey, Parse, Status};
use crate::{AppName, Version};

pub use document::document;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// As the store spells it. Ends in `/` when a whole directory cannot be read.
    pub key: String,
    /// Where JSON itself is broken.
    #[serde(flatten)]
    pub position: Option<Position>,
    pub reason: String,
    /// What to do.
    pub advice: String,
    /// The keys `nodes/<node>/<app>` of the apps that agents hold as they are because of this.
    pub holds: Vec<String>,
}

/// How bad it is. In order, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Agents refuse it, or cannot do it.
    Invalid,
    /// It works, but most likely not as it was meant.
    Suspicious,
}

/// In a document's text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Finding {
    fn new(severity: Severity, key: &str, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        let (key, reason, advice) = (key.to_owned(), in_a_line(&reason.into()), advice.into());
        Self { severity, key, position: None, reason, advice, holds: Vec::new() }
    }

    pub(crate) fn invalid(key: &str, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Invalid, key, reason, advice)
    }

    pub(crate) fn suspicious(key: &str, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Suspicious, key, reason, advice)
    }

    fn holding(self, holds: Vec<String>) -> Self {
        Self { holds, ..self }
    }
}

/// Everything that is wrong with `documents`, each by itself and all of them together: the invalid first, each kind in
/// the order of the keys.
pub fn check(documents: &Documents) -> Vec<Finding> {
    let mut findings = documents.iter().flat_map(|(key, found)| document(key, found)).collect::<Vec<_>>();
    let intent = together::Intent::of(documents);
    for finding in findings.iter_mut().filter(|finding| finding.severity == Severity::Invalid) {
        finding.holds = intent.held_by(&finding.key);
    }
    findings.extend(intent.findings());
    sort(&mut findings);
    findings
}

/// The keys of cluster documents that nodes point at and that are not among `documents`: each is a finding, unless it is
/// there after all.
pub fn absent(documents: &Documents) -> Vec<String> {
    together::Intent::of(documents).absent()
}

/// Puts the worst first.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| (a.severity, &a.key, &a.reason).cmp(&(b.severity, &b.key, &b.reason)));
}

/// As many of `names` as one cares to read.
pub fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    match names.len() {
        0..=SHOWN => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}

/// A version that some cluster's config names, which an agent would fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The config's.
    pub key: String,
    pub app: AppName,
    pub version: Version,
    pub status: Status,
}

/// Every version that a valid config names, and that is to come from the hosts' repository.
pub fn versions(documents: &Documents) -> Vec<Named> {
    let configs = documents.iter().filter_map(|(key, document)| match IntentKey::parse(key) {
        Ok(IntentKey::Config(app, _)) => {
            let config = Config::parse(&document.as_ref().ok()?.bytes).ok()?;
            config.active().is_ok().then_some((key, app, config))
        }
        Ok(IntentKey::Node(..) | IntentKey::DeployConfig(..)) | Err(_) => None,
    });
    let named = configs.flat_map(|(key, app, config)| {
        let elsewhere =
            |version: &Version| config.artifacts.get(version).is_some_and(|artifact| artifact.url.is_some());
        let (versions, _) = config.versions.into_iter().partition::<Vec<_>, _>(|(version, _)| !elsewhere(version));
        versions.into_iter().map(move |(version, status)| Named { key: key.clone(), app: app.clone(), version, status })
    });
    named.collect()
}

impl Named {
    /// That `repo` says it has no such version. A host that has it already goes on; one that has not yet cannot run it.
    pub fn missing_from(&self, repo: &Repo) -> Finding {
        let artifact = repo.artifact(&self.app, &self.version);
        match self.status {
            Status::Active => Finding::invalid(
                &self.key,
                format!("the active version {} is not in the repository: there is no {artifact}", self.version),
                "put it there, or make another version active; hosts that have it already go on",
            ),
            Status::Prep => Finding::suspicious(
                &self.key,
                format!("version {} is not in the repository: there is no {artifact}", self.version),
                "put it there, or take it out of \"versions\"",
            ),
        }
    }
}
