//! Doing what was decided, a step after the other. Every step can be done again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use converge::{Outcome, Task, blocking, files};
use store::AppName;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::decide::Decision;
use crate::definition::Definition;
use crate::health::{Inquiry, Verdict};
use crate::logs::Logs;
use crate::program;
use crate::record::{Failure, Record};
use crate::service::Staged;
use crate::{Setlive, remove};

/// One attempt at one app, under its lock.
pub(crate) struct Act<'a> {
    pub(crate) setlive: &'a Setlive,
    pub(crate) app: &'a AppName,
    pub(crate) task: &'a mut Task,
}

/// Whether there may be more to do.
pub(crate) enum Next {
    Look,
    Done(Outcome),
}

impl Act<'_> {
    pub(crate) async fn on(&mut self, decision: Decision, record: Option<Record>) -> Result<Next> {
        let app = self.app;
        debug!(%app, "decided: {decision:?}");
        match decision {
            Decision::Converged => return Ok(Next::Done(Outcome::Converged)),
            Decision::Wait(reason) => return Ok(Next::Done(Outcome::Waiting(reason))),
            Decision::Refuse(reason) => bail!(reason),
            Decision::FellBack { failure, running } => {
                bail!(
                    "{} failed here ({}); {} runs instead, until another version or configuration is active",
                    failure.version,
                    failure.reason,
                    running.version
                )
            }
            Decision::Forget(digests) => {
                let mut record = recorded(record)?;
                record.failed.retain(|digest, _| !digests.contains(digest));
                self.save(record).await?;
            }
            Decision::Note(to) => {
                debug!(%app, "Noting new checks and time-outs");
                self.save(Record { healthy: Some(to), ..recorded(record)? }).await?;
            }
            Decision::Repair(to) => {
                info!(%app, "Writing the files of {} anew", to.version);
                let staged = self.stage(&to).await?;
                self.put(staged).await?.sync()?;
            }
            Decision::Start(to) => return self.restart(&to).await,
            Decision::AwaitHealth(to) => return self.await_health(to, recorded(record)?).await,
            Decision::Recheck(to, failure) => return self.recheck(to, failure, recorded(record)?).await,
            Decision::Replace { from, to, permission: _ } => return self.replace(from, to, record).await,
            Decision::RemoveServices(services) => {
                let _permit = self.task.permit().await;
                remove::services(self.setlive, app, services.iter(), Duration::from_secs(10)).await?;
                let mut record = recorded(record)?;
                record.services.retain(|service| !services.contains(service));
                self.save(record).await?;
            }
            Decision::Remove { running, why } => {
                let _permit = self.task.permit().await;
                info!(%app, "Removing its services: {why}");
                self.remove(running, recorded(record)?).await?;
            }
        }
        Ok(Next::Look)
    }

    /// From whatever runs to `to`, healthy; or to `to` noted as failed.
    async fn replace(&mut self, from: Option<Definition>, to: Definition, record: Option<Record>) -> Result<Next> {
        let app = self.app;
        let _permit = self.task.permit().await;
        let mut clock = Clock::new();
        // All that can be refused is refused, and all that takes space is written, while the old one still runs.
        if let Some(user) = &to.runas {
            program::can_run_as(user).await?;
        }
        let record = record.unwrap_or_else(|| Record::new(&self.task.host.node, &to)).begun(&to);
        self.save(record.clone()).await?;
        let staged = self.stage(&to).await?;
        self.keep_last(&to)?;
        clock.lap("stage");

        if let Some(from) = &from {
            if self.disable(from).await {
                clock.lap("disable");
            }
            info!(%app, "Stopping {}", from.version);
        }
        let patience = from.as_ref().unwrap_or(&to).timeouts.stop.duration();
        self.stop(&record, patience).await?;
        clock.lap("stop");
        info!(%app, "Symlinking current to {app}_{}", to.version);
        let staged = self.put(staged).await?;
        clock.lap("write");
        info!(%app, "Starting {}", to.version);
        let logs = Logs::from_now(&to);
        if let Some(waiting) = self.start(&to).await? {
            return Ok(Next::Done(waiting));
        }
        clock.lap("start");
        let next = self.settle(&to, record, &mut clock, &logs).await?;
        // What was renamed is made to last while nobody waits for it.
        blocking(move || staged.sync()).await?;
        self.setlive.tidy(app, &to);
        Ok(next)
    }

    /// Waits for health, enables, and notes how it went.
    async fn settle(&mut self, to: &Definition, record: Record, clock: &mut Clock, logs: &Logs) -> Result<Next> {
        let app = self.app;
        let verdict = inquiry(self.setlive, app, to).wait(self.task).await;
        let verdict = match verdict {
            Verdict::Healthy => {
                clock.lap("healthy");
                match self.enable(to).await {
                    Ok(_) => Verdict::Healthy,
                    Err(error) => Verdict::Unhealthy(format!("{error:#}")),
                }
            }
            other => other,
        };
        match verdict {
            Verdict::Healthy => {
                self.save(record.arrived(to)).await?;
                info!(%app, "{} is live ({})", to.version, clock.laps());
                Ok(Next::Look)
            }
            Verdict::Unhealthy(reason) => {
                let failure = Failure { version: to.version.clone(), reason, log: logs.last_lines() };
                warn!(%app, "{} failed: {}", to.version, failure.reason);
                for line in &failure.log {
                    warn!(%app, "| {line}");
                }
                let mut record = record;
                record.failed.insert(to.digest(), failure);
                self.save(record).await?;
                Ok(Next::Look)
            }
            Verdict::Overtaken => Ok(Next::Done(Outcome::Waiting("intent changed on the way".to_owned()))),
        }
    }

    async fn await_health(&mut self, to: Definition, record: Record) -> Result<Next> {
        let _permit = self.task.permit().await;
        self.settle(&to, record, &mut Clock::new(), &Logs::of(&to)).await
    }

    async fn recheck(&mut self, to: Definition, failure: Failure, record: Record) -> Result<Next> {
        match inquiry(self.setlive, self.app, &to).ask().await {
            Ok(()) => {
                info!(app = %self.app, "{} is healthy after all", to.version);
                self.save(record.arrived(&to)).await?;
                Ok(Next::Look)
            }
            Err(_) => bail!("{} failed, and there is nothing to go back to: {}", failure.version, failure.reason),
        }
    }

    /// Starts what is in place and does not run.
    async fn restart(&mut self, to: &Definition) -> Result<Next> {
        let _permit = self.task.permit().await;
        info!(app = %self.app, "Starting {}, which is not running", to.version);
        if let Some(waiting) = self.start(to).await? {
            return Ok(Next::Done(waiting));
        }
        match inquiry(self.setlive, self.app, to).wait(self.task).await {
            Verdict::Healthy => Ok(Next::Look),
            Verdict::Unhealthy(reason) => Err(anyhow!("{} was started again, but is {reason}", to.version)),
            Verdict::Overtaken => Ok(Next::Done(Outcome::Waiting("intent changed on the way".to_owned()))),
        }
    }

    /// Stops the app, removes its services and at last its record.
    async fn remove(&mut self, running: Option<Definition>, record: Record) -> Result<()> {
        let patience =
            running.as_ref().or(record.converging.as_ref()).map(|definition| definition.timeouts.stop.duration());
        if let Some(running) = &running {
            self.disable(running).await;
        }
        let patience = patience.unwrap_or(Duration::from_secs(10));
        remove::services(self.setlive, self.app, record.services.iter(), patience).await?;
        self.setlive.places.unbuild(self.app)?;
        let (records, app) = (self.setlive.records.clone(), self.app.clone());
        blocking(move || records.remove(&app)).await
    }

    async fn save(&self, record: Record) -> Result<()> {
        let (records, app) = (self.setlive.records.clone(), self.app.clone());
        blocking(move || records.save(&app, &record)).await
    }

    async fn stage(&self, to: &Definition) -> Result<Staged> {
        let (places, app, to) = (self.setlive.places.clone(), self.app.clone(), to.clone());
        blocking(move || places.stage(&app, &to)).await
    }

    async fn put(&self, staged: Staged) -> Result<Staged> {
        let places = self.setlive.places.clone();
        blocking(move || {
            staged.put()?;
            places.build()?;
            Ok(staged)
        })
        .await
    }

    /// Keeps `<basedir>/last` pointing at what `current` pointed at before.
    fn keep_last(&self, to: &Definition) -> Result<()> {
        let basedir = to.basedir.path();
        let Ok(current) = fs::read_link(basedir.join("current")) else { return Ok(()) };
        if !to.install(self.app).ends_with(&current) {
            files::link(&basedir.join("last"), &current)?;
        }
        Ok(())
    }

    /// Stops every service that may be there, all at once.
    async fn stop(&self, record: &Record, patience: Duration) -> Result<()> {
        let mut stopping = JoinSet::new();
        for service in &record.services {
            let (control, dir) = (self.setlive.control.clone(), self.setlive.places.staged(service));
            if fs::symlink_metadata(self.setlive.places.link(service)).is_ok() {
                stopping.spawn_local(async move { control.stop(&dir, patience).await });
            }
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped.context("stopping")??;
        }
        Ok(())
    }

    /// Starts every service; an outcome when runsvdir does not look after one.
    async fn start(&self, to: &Definition) -> Result<Option<Outcome>> {
        let mut starting = JoinSet::new();
        for service in to.services() {
            let (control, dir) = (self.setlive.control.clone(), self.setlive.places.staged(service));
            starting.spawn_local(async move { control.start(&dir).await });
        }
        while let Some(started) = starting.join_next().await {
            if !started.context("starting")?? {
                let runit = self.setlive.places.runit.display();
                return Ok(Some(Outcome::Waiting(format!("for runsvdir to look after {runit}; is it running?"))));
            }
        }
        Ok(None)
    }

    async fn enable(&self, to: &Definition) -> Result<bool> {
        self.hook(to, "bin/enable", to.timeouts.enable.duration()).await
    }

    /// Tells whether there was anything to run. An app that cannot be taken out of service politely is taken out all the
    /// same.
    async fn disable(&self, from: &Definition) -> bool {
        self.hook(from, "bin/disable", from.timeouts.disable.duration()).await.unwrap_or_else(|error| {
            warn!(app = %self.app, "{error:#}; going on");
            true
        })
    }

    async fn hook(&self, definition: &Definition, path: &str, patience: Duration) -> Result<bool> {
        if !definition.install(self.app).join(path).exists() {
            return Ok(false);
        }
        info!(app = %self.app, "Running {path} of {}", definition.version);
        program::run(self.app, definition, path, patience).await.map(|()| true)
    }
}

impl Setlive {
    /// Removes configuration files that no definition in the record refers to. Of no consequence when it fails.
    fn tidy(&self, app: &AppName, to: &Definition) {
        let Ok(Some(record)) = self.records.load(app) else { return };
        let keep = record.healthy.iter().chain(&record.converging).chain([to]).map(Definition::config_path);
        let keep = keep.collect::<Vec<_>>();
        let Ok(entries) = fs::read_dir(to.basedir.path().join("config")) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| !keep.contains(path)) {
            if let Err(error) = files::remove(&path) {
                debug!(%app, "{error:#}");
            }
        }
    }
}

fn inquiry<'a>(setlive: &'a Setlive, app: &'a AppName, definition: &'a Definition) -> Inquiry<'a> {
    Inquiry { app, definition, places: &setlive.places, control: &setlive.control, http: &setlive.http }
}

fn recorded(record: Option<Record>) -> Result<Record> {
    record.context("decided on a record that is not there")
}

/// Where the time of a replacement went.
struct Clock {
    last: Instant,
    laps: Vec<String>,
}

impl Clock {
    fn new() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, what: &str) {
        let now = Instant::now();
        self.laps.push(format!("{what} {:.1} ms", (now - self.last).as_secs_f64() * 1000.0));
        self.last = now;
    }

    fn laps(&self) -> String {
        self.laps.join(", ")
    }
}
