//! What is to be done about one app. Pure.
//!
//! Ensures: a version that is there is never prepared again, whatever it is; the active version comes first; what intent
//! names is never removed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use store::intent::App;
use store::{AppName, Gather, Version};

use crate::prune::{Keep, UNWANTED_FOR};

/// What the directory of an app's installs holds.
pub(crate) type Names = BTreeSet<String>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// What interrupted passes left behind.
    pub(crate) remove: Vec<String>,
    /// Installs that they had set aside, and that are whole.
    pub(crate) put_back: Vec<String>,
    pub(crate) prepare: Vec<Version>,
    /// Installs that intent names no more, since when is to be noted.
    pub(crate) retire: Vec<String>,
    /// Of which it was noted, and is no longer so.
    pub(crate) recall: Vec<String>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { remove, put_back, prepare, retire, recall } = self;
        remove.is_empty() && put_back.is_empty() && prepare.is_empty() && retire.is_empty() && recall.is_empty()
    }
}

pub(crate) fn decide(app: &App, seen: &Names) -> Plan {
    // As it is nearly always.
    if *seen == wanted(app) {
        return Plan::default();
    }
    let is_whole = |name: &&str| is_install(&app.name, name) && !seen.contains(*name);
    let aside = |name: &str| name.strip_prefix(ASIDE).filter(is_whole).map(str::to_owned);
    let put_back = seen.iter().filter_map(|name| aside(name)).collect::<Vec<_>>();
    let is_missing = |name: &String| !seen.contains(name) && !put_back.contains(name);
    let missing = app.versions().filter(|version| is_missing(&install_name(&app.name, version)));
    let is_begun = |name: &str| [STAGE, DOOMED, ASIDE].iter().any(|what| name.starts_with(what));
    let is_left = |name: &&String| is_begun(name) && aside(name).is_none();
    let unwanted = unwanted(app, seen);
    let noted = seen.iter().filter_map(|name| name.strip_prefix(NOTE)).filter(|name| is_install(&app.name, name));
    Plan {
        remove: seen.iter().filter(is_left).cloned().collect(),
        prepare: missing.cloned().collect(),
        put_back: put_back.clone(),
        retire: unwanted.iter().filter(|name| !seen.contains(&note_name(name))).map(|name| (*name).to_owned()).gather(),
        recall: noted.filter(|name| !unwanted.contains(name)).map(str::to_owned).gather(),
    }
}

/// The app's installs that intent does not name. Anything of another name is somebody else's. (`slug_x_1` is the version
/// `x_1` of `slug`, and never the version `1` of a `slug_x`, since no two apps share a basedir.)
pub(crate) fn unwanted<'a>(app: &App, seen: &'a Names) -> BTreeSet<&'a str> {
    let wanted = wanted(app);
    let unwanted = seen.iter().filter(|name| is_install(&app.name, name) && !wanted.contains(*name));
    unwanted.map(String::as_str).gather()
}

/// The installs that intent names.
fn wanted(app: &App) -> Names {
    app.versions().map(|version| install_name(&app.name, version)).gather()
}

fn is_install(app: &AppName, name: &str) -> bool {
    let version = name.strip_prefix(app.as_str()).and_then(|rest| rest.strip_prefix('_'));
    version.is_some_and(|version| version.parse::<Version>().is_ok())
}

/// An install that intent names no more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unwanted {
    pub(crate) name: String,
    /// How long that has been noted.
    pub(crate) unwanted_for: Duration,
    /// When it was put there, in seconds and nanoseconds: which of two is older that intent ceased to name at once.
    pub(crate) made: (i64, i64),
    pub(crate) bytes: u64,
    /// A link in the basedir leads to it.
    pub(crate) is_linked: bool,
}

/// Which of these are to be removed, and in which order: those first that intent has not named for longest, which are the
/// least likely to be gone back to. When it was unpacked says less: what ran for a year is older than what was only tried.
pub(crate) fn prune<'a>(unwanted: &'a [Unwanted], keep: &Keep) -> Vec<&'a Unwanted> {
    let mut newest_first = unwanted.iter().filter(|one| !one.is_linked).collect::<Vec<_>>();
    newest_first.sort_by_key(|one| (one.unwanted_for, Reverse(one.made), &one.name));
    let mut bytes = 0u64;
    let fits = |one: &&&Unwanted| {
        bytes = bytes.saturating_add(one.bytes);
        keep.bytes.is_none_or(|most| bytes <= most)
    };
    let kept = newest_first.iter().take(keep.count).take_while(fits).count();
    newest_first.into_iter().skip(kept).rev().filter(|one| one.unwanted_for >= UNWANTED_FOR).collect()
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

/// What an install is called that may be about to be deleted: it is whole.
pub(crate) fn aside_name(install: &str) -> String {
    format!("{ASIDE}{install}")
}

const ASIDE: &str = ".aside-";

/// What an install is called while it is deleted.
pub(crate) fn doomed_name(install: &str) -> String {
    format!("{DOOMED}{install}")
}

const DOOMED: &str = ".prune-";

/// The file whose time says since when intent does not name an install.
pub(crate) fn note_name(install: &str) -> String {
    format!("{NOTE}{install}")
}

const NOTE: &str = ".unwanted-";

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
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
        let table: [Row; 9] = [
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
            (&versions, &[".aside-slug_1", ".prune-slug_3", "slug_2"], &["3"], &[".prune-slug_3"]),
            (&versions[..1], &[".aside-slug_1", "slug_1"], &[], &[".aside-slug_1"]),
        ];
        for (versions, seen, prepare, remove) in table {
            let plan = decide(&app("/srv/slug", versions), &seen.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(plan.prepare.iter().map(Version::as_str).collect::<Vec<_>>(), prepare, "{versions:?} {seen:?}");
            assert_eq!(plan.remove, remove, "{versions:?} {seen:?}");
        }
    }

    #[test]
    fn what_was_set_aside_and_not_begun_to_be_deleted_is_put_back() {
        let seen = [".aside-slug_0", ".aside-slug_1", "slug_1", ".prune-slug_2"].map(str::to_owned).into();
        let plan = decide(&app("/srv/slug", &[("1", "active")]), &seen);
        assert_eq!(plan.put_back, ["slug_0"]);
        assert!(!plan.is_empty());
    }

    /// Versions and their status, what is seen, whose time is noted, whose note is removed.
    #[test]
    fn what_intent_names_no_more_is_noted_and_what_it_names_again_is_not() {
        let versions = [("1", "prep"), ("2", "active")];
        let table: [Row; 6] = [
            (&versions, &["slug_0", "slug_1", "slug_2"], &["slug_0"], &[]),
            (&versions, &["slug_0", ".unwanted-slug_0", "slug_1", "slug_2"], &[], &[]),
            (&versions, &["slug_1", ".unwanted-slug_1", "slug_2"], &[], &["slug_1"]),
            (&versions[..1], &["slug_1", ".unwanted-slug_2", ".unwanted-other_1"], &[], &["slug_2"]),
            (
                &versions,
                &["slug_1", "slug_2", "slug", "slug_", "slugs_3", "other_3", "notes.txt", "slug_../x"],
                &[],
                &[],
            ),
            (&[], &["slug_1", "slug_2"], &["slug_1", "slug_2"], &[]),
        ];
        for (versions, seen, retire, recall) in table {
            let plan = decide(&app("/srv/slug", versions), &seen.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!((plan.retire, plan.recall), (strings(retire), strings(recall)), "{versions:?} {seen:?}");
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_ones_that_intent_named_last_are_kept_and_the_others_go_oldest_first() {
        // Named no more since so many minutes, put there at, bytes; `L` for a link.
        let found = |of: &[(u64, i64, u64)], linked: &[usize]| {
            let one = |(at, (minutes, made, bytes)): (usize, &(u64, i64, u64))| Unwanted {
                name: format!("slug_{at}"),
                unwanted_for: Duration::from_secs(60 * minutes),
                made: (*made, 0),
                bytes: *bytes,
                is_linked: linked.contains(&at),
            };
            of.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let four = [(40, 9, 10), (30, 0, 10), (20, 0, 10), (11, 0, 10)];
        let keep = |count, bytes| Keep { count, bytes };
        for (found, keep, removed) in [
            (found(&four, &[]), keep(3, None), &["slug_0"][..]),
            (found(&four, &[]), keep(4, None), &[]),
            (found(&four, &[]), keep(0, None), &["slug_0", "slug_1", "slug_2", "slug_3"]),
            (found(&four, &[3, 0]), keep(1, None), &["slug_1"]),
            (found(&four, &[]), keep(3, Some(20)), &["slug_0", "slug_1"]),
            (found(&four, &[]), keep(3, Some(29)), &["slug_0", "slug_1"]),
            (found(&four, &[]), keep(3, Some(0)), &["slug_0", "slug_1", "slug_2", "slug_3"]),
            (found(&four, &[]), keep(1, Some(1000)), &["slug_0", "slug_1", "slug_2"]),
            // Whoever knew of it a moment ago may be about to run it.
            (found(&[(40, 0, 10), (9, 0, 10), (0, 0, 10)], &[]), keep(0, None), &["slug_0"]),
            (found(&[(9, 0, 10), (9, 0, 10)], &[]), keep(0, Some(0)), &[]),
            // Noted at once: the older one goes.
            (found(&[(11, 7, 10), (11, 5, 10), (11, 6, 10)], &[]), keep(1, None), &["slug_1", "slug_2"]),
        ] {
            let names = prune(&found, &keep).iter().map(|one| one.name.clone()).collect::<Vec<_>>();
            assert_eq!(names, strings(removed), "{keep:?} {found:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_there_is_no_more_is_removed_than_has_to_be(
            found in prop::collection::vec((0u64..30, 0i64..3, 0u64..100, prop::bool::weighted(0.3)), 0..9),
            count in 0usize..5,
            bytes in prop::option::of(0u64..300),
        ) {
            let found = found.iter().enumerate().map(|(at, (minutes, made, bytes, is_linked))| Unwanted {
                name: format!("slug_{at}"),
                unwanted_for: Duration::from_secs(60 * minutes),
                made: (*made, 0),
                bytes: *bytes,
                is_linked: *is_linked,
            });
            let (found, keep) = (found.collect::<Vec<_>>(), Keep { count, bytes });
            let removed = prune(&found, &keep);
            prop_assert!(removed.iter().all(|one| !one.is_linked && one.unwanted_for >= UNWANTED_FOR));
            prop_assert!(removed.is_sorted_by_key(|one| Reverse(one.unwanted_for)));
            let left = found.iter().filter(|one| !removed.contains(one)).cloned().collect::<Vec<_>>();
            prop_assert!(prune(&left, &keep).is_empty(), "a further pass removes nothing");
            // What goes is never newer than what stays and could have gone.
            let stays = left.iter().filter(|one| !one.is_linked && one.unwanted_for >= UNWANTED_FOR);
            let oldest = stays.clone().map(|one| one.unwanted_for).max().unwrap_or_default();
            prop_assert!(removed.iter().all(|one| one.unwanted_for >= oldest));
            if let Some(last) = removed.last() {
                // With the newest of them back there would be too many, or too much.
                let others = left.iter().filter(|one| !one.is_linked);
                let (number, size) = others.fold((1, last.bytes), |(n, size), one| (n + 1, size + one.bytes));
                prop_assert!(number > count || bytes.is_some_and(|most| size > most));
            }
        }

        #[test]
        fn whatever_is_there_only_this_apps_installs_of_other_versions_are_unwanted(
            names in prop::collection::btree_set("(\\.stage-|\\.prune-|\\.unwanted-|\\.)?(slug|slu|other)?[_.-]?[a-z0-9._/ -]{0,4}", 0..8),
        ) {
            let app = app("/srv/slug", &[("1", "active"), ("a", "prep")]);
            for name in unwanted(&app, &names) {
                let version = name.strip_prefix("slug_").expect("it is this app's");
                prop_assert!(store::is_name(version) && !["1", "a"].contains(&version), "{}", name);
            }
        }
    }
}
