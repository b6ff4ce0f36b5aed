//! Findings as operators read them.

use serde_json::{Value, json};
use store::Store;
use store::check::{Finding, Position, Severity, some_of};

/// `key: reason; what to do`, with the place in the file where JSON breaks, and what is held because of it.
pub(super) fn line(store: &Store, finding: &Finding) -> String {
    let place = match (finding.position, file(store, finding)) {
        (Some(Position { line, column }), Some(file)) => format!("{file}:{line}:{column}: "),
        (Some(Position { line, column }), None) => format!("line {line}, column {column}: "),
        (None, _) => String::new(),
    };
    let held = match &finding.holds[..] {
        [] => String::new(),
        keys => {
            let keys = keys.iter().map(String::as_str).collect::<Vec<_>>();
            format!("; until then held as it is: {}", some_of(&keys))
        }
    };
    format!("{}: {place}{}: {}; {}{held}", finding.key, severity(finding), finding.reason, finding.advice)
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Invalid => "invalid",
        Severity::Suspicious => "suspicious",
    }
}

/// As `--help` describes it.
pub(super) fn json(store: &Store, finding: &Finding) -> Value {
    let mut value = json!(finding);
    if let Some(file) = file(store, finding) {
        value["file"] = file.into();
    }
    value
}

/// Where an editor finds the document.
fn file(store: &Store, finding: &Finding) -> Option<String> {
    match store {
        Store::Directory(directory) => Some(directory.file(&finding.key).display().to_string()),
        Store::Consul(_) => None,
    }
}
