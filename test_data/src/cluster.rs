//! A cluster of a test's own, by `kickstart/cluster`: hosts with Consul, a runsvdir and the agents, and their faults.
//!
//! Ensures: nothing of it is seen outside, and it ends with the test, also when that fails; when the test is killed, by the
//! [`Scratch`]'s reaper. Assumes root, and that the programs of the workspace are built.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::http::request_within;
use crate::netns::within_network_of;
use crate::{Repo, SOON, Scratch, bin, eventually};

/// After this an answer does not come: hundreds of times what one takes, for the sake of busy machines.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hosts `web1`, `web2`, … and the Consul servers `server1` to `server3`, which are nodes, too.
#[derive(Debug)]
pub struct Cluster {
    pub scratch: Scratch,
    /// What the hosts fetch artifacts from; empty at first.
    pub repo: Repo,
    dir: PathBuf,
    size: usize,
    /// The one that answered last: one that is dead is found to be so only after seconds.
    server: AtomicUsize,
}

impl Cluster {
    /// Ready: Consul has a leader, all have joined, and each agent has read that there is nothing to do.
    pub fn up(size: usize) -> Self {
        let scratch = Scratch::new();
        let repo = Repo::new(scratch.path().join("repo"));
        let cluster = Self { dir: scratch.path().join("cluster"), scratch, repo, size, server: AtomicUsize::new(0) };
        let mut up = kickstart_cluster(&cluster.dir);
        succeed(up.args(["up", &size.to_string(), "--repo"]).arg(cluster.repo.dir()));
        cluster
    }

    /// Ends it; panics if something is left.
    pub fn down(self) {
        succeed(kickstart_cluster(&self.dir).arg("down"));
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The hosts, without the servers.
    pub fn hosts(&self) -> Vec<String> {
        (1..=self.size).map(|number| format!("web{number}")).collect()
    }

    /// Pulls a node's network cable.
    pub fn cut(&self, node: &str) {
        self.script(&["cut", node]);
    }

    pub fn heal(&self, node: &str) {
        self.script(&["heal", node]);
    }

    /// Cuts a node's power. When this returns nothing runs there any more.
    pub fn kill(&self, node: &str) {
        self.script(&["kill", node]);
    }

    /// Gives power back. When this returns the node's runsvdir starts, but nothing else need have.
    pub fn start(&self, node: &str) {
        self.script(&["start", node]);
    }

    /// Kills one process with -9: `consul`, an agent, or the service of an app. Its runsv starts it again.
    pub fn kill_agent(&self, node: &str, name: &str) {
        self.script(&["kill", node, name]);
    }

    /// As [`Cluster::kill_agent`], for one that may not run at the moment; whether it did.
    pub fn try_kill_agent(&self, node: &str, name: &str) -> bool {
        let killed = kickstart_cluster(&self.dir).args(["kill", node, name]).output();
        killed.expect("kickstart/cluster starts").status.success()
    }

    /// What a person sees of it.
    pub fn status(&self) -> String {
        self.script(&["status"])
    }

    /// Runs a command on a node that has to succeed, or with `.` beside them; what it prints.
    #[track_caller]
    pub fn run(&self, node: &str, words: &[&str]) -> String {
        succeed(self.command(node, words[0]).args(&words[1..]))
    }

    /// A command to run there. It sees the node's own `/srv`, `/var`, `/run` and `/tmp`.
    pub fn command(&self, node: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = kickstart_cluster(&self.dir);
        command.args(["run", node]).arg(program);
        command
    }

    /// What `consul`, an agent or an app has logged there; it outlives the node's power.
    pub fn log(&self, node: &str, name: &str) -> String {
        let own = self.disk(node).join("var/log").join(name);
        let log = if own.exists() { own } else { self.disk(node).join(format!("srv/{name}/log/current")) };
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Waits until such a log has this in it.
    #[track_caller]
    pub fn says(&self, node: &str, name: &str, what: &str) {
        let said = || self.log(node, name).contains(what).then_some(());
        eventually(&format!("{name} on {node} says {what:?}"), SOON, said);
    }

    /// A node's `/srv` and `/var`, as they are on this machine.
    pub fn disk(&self, node: &str) -> PathBuf {
        self.dir.join("hosts").join(node).join("disk")
    }

    pub fn address(&self, node: &str) -> String {
        let address = fs::read_to_string(self.dir.join("hosts").join(node).join("address"));
        address.unwrap_or_else(|error| panic!("there is no {node}: {error}")).trim_end().to_owned()
    }

    /// One GET; `None` if nobody answers within a second. Starts no process: for probes, ten times a second, also from
    /// several threads.
    pub fn http_get(&self, node: &str, port: u16, path: &str) -> Option<(u16, String)> {
        let addr = format!("{}:{port}", self.address(node));
        let response = self.within(|| request_within(PATIENCE, &addr, "GET", path, "", b"")).ok()?;
        Some((response.status, response.body))
    }

    /// Does something on a thread that is in the network with the hosts, where each has its [`Cluster::address`].
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let init = fs::read_to_string(self.dir.join("init")).expect("the cluster is up");
        within_network_of(init.trim_end().parse().expect("it is a process's number"), work)
    }

    /// One request to Consul, by whichever server answers: status and body.
    #[track_caller]
    pub fn consul(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let servers = ["server1", "server2", "server3"].map(|server| format!("{}:8500", self.address(server)));
        let answer = || {
            let server = self.server.load(Ordering::Relaxed);
            let ask = || request_within(PATIENCE * 5, &servers[server % 3], method, path, "", body);
            // 500 is that of a server without a leader.
            let response = self.within(ask).ok().filter(|response| response.status != 500);
            if response.is_none() {
                self.server.store(server + 1, Ordering::Relaxed);
            }
            response
        };
        let response = eventually(&format!("Consul answers {method} {path}"), SOON, answer);
        (response.status, response.body)
    }

    #[track_caller]
    pub fn put(&self, key: &str, document: &Value) {
        let (status, body) = self.consul("PUT", &format!("/v1/kv/{key}"), document.to_string().as_bytes());
        assert_eq!((status, body.trim()), (200, "true"), "putting {key}");
    }

    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        let (status, body) = self.consul("GET", &format!("/v1/kv/{key}?raw&consistent"), b"");
        assert!(matches!(status, 200 | 404), "getting {key}: {status} {body}");
        (status == 200).then_some(body)
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        let (status, body) = self.consul("DELETE", &format!("/v1/kv/{key}"), b"");
        assert_eq!(status, 200, "deleting {key}: {body}");
    }

    #[track_caller]
    fn script(&self, words: &[&str]) -> String {
        succeed(kickstart_cluster(&self.dir).args(words))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What this leaves is the scratch directory's to end.
        let _ = kickstart_cluster(&self.dir).arg("down").output();
    }
}

/// `kickstart/cluster` on this directory, with programs of the same build as the running test.
pub fn kickstart_cluster(dir: &Path) -> Command {
    let mut command = Command::new("env");
    // What a shell runs in its background ignores INT, and no script that it starts can hear it then.
    command.args(["--default-signal", concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/cluster")]);
    let bins = bin("pp-setlive");
    command.env("BIN", bins.parent().expect("it is in a directory")).stdin(Stdio::null());
    command.arg("--dir").arg(dir);
    command
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("kickstart/cluster starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
