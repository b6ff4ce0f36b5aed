//! One pass over all apps, and what one would do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Error, Result};
use store::intent::{self, Incoming, Invalid, NodeIntent};
use store::{AppName, Gather};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::field::display;
use tracing::{debug, error, info};

use crate::agent::{Agent, Host, HostPlan, Outcome, Task, Wake, Wanted};
use crate::args::LogFormat;
use crate::glance::{Glance, Glances};
use crate::publish::Reporter;
use crate::report::held_as_it_is;
use crate::schedule::{Verdict, verdicts};
use crate::watch::tell_if_empty;

/// Attempts every app once, and the host as a whole, all at the same time. Failure when any failed.
pub(crate) async fn pass<A: Agent>(agent: &Rc<A>, host: &Host) -> Result<ExitCode> {
    let glance = agent.glance();
    let mut incoming = Incoming::begin(&host.store, &host.node).await?;
    let fingerprint = if agent.recalls() { Some(incoming.fingerprint().await?) } else { None };
    if let Some(fingerprint) = fingerprint.clone()
        && agent.is_as_left(fingerprint).await
    {
        debug!("all is as a pass before this one left it");
        std::mem::forget(incoming);
        return Ok(ExitCode::SUCCESS);
    }
    let (intent, present, glances) = read(agent, incoming, glance).await?;
    let mut running = JoinSet::new();
    let (whole, wanted, on) = (agent.clone(), intent.clone(), host.clone());
    running.spawn_local(async move { (None, whole.converge_host(wanted, &on).await) });
    let mut converged = match glances {
        Some(glances) => glances.settled().await,
        None => BTreeSet::new(),
    };
    let Round { tasks, held: _, mut failed } = round(host, &intent, present, &converged).await;
    for task in tasks {
        let agent = agent.clone();
        running.spawn_local(async move { (Some(task.app.clone()), agent.converge(task).await) });
    }
    let mut waits = false;
    while let Some(done) = running.join_next().await {
        let (app, result) = done?;
        let about = app.as_ref().map(display);
        match result {
            Ok(Outcome::Converged | Outcome::Nothing) => converged.extend(app),
            Ok(Outcome::Waiting(reason)) => {
                info!(app = about, "waiting: {reason}");
                waits = true;
            }
            Err(error) => {
                error!(app = about, "{error:#}");
                failed = true;
            }
        }
    }
    let is_all = !failed && !waits && intent.apps.keys().all(|app| converged.contains(app));
    agent.passed(converged, fingerprint.filter(|_| is_all)).await;
    // The process is about to end: what it takes to free all of it would be lost.
    std::mem::forget(intent);
    Ok(status(failed))
}

/// Something is to be done, and nothing kept that from being said.
const TO_DO: u8 = 2;

/// What a pass would do to an app, or to the host as a whole.
#[derive(Debug, Default)]
struct Planned {
    steps: Vec<String>,
    /// Why not all of it can be said, or done.
    error: Option<String>,
}

/// Prints what a pass would do to each app, and to the host as a whole.
pub(crate) async fn plan<A: Agent>(agent: &Rc<A>, host: &Host, format: LogFormat) -> Result<ExitCode> {
    let incoming = Incoming::begin(&host.store, &host.node).await?;
    let (intent, present, _) = read(agent, incoming, None).await?;
    let Round { tasks, held, mut failed } = round(host, &intent, present, &BTreeSet::new()).await;
    let of_held = |(app, error)| (app, Planned { steps: Vec::new(), error });
    let mut all = held.into_iter().map(of_held).gather::<BTreeMap<_, _>>();
    for task in tasks {
        let planned = all.entry(task.app.clone()).or_default();
        match agent.plan(task.clone()).await {
            Ok(steps) => planned.steps = steps,
            Err(error) => planned.fails(Some(&task.app), &error),
        }
    }
    let mut whole = Planned::default();
    match agent.plan_host(intent, host).await {
        Ok(HostPlan { steps, failed }) => {
            whole.steps = steps;
            failed.iter().for_each(|error| whole.fails(None, error));
        }
        Err(error) => whole.fails(None, &error),
    }
    let of_host = (!whole.is_nothing()).then_some((None, whole));
    let all = all.into_iter().map(|(app, planned)| (Some(app), planned)).chain(of_host).collect::<Vec<_>>();
    failed |= all.iter().any(|(_, planned)| planned.error.is_some());
    let is_to_do = all.iter().any(|(_, planned)| !planned.steps.is_empty());
    let text = all.into_iter().flat_map(|(app, planned)| planned.lines(app.as_ref(), format)).collect::<String>();
    std::io::stdout().lock().write_all(text.as_bytes()).context("printing the plan")?;
    Ok(if is_to_do && !failed { ExitCode::from(TO_DO) } else { status(failed) })
}

impl Planned {
    fn fails(&mut self, app: Option<&AppName>, error: &Error) {
        error!(app = app.map(display), "{error:#}");
        let before = self.error.take().map(|before| before + "; ").unwrap_or_default();
        self.error = Some(format!("{before}{error:#}"));
    }

    fn is_nothing(&self) -> bool {
        self.steps.is_empty() && self.error.is_none()
    }

    /// As `--help` describes them. In text an error is a line of the log only.
    fn lines(self, app: Option<&AppName>, format: LogFormat) -> Vec<String> {
        let Self { steps, error } = self;
        match (format, app) {
            (LogFormat::Text, Some(app)) => steps.into_iter().map(|step| format!("{app}: {step}\n")).collect(),
            (LogFormat::Text, None) => steps.into_iter().map(|step| step + "\n").collect(),
            (LogFormat::Json, _) => {
                let mut line = serde_json::json!({"plan": steps});
                app.into_iter().for_each(|app| line["app"] = app.as_str().into());
                error.into_iter().for_each(|error| line["error"] = error.into());
                vec![format!("{line}\n")]
            }
        }
    }
}

fn status(failed: bool) -> ExitCode {
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What one pass is to do.
struct Round {
    /// One for every app that may be touched and was not found to be settled.
    tasks: Vec<Task>,
    /// These stay as they are: because an operator says so, or for that reason. What was begun with the latter is among the
    /// tasks all the same.
    held: BTreeMap<AppName, Option<String>>,
    /// Something has failed already, by being invalid.
    failed: bool,
}

/// What the host shall run, what it has, and glances at it under way.
async fn read<A: Agent>(
    agent: &Rc<A>,
    mut incoming: Incoming,
    glance: Option<Glance>,
) -> Result<(Rc<NodeIntent>, BTreeSet<AppName>, Option<Glances>)> {
    let mut glances = glance.map(Glances::new);
    while let Some(apps) = incoming.next().await? {
        if let Some(glances) = &mut glances {
            glances.add(&apps);
        }
    }
    let intent = incoming.intent().await?;
    Ok((Rc::new(intent), agent.present()?, glances))
}

async fn round(host: &Host, intent: &NodeIntent, present: BTreeSet<AppName>, settled: &BTreeSet<AppName>) -> Round {
    let mut failed = false;
    if intent.is_empty()
        && let Err(error) = intent::ensure_shown(&host.store, &host.node).await
    {
        // What is here is held, each app with a reason of its own.
        error!("{error:#}");
        failed = true;
    } else {
        tell_if_empty(host, intent);
    }
    for Invalid { key, reason } in &intent.strays {
        error!("{key}: {reason}");
        failed = true;
    }
    let (mut tasks, mut held) = (Vec::new(), BTreeMap::new());
    for (app, verdict) in verdicts(intent, present) {
        match &verdict {
            Verdict::Converge(Wanted::App(_)) if settled.contains(&app) => continue,
            Verdict::Converge(_) => {}
            Verdict::Held => {
                info!(%app, "{}", Verdict::HELD);
                held.insert(app, None);
                continue;
            }
            Verdict::Invalid(invalid) => {
                let reason = held_as_it_is(invalid);
                error!(%app, "{reason}");
                held.insert(app.clone(), Some(reason));
                failed = true;
            }
        }
        let wanted = watch::Sender::new(verdict.wanted()).subscribe();
        let looked = mpsc::unbounded_channel().0;
        let (wake, reporter) = (Wake::default(), Reporter::default());
        tasks.push(Task { app, host: host.clone(), wanted, wake, tell_looked: looked, reporter });
    }
    Round { tasks, held, failed }
}
