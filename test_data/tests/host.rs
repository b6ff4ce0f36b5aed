//! `kickstart/pack` and `kickstart/host`: a bare host becomes one that follows a store, by one command.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use fixtures::{
    BareHost, Behaviour, Consul, Repo, SOON, Scratch, Tree, bin, differences, eventually, tree, without_runits,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

const PROGRAMS: [&str; 5] = ["pp-iptables", "pp-preparer", "pp-setlive", "pp-store", "pt-direct"];

/// An artifact as `kickstart/pack` describes it.
struct Packed {
    path: PathBuf,
    version: String,
    sha256: String,
    _scratch: Option<Scratch>,
}

/// Packs these programs.
fn pack(programs: &Path, repo: &Path) -> Packed {
    let pack = concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/pack");
    let output = Command::new(pack).args(["--level", "1", "--bin"]).arg(programs).arg(repo).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let field = |name: &str| said.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap();
    let bytes = fs::metadata(field("path")).unwrap().len();
    assert_eq!(field("bytes"), bytes.to_string());
    Packed { path: field("path").into(), version: field("version"), sha256: field("sha256"), _scratch: None }
}

/// The platform as it was built with this test, for all tests that run at the time.
fn platform() -> Arc<Packed> {
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
struct Site {
    repo: Repo,
    platform: Arc<Packed>,
    host: BareHost,
    /// As `--store` takes it.
    store: String,
    /// What it is told beside its options.
    environment: Option<&'static str>,
}

impl Site {
    /// On a directory store.
    fn new() -> Self {
        let (platform, host) = (platform(), BareHost::new());
        fs::copy(&platform.path, host.disk("mnt/platypus.tar.gz")).unwrap();
        host.run(&["tar", "-xzf", "/mnt/platypus.tar.gz", "-C", "/mnt", "kickstart"]);
        let repo = Repo::new(host.disk("mnt/repo"));
        fs::create_dir(host.disk("mnt/store")).unwrap();
        Self { repo, platform, host, store: "file:/mnt/store".to_owned(), environment: None }
    }

    /// On a real Consul, in which nobody may do anything without a token.
    fn on_consul() -> (Self, Consul) {
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

    fn with_environment(&self, program: &str) -> Command {
        let mut command = self.host.command("env");
        command.args(self.environment).arg(program);
        command
    }

    /// `kickstart/host` with these options and, where they do not say otherwise, with all that it needs.
    fn command(&self, options: &[&str]) -> Command {
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
    fn kickstart(&self, options: &[&str]) -> String {
        let output = self.command(options).output().unwrap();
        let said = [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(output.status.success(), "{}: {said}", output.status);
        said
    }

    /// It is killed with all that it waits for, as soon as this is there.
    #[track_caller]
    fn interrupted(&self, options: &[&str], at: &str, path: &str) {
        let mut command = self.command(options);
        let mut run = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let path = self.host.disk(path);
        eventually(at, SOON, || fs::symlink_metadata(&path).is_ok().then_some(()));
        kill_process_group(Pid::from_child(&run), Signal::KILL).unwrap();
        assert!(!run.wait().unwrap().success(), "it came to its end before {at}");
    }

    /// It ends with this status, says this, and has changed nothing.
    #[track_caller]
    fn refuses(&self, options: &[&str], status: i32, says: &str) {
        let (before, services) = (self.disks(), self.services());
        let output = self.command(options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{options:?}: {said}");
        assert!(said.contains(says), "{options:?}: {said}");
        self.assert_unchanged(&before);
        assert_eq!(self.services(), services, "{options:?}");
    }

    /// What is on its disks, but for what services write of their own accord.
    fn disks(&self) -> [Tree; 4] {
        ["etc", "mnt", "srv", "var"].map(|disk| without_runits(&tree(&self.host.disk(disk))))
    }

    #[track_caller]
    fn assert_unchanged(&self, before: &[Tree; 4]) {
        for (before, after) in before.iter().zip(self.disks()) {
            assert_eq!(differences(before, &after), [""; 0]);
        }
    }

    #[track_caller]
    fn put(&self, key: &str, document: &Value) {
        let mut put = self.with_environment("/srv/platypus/current/bin/pp-store");
        let put = put.args(["--store", &self.store, "put", key, &document.to_string()]).status().unwrap();
        assert!(put.success(), "putting {key}");
    }

    /// The sample app comes by intent alone.
    #[track_caller]
    fn serves(&self) {
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
    fn answers(&self) {
        let answers = || self.host.http_get(8080, "/").filter(|(_, body)| body.starts_with("slug 1\n"));
        eventually("the sample app answers", SOON, answers);
    }

    /// What runsv looks after, and itself: agents have children that come and go.
    fn services(&self) -> Vec<String> {
        let processes = self.host.processes();
        let number = |process: &str, at| process.split_whitespace().nth(at).unwrap_or_default().to_owned();
        let runsvs = processes.iter().filter(|process| process.contains("runsv"));
        let runsvs = runsvs.map(|process| number(process, 0)).collect::<Vec<_>>();
        let kept = |process: &String| runsvs.contains(&number(process, 0)) || runsvs.contains(&number(process, 1));
        processes.into_iter().filter(kept).collect()
    }

    /// Which of its processes are of this program.
    fn running(&self, program: &str) -> Vec<String> {
        self.host.processes().into_iter().filter(|process| process.contains(program)).collect()
    }

    /// The agents run from this platform's install, and have left the marks of their first passes.
    #[track_caller]
    fn follows(&self) {
        for agent in ["pp-iptables", "pp-preparer", "pp-setlive"] {
            let program = format!("/srv/platypus/installs/platypus_{}/bin/{agent}", self.platform.version);
            let mark = fs::read(self.host.disk(&format!("srv/platypus/data/passed/{agent}"))).unwrap();
            let mark = serde_json::from_slice::<Value>(&mark).unwrap();
            assert_eq!((&mark["program"], &mark["store"]), (&json!(program), &json!(self.store)));
            // Beside it there may be a child that is not another program yet.
            let running = self.running(&format!("{program} --settings"));
            let is_marked = |process: &String| process.trim_start().starts_with(&format!("{} ", mark["pid"]));
            assert!(running.iter().any(is_marked), "{running:?}: {mark}");
        }
    }
}

#[test]
fn a_bare_host_serves_by_one_command_and_a_second_changes_nothing_and_what_is_removed_is_gone() {
    let (site, consul) = Site::on_consul();
    let (begun, bare) = (Instant::now(), site.disks());
    let said = site.kickstart(&[]);
    println!("{said}from the command to its end: {:?}", begun.elapsed());
    assert!(said.contains("web1 runs platypus") && said.contains("\nIt took "), "{said}");
    site.follows();
    site.serves();

    let index = || site.host.within(|| consul.index(""));
    let (before, keys, services) = (site.disks(), index(), site.services());
    let again = site.kickstart(&[]);
    assert!(again.starts_with("Nothing to do: "), "{again}");
    site.assert_unchanged(&before);
    assert_eq!((index(), site.services()), (keys, services));

    assert_eq!(site.running("sesame"), [""; 0]);
    let told = site.host.command("grep").args(["-rlaF", "sesame", "/srv", "/var", "/mnt/kickstart"]).output().unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "");

    site.refuses(&["--basedir", "/srv/elsewhere"], 1, "has another --basedir than /srv/elsewhere");
    // Without a store nobody knows whether all is as it should be.
    site.refuses(&["--store", "consul://127.0.0.1:1"], 1, "does not tell clusters/platypus/main/deploy_config");

    fs::write(site.host.disk("srv/slug/data/diary"), "dear").unwrap();
    let removed = site.host.run(&["/mnt/kickstart/host", "--remove"]);
    println!("{removed}");
    assert!(removed.contains("What is left: /srv/slug/data, "), "{removed}");
    assert_eq!(site.host.processes(), [""; 0]);
    assert!(!site.host.run(&["/usr/sbin/iptables", "-S"]).contains("PLATYPUS"));
    let changed = bare.iter().zip(site.disks()).flat_map(|(bare, after)| {
        let new = after.into_keys().filter(|path| !bare.contains_key(path)).collect::<Vec<_>>();
        new.into_iter().filter(|path| !path.starts_with("repo"))
    });
    assert_eq!(changed.collect::<Vec<_>>(), ["slug", "slug/data", "slug/data/diary"].map(PathBuf::from));
    let left = site.host.within(|| consul.http("GET", "/v1/kv/nodes/web1/?keys", b"").0);
    let services = site.host.within(|| consul.http("GET", "/v1/agent/services", b"").1);
    assert_eq!((left, services.trim()), (404, "{}"));
    let nothing = site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert!(nothing.starts_with("Nothing to do: "), "{nothing}");
}

#[test]
fn one_that_is_interrupted_anywhere_or_loses_its_power_is_finished_by_the_next() {
    let mut site = Site::new();
    for (at, path) in [
        ("it has made directories", "srv/platypus/data/node"),
        ("it unpacks", "srv/platypus/installs"),
        ("services are linked", "var/lib/platypus/service/platypus@pp-setlive"),
        ("the first key is written", "mnt/store/clusters/platypus/main/deploy_config.json"),
    ] {
        site.interrupted(&[], at, path);
    }
    let said = site.kickstart(&[]);
    assert!(said.contains("web1 runs platypus"), "{said}");
    site.follows();
    site.serves();
    assert_eq!(site.host.run(&["ls", "/tmp"]), "", "what those that were killed had left there is gone, too");

    // Nobody here starts anything at boot.
    site.host.restart();
    assert_eq!(site.host.processes(), [""; 0]);
    let said = site.kickstart(&[]);
    assert!(said.contains("started runsvdir"), "{said}");
    site.follows();
    site.answers();

    let removal = site.host.disk("var/lib/platypus/kickstart/basedirs");
    let mut remove = site.host.command("/mnt/kickstart/host");
    let mut run = remove.arg("--remove").process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let stopped = || removal.exists() && site.running("bin/pp-setlive --settings").is_empty();
    eventually("it has stopped the agents", SOON, || stopped().then_some(()));
    kill_process_group(Pid::from_child(&run), Signal::KILL).unwrap();
    run.wait().unwrap();
    // Whoever changes his mind gets all of it back.
    site.kickstart(&[]);
    site.follows();
    site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert_eq!(site.host.processes(), [""; 0]);
    assert_eq!(
        tree(&site.host.disk("srv")).into_keys().collect::<Vec<_>>(),
        ["", "slug", "slug/data"].map(PathBuf::from)
    );
}

#[test]
fn while_something_is_wrong_nothing_is_changed_and_what_it_is_is_said() {
    let site = Site::new();
    for (options, says) in [
        (&["--store", ""][..], "where is intent?"),
        (&["--store", "https://example.com"], "--store https://example.com: one of consul://*"),
        (&["--repo", "ftp://example.com/"], "--repo ftp://example.com/: one of"),
        (&["--repo", "https://me:secret@example.com/"], "passwords, which everybody on the host could read"),
        (&["--sha256", "abc"], "64 digits"),
        (&["--node", "a/b"], "--node a/b: up to 100 letters"),
        (&["--node", "web1\n\"}"], "--node takes a single line"),
        (&["--cluster", "a b"], "--cluster a b: up to 100 letters"),
        (&["--dir", "var/lib"], "--dir var/lib: an absolute path"),
        (&["--dir", "/var/lib/../x"], "an absolute path"),
        (&["--basedir", "/"], "--basedir /: an absolute path"),
        (&["--basedir", "/var/lib/platypus/own"], "is in --dir"),
        (&["--dir", "/srv/platypus/own"], "is in --basedir"),
        (&["--consul-join", "a;b"], "--consul-join a;b: an address"),
        (&["--consul-bind", "127.0.0.1"], "--consul-bind is for --consul-join"),
        (&["--timeout", "0"], "--timeout 0: whole seconds"),
        (&["--frobnicate"], "what is --frobnicate?"),
        (&["--node"], "--node takes a value"),
    ] {
        site.refuses(options, 2, says);
    }
    let other = "0".repeat(64);
    fs::write(site.host.disk("mnt/text"), "no archive").unwrap();
    let text = site.host.run(&["sha256sum", "/mnt/text"])[..64].to_owned();
    fs::create_dir_all(site.host.disk("srv/other/work")).unwrap();
    fs::create_dir_all(site.host.disk("srv/home/.ssh")).unwrap();
    for (options, says) in [
        (&["--artifact", "/mnt/none"][..], "there is no file /mnt/none"),
        (&["--artifact", "http://127.0.0.1:1/p.tar.gz"], "http://127.0.0.1:1/p.tar.gz cannot be fetched"),
        (&["--sha256", &other], "is not what --sha256 says"),
        (&["--artifact", "/mnt/text", "--sha256", &text], "is no .tar.gz"),
        (&["--basedir", "/srv/other"], "/srv/other is somebody else's: /srv/other/work is in it"),
        (&["--basedir", "/srv/home"], "/srv/home is somebody else's: /srv/home/.ssh is in it"),
    ] {
        site.refuses(options, 1, says);
    }
    let mut with_token = site.host.command("env");
    let output = with_token.args(["CONSUL_HTTP_TOKEN=hush", "/mnt/kickstart/host", "--store", "consul://127.0.0.1:1"]);
    let output = output.args(["--repo", "file:/r", "--artifact", "/a", "--sha256", &other]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("name that by CONSUL_HTTP_TOKEN_FILE"), "{said}");
    assert!(!said.contains("hush"));

    // What the store says already counts.
    let config = site.host.disk("mnt/store/clusters/platypus/main/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"versions": {"another": "active"}}"#).unwrap();
    site.refuses(&[], 1, "--artifact and the store disagree: clusters/platypus/main/config does not say");
    fs::write(config.with_file_name("deploy_config.json"), r#"{"basedir": "/srv/elsewhere"}"#).unwrap();
    site.refuses(&[], 1, r#"does not say "basedir":"/srv/platypus""#);
    assert_eq!(site.host.processes(), [""; 0]);
}

#[test]
fn a_consul_client_that_joins_is_an_app_of_its_own_and_leaves_with_the_rest() {
    let mut site = Site::new();
    let server = site.host.consul(
        r#"{"node_name": "server1", "bind_addr": "127.0.0.2", "advertise_addr": "127.0.0.2",
            "ports": {"server": 8300, "serf_lan": 8301}}"#,
    );
    site.store = "consul://127.0.0.1:8500".to_owned();
    let join = ["--consul-join", "127.0.0.2", "--consul-bind", "127.0.0.1"];
    site.interrupted(&join, "services are linked", "var/lib/platypus/service/platypus@pp-setlive");
    println!("{}", site.kickstart(&join));
    site.follows();
    let alive = |what: &str| {
        let (_, members) = site.host.within(|| server.http("GET", "/v1/agent/members", b""));
        let members = serde_json::from_str::<Vec<Value>>(&members).unwrap();
        members.iter().any(|member| member["Name"] == what && member["Status"] == 1)
    };
    assert!(alive("web1"));
    site.serves();
    let (_, instances) = site.host.within(|| server.http("GET", "/v1/health/service/slug?passing", b""));
    assert!(instances.contains("\"web1\""), "{instances}");

    // Nor is it forgotten by one that does not name it.
    let consul = site.running("consul agent");
    assert!(site.kickstart(&[]).starts_with("Nothing to do: "));
    assert_eq!((consul.len(), site.running("consul agent")), (1, consul));
    site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert_eq!(site.host.processes(), [""; 0]);
    eventually("it has left", SOON, || (!alive("web1")).then_some(()));
    assert!(site.host.disk("srv/consul/data").is_dir() && !site.host.disk("srv/consul/installs").exists());
}

#[test]
fn what_is_packed_depends_on_nothing_but_its_content() {
    let scratch = Scratch::new();
    let programs = |name: &str, mode: u32, text: &str| {
        let dir = scratch.path().join(name);
        fs::create_dir(&dir).unwrap();
        for program in PROGRAMS.iter().rev() {
            fs::write(dir.join(program), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(dir.join(program), Permissions::from_mode(mode)).unwrap();
        }
        dir
    };
    let repo = |name: &str| scratch.path().join(name);
    let one = pack(&programs("one", 0o700, "true"), &repo("a"));
    let same = pack(&programs("same", 0o775, "true"), &repo("b"));
    assert_eq!((&one.version, &one.sha256), (&same.version, &same.sha256));
    assert_eq!(fs::read(&one.path).unwrap(), fs::read(&same.path).unwrap());
    assert!(one.path.ends_with(format!("platypus/platypus_{}.tar.gz", one.version)));
    let other = pack(&programs("other", 0o755, "false"), &repo("a"));
    assert_ne!(one.version, other.version);

    let listed = Command::new("tar").arg("-tf").arg(&one.path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let agents = ["pp-iptables", "pp-preparer", "pp-setlive"].map(|agent| format!("bin/launch/{agent}"));
    let files = listed.lines().filter(|line| !line.ends_with('/')).map(str::to_owned).collect::<Vec<_>>();
    let programs = PROGRAMS.map(|program| format!("bin/{program}"));
    let ours = ["kickstart/host".to_owned(), "kickstart/setup".to_owned()];
    assert_eq!(files, [&agents[..], &programs[..], &ours[..]].concat());
}

#[test]
fn the_unit_for_systemd_is_one() {
    let scratch = Scratch::new();
    let host = concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/host");
    let printed = Command::new(host).args(["--print-unit", "--dir", "/srv/own"]).output().unwrap();
    let unit = scratch.path().join("platypus.service");
    fs::write(&unit, &printed.stdout).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output();
    let verified = verified.expect("systemd-analyze is installed: run kickstart/setup");
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success() && !said.contains("platypus.service"), "{said}");
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains(" -P /srv/own/service\n") && text.contains("\nKillMode=process\n"), "{text}");
}
