//! Apps, disks and people at their worst, on a real runit.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Host, SOON, Slug, eventually, http_get, mentioning, pass};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn live(versions: &[(&str, Behaviour)]) -> Host {
    let host = Host::new();
    for (version, behaviour) in versions {
        host.install(&Slug::new(version, *behaviour));
    }
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    host.converge();
    host
}

const GOOD: [(&str, Behaviour); 2] = [("1", Behaviour::Good), ("2", Behaviour::Good)];

fn slugs(host: &Host) -> Vec<i32> {
    let is_slug = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("bin/slug"));
    mentioning(host.scratch.path()).into_iter().filter(is_slug).collect()
}

fn runsv(host: &Host) -> i32 {
    let is_runsv =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with("runsv\0slug"));
    mentioning(host.scratch.path()).into_iter().find(is_runsv).unwrap()
}

fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn what_runs_without_its_link_is_stopped_before_the_next_is_started() {
    let host = live(&GOOD);
    fs::remove_file(host.path("service/slug")).unwrap();
    host.activate("2", json!({}));
    host.converge();
    assert_eq!(host.serves("2")["version"], "2");
    assert_eq!(slugs(&host).len(), 1);
}

#[test]
fn an_app_whose_runsv_was_killed_is_ended_with_it_when_it_is_replaced_or_removed() {
    let host = live(&GOOD);
    let orphan = host.pid();
    kill(runsv(&host));
    host.activate("2", json!({}));
    eventually("the next is live", SOON, || host.once().ok.then_some(()));
    assert_ne!(host.serves("2")["pid"], orphan);
    assert_eq!(slugs(&host).len(), 1);

    host.runsvdir.as_ref().unwrap().kill();
    kill(runsv(&host));
    host.put("clusters/slug/dev/config", &json!({"versions": {}}));
    let removed = host.converge();
    assert!(removed.log.contains("killing process"), "{}", removed.log);
    assert_eq!(slugs(&host), [0; 0]);
}

#[test]
fn a_runsv_that_was_told_to_end_and_then_to_start_is_replaced() {
    replaces_its_runsv("1");
}

#[test]
fn a_runsv_that_was_told_to_end_and_then_to_start_is_replaced_with_the_version() {
    replaces_its_runsv("2");
}

fn replaces_its_runsv(next: &str) {
    let host = live(&GOOD);
    let tell = |command: &str| fs::write(host.path("stage/slug/supervise/control"), command).unwrap();
    let log = || fs::read(host.path("stage/slug/log/supervise/status")).unwrap();
    let (link, svlogd) = (host.path("service/slug"), i32::from_le_bytes(log()[12..16].try_into().unwrap()));
    // Which keeps runsv from ending.
    signal(svlogd, Signal::STOP);
    tell("d");
    fs::remove_file(&link).unwrap();
    eventually("runsvdir tells it to end", SOON, || (log()[17] == b'd').then_some(()));
    symlink(host.path("stage/slug"), &link).unwrap();
    tell("u");
    signal(svlogd, Signal::CONT);
    eventually("its log has ended", SOON, || (log()[12..16] == [0; 4]).then_some(()));

    host.activate(next, json!({}));
    // A pass may see what runsv starts, once a second and in vain, in the moment before that ends.
    let replaces = |log: String| log.contains("The runsv of the service slug was told to end: replacing it");
    eventually("its runsv is replaced", SOON, || replaces(host.converge().log).then_some(()));
    assert_eq!(host.serves(next)["version"], next);
    assert_eq!(slugs(&host).len(), 1);
    assert_ne!(log()[12..16], [0; 4]);
}

#[test]
fn an_app_whose_runsv_was_killed_is_started_anew_in_place_of_its_orphan() {
    let host = live(&GOOD);
    let orphan = host.pid();
    let mut setlive = host.setlive();
    setlive.args(["--interval", "0.3"]);
    let agent = host.watch(setlive);
    kill(runsv(&host));
    eventually("another process answers", SOON, || host.health().filter(|health| health["pid"] != orphan));
    agent.says("slug: 1 was not running, and is again");
    let log = host.path("srv/slug/log/current");
    let lines = fs::read_to_string(&log).unwrap().lines().count();
    assert!(lines >= 2, "its log goes on");
    assert_eq!(slugs(&host).len(), 1);
    agent.stop();
}

#[test]
fn without_a_runsvdir_an_app_whose_runsv_was_killed_goes_on() {
    let host = live(&GOOD);
    let orphan = host.pid();
    host.runsvdir.as_ref().unwrap().kill();
    kill(runsv(&host));
    let waiting = host.converge();
    assert!(waiting.log.contains("waiting: for runsvdir to look after"), "{}", waiting.log);
    assert_eq!(host.pid(), orphan);
}

#[test]
fn another_program_on_its_port_is_not_taken_for_the_app() {
    let host = Host::new();
    host.install(&Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let mut other = Command::new(fixtures::bin("slug"))
        .args(["--version", "other", "--port", &host.port.to_string()])
        .current_dir(host.scratch.path())
        .spawn()
        .unwrap();
    host.serves("other");
    let failed = host.once();
    assert!(!failed.ok && !failed.log.contains("is live"), "{}", failed.log);
    assert!(failed.log.contains(&format!("another program answers on port {}", host.port)), "{}", failed.log);
    assert!(!host.once().ok, "nor is it by the next pass");
    assert_eq!(host.pid(), i64::from(other.id()), "what is not ours is not touched");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_file_of_somebody_else_beside_the_configuration_stays() {
    let host = live(&GOOD);
    let theirs = host.path("srv/slug/config/database.yml");
    fs::write(&theirs, "theirs").unwrap();
    host.activate("2", json!({}));
    host.converge();
    assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs");
}

#[test]
fn a_directory_where_a_link_belongs_is_said_and_stops_nothing() {
    let host = live(&GOOD);
    let pid = host.pid();
    fs::remove_file(host.path("srv/slug/current")).unwrap();
    fs::create_dir(host.path("srv/slug/current")).unwrap();
    host.activate("2", json!({}));
    let refused = host.once();
    assert!(!refused.ok && refused.log.contains("srv/slug/current is a directory"), "{}", refused.log);
    assert_eq!(host.pid(), pid);
    fs::remove_dir(host.path("srv/slug/current")).unwrap();
    host.converge();
    host.serves("2");
}

#[test]
fn a_first_version_that_cannot_be_enabled_is_not_live_however_healthy_it_is() {
    let host = Host::new();
    host.install(&Slug::new("1", Behaviour::Good).enable("echo no database; exit 1"));
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    for _ in 0..2 {
        let failed = host.once();
        assert!(!failed.ok && failed.log.contains("bin/enable failed"), "{}", failed.log);
        assert!(failed.log.contains("] slug: bin/enable: no database\n"), "{}", failed.log);
    }
}

#[test]
fn when_the_version_that_was_gone_back_to_fails_too_it_is_said_once_and_nothing_restarts() {
    let host = live(&[("1", Behaviour::Good), ("2", Behaviour::NeverHealthy)]);
    // The check that 1 passed once is not one that it passes now, as with a shared database that is down.
    let health = |path: &str| json!({"health": {"http": {"port": host.port, "path": path}, "deadline_seconds": 1}});
    host.activate("1", health("/"));
    host.converge();
    let record = host.path("stage/.platypus/slug.json");
    let broken = fs::read_to_string(&record).unwrap().replace("\"path\": \"/\"", "\"path\": \"/no-such-path\"");
    fs::write(&record, broken).unwrap();
    host.activate("2", health("/no-such-path"));
    let failed = host.once();
    assert!(!failed.ok && failed.log.contains("nothing to go back to"), "{}", failed.log);
    let before = slugs(&host);
    let failed = host.once();
    assert!(!failed.ok && !failed.log.contains("WARN"), "{}", failed.log);
    assert_eq!(slugs(&host), before);
}

#[test]
fn a_version_that_cannot_be_run_does_not_keep_what_runs_from_being_looked_after() {
    let host = live(&GOOD);
    fs::set_permissions(host.path("srv/slug/installs/slug_2/bin/launch"), fs::Permissions::from_mode(0o644)).unwrap();
    host.activate("2", json!({}));
    let down = Command::new("sv").args(["-w", "10", "down"]).arg(host.path("service/slug")).status().unwrap();
    assert!(down.success());
    let refused = host.once();
    assert!(!refused.ok && refused.log.contains("bin/launch is not an executable file"), "{}", refused.log);
    host.serves("1");
}

#[test]
fn a_hold_ends_what_is_under_way_and_a_change_that_does_not_matter_does_not_put_off_the_deadline() {
    let host = live(&[("1", Behaviour::Good), ("2", Behaviour::NeverHealthy)]);
    let agent = host.watch(host.setlive());
    let health = json!({"http": {"port": host.port, "path": "/health"}, "deadline_seconds": 3});
    let began = Instant::now();
    host.activate("2", json!({"health": health}));
    agent.says("slug: Starting 2");
    // Until it is given up, each change is another reason to start over.
    let mut n = 0;
    eventually("it is given up all the same", SOON, || {
        n += 1;
        host.activate("2", json!({"health": health, "min_nodes": n}));
        agent.log().contains("2 failed").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    host.serves("1");

    let patient = json!({"http": {"port": host.port, "path": "/health"}, "deadline_seconds": 4});
    host.activate("2", json!({"health": patient}));
    eventually("2 is tried again, with another check", SOON, || {
        (agent.log().matches("slug: Starting 2").count() == 2).then_some(())
    });
    host.put("nodes/web1/slug", &json!({"cluster": "dev", "hold": true}));
    agent.says("slug: held");
    // Longer than its deadline: nothing is given up, since nobody is at it.
    let held = Instant::now();
    eventually("the deadline is over", SOON, || (held.elapsed() > Duration::from_secs(5)).then_some(()));
    assert_eq!(http_get(host.port, "/health").unwrap().0, 500, "{}", agent.log());
    agent.stop();
}

#[test]
fn a_host_without_ca_certificates_is_a_host_all_the_same() {
    let host = live(&GOOD);
    host.activate("2", json!({}));
    let mut setlive = host.setlive();
    let bare = pass(setlive.arg("--once").env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent"));
    assert!(bare.ok, "{}", bare.log);
    host.serves("2");
}

#[test]
fn an_agent_whose_log_nobody_takes_goes_on() {
    let host = live(&GOOD);
    host.activate("2", json!({}));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert!(host.setlive().arg("--once").stderr(full).status().unwrap().success());
    host.serves("2");

    host.activate("1", json!({}));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(host.setlive().arg("--once").stderr(writer).status().unwrap().success());
    host.serves("1");
}

#[test]
fn any_number_and_any_nesting_in_user_config_converges() {
    let host = live(&GOOD);
    let odd = format!(
        r#"{{"port": {}, "f": [96.469423867157872, 1.602176634e-19, 1e300, -0.0], "s": "é\u0000\"'$(x)"}}"#,
        host.port
    );
    let odd = serde_json::from_str::<serde_json::Value>(&odd).unwrap();
    host.activate("1", json!({"user_config": odd}));
    host.converge();
    let health = host.serves("1");
    assert_eq!(host.converge().log, "");
    assert_eq!(host.pid(), health["pid"].as_i64().unwrap());

    let deep = format!(
        "{{\"versions\": {{\"1\": \"active\"}}, \"user_config\": {{\"a\": {}{}}}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    host.put_text("clusters/slug/dev/config", &deep);
    let refused = pass(host.setlive().arg("--once"));
    assert!(!refused.ok && refused.log.contains("nested more than 64 deep"), "{}", refused.log);
    assert_eq!(host.pid(), health["pid"].as_i64().unwrap());
}
