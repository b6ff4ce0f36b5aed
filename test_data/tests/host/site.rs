//! What tests of `kickstart/pack` and `kickstart/host` begin with: the platform as an artifact, and a bare host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fixtures::{
    BareHost, Behaviour, Consul, Repo, SOON, Scratch, Tree, bin, differences, eventually, tree, without_runits,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

pub(crate) const PROGRAMS: [&str; 5] = ["pp-iptables", "pp-preparer", "pp-setlive", "pp-store", "pt-direct"];

/// An artifact as `kickstart/pack` describes it.
pub(crate) struct Packed {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) sha256: String,
    /// What it was packed from.
    pub(crate) programs: PathBuf,
    _scratch: Option<Scratch>,
}

/// Packs these programs.
pub(crate) fn pack(programs: &Path, repo: &Path) -> Packed {
    let pack = concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/pack");
    let output = Command::new(pack).args(["--level", "1", "--bin"]).arg(programs).arg(repo).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let field = |name: &str| said.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap();
    let bytes = fs::metadata(field("path")).unwrap().len();
    assert_eq!(field("bytes"), bytes.to_string());
    let (path, programs) = (field("path").into(), programs.to_owned());
    Packed { path, version: field("version"), sha256: field("sha256"), programs, _scratch: None }
}

impl Packed {
    /// Another version of it, in a repository: with this as one of its programs.
    pub(crate) fn with(&self, program: &str, content: &[u8], repo: &Path) -> Packed {
        let scratch = Scratch::new();
        let programs = scratch.path().join("bin");
        fs::create_dir(&programs).unwrap();
        for known in PROGRAMS {
            fs::hard_link(self.programs.join(known), programs.join(known)).unwrap();
        }
        fs::remove_file(programs.join(program)).unwrap();
        fs::write(programs.join(program), content).unwrap();
        fs::set_permissions(programs.join(program), Permissions::from_mode(0o755)).unwrap();
        Packed { _scratch: Some(scratch), ..pack(&programs, repo) }
    }

    /// One that does the same.
    pub(crate) fn successor(&self, repo: &Path) -> Packed {
        let program = fs::read(self.programs.join("pp-store")).unwrap();
        self.with("pp-store", &[program, fastrand::u64(..).to_le_bytes().to_vec()].concat(), repo)
    }
}

/// The platform as it was built with this test, for all tests that run at the time.
pub(crate) fn platform() -> Arc<Packed> {
    static PACKED: Mutex<Weak<Packed>> = Mutex::new(Weak::new());
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(packed) = packed.upgrade() {
        return packed;
    }
    let scratch = Scratch::new();
    let programs = scratch.path().join("bin");
    fs::create_dir(&programs).unwrap();
    for program in PROGRAMS {
        // What a debugger needs is most of it.
        let strip = Command::new("strip").arg("-o").arg(programs.join(program)).arg(bin(program)).status();
        assert!(strip.expect("binutils is installed, as cc needs it").success());
    }
    let new = Packed { _scratch: None, ..pack(&programs, &scratch.path().join("repo")) };
    let new = Arc::new(Packed { _scratch: Some(scratch), ..new });
    *packed = Arc::downgrade(&new);
    new
}

/// A bare host, with the platform's artifact in its `/mnt`, and nothing of ours anywhere else.
pub(crate) struct Site {
    pub(crate) repo: Repo,
    pub(crate) platform: Arc<Packed>,
    pub(crate) host: BareHost,
    /// As `--store` takes it.
    pub(crate) store: String,
    /// What it is told beside its options.
    environment: Option<&'static str>,
}

impl Site {
    /// On a directory store.
    pub(crate) fn new() -> Self {
        let (platform, host) = (platform(), BareHost::new());
        fs::copy(&platform.path, host.disk("mnt/platypus.tar.gz")).unwrap();
        host.run(&["tar", "-xzf", "/mnt/platypus.tar.gz", "-C", "/mnt", "kickstart"]);
        let repo = Repo::new(host.disk("mnt/repo"));
        fs::create_dir(host.disk("mnt/store")).unwrap();
        Self { repo, platform, host, store: "file:/mnt/store".to_owned(), environment: None }
    }

    /// On a real Consul, in which nobody may do anything without a token.
    pub(crate) fn on_consul() -> (Self, Consul) {
        let mut site = Self::new();
        let consul = site.host.consul(
            r#"{"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "sesame", "agent": "sesame"}}}"#,
        );
        fs::create_dir(site.host.disk("etc/platypus")).unwrap();
        fs::write(site.host.disk("etc/platypus/token"), "sesame\n").unwrap();
        site.environment = Some("CONSUL_HTTP_TOKEN_FILE=/etc/platypus/token");
        site.store = format!("consul://{}", consul.addr());
        (site, consul)
    }

    pub(crate) fn with_environment(&self, program: &str) -> Command {
        let mut command = self.host.command("env");
        command.args(self.environment).arg(program);
        command
    }

    /// `kickstart/host` with these options and, where they do not say otherwise, with all that it needs.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = self.with_environment("/mnt/kickstart/host");
        for (option, value) in [
            ("--store", self.store.as_str()),
            ("--repo", "file:/mnt/repo"),
            ("--artifact", "/mnt/platypus.tar.gz"),
            ("--sha256", &self.platform.sha256),
        ] {
            if !options.contains(&option) {
                command.args([option, value]);
            }
        }
        command.args(options);
        command
    }

    /// What it says, step by step and in the end.
    #[track_caller]
    pub(crate) fn kickstart(&self, options: &[&str]) -> String {
        let output = self.command(options).output().unwrap();
        let said = [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(output.status.success(), "{}: {said}", output.status);
        said
    }

    /// It is killed with all that it waits for, as soon as this is there.
    #[track_caller]
    pub(crate) fn interrupted(&self, options: &[&str], at: &str, path: &str) {
        let mut command = self.command(options);
        let mut run = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let path = self.host.disk(path);
        eventually(at, SOON, || fs::symlink_metadata(&path).is_ok().then_some(()));
        kill_process_group(Pid::from_child(&run), Signal::KILL).unwrap();
        assert!(!run.wait().unwrap().success(), "it came to its end before {at}");
    }

    /// It ends with this status, says this, and has changed nothing.
    #[track_caller]
    pub(crate) fn refuses(&self, options: &[&str], status: i32, says: &str) {
        let (before, services) = (self.disks(), self.services());
        let output = self.command(options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{options:?}: {said}");
        assert!(said.contains(says), "{options:?}: {said}");
        self.assert_unchanged(&before);
        assert_eq!(self.services(), services, "{options:?}");
    }

    /// What is on its disks, but for what services write of their own accord.
    pub(crate) fn disks(&self) -> [Tree; 4] {
        ["etc", "mnt", "srv", "var"].map(|disk| without_runits(&tree(&self.host.disk(disk))))
    }

    #[track_caller]
    pub(crate) fn assert_unchanged(&self, before: &[Tree; 4]) {
        for (before, after) in before.iter().zip(self.disks()) {
            assert_eq!(differences(before, &after), [""; 0]);
        }
    }

    #[track_caller]
    pub(crate) fn put(&self, key: &str, document: &Value) {
        let mut put = self.with_environment("/srv/platypus/current/bin/pp-store");
        let put = put.args(["--store", &self.store, "put", key, &document.to_string()]).status().unwrap();
        assert!(put.success(), "putting {key}");
    }

    #[track_caller]
    pub(crate) fn get(&self, key: &str) -> Value {
        let mut get = self.with_environment("/srv/platypus/current/bin/pp-store");
        let get = get.args(["--store", &self.store, "get", key]).output().unwrap();
        serde_json::from_slice(&get.stdout).unwrap_or_else(|error| panic!("getting {key}: {error}: {get:?}"))
    }

    /// The sample app comes by intent alone.
    #[track_caller]
    pub(crate) fn serves(&self) {
        self.repo.slug("1", Behaviour::Good);
        let health = json!({"http": {"port": 8080, "path": "/health"}});
        for (key, document) in [
            ("clusters/slug/demo/deploy_config", json!({"basedir": "/srv/slug", "ports": [8080]})),
            (
                "clusters/slug/demo/config",
                json!({"versions": {"1": "active"}, "user_config": {"port": 8080}, "health": health}),
            ),
            ("nodes/web1/slug", json!({"cluster": "demo"})),
        ] {
            self.put(key, &document);
        }
        self.answers();
        let is_open = || self.host.run(&["/usr/sbin/iptables", "-S"]).contains("--dport 8080").then_some(());
        eventually("its port is open", SOON, is_open);
        // The last thing that it does about it.
        let record = self.host.disk("var/lib/platypus/stage/.platypus/slug.json");
        let settled = || fs::read_to_string(&record).is_ok_and(|text| !text.contains("unregistered")).then_some(());
        eventually("the store knows it", SOON, settled);
    }

    #[track_caller]
    pub(crate) fn answers(&self) {
        let answers = || self.host.http_get(8080, "/").filter(|(_, body)| body.starts_with("slug 1\n"));
        eventually("the sample app answers", SOON, answers);
    }

    /// What runsv looks after, and itself: agents have children that come and go.
    pub(crate) fn services(&self) -> Vec<String> {
        let processes = self.host.processes();
        let number = |process: &str, at| process.split_whitespace().nth(at).unwrap_or_default().to_owned();
        let runsvs = processes.iter().filter(|process| process.contains("runsv"));
        let runsvs = runsvs.map(|process| number(process, 0)).collect::<Vec<_>>();
        let kept = |process: &String| runsvs.contains(&number(process, 0)) || runsvs.contains(&number(process, 1));
        processes.into_iter().filter(kept).collect()
    }

    /// Which of its processes are of this program.
    pub(crate) fn running(&self, program: &str) -> Vec<String> {
        self.host.processes().into_iter().filter(|process| process.contains(program)).collect()
    }

    /// The agents run from this platform's install, and have left the marks of their first passes.
    #[track_caller]
    pub(crate) fn follows(&self) {
        assert!(self.marked(&self.platform.version), "{:?}", self.services());
    }

    /// Whether the agents are of that version, and have left the marks of their first passes.
    pub(crate) fn marked(&self, version: &str) -> bool {
        ["pp-iptables", "pp-preparer", "pp-setlive"].iter().all(|agent| {
            let program = format!("/srv/platypus/installs/platypus_{version}/bin/{agent}");
            let mark = fs::read(self.host.disk(&format!("srv/platypus/data/passed/{agent}"))).unwrap_or_default();
            let mark = serde_json::from_slice::<Value>(&mark).unwrap_or_default();
            let is_theirs = (&mark["program"], &mark["store"]) == (&json!(program), &json!(self.store));
            // Beside it there may be a child that is not another program yet.
            let of_mark = |process: &String| process.trim_start().starts_with(&format!("{} ", mark["pid"]));
            is_theirs && self.running(&format!("{program} --settings")).iter().any(of_mark)
        })
    }
}
