//! A bare host of a test's own: for what is put on one with a single command.
//!
//! Ensures: what happens there reaches nothing else on this machine, and ends with the test, also when that fails. Assumes root,
//! and the programs of util-linux and iproute2.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::http::request;
use crate::netns::within_network_of;
use crate::{Consul, SOON, Scratch, eventually};

/// `web1`, with network, processes and mounts of its own: this machine's `/usr`, which cannot be written to, a copy of its
/// `/etc`, and empty `/var`, `/srv`, `/run` and `/tmp`.
#[derive(Debug)]
pub struct BareHost {
    first: Child,
    dir: PathBuf,
    pub scratch: Scratch,
}

impl BareHost {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path().join("host");
        fs::create_dir_all(dir.join("mnt")).expect("it can be made");
        let host = Self { first: power_on(&dir), dir, scratch };
        host.is_on();
        host
    }

    /// Cuts the power, and gives it back: `/etc`, `/srv` and `/var` are as they were, and nothing runs.
    pub fn restart(&mut self) {
        self.first.kill().expect("it is ours to kill");
        self.first.wait().expect("it is ours to wait for");
        let init = Path::new("/proc").join(self.init());
        eventually("the host is off", SOON, || (!init.exists()).then_some(()));
        fs::remove_file(self.dir.join("init")).expect("it is there");
        self.first = power_on(&self.dir);
        self.is_on();
    }

    #[track_caller]
    fn is_on(&self) {
        let is_on = || fs::read_to_string(self.dir.join("init")).is_ok_and(|init| init.ends_with('\n')).then_some(());
        eventually("there is a host; this takes root, and iproute2", SOON, is_on);
    }

    /// Where one of its directories is on this machine: below `etc`, `mnt`, `srv` and `var`.
    pub fn disk(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// A command to run there; one that is killed takes with it what has not left its process group.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--pid", "--mount", "--uts", "--ipc", "--target", &self.init()]);
        command.args(["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin"]).arg(program);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a command there that has to succeed; what it prints.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words[0]).args(&words[1..]).output().expect("it starts");
        assert!(status.success(), "{words:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Does something on a thread that is in its network; a server that is started so is, too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within_network_of(self.first.id(), work)
    }

    /// A Consul in its network.
    pub fn consul(&self, config_json: &str) -> Consul {
        self.within(|| Consul::start_with(&self.scratch, config_json))
    }

    /// One GET from its loopback; `None` if nobody answers.
    pub fn http_get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let response = self.within(|| request(&format!("127.0.0.1:{port}"), "GET", path, "", b"")).ok()?;
        Some((response.status, response.body))
    }

    /// What runs there, but its first process with its child and who asks: their command lines.
    pub fn processes(&self) -> Vec<String> {
        let all = self.run(&["ps", "-e", "-o", "pid=,ppid=,args="]);
        let own = |line: &&str| {
            let [pid, parent] = [0, 1].map(|at| line.split_whitespace().nth(at).unwrap_or_default());
            pid == "1" || (parent == "1" && line.contains("sleep 1000")) || line.contains("ps -e -o pid=")
        };
        all.lines().filter(|line| !own(line)).map(str::to_owned).collect()
    }

    /// Its first process, as this machine counts.
    fn init(&self) -> String {
        fs::read_to_string(self.dir.join("init")).expect("it is on").trim_end().to_owned()
    }
}

impl Default for BareHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BareHost {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn power_on(dir: &Path) -> Child {
    Command::new("unshare")
        .args(["--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/host/init"))
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("unshare starts: util-linux is installed")
}
