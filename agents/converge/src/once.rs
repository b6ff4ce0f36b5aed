//! One pass over all apps, and what one would do.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use store::AppName;
use store::intent::{self, App, Invalid, NodeIntent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::field::display;
use tracing::{error, info};

use crate::agent::{Agent, Host, HostPlan, Outcome, Task, Wake, Wanted};
use crate::args::LogFormat;
use crate::glance::{Glance, Glances};
use crate::publish::Reporter;
use crate::report::held_as_it_is;
use crate::schedule::{Verdict, verdicts};
use crate::watch::tell_if_empty;

/// Attempts every app once, and the host as a whole, all at the same time. Failure when any failed.
pub(crate) async fn pass<A: Agent>(agent: &Rc<A>, host: &Host) -> Result<ExitCode> {
    let Round { intent, tasks, settled: mut converged, mut failed } = round(agent, host, agent.glance()).await?;
    let kept = intent.clone();
    let mut running = JoinSet::new();
    for task in tasks {
        let agent = agent.clone();
        running.spawn_local(async move { (Some(task.app.clone()), agent.converge(task).await) });
    }
    let (whole, on) = (agent.clone(), host.clone());
    running.spawn_local(async move { (None, whole.converge_host(intent, &on).await) });
    while let Some(done) = running.join_next().await {
        let (app, result) = done?;
        let about = app.as_ref().map(display);
        match result {
            Ok(Outcome::Converged | Outcome::Nothing) => converged.extend(app),
            Ok(Outcome::Waiting(reason)) => info!(app = about, "waiting: {reason}"),
            Err(error) => {
                error!(app = about, "{error:#}");
                failed = true;
            }
        }
    }
    agent.passed(converged).await;
    // The process is about to end: what it takes to free all of it would be lost.
    std::mem::forget(kept);
    Ok(status(failed))
}

/// Prints what a pass would do to each app, and to the host as a whole.
pub(crate) async fn plan<A: Agent>(agent: &Rc<A>, host: &Host, format: LogFormat) -> Result<ExitCode> {
    let Round { intent, tasks, settled: _, mut failed } = round(agent, host, None).await?;
    let mut show = |app: Option<AppName>, steps: Result<Vec<String>>| match steps {
        Ok(steps) => print_plan(app.as_ref(), &steps, format),
        Err(error) => {
            error!(app = app.as_ref().map(display), "{error:#}");
            failed = true;
            Ok(())
        }
    };
    for task in tasks {
        show(Some(task.app.clone()), agent.plan(task).await)?;
    }
    match agent.plan_host(intent, host).await {
        Ok(HostPlan { steps, failed }) => {
            show(None, Ok(steps))?;
            failed.map_or(Ok(()), |error| show(None, Err(error)))?;
        }
        Err(error) => show(None, Err(error))?,
    }
    Ok(status(failed))
}

fn status(failed: bool) -> ExitCode {
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print_plan(app: Option<&AppName>, steps: &[String], format: LogFormat) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match (format, app) {
        (LogFormat::Text, Some(app)) => steps.iter().try_for_each(|step| writeln!(out, "{app}: {step}")),
        (LogFormat::Text, None) => steps.iter().try_for_each(|step| writeln!(out, "{step}")),
        (LogFormat::Json, Some(app)) => writeln!(out, "{}", serde_json::json!({"app": app, "plan": steps})),
        (LogFormat::Json, None) if steps.is_empty() => Ok(()),
        (LogFormat::Json, None) => writeln!(out, "{}", serde_json::json!({"plan": steps})),
    }
    .context("printing the plan")
}

/// What one pass is about.
struct Round {
    intent: Rc<NodeIntent>,
    /// One for every app that may be touched.
    tasks: Vec<Task>,
    /// At these a glance found nothing to do.
    settled: BTreeSet<AppName>,
    /// Something has failed already, by being invalid.
    failed: bool,
}

async fn round<A: Agent>(agent: &Rc<A>, host: &Host, glance: Option<Glance>) -> Result<Round> {
    let mut glances = glance.map(Glances::new);
    let mut glance_at = |app: &Arc<App>| {
        if let Some(glances) = glances.as_mut().filter(|_| !app.hold) {
            glances.add(app);
        }
    };
    let intent = intent::read_once(&host.store, &host.node, &mut glance_at).await?;
    let present = agent.present()?;
    let settled = match glances {
        Some(glances) => glances.settled().await,
        None => BTreeSet::new(),
    };
    let mut failed = false;
    if intent.is_empty()
        && let Err(error) = intent::ensure_shown(&host.store, &host.node).await
    {
        // What is here is held, each app with a reason of its own.
        error!("{error:#}");
        failed = true;
    } else {
        tell_if_empty(host, &intent);
    }
    for Invalid { key, reason } in &intent.strays {
        error!("{key}: {reason}");
        failed = true;
    }
    let mut tasks = Vec::new();
    for (app, verdict) in verdicts(&intent, present) {
        match &verdict {
            Verdict::Converge(Wanted::App(_)) if settled.contains(&app) => continue,
            Verdict::Converge(_) => {}
            Verdict::Held => {
                info!(%app, "{}", Verdict::HELD);
                continue;
            }
            Verdict::Invalid(invalid) => {
                error!(%app, "{}", held_as_it_is(invalid));
                failed = true;
            }
        }
        let wanted = watch::Sender::new(verdict.wanted()).subscribe();
        let looked = mpsc::unbounded_channel().0;
        let (wake, reporter) = (Wake::default(), Reporter::default());
        tasks.push(Task { app, host: host.clone(), wanted, wake, tell_looked: looked, reporter });
    }
    Ok(Round { intent: Rc::new(intent), tasks, settled, failed })
}
