//! The agent on a host: what it makes of intent and a repository of files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::support::{converge, file, intend, names, once};
use converge::files::Lock;
use fixtures::{Behaviour, Host, SOON, bin, differences, eventually, pass};
use serde_json::json;
use tar::{EntryType, Header};

fn host(versions: &[&str]) -> Host {
    let host = Host::without_runit();
    for version in versions {
        host.repo.slug(version, Behaviour::Good);
    }
    host
}

#[test]
fn every_version_is_prepared_the_active_one_first_and_a_second_pass_changes_and_says_nothing() {
    let host = host(&["1", "2", "3", "4"]);
    intend(&host, "slug", &json!({"1": "prep", "2": "prep", "3": "active"}));
    let first = converge(&host);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2", "slug_3"]);
    let at = |what: &str| first.log.find(what).unwrap_or_else(|| panic!("no {what:?} in {}", first.log));
    assert!(at("slug: Fetching ") < at("slug_3.tar.gz") && at("slug: Prepared slug_3 in ") < at("slug_1.tar.gz"));
    assert!(first.log.contains(" ms (5 files, "), "{}", first.log);

    let before = host.everything();
    let second = converge(&host);
    assert_eq!(second.log, "");
    assert_eq!(differences(&before, &host.everything()), [""; 0]);

    intend(&host, "slug", &json!({"4": "active"}));
    converge(&host);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2", "slug_3", "slug_4"], "nothing is removed at once");
}

#[test]
fn a_plan_says_what_a_pass_would_do_and_changes_nothing() {
    let host = host(&["1"]);
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    let installs = host.path("srv/slug/installs");
    let before = host.everything();
    let plan = pass(host.preparer().arg("--plan"));
    let line = |version| {
        let artifact = host.repo.path("slug", version);
        format!("slug: fetch {} and unpack it to {}/slug_{version}\n", artifact.display(), installs.display())
    };
    assert_eq!(plan.status, Some(2), "{}", plan.log);
    assert_eq!(plan.out, line("1") + &line("2"));
    assert_eq!(differences(&before, &host.everything()), [""; 0]);

    fs::create_dir_all(installs.join(".stage-slug_1")).unwrap();
    fs::create_dir_all(installs.join("slug_2")).unwrap();
    let before = host.everything();
    let plan = pass(host.preparer().arg("--plan"));
    let stray = format!("slug: remove {}/.stage-slug_1, left by an interrupted pass\n", installs.display());
    assert_eq!(plan.out, stray + &line("1"));
    assert_eq!(differences(&before, &host.everything()), [""; 0]);
}

#[test]
fn a_plan_ends_by_what_is_to_be_done_and_in_json_is_a_line_for_each_app() {
    let host = host(&["1"]);
    let plan = || {
        let pass = pass(host.preparer().args(["--plan", "--log-format", "json"]));
        let lines = pass.out.lines().map(|line| serde_json::from_str(line).unwrap());
        (pass.status, lines.collect::<Vec<serde_json::Value>>())
    };
    intend(&host, "slug", &json!({"1": "active"}));
    converge(&host);
    assert_eq!(plan(), (Some(0), vec![json!({"app": "slug", "plan": []})]));

    intend(&host, "held", &json!({"1": "active"}));
    host.put("nodes/web1/held", &json!({"cluster": "dev", "hold": true}));
    intend(&host, "tool", &json!({"1": "active"}));
    let to = host.path("srv/tool/installs/tool_1");
    let fetch = format!("fetch {} and unpack it to {}", host.repo.path("tool", "1").display(), to.display());
    let tool = json!({"app": "tool", "plan": [fetch]});
    let held = json!({"app": "held", "plan": []});
    assert_eq!(plan(), (Some(2), vec![held, json!({"app": "slug", "plan": []}), tool.clone()]));

    // What cannot be said is more than what can.
    host.put_text("clusters/held/dev/config", "{");
    host.put("nodes/web1/held", &json!({"cluster": "dev"}));
    let (status, lines) = plan();
    assert_eq!((status, &lines[2]), (Some(1), &tool));
    let error = lines[0]["error"].as_str().unwrap();
    assert!(error.starts_with("held as it is: clusters/held/dev/config: "), "{error}");
}

#[test]
fn what_is_there_is_never_touched_whatever_it_is() {
    let host = host(&["1", "2", "3", "4"]);
    intend(&host, "slug", &json!({"1": "active", "2": "prep", "3": "prep", "4": "prep"}));
    let installs = host.path("srv/slug/installs");
    fs::create_dir_all(installs.join("slug_1")).unwrap();
    fs::write(installs.join("slug_2"), "an operator's").unwrap();
    symlink("nowhere", installs.join("slug_3")).unwrap();
    fs::create_dir_all(installs.join("other")).unwrap();
    let before = host.everything();
    converge(&host);
    assert!(installs.join("slug_4/bin/slug").exists());
    let changed = differences(&before, &host.everything());
    let expected = |line: &&String| {
        line.starts_with("srv/slug/installs: ")
            || line.contains("slug_4")
            || line.starts_with("srv/slug/installs/.lock: ")
    };
    assert_eq!(changed.iter().find(|line| !expected(line)), None);
}

#[test]
fn a_bad_artifact_keeps_neither_its_apps_other_versions_nor_other_apps_from_being_prepared() {
    let host = host(&["1", "3"]);
    intend(&host, "slug", &json!({"1": "prep", "2": "active", "3": "prep"}));
    intend(&host, "good", &json!({"1": "active"}));
    host.repo.artifact("good", "1", |archive| file(archive, "a", b"x"));
    let bad = host.repo.artifact("slug", "2", |archive| {
        file(archive, "fine", b"x");
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Fifo);
        header.set_size(0);
        archive.append_data(&mut header, "pipe", &b""[..]).unwrap();
    });
    let failed = once(&host);
    assert!(!failed.ok);
    assert!(failed.log.contains(&format!("slug: {}: entry \"pipe\": a named pipe", bad.display())), "{}", failed.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_3"]);
    assert_eq!(names(&host, "good"), [".lock", "good_1"]);
}

#[test]
fn all_that_fails_of_an_app_is_reported_together() {
    let host = host(&["2"]);
    intend(&host, "slug", &json!({"1": "prep", "2": "active", "3": "prep"}));
    fs::create_dir_all(host.repo.path("slug", "3")).unwrap();
    let failed = once(&host);
    let missing = host.repo.path("slug", "1");
    let report = format!(
        "slug: no such artifact, {}: put it there, or take version 1 out of clusters/slug/dev/config; {}: not a file",
        missing.display(),
        host.repo.path("slug", "3").display()
    );
    assert!(!failed.ok && failed.log.contains(&report), "{}", failed.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_2"]);
}

#[test]
fn a_watching_agent_follows_intent_and_tries_again_until_the_artifact_is_there() {
    let host = host(&["1"]);
    let agent = host.watch(host.preparer());
    intend(&host, "slug", &json!({"1": "active"}));
    agent.says("slug: Prepared slug_1 in ");
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    agent.says("no such artifact");
    host.repo.artifact("slug", "2", |_| ());
    agent.says("slug_2.tar.gz: at its start, where a tar archive is expected");
    host.repo.slug("2", Behaviour::Good);
    agent.says("slug: Prepared slug_2 in ");
    agent.says("slug: converged");
    let fetches = agent.log().matches("slug: Fetching ").count();
    assert_eq!(fetches, 2, "that it tries again is no news: {}", agent.log());
    agent.stop();
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2"]);
}

#[test]
fn new_intent_overtakes_the_unpacking_of_a_file() {
    let host = host(&["2"]);
    host.repo.artifact("slug", "1", |archive| {
        for n in 0..100_000 {
            file(archive, &format!("d{}/f{n}", n % 100), b"x");
        }
    });
    intend(&host, "slug", &json!({"1": "active"}));
    let agent = host.watch(host.preparer());
    let stage = host.path("srv/slug/installs/.stage-slug_1/d0");
    eventually("it is being unpacked", SOON, || stage.exists().then_some(()));
    // The same version of another artifact is another thing, too.
    let artifacts = json!({"1": {"sha256": "0".repeat(64)}});
    host.put("clusters/slug/dev/config", &json!({"versions": {"1": "active", "2": "prep"}, "artifacts": artifacts}));
    agent.says("slug: Gave up preparing slug_1: intent has changed");
    intend(&host, "slug", &json!({"2": "active"}));
    agent.says("slug: Prepared slug_2 in ");
    eventually("only version 2 is left", SOON, || (names(&host, "slug") == [".lock", "slug_2"]).then_some(()));
    agent.stop();
}

#[test]
fn what_an_interrupted_pass_left_behind_is_removed_also_when_nothing_is_missing() {
    let host = host(&["1"]);
    intend(&host, "slug", &json!({"1": "active"}));
    let installs = host.path("srv/slug/installs");
    fs::create_dir_all(installs.join(".stage-slug_1/half")).unwrap();
    fs::create_dir_all(installs.join(".stage-slug_0.9/a/b")).unwrap();
    symlink(host.path("repo"), installs.join(".stage-link")).unwrap();
    converge(&host);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
    fs::create_dir_all(installs.join(".stage-slug_1")).unwrap();
    let pass = converge(&host);
    assert!(pass.log.contains("slug: Removing .stage-slug_1, left by an interrupted pass"), "{}", pass.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
    assert!(host.repo.path("slug", "1").exists());
}

#[test]
fn one_preparer_waits_while_another_is_at_work_on_the_same_app() {
    let host = host(&["1"]);
    intend(&host, "slug", &json!({"1": "active"}));
    let installs = host.path("srv/slug/installs");
    fs::create_dir_all(installs.join(".stage-slug_1")).unwrap();
    let held = Lock::try_hold("lock", &installs.join(".lock")).unwrap();
    assert!(held.is_some());
    let waiting = converge(&host);
    assert!(waiting.log.contains("slug: waiting: another pp-preparer is at work on "), "{}", waiting.log);
    assert_eq!(names(&host, "slug"), [".lock", ".stage-slug_1"]);
    drop(held);
    converge(&host);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
}

#[test]
fn two_preparers_at_the_same_time_make_one_install() {
    let host = host(&["1", "2", "3"]);
    intend(&host, "slug", &json!({"1": "active", "2": "prep", "3": "prep"}));
    let agents = [host.watch(host.preparer()), host.watch(host.preparer())];
    eventually("all is prepared", SOON, || {
        (names_or_none(&host) == [".lock", "slug_1", "slug_2", "slug_3"]).then_some(())
    });
    for agent in agents {
        agent.stop();
    }
    assert_eq!(converge(&host).log, "");
}

fn names_or_none(host: &Host) -> Vec<String> {
    if host.path("srv/slug/installs").exists() { names(host, "slug") } else { Vec::new() }
}

#[test]
fn an_install_can_be_read_by_other_users_whatever_the_umask() {
    let host = host(&["1"]);
    intend(&host, "slug", &json!({"1": "active"}));
    let mut preparer = Command::new("sh");
    preparer.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(bin("pp-preparer")).args(["--once", "--node", "web1"]);
    preparer.args(["--store", &host.store_url(), "--repo", &host.repo.url()]);
    let pass = pass(&mut preparer);
    assert!(pass.ok, "{}", pass.log);
    for path in ["srv", "srv/slug", "srv/slug/installs", "srv/slug/installs/slug_1", "srv/slug/installs/slug_1/bin"] {
        assert_eq!(fs::metadata(host.path(path)).unwrap().mode() & 0o7777, 0o755, "{path}");
    }
    let mode = |path: &str| fs::metadata(host.path("srv/slug/installs/slug_1").join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("VERSION"), mode("bin/launch")), (0o644, 0o755));
}

#[test]
fn a_held_or_invalid_app_is_left_alone() {
    let host = host(&["1"]);
    intend(&host, "slug", &json!({"1": "active"}));
    host.put("nodes/web1/slug", &json!({"cluster": "dev", "hold": true}));
    converge(&host);
    intend(&host, "slug", &json!({"1": "active", "2": "active"}));
    assert!(!once(&host).ok);
    assert!(!host.path("srv").exists());
}
