//! One pass over all apps, and what one would do.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};
use store::AppName;
use store::intent::{self, Invalid};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::agent::{Agent, Host, Outcome, Task};
use crate::args::LogFormat;
use crate::schedule::{Verdict, verdicts};
use crate::watch::tell_if_empty;

/// Attempts every app once, all at the same time. Failure when any failed.
pub(crate) async fn pass<A: Agent>(agent: &Rc<A>, host: &Host) -> Result<ExitCode> {
    let (tasks, mut failed) = tasks(agent, host).await?;
    let mut running = JoinSet::new();
    for task in tasks {
        let agent = agent.clone();
        running.spawn_local(async move { (task.app.clone(), agent.converge(task).await) });
    }
    while let Some(done) = running.join_next().await {
        match done? {
            (_, Ok(Outcome::Converged)) => {}
            (app, Ok(Outcome::Waiting(reason))) => info!(%app, "waiting: {reason}"),
            (app, Err(error)) => {
                error!(%app, "{error:#}");
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints what a pass would do to each app.
pub(crate) async fn plan<A: Agent>(agent: &Rc<A>, host: &Host, format: LogFormat) -> Result<ExitCode> {
    let (tasks, mut failed) = tasks(agent, host).await?;
    for task in tasks {
        let app = task.app.clone();
        match agent.plan(task).await {
            Ok(steps) => print_plan(&app, &steps, format)?,
            Err(error) => {
                error!(%app, "{error:#}");
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_plan(app: &AppName, steps: &[String], format: LogFormat) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        LogFormat::Text => steps.iter().try_for_each(|step| writeln!(out, "{app}: {step}")),
        LogFormat::Json => writeln!(out, "{}", serde_json::json!({"app": app, "plan": steps})),
    }
    .context("printing the plan")
}

/// A task for every app that may be touched, and whether any other has failed already, by being invalid.
async fn tasks<A: Agent>(agent: &Rc<A>, host: &Host) -> Result<(Vec<Task>, bool)> {
    let (intent, _) = intent::read(&host.store, &host.node).await?;
    tell_if_empty(host, &intent);
    let mut failed = false;
    for Invalid { key, reason } in &intent.strays {
        error!("{key}: {reason}");
        failed = true;
    }
    let mut tasks = Vec::new();
    for (app, verdict) in verdicts(intent, agent.present()?) {
        match &verdict {
            Verdict::Converge(_) => {}
            Verdict::Held => {
                info!(%app, "{}", Verdict::HELD);
                continue;
            }
            Verdict::Invalid(invalid) => {
                error!(%app, "held as it is: {invalid}");
                failed = true;
            }
        }
        let wanted = watch::Sender::new(verdict.wanted()).subscribe();
        tasks.push(Task { app, host: host.clone(), wanted });
    }
    Ok((tasks, failed))
}
