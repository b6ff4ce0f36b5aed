//! A host at one place, where scenarios are played one after the other, each as on a new host.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::thread;

use fixtures::{Behaviour, Consul, Host, Namespace, SOON, Scratch, Slug, bin, end_all, eventually, script};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value;

use crate::names::{self, OF_ITSELF};
use crate::scenarios::{On, Scenario};
use crate::snapshot::Snapshot;
use crate::supervisor::Supervisor;
use crate::{Steps, caught};

pub(crate) struct Site {
    pub(crate) supervisor: Option<Supervisor>,
    /// What there is beside files and processes.
    on: On,
    /// Where a packet filter is, if one is changed.
    namespace: OnceLock<Namespace>,
    pub(crate) host: Host,
}

/// Either may run again, but which one was the last counts.
const ENABLE: &str = "echo enabled >\"$DATA_DIR/hook\"";
const DISABLE: &str = "echo disabled >\"$DATA_DIR/hook\"";

/// What agents make, and what they are told.
const MADE: [&str; 12] = [
    "service",
    "stage",
    "srv",
    "store",
    "rules",
    ".rules.next",
    ".rules.lock",
    "servicebuilder.d",
    "ports.d",
    "applied",
    "intent.json",
    "die_at",
];

/// As small as one can be: for one app, whose service is named as it is.
const BUILDER: &str = r##"
while getopts c:d:s: option; do case $option in c) c=$OPTARG ;; d) d=$OPTARG ;; s) s=$OPTARG ;; esac; done
run=$(sed -n 's/^{"slug":{"run":\["\/bin\/sh","-c","\(.*\)"\]}}$/\1/p' "$c/slug.yaml")
mkdir -p "$s/slug/log"
printf "#!/bin/sh\n$run" >"$s/slug/run"
printf '#!/bin/sh\nexec cat >/dev/null\n' >"$s/slug/log/run"
chmod 755 "$s/slug/run" "$s/slug/log/run"
ln -sfn "$s/slug" "$d/slug""##;

impl Site {
    pub(crate) fn new(on: On) -> Self {
        let host = Host::within(Scratch::in_memory());
        let host = if on == On::Consul { host.with_consul(Consul::start) } else { host };
        match on {
            On::Directory | On::Consul => {}
            On::Platform => add_platform(&host),
            On::Accounts => lend_accounts(&host),
        }
        for (version, behaviour) in [
            ("good", Behaviour::Good),
            ("other", Behaviour::Good),
            ("two", Behaviour::TwoServices),
            ("forks", Behaviour::ForksChild),
            ("bad", Behaviour::NeverHealthy),
            ("deaf", Behaviour::IgnoresTerm),
        ] {
            host.install(&Slug::new(version, behaviour).enable(ENABLE).disable(DISABLE));
        }
        host.install(&Slug::new("hangs", Behaviour::Good).enable("sleep 1000").disable(DISABLE));
        script(&host.path("builder"), BUILDER);
        // What it does not see when it is run last is not in force.
        script(&host.path("authority"), "rm -rf applied && cp -r ports.d applied");
        // As on a host on which nobody was yet, but for what needs no unpacking again and again.
        fs::rename(host.path("srv"), host.path("installs")).unwrap();
        Self { supervisor: None, on, namespace: OnceLock::new(), host }
    }

    /// What one round that nothing disturbs comes to, and makes of the host.
    pub(crate) fn undisturbed(&mut self, scenario: &Scenario) -> (Steps, Snapshot) {
        self.begin(scenario);
        (scenario.change)(self);
        match scenario.is_done {
            Some(is_done) => eventually("it is done", SOON, || is_done(self).then_some(())),
            None => scenario.agents.iter().for_each(|agent| {
                let (status, log) = self.run_while(agent(self), scenario.meanwhile, None);
                assert!(status.success() != scenario.fails, "{status}: {log}");
            }),
        }
        let steps = self.steps();
        assert!(!steps.is_empty(), "there is nothing to walk");
        (steps, self.in_the_end(scenario))
    }

    /// What it comes to when the agent dies at this step in the first round.
    pub(crate) fn disturbed(&mut self, scenario: &Scenario, step: &str, number: usize) -> Snapshot {
        self.begin(scenario);
        let die_at = format!("{step}:{number}");
        if let Some(is_done) = scenario.is_done {
            fs::write(self.host.path("die_at"), die_at).unwrap();
            (scenario.change)(self);
            let died = || !self.host.path("die_at").exists();
            eventually("one dies, and it is done", SOON, || (died() && is_done(self)).then_some(()));
            return self.in_the_end(scenario);
        }
        (scenario.change)(self);
        let died = scenario.agents.iter().any(|agent| {
            let (status, log) = self.run_while(agent(self), scenario.meanwhile, Some(&die_at));
            assert!(status.success() || scenario.fails || status.signal() == Some(9), "{status}: {log}");
            status.signal() == Some(9)
        });
        assert!(died, "no agent came there");
        assert_eq!(self.steps().iter().filter(|come_to| *come_to == step).count(), number, "it died elsewhere");
        self.in_the_end(scenario)
    }

    /// After all else that happens, and further rounds.
    fn in_the_end(&self, scenario: &Scenario) -> Snapshot {
        if let Some(undo) = scenario.undo {
            undo(self);
        }
        self.converge(scenario);
        if scenario.undo.is_some() {
            // What was there in between is remembered, if it was.
            let _ = fs::remove_file(self.host.path("srv/slug/last"));
        }
        Snapshot::of(self)
    }

    fn begin(&mut self, scenario: &Scenario) {
        self.raze();
        (scenario.before)(self);
        let _ = fs::remove_file(self.list());
    }

    /// Rounds of the agents, each of which succeeds, until one comes to no step.
    fn converge(&self, scenario: &Scenario) {
        let mut said = String::new();
        for _ in 0..4 {
            let _ = fs::remove_file(self.list());
            for agent in scenario.agents {
                let (status, log) = self.run(agent(self));
                said += &log;
                assert!(status.success() || scenario.fails, "{status}: {said}");
            }
            if self.steps().is_empty() {
                return;
            }
        }
        panic!("after four more rounds it is not converged, but comes to {:?}:\n{said}", self.steps());
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.namespace.get_or_init(|| Namespace::new(&self.host.scratch))
    }

    /// The rules of its packet filter.
    pub(crate) fn filter(&self) -> String {
        let save = |namespace: &Namespace| namespace.run(&["sh", "-c", "iptables-save; ip6tables-save"]);
        let save = self.namespace.get().map(save).unwrap_or_default();
        save.lines().filter(|line| line.starts_with("-A ")).collect::<Vec<_>>().join("\n")
    }

    /// One pass that has to succeed.
    pub(crate) fn pass(&self, agent: Command) {
        let (status, log) = self.run(agent);
        assert!(status.success(), "{status}: {log}");
    }

    /// One pass that ends at this step.
    pub(crate) fn dies(&self, agent: Command, at: &str) {
        let (status, log) = self.run_while(agent, None, Some(at));
        assert_eq!(status.signal(), Some(9), "{status}: {log}");
    }

    /// One pass, at whose first step something happens before it goes on; it ends at the step `die_at`.
    fn run_while(
        &self,
        mut agent: Command,
        meanwhile: Option<fn(&Self)>,
        die_at: Option<&str>,
    ) -> (ExitStatus, String) {
        let Some(meanwhile) = meanwhile else {
            agent.envs(die_at.map(|die_at| ("PLATYPUS_DIE_AT", die_at)));
            return self.run(agent);
        };
        // An agent reads this at each step, and at a pipe it waits until somebody writes.
        let (file, steps) = (self.host.path("die_at"), self.steps().len());
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        agent.env("PLATYPUS_DIE_AT", format!("@{}", file.display()));
        thread::scope(|scope| {
            let running = scope.spawn(|| self.run(agent));
            eventually("it comes to a step", SOON, || (self.steps().len() > steps).then_some(()));
            let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
            let open = || File::options().write(true).custom_flags(nonblocking).open(&file).ok();
            let mut pipe = eventually("it waits at it", SOON, open);
            let happened = caught(|| meanwhile(self));
            let die_at = die_at.unwrap_or("none:1");
            fs::remove_file(&file).and_then(|()| fs::write(&file, die_at)).unwrap();
            pipe.write_all(die_at.as_bytes()).unwrap();
            drop(pipe);
            let ended = running.join().unwrap();
            happened.unwrap();
            ended
        })
    }

    fn run(&self, mut agent: Command) -> (ExitStatus, String) {
        let output = agent.arg("--once").env("PLATYPUS_STEPS", self.list()).output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    fn list(&self) -> PathBuf {
        self.host.path("steps")
    }

    /// But for what an agent says of itself, which comes when it will.
    fn steps(&self) -> Steps {
        let list = fs::read_to_string(self.list()).unwrap_or_default();
        list.lines().filter(|step| !OF_ITSELF.contains(&names::of(step))).map(str::to_owned).collect()
    }

    /// Takes away all that agents ever made, and all that runs.
    fn raze(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.kill();
        }
        assert_eq!(end_all(&self.host.path("srv")), [0; 0]);
        for made in MADE.map(|made| self.host.path(made)) {
            let removed = if made.is_dir() { fs::remove_dir_all(&made) } else { fs::remove_file(&made) };
            removed.or_else(|error| if made.exists() { Err(error) } else { Ok(()) }).unwrap();
        }
        for dir in ["service", "stage", "store"] {
            fs::create_dir(self.host.path(dir)).unwrap();
        }
        self.namespace.take();
        if self.on == On::Accounts {
            // It may not have come to be.
            let _ = Command::new("userdel").arg("slug").output();
        }
        if let Some(consul) = &self.host.consul {
            consul.http("DELETE", "/v1/kv/?recurse", b"");
            let services = serde_json::from_str::<Value>(&consul.http("GET", "/v1/agent/services", b"").1).unwrap();
            for id in services.as_object().unwrap().keys() {
                assert_eq!(consul.http("PUT", &format!("/v1/agent/service/deregister/{id}"), b"").0, 200);
            }
        }
        self.supervisor = Some(Supervisor::start(self.host.path("service")));
    }

    /// Puts the installs in place that need no unpacking.
    pub(crate) fn installs(&self) {
        let (from, to) = (self.host.path("installs"), self.host.path("srv"));
        assert!(Command::new("cp").arg("-al").arg(from).arg(to).status().unwrap().success());
    }
}

/// Two versions of an app that is pp-setlive, which dies where `die_at` says.
fn add_platform(host: &Host) {
    let at = |path: &str| host.path(path).display().to_string();
    let launch = format!(
        "export PLATYPUS_STEPS={} PLATYPUS_DIE_AT=@{}\nbin=$(cd \"${{0%/*}}/..\" && pwd -P)\n\
         exec \"$bin/pp-setlive\" --store {} --node web1 --runit {} --runit-stage {} --interval 0.5 \
         --handover-timeout 20 --mark \"$DATA_DIR/passed/pp-setlive\" \"$@\"",
        at("steps"),
        at("die_at"),
        host.store_url(),
        at("service"),
        at("stage"),
    );
    fs::copy(bin("pp-setlive"), host.path("pp-setlive")).unwrap();
    for version in ["1", "2"] {
        let bin = host.path(&format!("srv/platform/installs/platform_{version}/bin"));
        fs::create_dir_all(bin.join("launch")).unwrap();
        script(&bin.join("launch/pp-setlive"), &launch);
        script(&bin.join("check"), "");
        fs::hard_link(host.path("pp-setlive"), bin.join("pp-setlive")).unwrap();
    }
}

/// Accounts that are made from now on are so in this test's mount namespace alone.
fn lend_accounts(host: &Host) {
    let etc = host.path("etc");
    fs::create_dir(&etc).unwrap();
    // Somebody else may make a user meanwhile, and what he locks it by goes away while it is copied.
    let copy = r#"tar -C /etc --exclude='*.lock' -cf - . | tar -C "$0" -xf -"#;
    assert!(Command::new("sh").args(["-c", copy]).arg(&etc).status().unwrap().success());
    assert!(Command::new("mount").arg("--bind").arg(&etc).arg("/etc").status().unwrap().success());
}

impl Drop for Site {
    fn drop(&mut self) {
        // Before what it looks after is ended with the host.
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.kill();
        }
        if self.on == On::Accounts {
            let unmounted = Command::new("umount").args(["--lazy", "/etc"]).status();
            assert!(unmounted.is_ok_and(|status| status.success()) || thread::panicking());
        }
    }
}
