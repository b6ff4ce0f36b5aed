//! The sample app as it comes out of its artifact: each behaviour is what a test that asks for it will get.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fixtures::{Behaviour, Repo, Scratch, Slug, bin, eventually, free_port, http_get, mentioning};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const SOON: Duration = Duration::from_secs(20);

/// An install, and the configuration that it is run with.
struct Installed {
    scratch: Scratch,
    port: u16,
}

impl Installed {
    fn new(behaviour: Behaviour) -> Self {
        let scratch = Scratch::new();
        let artifact = Repo::new(scratch.path().join("repo")).slug("0.1", behaviour);
        unpack(&artifact, &scratch.path().join("install"));
        let port = free_port();
        fs::write(scratch.path().join("config.json"), format!(r#"{{"port": {port}, "colour": "green"}}"#)).unwrap();
        Self { scratch, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("install").join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        command.env("CONFIG_PATH", self.scratch.path().join("config.json")).process_group(0);
        command
    }

    fn start(&self) -> Running {
        Running(self.command("bin/launch").spawn().unwrap())
    }

    fn answering(&self) -> (u16, String) {
        eventually("the slug answers", SOON, || http_get(self.port, "/health"))
    }
}

/// Waited for at the end, whichever way it ended.
struct Running(Child);

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unpack(artifact: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    // Not by ourselves: see `fixtures::script`.
    assert!(Command::new("tar").arg("xzf").arg(artifact).arg("-C").arg(to).status().unwrap().success());
}

fn output(command: &mut Command) -> (bool, String) {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_shows_its_version_and_its_configuration() {
    let slug = Installed::new(Behaviour::Good);
    let child = slug.start();
    let (status, health) = slug.answering();
    assert_eq!(status, 200);
    let health: serde_json::Value = serde_json::from_str(&health).unwrap();
    assert_eq!(health["version"], "0.1");
    assert_eq!(health["user_config"]["colour"], "green");
    assert_eq!(health["pid"], child.0.id());
    let (status, root) = http_get(slug.port, "/").unwrap();
    assert_eq!((status, root.lines().next().unwrap()), (200, "slug 0.1"));
    assert!(root.contains(r#""colour":"green""#), "{root}");
    assert_eq!(http_get(slug.port, "/other").unwrap().0, 404);
    assert_eq!(output(&mut slug.command("bin/check")), (true, String::new()));
}

#[test]
fn term_ends_it_at_once_and_it_can_start_again_on_the_same_port() {
    let slug = Installed::new(Behaviour::Good);
    for _ in 0..5 {
        let mut child = slug.start();
        slug.answering();
        kill_process(child.pid(), Signal::TERM).unwrap();
        assert!(!child.0.wait().unwrap().success());
        assert_eq!(http_get(slug.port, "/"), None);
    }
}

#[test]
fn never_healthy_runs_and_says_500() {
    let slug = Installed::new(Behaviour::NeverHealthy);
    let _child = slug.start();
    assert_eq!(slug.answering().0, 500);
    assert_eq!(http_get(slug.port, "/").unwrap().0, 200);
    let (healthy, why) = output(&mut slug.command("bin/check"));
    assert!(!healthy && why.contains("500"), "{why}");
}

#[test]
fn a_configuration_can_make_it_unhealthy_too() {
    let slug = Installed::new(Behaviour::Good);
    fs::write(slug.scratch.path().join("config.json"), format!(r#"{{"port": {}, "unhealthy": true}}"#, slug.port))
        .unwrap();
    let _child = slug.start();
    assert_eq!(slug.answering().0, 500);
}

#[test]
fn exits_at_once_does() {
    let slug = Installed::new(Behaviour::ExitsAtOnce);
    assert_eq!(slug.start().0.wait().unwrap().code(), Some(3));
}

#[test]
fn ignores_term_needs_a_kill() {
    let slug = Installed::new(Behaviour::IgnoresTerm);
    let mut child = slug.start();
    slug.answering();
    kill_process(child.pid(), Signal::TERM).unwrap();
    assert_eq!(slug.answering().0, 200);
    assert!(!child.is_over());
    kill_process(child.pid(), Signal::KILL).unwrap();
    child.0.wait().unwrap();
    assert_eq!(http_get(slug.port, "/"), None);
}

#[test]
fn forks_child_leaves_one_in_its_group_that_survives_term() {
    let slug = Installed::new(Behaviour::ForksChild);
    let mut parent = slug.start();
    let group = parent.pid();
    let health: serde_json::Value = serde_json::from_str(&slug.answering().1).unwrap();
    let child = i32::try_from(health["child"].as_i64().unwrap()).unwrap();
    kill_process_group(group, Signal::TERM).unwrap();
    parent.0.wait().unwrap();
    assert_eq!(mentioning(slug.scratch.path()), [child]);
    kill_process_group(group, Signal::KILL).unwrap();
    eventually("the child is gone", SOON, || mentioning(slug.scratch.path()).is_empty().then_some(()));
}

#[test]
fn slow_start_listens_late() {
    let slug = Installed::new(Behaviour::SlowStart(300));
    let started = std::time::Instant::now();
    let _child = slug.start();
    slug.answering();
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn two_services_are_two_scripts() {
    let slug = Installed::new(Behaviour::TwoServices);
    let _web = Running(slug.command("bin/launch/web").spawn().unwrap());
    let mut worker = Running(slug.command("bin/launch/worker").spawn().unwrap());
    assert!(slug.answering().1.contains(r#""version":"0.1""#));
    assert!(!worker.is_over());
}

#[test]
fn a_port_in_use_and_an_unreadable_configuration_are_said_and_fatal() {
    let slug = Installed::new(Behaviour::Good);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", slug.port)).unwrap();
    let (ran, why) = output(&mut slug.command("bin/launch"));
    assert!(!ran && why.contains(&format!("listening on 127.0.0.1:{}", slug.port)), "{why}");
    fs::write(slug.scratch.path().join("config.json"), "{").unwrap();
    let (ran, why) = output(&mut slug.command("bin/launch"));
    assert!(!ran && why.contains("CONFIG_PATH"), "{why}");
    let (ran, why) = output(Command::new(bin("slug")).env("CONFIG_PATH", "/no/such/file"));
    assert!(!ran && why.contains("CONFIG_PATH /no/such/file"), "{why}");
    let (ran, why) = output(Command::new(bin("slug")).arg("--colour"));
    assert!(!ran && why.contains("no option --colour"), "{why}");
}

#[test]
fn hooks_and_other_artifacts_are_packed_as_they_are_given() {
    let scratch = Scratch::new();
    let repo = Repo::new(scratch.path().join("repo"));
    assert_eq!(repo.url(), format!("file://{}/repo", scratch.path().display()));
    let hooked = Slug::new("0.2", Behaviour::Good).enable("echo enabled >&2").disable("exit 4");
    unpack(&repo.add(&hooked), &scratch.path().join("hooked"));
    let hook = |name: &str| Command::new(scratch.path().join("hooked/bin").join(name));
    assert_eq!(output(&mut hook("enable")), (true, "enabled\n".to_owned()));
    assert_eq!(hook("disable").status().unwrap().code(), Some(4));
    let path = repo.artifact("other", "1", |archive| archive.append_dir("empty", scratch.path()).unwrap());
    assert_eq!(path, scratch.path().join("repo/other/other_1.tar.gz"));
    unpack(&path, &scratch.path().join("other"));
    assert!(scratch.path().join("other/empty").is_dir());
}
