//! Another program sees to the filter: files for it, and when it is called.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use fixtures::{Host, Pass, SOON, bin, eventually, pass};
use serde_json::{Value, json};

use crate::support::{agent, open};

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../test_data/bin/port_authority");

fn with(host: &Host, command: &str) -> Command {
    let mut agent = agent(host, Command::new(bin("pp-iptables")));
    agent.args(["--cmd", command, "--config-dir", "ports.d"]).env("PORT_AUTHORITY_LOG", host.path("calls"));
    agent
}

fn once(host: &Host) -> Pass {
    pass(with(host, FAKE).arg("--once"))
}

fn calls(host: &Host) -> usize {
    fs::read_to_string(host.path("calls")).unwrap_or_default().matches("rebuild\n").count()
}

fn definition(host: &Host, app: &str) -> Option<Value> {
    let text = fs::read_to_string(host.path("ports.d").join(format!("{app}.yaml"))).ok()?;
    let body = text.lines().skip_while(|line| line.starts_with('#')).collect::<String>();
    Some(serde_json::from_str::<Value>(&body).unwrap()[app].clone())
}

fn program(host: &Host, name: &str, script: &str) -> String {
    let path = host.path(name);
    fixtures::script(&path, script);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_app_is_a_file_and_the_command_runs_when_one_has_changed() {
    let host = Host::without_runit();
    let udp = json!({"port": 53, "protocol": "udp", "source": "10.0.0.0/8"});
    open(&host, "slug", json!([80, udp]));
    open(&host, "closed", json!([]));
    let pass = once(&host);
    assert!(pass.ok && pass.log.contains("slug: Opening 53/udp from 10.0.0.0/8, 80/tcp"), "{}", pass.log);
    let ports = json!([udp, {"port": 80, "protocol": "tcp"}]);
    assert_eq!(definition(&host, "slug").unwrap(), json!({"cluster": "dev", "ports": ports}));
    assert_eq!((definition(&host, "closed"), calls(&host)), (None, 1));

    let file = || fs::metadata(host.path("ports.d/slug.yaml")).map(|file| (file.ino(), file.mtime_nsec())).unwrap();
    let before = file();
    let pass = once(&host);
    assert_eq!((pass.log.as_str(), file(), calls(&host)), ("", before, 1));
    open(&host, "slug", json!([81]));
    assert!(once(&host).log.contains("slug: Closing 53/udp from 10.0.0.0/8, 80/tcp"));
    assert_eq!(calls(&host), 2);
}

#[test]
fn only_our_own_files_are_removed_once_their_apps_are_gone() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    open(&host, "held", json!([90]));
    once(&host);
    let path = |name: &str| host.path("ports.d").join(name);
    fs::write(path("ssh.yaml"), "ssh: {ports: [22]}\n").unwrap();
    fs::write(path("README"), "by hand\n").unwrap();
    fs::copy(path("slug.yaml"), path("copy.yaml")).unwrap();
    host.delete("nodes/web1/slug");
    host.put_text("clusters/held/dev/deploy_config", "{");
    let pass = once(&host);
    assert!(!pass.ok && pass.log.contains("slug: Closing 80/tcp"), "{}", pass.log);
    assert!(!path("slug.yaml").exists());
    for kept in ["ssh.yaml", "README", "copy.yaml", "held.yaml"] {
        assert!(path(kept).exists(), "{kept}");
    }
    // Where somebody else's file is in the way it stays, and the others go on.
    open(&host, "ssh", json!([2222]));
    open(&host, "slug", json!([80]));
    let refused = once(&host);
    assert!(!refused.ok && refused.log.contains("ssh: ssh.yaml is there, and not ours"), "{}", refused.log);
    assert_eq!(fs::read_to_string(path("ssh.yaml")).unwrap(), "ssh: {ports: [22]}\n");
    assert!(path("slug.yaml").exists());

    let before = calls(&host);
    fs::rename(host.path("store"), host.path("lost")).unwrap();
    fs::create_dir(host.path("store")).unwrap();
    assert!(!once(&host).ok);
    assert!(path("slug.yaml").exists() && path("held.yaml").exists());
    assert_eq!(calls(&host), before);
}

#[test]
fn a_rebuild_that_failed_or_was_cut_short_is_done_again() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    let failing = program(&host, "failing", "echo 'not today' >&2; exit 7");
    let pass = pass(with(&host, &failing).arg("--once"));
    assert!(!pass.ok && pass.log.contains("rebuild failed (exit status: 7): not today"), "{}", pass.log);
    assert_eq!(definition(&host, "slug").unwrap()["ports"][0]["port"], 80);
    assert!(once(&host).ok);
    assert_eq!(calls(&host), 1);
    assert!(once(&host).ok);
    assert_eq!(calls(&host), 1);

    // Killed while it runs: the files are written by then.
    open(&host, "slug", json!([81]));
    let hanging = program(&host, "hanging", &format!(": >{}; exec sleep 1000", host.path("begun").display()));
    let agent = host.watch(with(&host, &hanging));
    eventually("it has begun", SOON, || host.path("begun").exists().then_some(()));
    agent.kill();
    assert_eq!(definition(&host, "slug").unwrap()["ports"][0]["port"], 81);
    assert!(once(&host).ok);
    assert_eq!(calls(&host), 2);
}

#[test]
fn a_signal_ends_the_agent_and_the_command_at_once() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    let pid = host.path("pid");
    let hanging = program(&host, "hanging", &format!("echo $$ >{}; exec sleep 1000", pid.display()));
    let agent = host.watch(with(&host, &hanging));
    let pid = eventually("it has begun", SOON, || fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n')));
    agent.stop();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "not even a zombie is left");
}
