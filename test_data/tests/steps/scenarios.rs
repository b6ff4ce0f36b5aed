//! What happens to a host while its agents die.

mod apps;
mod installs;
mod ports;

use std::process::Command;

use serde_json::{Value, json};

use crate::names;
use crate::site::Site;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Of one round.
    pub(crate) agents: &'static [fn(&Site) -> Command],
    /// What the host is before.
    pub(crate) before: fn(&Site),
    /// And what happens then.
    pub(crate) change: fn(&Site),
    /// What happens when an agent comes to the first step of its round, and waits there for that.
    pub(crate) meanwhile: Option<fn(&Site)>,
    /// What happens once an agent died, of an app that ran: it is to be as it was before.
    pub(crate) undo: Option<fn(&Site)>,
    /// What is intended cannot be had, which the agents say each time.
    pub(crate) fails: bool,
    pub(crate) on: On,
    /// Agents are at work all the time, and done once this holds.
    pub(crate) is_done: Option<fn(&Site) -> bool>,
    /// The steps of these names are walked; without any, all are.
    only: &'static [&'static str],
}

/// What is there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// Intent is in a directory.
    Directory,
    /// A directory, and accounts of the host's that nobody else looks at.
    Accounts,
    Consul,
    /// A directory, and an app whose process is pp-setlive.
    Platform,
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = apps::scenarios();
    scenarios.extend(installs::scenarios());
    scenarios.extend(ports::scenarios());
    scenarios
}

fn scenario(name: &'static str, agents: &'static [fn(&Site) -> Command]) -> Scenario {
    Scenario {
        name,
        agents,
        before: |_| {},
        change: |_| {},
        meanwhile: None,
        undo: None,
        fails: false,
        on: On::Directory,
        is_done: None,
        only: &[],
    }
}

impl Scenario {
    fn after(self, before: fn(&Site)) -> Self {
        Self { before, ..self }
    }

    fn when(self, change: fn(&Site)) -> Self {
        Self { change, ..self }
    }

    fn meanwhile(self, meanwhile: fn(&Site)) -> Self {
        Self { meanwhile: Some(meanwhile), ..self }
    }

    fn undone(self, undo: fn(&Site)) -> Self {
        Self { undo: Some(undo), ..self }
    }

    fn failing(self) -> Self {
        Self { fails: true, ..self }
    }

    fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    fn until(self, is_done: fn(&Site) -> bool) -> Self {
        Self { is_done: Some(is_done), ..self }
    }

    /// The others another scenario has.
    fn only(self, only: &'static [&'static str]) -> Self {
        Self { only, ..self }
    }

    pub(crate) fn walks(&self, step: &str) -> bool {
        self.only.is_empty() || self.only.contains(&names::of(step))
    }
}

/// How a version is found healthy.
#[derive(Clone, Copy)]
struct Check {
    by_script: bool,
    deadline: f64,
}

const HTTP: Check = Check { by_script: false, deadline: 20.0 };
/// To Consul, whose own checks take a second, this is for the agent to say.
const SCRIPT: Check = Check { by_script: true, ..HTTP };

impl Check {
    fn json(self, site: &Site) -> Value {
        let mut check = json!({"interval_seconds": 0.05, "deadline_seconds": self.deadline});
        match self.by_script {
            true => check["script"] = json!("bin/check"),
            false => check["http"] = json!({"port": site.host.port, "path": "/health"}),
        }
        check
    }
}

fn setlive(site: &Site) -> Command {
    site.host.setlive()
}

fn rules(site: &Site) -> Command {
    let mut iptables = site.host.iptables();
    iptables.arg("--rules").arg(site.host.path("rules"));
    iptables
}
