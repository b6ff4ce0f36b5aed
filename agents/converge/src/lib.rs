//! What every agent shares: the loop that keeps apps converged, back-off, flags, logging, and files that survive a crash.
//!
//! An agent is a value of [`Agent`]: it says what it does for one app, or for the host, once. When, for which apps, how
//! often again and what is said about it is decided here, the same for all. Agents do not know of each other, nor does this library of
//! them.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod agent;
mod args;
mod backoff;
pub mod effect;
pub mod files;
mod glance;
mod group;
mod life;
mod log;
mod mark;
mod metrics;
mod once;
mod pace;
mod publish;
mod report;
mod schedule;
mod settings;
mod step;
mod threads;
mod turn;
mod watch;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use store::{NodeName, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

pub use agent::{Agent, Host, HostPlan, Outcome, Source, Task, Wanted};
pub use args::{Args, RunArgs, node_or_default, positive_seconds};
pub use backoff::Backoff;
pub use glance::{Glance, all_looked, looking_threads};
pub use group::Group;
pub use log::keep_aside;
pub use mark::Passed;
pub use metrics::Counter;
pub use report::{Versions, now};
pub use settings::parse;
pub use step::{process_is, step};
pub use threads::blocking;
pub use watch::LONGEST_BACKOFF;

use agent::Permits;
use mark::Mark;
use metrics::Metrics;
use publish::Reporter;

/// For an agent's `--help`.
pub const EXIT_STATUS: &str = "\
Exit status: 0 after --once when nothing failed, waiting for something included, and after --plan when nothing is to be done;
1 when something failed, or an app is invalid; 2 after --plan when something is to be done, which may be to wait or to refuse,
and else for wrong usage; 128 and the signal's number when a signal ended it. Without --once or --plan it runs for ever.

--plan prints a line for each step, and nothing where nothing is to be done: slug: stop 1. With --log-format json it is a line
for each app, {\"app\": \"slug\", \"plan\": [\"stop 1\", \"start 2 (9f2c4711)\"]}, of which \"plan\" may be empty, and then one without
\"app\" where there is something of all apps together. Where not all can be said or done, \"error\" is why.

RUST_LOG=debug logs what it decides, too.";

/// Runs the process of an agent that takes its intent from a store: flags in, exit status out. `make` builds the agent
/// once the store and the node are known.
///
/// # Exit status
/// 0 after `--once` when nothing failed, and after `--plan` when nothing is to be done; 1 when something failed; 2 after `--plan`
/// when something is to be done; 128 + the signal's number when stopped by one.
pub fn main<A: Agent>(args: &Args, make: impl FnOnce(&Host) -> Result<A>) -> ExitCode {
    start(&args.run, Source::Store, || open(args), async |host| follow(args, &host, make, SignsOfLife::Given).await)
}

/// As [`main`], in a process that is more than this agent, as one that poses as many hosts: the log, the signals and what
/// they end, the umask and the leave that an agent takes are that process's own affair, and so is whether the agent
/// is said to be alive. Runs within a [`LocalSet`], and ends when that is dropped.
///
/// # Errors
/// When there is nothing to follow, or `make` fails.
pub async fn within<A: Agent>(
    args: &Args,
    signs: SignsOfLife,
    make: impl FnOnce(&Host) -> Result<A>,
) -> Result<ExitCode> {
    follow(args, &host(&args.run, Source::Store, || open(args))?, make, signs).await
}

/// Whether an agent says that it is alive: to Consul's own agent on its host. What poses as many hosts has only one of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignsOfLife {
    Given,
    Withheld,
}

/// As [`main`], for any source of intent: `open` tells this node's name, and what to read.
pub fn main_on<A: Agent>(
    args: &RunArgs,
    source: Source,
    open: impl FnOnce() -> Result<(NodeName, Store)>,
    make: impl FnOnce(&Host) -> Result<A>,
) -> ExitCode {
    start(args, source, open, async |host| run(args, &host, make, (None, None), SignsOfLife::Given).await)
}

/// As [`main`], for something else that a process does with a store than to be an agent.
pub fn main_of(args: &Args, work: impl AsyncFnOnce(Host) -> Result<ExitCode>) -> ExitCode {
    start(&args.run, Source::Store, || open(args), work)
}

async fn follow<A: Agent>(
    args: &Args,
    host: &Host,
    make: impl FnOnce(&Host) -> Result<A>,
    signs: SignsOfLife,
) -> Result<ExitCode> {
    let mark = args.mark.as_deref().and_then(|path| {
        // It is for others: an agent does without.
        let made = Mark::new(path, &host.node, &args.store_name());
        made.inspect_err(|error| tracing::error!("{error:#}; no mark is left of the first pass")).ok()
    });
    let metrics = args.metrics.as_deref().map(|path| Metrics::new(path, A::NAME, A::COUNTERS));
    run(&args.run, host, make, (mark, metrics), signs).await
}

fn open(args: &Args) -> Result<(NodeName, Store)> {
    Ok((args.node()?, Store::open(args.store.as_deref())?))
}

fn start(
    args: &RunArgs,
    source: Source,
    open: impl FnOnce() -> Result<(NodeName, Store)>,
    work: impl AsyncFnOnce(Host) -> Result<ExitCode>,
) -> ExitCode {
    log::start(args.log_format);
    // Whatever shell this was started from: the directories that lead to an app are for its user to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match host(args, source, open).and_then(|host| until_stopped(work(host.clone()), host.say_gone())) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn host(args: &RunArgs, source: Source, open: impl FnOnce() -> Result<(NodeName, Store)>) -> Result<Host> {
    let (node, store) = open()?;
    let permits = Permits::new(args.parallel);
    Ok(Host { node, store, source, read_only: args.plan, permits, life: Arc::default() })
}

async fn run<A: Agent>(
    args: &RunArgs,
    host: &Host,
    make: impl FnOnce(&Host) -> Result<A>,
    (mark, metrics): (Option<Mark>, Option<Metrics>),
    signs: SignsOfLife,
) -> Result<ExitCode> {
    let agent = Rc::new(make(host)?);
    if args.plan {
        once::plan(&agent, host, args.log_format).await
    } else if args.once {
        once::pass(&agent, host).await
    } else {
        let intents = watch::intents(host);
        let said = (mark, Reporter::new::<A>(host, metrics));
        let converging = schedule::keep_converging(agent, host.clone(), intents, args.interval, said);
        if !host.is_told() || signs == SignsOfLife::Withheld {
            return Ok(converging.await);
        }
        tokio::select! {
            status = converging => Ok(status),
            never = life::stay_alive(host, A::NAME) => match never {},
        }
    }
}

/// Does this until a signal says that it is to end, and then takes its leave.
fn until_stopped(work: impl Future<Output = Result<ExitCode>>, leave: impl Future<Output = ()>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    // The signals are armed before the work starts, and dropping the work ends what it had begun: at any point an agent
    // can be stopped at once. Threads that still write to disk end with the process.
    let status = runtime.block_on(LocalSet::new().run_until(async {
        let stopped = stopped()?;
        tokio::select! {
            status = work => status,
            signal = stopped => {
                leave.await;
                Ok(ExitCode::from(128 + signal))
            }
        }
    }));
    runtime.shutdown_background();
    status
}

/// Resolves to the number of the first SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = u8>> {
    let mut term = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => 15,
            _ = int.recv() => 2,
        }
    })
}
