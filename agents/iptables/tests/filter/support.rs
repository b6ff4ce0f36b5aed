//! A host with a packet filter of its own, and the agent on it.

use std::process::Command;

use fixtures::{Host, Namespace, Pass, bin, pass};
use serde_json::{Value, json};

pub(crate) const VARIANTS: [&str; 2] = ["nft", "legacy"];

/// A host whose filter is in `namespace`, and its intent in a directory.
pub(crate) struct Site<'a> {
    pub(crate) host: &'a Host,
    pub(crate) namespace: &'a Namespace,
    pub(crate) variant: &'static str,
}

/// Does the same on a new host with each kind of iptables.
#[track_caller]
pub(crate) fn with_each_variant(work: impl Fn(&Site<'_>)) {
    for variant in VARIANTS {
        let host = Host::without_runit();
        let namespace = Namespace::new(&host.scratch);
        work(&Site { host: &host, namespace: &namespace, variant });
    }
}

/// Intent for an app with these ports, in the cluster `dev`.
pub(crate) fn open(host: &Host, app: &str, ports: Value) {
    host.deploy_config_as(app, json!({"ports": ports}));
    host.put(&format!("clusters/{app}/dev/config"), &json!({"versions": {}}));
    host.put(&format!("nodes/web1/{app}"), &json!({"cluster": "dev"}));
}

/// The agent, by a command that ends in its program; it has still to be told where rules go.
pub(crate) fn agent(host: &Host, command: Command) -> Command {
    agent_of("web1", host, command)
}

fn agent_of(node: &str, host: &Host, mut command: Command) -> Command {
    command.arg("--store").arg(host.store_url()).args(["--node", node]).current_dir(host.scratch.path());
    // Legacy iptables has one lock for all network namespaces.
    command.env("XTABLES_LOCKFILE", host.path("xtables.lock"));
    command
}

impl Site<'_> {
    pub(crate) fn agent(&self) -> Command {
        self.agent_of("web1")
    }

    pub(crate) fn agent_of(&self, node: &str) -> Command {
        let mut agent = agent_of(node, self.host, self.namespace.command(bin("pp-iptables")));
        agent.args(["--apply", "--variant", self.variant]).arg("--lock").arg(self.host.path("lock"));
        agent
    }

    pub(crate) fn once(&self, arguments: &[&str]) -> Pass {
        pass(self.agent().arg("--once").args(arguments))
    }

    /// One pass that has to succeed.
    #[track_caller]
    pub(crate) fn converge(&self, arguments: &[&str]) -> Pass {
        let pass = self.once(arguments);
        assert!(pass.ok, "{}: {}", self.variant, pass.log);
        pass
    }

    #[track_caller]
    pub(crate) fn open(&self, app: &str, ports: Value) {
        open(self.host, app, ports);
    }

    /// As an operator would, in both families: the words after `iptables` and after `ip6tables`.
    #[track_caller]
    pub(crate) fn by_hand(&self, words: &str) {
        for family in ["iptables", "ip6tables"] {
            let program = format!("{family}-{}", self.variant);
            let mut command = self.namespace.command(program);
            command.args(words.split(' ')).env("XTABLES_LOCKFILE", self.host.path("xtables.lock"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Everything in the filters of both families, all tables, but for counters and the time.
    #[track_caller]
    pub(crate) fn save(&self) -> String {
        let mut saves = String::new();
        for family in ["iptables", "ip6tables"] {
            let save = self.namespace.run(&[&format!("{family}-{}-save", self.variant)]);
            saves.extend(save.lines().filter(|line| !line.starts_with('#')).map(without_counters));
        }
        saves
    }

    /// The lines of the save, of both families, that have this in them.
    #[track_caller]
    pub(crate) fn lines(&self, with: &str) -> Vec<String> {
        self.save().lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }

    /// What is open for an app, in both families: ports of TCP or UDP.
    #[track_caller]
    pub(crate) fn ports(&self, app: &str) -> Vec<String> {
        let lines = self.lines(&format!("\"{app}/dev"));
        let port = |line: &String| line.split(' ').skip_while(|word| *word != "--dport").nth(1).unwrap().to_owned();
        lines.iter().map(port).collect()
    }
}

/// `:INPUT ACCEPT [5:300]` counts what has come by.
fn without_counters(line: &str) -> String {
    match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => format!("{chain}\n"),
        _ => format!("{line}\n"),
    }
}
