//! What becomes of installs that intent names no more.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::support::{converge, file, intend, names};
use fixtures::{Behaviour, Host, Pass, SOON, differences, eventually, pass};
use serde_json::{Value, json};

/// A host on which `slug` was prepared in these versions, each of some 600 kB, of which intent names the last one only by now.
fn host(versions: &[&str]) -> Host {
    let host = Host::without_runit();
    for version in versions {
        host.repo.artifact("slug", version, |archive| file(archive, "data", &vec![b'x'; 600_000]));
        intend(&host, "slug", &json!({*version: "active"}));
        assert!(pruning(&host, &["--keep", "9"]).ok);
    }
    host
}

fn installs(host: &Host) -> PathBuf {
    host.path("srv/slug/installs")
}

fn pruning(host: &Host, flags: &[&str]) -> Pass {
    pass(host.preparer().arg("--once").args(flags))
}

/// Has it be so many minutes ago that intent ceased to name these, the first one last.
fn age(host: &Host, minutes: u64, versions: &[&str]) {
    for (after, version) in versions.iter().enumerate() {
        let note = installs(host).join(format!(".unwanted-slug_{version}"));
        let since = SystemTime::now() - Duration::from_secs(60 * (minutes + after as u64));
        File::options().write(true).open(note).unwrap().set_modified(since).unwrap();
    }
}

fn left(host: &Host) -> Vec<String> {
    names(host, "slug").into_iter().filter(|name| name.starts_with("slug_")).collect()
}

#[test]
fn what_intent_names_no_more_goes_oldest_first_but_for_the_newest_and_what_a_link_leads_to() {
    let host = host(&["1", "2", "3", "4", "5", "6"]);
    symlink("installs/slug_1", host.path("srv/slug/current")).unwrap();
    symlink(installs(&host).join("slug_2/data"), host.path("srv/slug/tool")).unwrap();
    for other in ["other_1", "slug", "slugs_1"] {
        fs::create_dir(installs(&host).join(other)).unwrap();
    }
    fs::write(installs(&host).join("notes.txt"), "an operator's").unwrap();
    symlink("slug_3", installs(&host).join("slug_0")).unwrap();
    assert!(pruning(&host, &["--keep", "0"]).ok);
    assert_eq!(left(&host).len(), 7, "intent named them a moment ago");

    // The version that was prepared first was active last.
    age(&host, 11, &["3", "5", "4", "2", "1"]);
    age(&host, 60, &["0"]);
    let before = host.everything();
    let plan = pass(host.preparer().args(["--plan", "--keep", "1"]));
    let lines = plan.out.lines().map(|line| line.split(" (").next().unwrap()).collect::<Vec<_>>();
    let line =
        |version| format!("slug: remove {}/slug_{version}, which intent names no more", installs(&host).display());
    assert_eq!(lines, [line("4"), line("5")]);
    assert_eq!(differences(&before, &host.everything()), [""; 0]);

    let pruned = pruning(&host, &["--keep", "1"]);
    let at = |version: &str| {
        let line = format!("slug: Removed slug_{version}, which intent names no more: 60");
        pruned.log.find(&line).unwrap_or_else(|| panic!("no {line:?} in {}", pruned.log))
    };
    assert!(pruned.ok && at("4") < at("5") && pruned.log.lines().count() == 2, "{}", pruned.log);
    assert_eq!(left(&host), ["slug_0", "slug_1", "slug_2", "slug_3", "slug_6"]);
    assert_eq!(names(&host, "slug").len(), 10, "{:?}", names(&host, "slug"));
    let before = host.everything();
    assert_eq!(pruning(&host, &["--keep", "1"]).log, "");
    assert_eq!(differences(&before, &host.everything()), [""; 0]);
}

#[test]
fn three_are_kept_and_fewer_where_they_take_more_than_they_may() {
    let host = host(&["1", "2", "3", "4", "5", "6"]);
    age(&host, 11, &["5", "4", "3", "2", "1"]);
    converge(&host);
    assert_eq!(left(&host), ["slug_3", "slug_4", "slug_5", "slug_6"]);
    assert!(pruning(&host, &["--keep-bytes", "1300K"]).ok);
    assert_eq!(left(&host), ["slug_4", "slug_5", "slug_6"]);
    assert!(pruning(&host, &["--keep-bytes", "1G"]).ok);
    assert_eq!(left(&host).len(), 3);
    assert!(pruning(&host, &["--keep-bytes", "0"]).ok);
    assert_eq!(left(&host), ["slug_6"]);
    assert_eq!(fs::read_dir(installs(&host)).unwrap().count(), 2, "no note is left either");
}

#[test]
fn nothing_of_an_app_that_is_held_invalid_or_not_named_is_removed() {
    let host = host(&["1", "2"]);
    age(&host, 11, &["1"]);
    let passes = |node: Option<Value>, versions: Value| {
        intend(&host, "slug", &versions);
        match node {
            Some(node) => host.put("nodes/web1/slug", &node),
            None => host.delete("nodes/web1/slug"),
        }
        pruning(&host, &["--keep", "0"]);
        left(&host)
    };
    let here = json!({"cluster": "dev"});
    assert_eq!(passes(Some(json!({"cluster": "dev", "hold": true})), json!({"2": "active"})).len(), 2);
    assert_eq!(passes(Some(here.clone()), json!({"2": "active", "3": "active"})).len(), 2);
    assert_eq!(passes(Some(here.clone()), json!(null)).len(), 2);
    assert_eq!(passes(None, json!({"2": "active"})).len(), 2);
    assert_eq!(passes(Some(here), json!({"2": "active"})), ["slug_2"]);
}

#[test]
fn what_intent_names_again_begins_anew_when_it_leaves() {
    let host = host(&["1", "2"]);
    age(&host, 11, &["1"]);
    intend(&host, "slug", &json!({"1": "prep", "2": "active"}));
    assert!(pruning(&host, &["--keep", "0"]).ok);
    intend(&host, "slug", &json!({"2": "active"}));
    for _ in 0..2 {
        assert!(pruning(&host, &["--keep", "0"]).ok);
        assert_eq!(left(&host), ["slug_1", "slug_2"]);
    }
}

#[test]
fn one_that_is_run_at_the_last_moment_is_put_back_and_so_is_one_that_a_kill_left_aside() {
    let host = host(&["1", "2", "3"]);
    age(&host, 11, &["2", "1"]);
    let mut preparer = host.preparer();
    preparer.args(["--once", "--keep", "0"]);
    let aside = || installs(&host).join(".aside-slug_1").exists() && installs(&host).join(".aside-slug_2").exists();
    let agent = host.watch(preparer);
    eventually("both are set aside", SOON, || aside().then_some(()));
    symlink("installs/slug_2", host.path("srv/slug/current")).unwrap();
    agent.says("slug: Removed slug_1, which");
    eventually("what is linked is back", SOON, || (left(&host) == ["slug_2", "slug_3"]).then_some(()));
    assert_eq!(fs::read(installs(&host).join("slug_2/data")).unwrap().len(), 600_000);

    fs::remove_file(host.path("srv/slug/current")).unwrap();
    let mut preparer = host.preparer();
    preparer.args(["--once", "--keep", "0"]);
    let agent = host.watch(preparer);
    eventually("it is set aside", SOON, || installs(&host).join(".aside-slug_2").exists().then_some(()));
    agent.kill();
    assert_eq!(left(&host), ["slug_3"]);
    symlink("installs/slug_2", host.path("srv/slug/current")).unwrap();
    let next = pruning(&host, &["--keep", "0"]);
    let back = "slug: Putting slug_2 back, which an interrupted pass had set aside";
    assert!(next.ok && next.log.contains(back), "{}", next.log);
    assert_eq!(left(&host), ["slug_2", "slug_3"], "it is linked");

    // As a kill leaves it in the middle of a deletion.
    fs::remove_file(host.path("srv/slug/current")).unwrap();
    fs::rename(installs(&host).join("slug_2"), installs(&host).join(".prune-slug_2")).unwrap();
    let next = pruning(&host, &["--keep", "0"]);
    assert!(next.ok && next.log.contains("slug: Removing .prune-slug_2, left by an interrupted pass"), "{}", next.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_3"]);
    assert_eq!(fs::read_dir(installs(&host)).unwrap().count(), 2);
}

#[test]
fn what_would_be_gone_back_to_stays_until_something_else_is_healthy() {
    let host = Host::new();
    host.deploy_config(json!({}));
    for (version, behaviour) in
        [("1", Behaviour::Good), ("2", Behaviour::NeverHealthy), ("3", Behaviour::NeverHealthy), ("4", Behaviour::Good)]
    {
        host.repo.slug(version, behaviour);
    }
    // Prepares what is wanted, and has all that is not be so for long.
    let prepare = |gone: &[&str]| {
        assert!(pruning(&host, &["--keep", "0"]).ok);
        age(&host, 11, gone);
        assert!(pruning(&host, &["--keep", "0"]).ok);
    };
    host.activate("1", json!({}));
    prepare(&[]);
    host.converge();
    let patient = json!({"health": {"http": {"port": host.port, "path": "/health"}, "deadline_seconds": 600}});
    host.activate("2", patient);
    prepare(&["1"]);
    let agent = host.watch(host.setlive());
    agent.says("slug: Starting 2");
    prepare(&["1"]);
    // Given up on the way, for another that fails.
    host.activate("3", json!({}));
    prepare(&["1", "2"]);
    agent.says("slug: 3 failed: ");
    agent.says("1 runs instead");
    host.serves("1");
    prepare(&["1"]);
    assert_eq!(left(&host), ["slug_1", "slug_3"]);
    host.activate("4", json!({}));
    prepare(&["1", "3"]);
    agent.says("slug: 4 is live");
    prepare(&["1"]);
    agent.stop();
    assert_eq!(left(&host), ["slug_1", "slug_4"], "it is the one to go back to by hand");
}

#[test]
fn what_keeps_links_from_being_read_removes_nothing_and_keeps_nothing_from_being_prepared() {
    let host = host(&["1", "2"]);
    age(&host, 11, &["1"]);
    host.repo.artifact("slug", "3", |archive| file(archive, "data", b"x"));
    intend(&host, "slug", &json!({"2": "active", "3": "prep"}));
    let basedir = host.path("srv/slug");
    // Who is not root may pass through a directory that he may not list.
    let chown = ["-R", "nobody", host.scratch.path().to_str().unwrap()];
    assert!(std::process::Command::new("chown").args(chown).status().unwrap().success());
    fs::copy(host.preparer().get_program(), host.path("pp-preparer")).unwrap();
    fs::set_permissions(&basedir, std::os::unix::fs::PermissionsExt::from_mode(0o311)).unwrap();
    let mut unprivileged = std::process::Command::new("chpst");
    unprivileged.args(["-u", "nobody"]).arg(host.path("pp-preparer")).args(host.preparer().get_args());
    let failed = pass(unprivileged.args(["--once", "--keep", "0"]).current_dir(host.scratch.path()));
    assert!(!failed.ok && failed.log.contains("slug: reading the links in "), "{}", failed.log);
    assert_eq!(left(&host), ["slug_1", "slug_2", "slug_3"]);
}
