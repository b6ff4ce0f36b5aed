//! Agents as a host has them, but for what they do: the loop that every agent runs, with its defaults and its report, around
//! attempts that have no effect.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use converge::{Agent, Args, Outcome, SignsOfLife, Task, Versions, Wanted};
use store::{AppName, Version};

use crate::watchers::{Seen, node_name};

const NAME: &str = "pp-simulated";

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

struct Simulated {
    node: usize,
    tell: Sender<Seen>,
    /// What would run.
    there: RefCell<BTreeMap<AppName, Version>>,
}

/// Runs for ever.
pub(crate) async fn run(node: usize, store: String, signs: SignsOfLife, tell: Sender<Seen>) {
    let flags = Flags::parse_from([NAME, "--node", &node_name(node), "--store", &store]);
    let ended = converge::within(&flags.args, signs, |_| Ok(Simulated { node, tell, there: RefCell::default() })).await;
    panic!("{}: {ended:?}", node_name(node));
}

impl Agent for Simulated {
    const NAME: &'static str = NAME;

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let Wanted::App(app) = task.wanted() else { return Ok(Outcome::Nothing) };
        let Some(active) = &app.active else { return Ok(Outcome::Nothing) };
        let seen =
            Seen { node: self.node, active: Some((app.name.to_string(), active.to_string())), at: Instant::now() };
        // Whoever listens may have gone.
        let _ = self.tell.send(seen);
        if self.there.borrow().get(&app.name) != Some(active) {
            // As one that replaces what runs.
            let _permit = task.permit().await;
            self.there.borrow_mut().insert(app.name.clone(), active.clone());
        }
        Ok(Outcome::Converged)
    }

    async fn versions(&self, app: &AppName, wanted: &Wanted) -> Result<Versions> {
        let wanted = match wanted {
            Wanted::App(app) => app.active.iter().cloned().collect(),
            Wanted::Unnamed | Wanted::Unknown | Wanted::Held => BTreeSet::new(),
        };
        let there = self.there.borrow().get(app).cloned().into_iter().collect();
        Ok(Versions { wanted, there, configuration: None, log: Vec::new() })
    }
}
