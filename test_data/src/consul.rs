//! A real Consul of a test's own: one server, in memory, on ports of its own.
//!
//! Ensures: it has elected a leader and writes keys before a test sees it. Assumes only a `consul` on the `PATH`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{Response, request};
use crate::process::{installed, signal};
use crate::{Scratch, eventually, free_port};

/// A dev agent answers after a third of a second; a busy machine may take its time.
const READY: Duration = Duration::from_secs(60);

/// How it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// By `-dev`: in memory, with every answer indented and every request logged.
    Development,
    /// As operators run one, with its data in the scratch directory.
    Server,
}

/// A Consul that is killed when dropped.
#[derive(Debug)]
pub struct Consul {
    dir: PathBuf,
    port: u16,
    mode: Mode,
    /// What `acl.tokens.master` in the test's own configuration says.
    token: Option<String>,
    child: Mutex<Child>,
}

impl Consul {
    pub fn start(scratch: &Scratch) -> Self {
        Self::start_with(scratch, "{}")
    }

    /// As operators run one: for what is measured. It takes a second longer, and keeps its keys over a restart.
    pub fn start_server(scratch: &Scratch) -> Self {
        Self::start_server_with(scratch, "{}")
    }

    /// The same, with more configuration, as [`Consul::start_with`] takes it.
    pub fn start_server_with(scratch: &Scratch, config_json: &str) -> Self {
        Self::start_in(Mode::Server, scratch, config_json)
    }

    /// With more configuration, as Consul reads it from a JSON file. Our own requests use its `acl.tokens.master`.
    pub fn start_with(scratch: &Scratch, config_json: &str) -> Self {
        Self::start_in(Mode::Development, scratch, config_json)
    }

    fn start_in(mode: Mode, scratch: &Scratch, config_json: &str) -> Self {
        assert!(installed("consul"), "consul is not installed: run kickstart/setup");
        let config: Value = serde_json::from_str(config_json).expect("the configuration is JSON");
        let token = config.pointer("/acl/tokens/master").and_then(Value::as_str).map(str::to_owned);
        // The ports are free and ours, but for a stranger: then others are.
        for _ in 0..5 {
            let port = free_port();
            let dir = scratch.path().join(format!("consul-{port}"));
            configure(&dir, port, config_json);
            let mut child = spawn(mode, &dir);
            if wait_until_ready(&mut child, port, token.as_deref()) {
                return Self { dir, port, mode, token, child: Mutex::new(child) };
            }
            let log = log(&dir);
            assert!(log.contains("address already in use"), "consul does not start:\n{log}");
        }
        panic!("consul found no free ports five times");
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As `--store` takes it.
    pub fn url(&self) -> String {
        format!("consul://{}", self.addr())
    }

    /// Its process, which a restart makes another.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// One request, with the master token if there is one: status and body.
    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let response = self.request(method, path, body, self.token.as_deref());
        (response.status, response.body)
    }

    /// One request with this token; an empty one is the anonymous token.
    pub fn http_as(&self, token: &str, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let response = self.request(method, path, body, Some(token).filter(|token| !token.is_empty()));
        (response.status, response.body)
    }

    pub fn put(&self, key: &str, value: &str) {
        let answer = self.http("PUT", &format!("/v1/kv/{key}"), value.as_bytes());
        assert_eq!((answer.0, answer.1.trim()), (200, "true"), "putting {key}");
    }

    pub fn get(&self, key: &str) -> Option<String> {
        match self.http("GET", &format!("/v1/kv/{key}?raw&consistent"), b"") {
            (200, value) => Some(value),
            (404, _) => None,
            (status, body) => panic!("getting {key}: {status} {body}"),
        }
    }

    /// The index of what is under a prefix: it differs when something there has changed.
    pub fn index(&self, prefix: &str) -> u64 {
        let response = self.request("GET", &format!("/v1/kv/{prefix}?recurse&consistent"), b"", self.token.as_deref());
        let index = response.header("x-consul-index").expect("every answer about keys has an index");
        index.parse().expect("an index is a number")
    }

    /// Ends it as a power cut does. It starts again with [`Consul::restart`].
    pub fn kill(&self) {
        let mut child = self.child();
        child.kill().expect("it is ours to kill");
        child.wait().expect("it is ours to wait for");
    }

    /// A new, empty server at the same address, whose indexes begin anew.
    pub fn restart(&self) {
        self.kill();
        let mut child = self.child();
        *child = spawn(self.mode, &self.dir);
        let ready = wait_until_ready(&mut child, self.port, self.token.as_deref());
        assert!(ready, "consul does not start again:\n{}", log(&self.dir));
    }

    /// It stands still: connections are accepted, by the kernel, and nothing is answered.
    pub fn pause(&self) {
        let pid = self.child().id().cast_signed();
        signal(pid, Signal::STOP);
        // A signal takes its time to reach every thread, and one that still runs still answers.
        let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        let threads = || fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let all = || threads().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped));
        eventually("Consul stands still", Duration::from_secs(10), || all().then_some(()));
    }

    pub fn resume(&self) {
        signal(self.child().id().cast_signed(), Signal::CONT);
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().expect("nobody panics with it")
    }

    fn request(&self, method: &str, path: &str, body: &[u8], token: Option<&str>) -> Response {
        ask(self.port, method, path, body, token).unwrap_or_else(|error| panic!("consul: {method} {path}: {error}"))
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configure(dir: &Path, http: u16, config_json: &str) {
    let ours = json!({
        // Nobody to wait for.
        "performance": {"raft_multiplier": 1},
        "bind_addr": "127.0.0.1",
        "node_name": format!("test-{http}"),
        "ports": {
            "http": http, "server": free_port(), "serf_lan": free_port(),
            "serf_wan": -1, "dns": -1, "grpc": -1,
        },
        "connect": {"enabled": false},
        "disable_update_check": true,
    });
    let conf = dir.join("conf");
    fs::create_dir_all(&conf).expect("the configuration directory can be made");
    // In the order of their names: the test's own wins.
    fs::write(conf.join("1-fixture.json"), ours.to_string()).expect("it can be written");
    fs::write(conf.join("2-test.json"), config_json).expect("it can be written");
}

fn spawn(mode: Mode, dir: &Path) -> Child {
    let log = File::create(dir.join("log")).expect("the log can be made");
    let mut consul = Command::new("consul");
    consul.arg("agent").arg("-config-dir").arg(dir.join("conf"));
    match mode {
        Mode::Development => consul.arg("-dev"),
        Mode::Server => consul.args(["-server", "-bootstrap-expect=1", "-data-dir"]).arg(dir.join("data")),
    };
    consul
        // What the machine's own Consul is told is not for this one.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("consul starts")
}

/// True once it has a leader and writes keys; false if it has ended.
fn wait_until_ready(child: &mut Child, port: u16, token: Option<&str>) -> bool {
    let deadline = Instant::now() + READY;
    loop {
        // Not a key, which would be seen, but as much work for the leader.
        let barrier = ask(port, "GET", "/v1/kv/?keys&consistent", b"", token);
        if barrier.is_ok_and(|response| matches!(response.status, 200 | 404)) && writes(port, token) {
            return true;
        }
        if child.try_wait().expect("it is ours to wait for").is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "consul has no leader after {READY:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a key can be written. It leaves none behind, but the index has gone up.
fn writes(port: u16, token: Option<&str>) -> bool {
    ["PUT", "DELETE"].iter().all(|method| {
        ask(port, method, "/v1/kv/fixture-is-ready", b"", token)
            .is_ok_and(|response| response.status == 200 && response.body.trim() == "true")
    })
}

fn ask(port: u16, method: &str, path: &str, body: &[u8], token: Option<&str>) -> std::io::Result<Response> {
    let header = token.map(|token| format!("X-Consul-Token: {token}\r\n")).unwrap_or_default();
    request(&format!("127.0.0.1:{port}"), method, path, &header, body)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mentioning;

    #[test]
    fn it_keeps_keys_and_loses_them_with_a_restart() {
        let scratch = Scratch::new();
        let consul = Consul::start(&scratch);
        consul.put("nodes/web1/slug", "{}");
        consul.put("nodes/web1/slug", r#"{"cluster": "dev"}"#);
        assert_eq!(consul.get("nodes/web1/slug").unwrap(), r#"{"cluster": "dev"}"#);
        let (before, unchanged) = (consul.index("nodes/web1/"), consul.index("nodes/web1/"));
        assert_eq!(before, unchanged);
        consul.put("nodes/web1/slug", "{}");
        assert!(consul.index("nodes/web1/") > before);
        (0..50).for_each(|n| consul.put("nodes/web1/slug", &n.to_string()));
        let before = consul.index("nodes/web1/");
        consul.restart();
        assert_eq!(consul.get("nodes/web1/slug"), None);
        assert!(consul.index("nodes/web1/") < before);
    }

    #[test]
    fn killed_it_is_gone_and_paused_it_says_nothing() {
        let scratch = Scratch::new();
        let consul = Consul::start(&scratch);
        consul.pause();
        thread::scope(|scope| {
            let answer = scope.spawn(|| consul.get("a"));
            assert!(!answer.is_finished());
            consul.resume();
            assert_eq!(answer.join().unwrap(), None);
        });
        consul.kill();
        assert!(ask(consul.port, "GET", "/v1/status/leader", b"", None).is_err());
        assert_eq!(mentioning(scratch.path()), [0; 0]);
    }

    #[test]
    fn with_access_control_a_token_sees_what_it_may() {
        let scratch = Scratch::new();
        let acl = r#"{"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}}"#;
        let consul = Consul::start_with(&scratch, acl);
        consul.put("a", "1");
        assert_eq!(consul.http_as("root", "GET", "/v1/kv/a?raw", b""), (200, "1".to_owned()));
        assert_eq!(consul.http_as("", "GET", "/v1/kv/a?raw", b"").0, 403);
    }

    #[test]
    fn several_at_once_have_ports_of_their_own() {
        let scratch = Scratch::new();
        thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let scratch = &scratch;
                scope.spawn(move || {
                    let consul = Consul::start(scratch);
                    consul.put("name", name);
                    assert_eq!(consul.get("name").unwrap(), name);
                });
            }
        });
    }

    #[test]
    #[should_panic(expected = "consul does not start")]
    fn what_consul_says_of_a_bad_configuration_is_shown() {
        Consul::start_with(&Scratch::new(), r#"{"no_such_option": 1}"#);
    }
}
