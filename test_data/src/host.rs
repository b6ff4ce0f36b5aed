//! A host for tests: a scratch directory with a runsvdir, a repository and a store, and the agents to run on it.
//!
//! Ensures: what the host runs ends with it. Assumes that the programs of the workspace are built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    Behaviour, Consul, Proxy, Repo, Runsvdir, Scratch, Slug, Tree, bin, eventually, free_port, http_get, tree_where,
};

/// Longer than anything takes that is not stuck.
pub const SOON: Duration = Duration::from_secs(30);

/// One host.
#[derive(Debug)]
pub struct Host {
    // Fields are dropped in order: what runs ends before the rest is taken away from under it.
    pub scratch: Scratch,
    /// What intent calls it: `web1`.
    pub node: &'static str,
    pub repo: Repo,
    pub runsvdir: Option<Runsvdir>,
    /// Where `slug` listens.
    pub port: u16,
    /// Without one, intent is in the directory `store`.
    pub consul: Option<Consul>,
    /// What agents reach that Consul through.
    pub proxy: Option<Proxy>,
}

/// How a run of the agent with `--once` or `--plan` ended, and what it said.
#[derive(Debug)]
pub struct Pass {
    pub ok: bool,
    /// `None` where a signal ended it.
    pub status: Option<i32>,
    pub log: String,
    pub out: String,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// With a runsvdir, on a directory store.
    pub fn new() -> Self {
        Self::within(Scratch::new()).with_runsvdir()
    }

    /// With a runsvdir, on a directory store, and with that version of `slug` live.
    pub fn running(version: &str) -> Self {
        let host = Self::new();
        host.install(&Slug::new(version, Behaviour::Good));
        host.deploy_config(json!({}));
        host.activate(version, json!({}));
        host.converge();
        host
    }

    /// With a runsvdir, on a real Consul.
    pub fn on_consul() -> Self {
        Self::new().with_consul(Consul::start)
    }

    pub fn without_runit() -> Self {
        Self::within(Scratch::new())
    }

    #[must_use]
    pub fn with_runsvdir(self) -> Self {
        let runsvdir = Runsvdir::start(&self.scratch, &self.path("service"));
        Self { runsvdir: Some(runsvdir), ..self }
    }

    #[must_use]
    pub fn with_consul(self, start: fn(&Scratch) -> Consul) -> Self {
        let consul = start(&self.scratch);
        Self { consul: Some(consul), ..self }
    }

    /// With neither, on a directory store.
    pub fn within(scratch: Scratch) -> Self {
        let repo = Repo::new(scratch.path().join("repo"));
        for dir in ["store", "service", "stage"] {
            fs::create_dir(scratch.path().join(dir)).unwrap();
        }
        Self { scratch, node: "web1", repo, runsvdir: None, port: free_port(), consul: None, proxy: None }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    /// Puts an install of `slug` in place, as an agent of another kind would.
    pub fn install(&self, slug: &Slug<'_>) {
        self.install_as("slug", slug);
    }

    pub fn install_as(&self, app: &str, slug: &Slug<'_>) {
        let artifact = self.repo.add_as(app, slug);
        let name = artifact.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz").to_owned();
        let installs = self.path("srv").join(app).join("installs");
        let staging = installs.join(format!(".{name}"));
        fs::create_dir_all(&staging).unwrap();
        let tar = Command::new("tar").arg("xzf").arg(&artifact).arg("-C").arg(&staging).status().unwrap();
        assert!(tar.success());
        fs::rename(staging, installs.join(name)).unwrap();
    }

    /// Writes a document as an editor that knows about half-written files would.
    pub fn put(&self, key: &str, document: &Value) {
        self.put_text(key, &document.to_string());
    }

    pub fn put_text(&self, key: &str, text: &str) {
        if let Some(consul) = &self.consul {
            return consul.put(key, text);
        }
        let path = self.path("store").join(format!("{key}.json"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let next = path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, path).unwrap();
    }

    pub fn delete(&self, key: &str) {
        if let Some(consul) = &self.consul {
            assert_eq!(consul.http("DELETE", &format!("/v1/kv/{key}"), b"").0, 200);
            return;
        }
        fs::remove_file(self.path("store").join(format!("{key}.json"))).unwrap();
    }

    /// Intent for `slug` with one active version and an HTTP check; `more` goes into its config.
    pub fn activate(&self, version: &str, more: Value) {
        self.activate_as("slug", self.port, version, more);
    }

    pub fn activate_as(&self, app: &str, port: u16, version: &str, more: Value) {
        let mut config = json!({
            "versions": {version: "active"},
            "user_config": {"port": port},
            "health": {"http": {"port": port, "path": "/health"}, "interval_seconds": 0.1, "deadline_seconds": 3},
            "stop_seconds": 1,
        });
        merge(&mut config, more);
        self.put(&format!("clusters/{app}/dev/config"), &config);
        self.put(&format!("nodes/{}/{app}", self.node), &json!({"cluster": "dev"}));
    }

    /// Intent that only the privileged write, for `slug`; `more` goes into its `deploy_config`.
    pub fn deploy_config(&self, more: Value) {
        self.deploy_config_as("slug", more);
    }

    pub fn deploy_config_as(&self, app: &str, more: Value) {
        let mut deploy_config = json!({"basedir": self.path("srv").join(app)});
        merge(&mut deploy_config, more);
        self.put(&format!("clusters/{app}/dev/deploy_config"), &deploy_config);
    }

    /// As `--store` takes it.
    pub fn store_url(&self) -> String {
        match (&self.proxy, &self.consul) {
            (Some(proxy), _) => proxy.url(),
            (None, Some(consul)) => consul.url(),
            (None, None) => format!("file:{}", self.path("store").display()),
        }
    }

    fn agent(&self, name: &str) -> Command {
        let mut agent = Command::new(bin(name));
        agent.arg("--store").arg(self.store_url()).args(["--node", self.node]);
        agent.current_dir(self.scratch.path()).stdin(Stdio::null());
        agent
    }

    pub fn preparer(&self) -> Command {
        let mut preparer = self.agent("pp-preparer");
        preparer.arg("--repo").arg(self.repo.url());
        preparer
    }

    pub fn setlive(&self) -> Command {
        let mut setlive = self.agent("pp-setlive");
        self.with_places(&mut setlive);
        setlive
    }

    /// `pt-direct`, with its intent in the file `intent.json`.
    pub fn direct(&self) -> Command {
        let mut direct = Command::new(bin("pt-direct"));
        direct.args(["--node", "web1"]).arg("--repo").arg(self.repo.url()).arg(self.path("intent.json"));
        direct.current_dir(self.scratch.path()).stdin(Stdio::null());
        self.with_places(&mut direct);
        direct
    }

    pub fn iptables(&self) -> Command {
        self.agent("pp-iptables")
    }

    fn with_places(&self, agent: &mut Command) {
        agent.arg("--runit").arg(self.path("service")).arg("--runit-stage").arg(self.path("stage"));
        agent.arg("--config").arg(self.path("servicebuilder.d"));
    }

    /// One pass of `pp-setlive`.
    pub fn once(&self) -> Pass {
        pass(self.setlive().arg("--once"))
    }

    /// One pass of `pp-setlive` that has to succeed.
    pub fn converge(&self) -> Pass {
        let pass = self.once();
        assert!(pass.ok, "{}", pass.log);
        pass
    }

    /// Starts an agent to keep going, until the host ends.
    pub fn watch(&self, mut agent: Command) -> Agent {
        let name = Path::new(agent.get_program()).file_name().expect("a program has a name").to_owned();
        let log = self.scratch.path().join(name).with_extension("log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        Agent { child: agent.stdout(Stdio::null()).stderr(file).spawn().unwrap(), log }
    }

    /// What the app answers on its health path: version, pid, user_config.
    pub fn health(&self) -> Option<Value> {
        let (status, body) = http_get(self.port, "/health")?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    pub fn serves(&self, version: &str) -> Value {
        let what = format!("{version} answers");
        eventually(&what, SOON, || self.health().filter(|health| health["version"] == version))
    }

    pub fn pid(&self) -> i64 {
        self.health().expect("the app answers")["pid"].as_i64().unwrap()
    }

    pub fn current(&self) -> PathBuf {
        fs::read_link(self.path("srv/slug/current")).unwrap()
    }

    pub fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("stage/.platypus/slug.json")).unwrap()).unwrap()
    }

    /// Everything that a converged pass must leave as it is.
    pub fn everything(&self) -> Tree {
        // What supervisors, loggers and Consul themselves write is not an agent's doing.
        tree_where(self.scratch.path(), |path| {
            let named = |name: &str| path.components().any(|part| part.as_os_str() == name);
            let theirs = ["supervise", "log"].iter().any(|name| named(name));
            !theirs && path.extension().is_none_or(|extension| extension != "log") && !path.starts_with("consul")
        })
    }
}

/// Runs an agent until it ends by itself.
pub fn pass(agent: &mut Command) -> Pass {
    let output = agent.output().unwrap();
    Pass {
        ok: output.status.success(),
        status: output.status.code(),
        log: String::from_utf8(output.stderr).unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
    }
}

/// An agent that keeps going.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the agent's log, which outlives the agent, has this in it.
    #[track_caller]
    pub fn says(&self, what: &str) {
        eventually(&format!("{} says {what:?}", self.log.display()), SOON, || self.log().contains(what).then_some(()));
    }

    /// By SIGTERM; at once.
    #[track_caller]
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = eventually("the agent ends", Duration::from_secs(2), || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(143), "{}", self.log());
    }

    /// By SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn merge(document: &mut Value, more: Value) {
    let Value::Object(fields) = more else { panic!("{more} is no object") };
    for (field, value) in fields {
        document[field] = value;
    }
}
