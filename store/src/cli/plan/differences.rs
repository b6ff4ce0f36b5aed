//! How one document of intent changes, in words. Pure.
//!
//! Ensures: nothing that may be secret is in them: of `user_config`, and of fields that nobody knows, it is only said that they
//! change.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::cli::change::{Action, Change};

/// Fields of which both values are said.
const TOLD: [&str; 10] = [
    "min_nodes",
    "stop_seconds",
    "enable_seconds",
    "disable_seconds",
    "drain_seconds",
    "basedir",
    "runas",
    "allow_setuid",
    "cluster",
    "restart",
];
/// The most characters of a name or a value.
const MOST: usize = 60;

/// `version 1 -> 2`, `user_config changed`: each thing that becomes another one.
pub(super) fn differences(change: &Change) -> Vec<String> {
    let (from, to) = match &change.action {
        Action::Create { .. } => return vec!["new".to_owned()],
        Action::Remove { .. } => return vec!["removed".to_owned()],
        Action::Replace { from, to } => (&from.bytes, to),
    };
    let (Some(from), Some(to)) = (object(from), object(to)) else { return vec!["rewritten".to_owned()] };
    let mut all = versions(&from, &to);
    let fields = from.keys().chain(to.keys()).filter(|field| *field != "versions").collect::<BTreeSet<_>>();
    all.extend(fields.into_iter().filter_map(|name| field(name, from.get(name), to.get(name))));
    if all.is_empty() { vec!["another layout, nothing else".to_owned()] } else { all }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

fn versions(from: &Map<String, Value>, to: &Map<String, Value>) -> Vec<String> {
    let none = Map::new();
    let of = |document| match Map::get(document, "versions") {
        Some(Value::Object(versions)) => versions.clone(),
        Some(_) | None => none.clone(),
    };
    let (from, to) = (of(from), of(to));
    let active = |versions: &Map<String, Value>| {
        versions.iter().find(|(_, status)| *status == "active").map_or("none".to_owned(), |(version, _)| short(version))
    };
    let (before, after) = (active(&from), active(&to));
    let mut all = Vec::new();
    if before != after {
        all.push(format!("version {before} -> {after}"));
    }
    let all_versions = from.keys().chain(to.keys()).collect::<BTreeSet<_>>();
    all.extend(all_versions.into_iter().filter_map(|version| match (from.get(version), to.get(version)) {
        (None, Some(status)) if status == "prep" => Some(format!("{} is to be prepared", short(version))),
        (Some(_), None) => Some(format!("{} is taken out", short(version))),
        _ => None,
    }));
    all
}

fn field(name: &str, from: Option<&Value>, to: Option<&Value>) -> Option<String> {
    if from == to {
        return None;
    }
    let is_told = TOLD.contains(&name) && [from, to].into_iter().flatten().all(|value| !value.is_object());
    Some(match (name, from, to) {
        ("hold" | "drain", _, Some(Value::Bool(true))) => format!("{name} set"),
        ("hold" | "drain", Some(Value::Bool(true)), _) => format!("{name} taken back"),
        _ if is_told => format!("{name} {} -> {}", value(from), value(to)),
        (_, None, _) => format!("{} added", short(name)),
        (_, _, None) => format!("{} removed", short(name)),
        _ => format!("{} changed", short(name)),
    })
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "unset".to_owned(),
        Some(Value::String(text)) => short(text),
        Some(other) => short(&other.to_string()),
    }
}

fn short(text: &str) -> String {
    text.chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::{Document, Key, Revision};

    use super::*;

    fn said(from: &str, to: &str) -> Vec<String> {
        let from = Document { bytes: from.into(), revision: Revision(String::new()) };
        let key = Key::parse("clusters/slug/dev/config").unwrap();
        differences(&Change { key, action: Action::Replace { from, to: to.into() } })
    }

    #[test]
    fn what_changes_is_said_but_nothing_that_may_be_secret() {
        let before = json!({
            "versions": {"0": "prep", "1": "active"}, "min_nodes": 2, "user_config": {"password": "old"}, "health": {},
            "x": "old",
        });
        let after = json!({
            "versions": {"1": "prep", "2": "active", "3": "prep"}, "min_nodes": 3, "user_config": {"password": "new"},
            "x": "new", "restart": "now", "y": "new",
        });
        let expected = [
            "version 1 -> 2",
            "0 is taken out",
            "3 is to be prepared",
            "health removed",
            "min_nodes 2 -> 3",
            "restart unset -> now",
            "user_config changed",
            "x changed",
            "y added",
        ];
        assert_eq!(said(&before.to_string(), &after.to_string()), expected);
        assert_eq!(
            said(r#"{"versions": {"1": "active"}}"#, r#"{"versions": {}}"#),
            ["version 1 -> none", "1 is taken out"]
        );
        assert_eq!(
            said(r#"{"cluster": "dev"}"#, r#"{"cluster": "live", "hold": true}"#),
            ["cluster dev -> live", "hold set"]
        );
        assert_eq!(
            said(r#"{"hold": true, "drain": true}"#, r#"{"hold": false}"#),
            ["drain taken back", "hold taken back"]
        );
    }

    #[test]
    fn whatever_the_bytes_something_is_said() {
        assert_eq!(said("{}", "{ }"), ["another layout, nothing else"]);
        assert_eq!(said("", "{}"), ["rewritten"]);
        assert_eq!(said("[]", "{}"), ["rewritten"]);
        assert_eq!(said(r#"{"versions": 1}"#, r#"{"versions": {}}"#), ["another layout, nothing else"]);
        let long = said(r#"{"runas": 1}"#, &json!({"runas": "x".repeat(1000)}).to_string());
        assert!(long[0].len() < 100, "{long:?}");
        let name = "x".repeat(1000);
        let long = said("{}", &json!({"versions": {&name: "active"}, &name: 1}).to_string());
        assert!(long.len() == 2 && long.iter().all(|how| how.len() < 100), "{long:?}");
    }
}
