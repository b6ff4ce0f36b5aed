//! What is to be done about one app. Pure.
//!
//! Ensures: a version that is there is never prepared again, whatever it is; the active version comes first.

use std::collections::BTreeSet;

use store::intent::App;
use store::{AppName, Version};

/// What the directory of an app's installs holds.
pub(crate) type Names = BTreeSet<String>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// What interrupted passes left behind.
    pub(crate) remove: Vec<String>,
    pub(crate) prepare: Vec<Version>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { remove, prepare } = self;
        remove.is_empty() && prepare.is_empty()
    }
}

pub(crate) fn decide(app: &App, seen: &Names) -> Plan {
    let missing = app.versions().filter(|version| !seen.contains(&install_name(&app.name, version)));
    Plan {
        remove: seen.iter().filter(|name| name.starts_with(STAGE)).cloned().collect(),
        prepare: missing.cloned().collect(),
    }
}

/// `slug_0.2`.
pub(crate) fn install_name(app: &AppName, version: &Version) -> String {
    format!("{app}_{version}")
}

/// Where an install is unpacked: beside its place, under a name that no install can have.
pub(crate) fn stage_name(install: &str) -> String {
    format!("{STAGE}{install}")
}

const STAGE: &str = ".stage-";

#[cfg(test)]
pub(crate) mod tests {
    use store::intent::Listing;
    use store::{Document, Revision};

    use super::*;

    /// The app `slug` under `basedir`, with these versions.
    pub(crate) fn app(basedir: &str, versions: &[(&str, &str)]) -> App {
        let versions = versions.iter().map(|(v, status)| format!("{v:?}: {status:?}")).collect::<Vec<_>>().join(", ");
        let documents = [
            ("nodes/web1/slug", r#"{"cluster": "dev"}"#.to_owned()),
            ("clusters/slug/dev/config", format!(r#"{{"versions": {{{versions}}}}}"#)),
            ("clusters/slug/dev/deploy_config", format!(r#"{{"basedir": {basedir:?}}}"#)),
        ];
        let document = |text: String| Ok(Document { bytes: text.into(), revision: Revision(String::new()) });
        let documents = documents.into_iter().map(|(key, text)| (key.to_owned(), document(text))).collect();
        let intent = Listing::new(&"web1".parse().unwrap(), &documents).intent(&documents);
        intent.apps["slug"].as_ref().unwrap().as_ref().clone()
    }

    /// Versions and their status, what is seen, what is prepared, what is removed.
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn what_intent_names_and_the_host_lacks_is_prepared_and_nothing_else_touched() {
        let versions = [("1", "prep"), ("2", "active"), ("3", "prep")];
        let table: [Row; 7] = [
            (&versions, &[], &["2", "1", "3"], &[]),
            (&versions, &["slug_2"], &["1", "3"], &[]),
            (&versions, &["slug_1", "slug_2", "slug_3", ".lock"], &[], &[]),
            (&versions[..1], &["slug_0", "slug_1", "slug_2", "notes.txt"], &[], &[]),
            (&[], &["slug_1"], &[], &[]),
            (
                &versions,
                &[".stage-slug_2", ".stage-slug_9", "slug_1"],
                &["2", "3"],
                &[".stage-slug_2", ".stage-slug_9"],
            ),
            (&versions[..1], &["slug_1", ".stage-slug_1"], &[], &[".stage-slug_1"]),
        ];
        for (versions, seen, prepare, remove) in table {
            let plan = decide(&app("/srv/slug", versions), &seen.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(plan.prepare.iter().map(Version::as_str).collect::<Vec<_>>(), prepare, "{versions:?} {seen:?}");
            assert_eq!(plan.remove, remove, "{versions:?} {seen:?}");
        }
    }
}
