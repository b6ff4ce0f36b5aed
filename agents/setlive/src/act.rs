//! Doing what was decided, a step after the other. Every step can be done again.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use converge::{Counter, Host, Outcome, Source, Task, Wanted, blocking, effect};
use store::AppName;
use store::intent::App;
use store::lease::Leases;
use store::schema::Limits;
use tracing::{debug, info};

use crate::decide::{Decision, Service};
use crate::definition::Definition;
use crate::health::{Inquiry, Verdict};
use crate::logs::Logs;
use crate::record::{Failure, Record, finisher};
use crate::{Setlive, data, processes, remove};
use steps::Clock;

pub(crate) static REPLACEMENTS: Counter =
    Counter::new("platypus_replacements_total", "Versions and configurations that became live, first ones among them.");
pub(crate) static REVERTS: Counter = Counter::new(
    "platypus_reverts_total",
    "Times that what was live before became so again, since what was to be failed.",
);

/// One attempt at one app, under its lock.
pub(crate) struct Act<'a> {
    pub(crate) setlive: &'a Setlive,
    pub(crate) app: &'a AppName,
    pub(crate) task: &'a mut Task,
    /// What intent said when the attempt began.
    pub(crate) wanted: &'a Wanted,
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
        self.task.looked();
        match decision {
            Decision::Converged => return Ok(Next::Done(Outcome::Converged)),
            Decision::Wait(reason) => return Ok(Next::Done(Outcome::Waiting(reason))),
            Decision::Refuse(reason) => bail!(reason),
            Decision::FellBack { failure, running, .. } => {
                let cluster = match self.wanted {
                    Wanted::App(wanted) => &wanted.cluster,
                    Wanted::Unnamed | Wanted::Unknown | Wanted::Held => &running.cluster,
                };
                let retry = match self.setlive.site.alone {
                    true => String::new(),
                    false => format!(", or `pp-store retry {app} {cluster}` lets it be tried again"),
                };
                let formerly = if failure.version == running.version { " as it was configured before" } else { "" };
                bail!(
                    "{} failed here ({}); {}{formerly} runs instead, until another version, configuration or check is \
                     active in clusters/{app}/{cluster}/config{retry}",
                    failure.version,
                    failure.reason,
                    running.version
                )
            }
            Decision::Adopt => {
                let record = recorded(record)?;
                self.take_over(&record).await?;
                info!(%app, "Taking it over as it runs");
                let Host { node, source, .. } = self.task.host.clone();
                self.save(Record { node, source, unregistered: true, ..record }).await?;
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
            Decision::HandOver { from, to, permission: _, service } => {
                return self.hand_over(&from, &to, &service, recorded(record)?).await;
            }
            Decision::Finish(to) => return self.see_to_finisher(&to, &recorded(record)?).await,
            Decision::RemoveServices(services) => {
                remove::services(self.setlive, app, services.iter(), Duration::from_secs(10)).await?;
                let mut record = recorded(record)?;
                record.services.retain(|service| !services.contains(service));
                self.save(record).await?;
            }
            Decision::Remove { running, why } => {
                let _permit = self.task.permit().await;
                if self.is_overtaken() {
                    return Ok(overtaken());
                }
                info!(%app, "Removing its services: {why}");
                self.remove(running, recorded(record)?).await?;
            }
            Decision::Clear => {
                let (records, app) = (self.setlive.site.records.clone(), self.app.clone());
                blocking(move || records.remove(&app)).await?;
            }
        }
        Ok(Next::Look)
    }

    /// Removes from the store what another node's name stands for there: the instance under that name would go on to
    /// count beside our own, and nobody would ever take it out of the leases.
    async fn take_over(&self, record: &Record) -> Result<()> {
        let Host { node, store, .. } = &self.task.host;
        if self.setlive.site.alone || record.source != Source::Store || record.node == *node {
            return Ok(());
        }
        effect::deregister("deregister another node", store, &record.node, self.app).await?;
        for cluster in &record.asked {
            let leave = async |leases: &Leases| {
                let next = leases.changed(|next| drop(next.down.remove(&record.node)));
                Ok((leases.down.contains_key(&record.node).then_some(next), ()))
            };
            let left = effect::change_leases("leave another node's leases", store, self.app, cluster, leave).await?;
            left.with_context(|| format!("the leases of {cluster} change all the time"))?;
        }
        Ok(())
    }

    /// From whatever runs to `to`, healthy; or to `to` noted as failed.
    async fn replace(&mut self, from: Option<Definition>, to: Definition, record: Option<Record>) -> Result<Next> {
        let app = self.app;
        let _permit = self.task.permit().await;
        let mut clock = Clock::new();
        // All that can be refused is refused, and all that takes space is written, while the old one still runs.
        if let Some(waiting) = self.await_supervision(record.as_ref()).await? {
            return Ok(Next::Done(waiting));
        }
        if self.is_overtaken() {
            return Ok(overtaken());
        }
        let Host { node, source, .. } = &self.task.host;
        if record.as_ref().is_none_or(Record::is_empty) && !self.setlive.site.adopt {
            // It has a record elsewhere, where somebody looks after it.
            let strays = processes::strays(to.basedir.path(), &BTreeSet::new());
            ensure!(
                strays.is_empty(),
                "it runs here already, as process {}, and no record here says so: end it, or give --adopt to have it ended",
                strays[0].pid
            );
        }
        let record = record.unwrap_or_else(|| Record::new(node, *source, &to)).begun(&to);
        self.save(record.clone()).await?;
        let staged = self.stage(&to).await?;
        self.keep_last(&to, record.healthy.as_ref())?;
        clock.lap("stage");

        if let Some(from) = &from {
            if self.drain(from, record.healthy.as_ref() == Some(from), &format!("replaced by {}", to.version)).await? {
                clock.lap("drain");
            }
            if self.is_overtaken() {
                return Ok(overtaken());
            }
            if self.disable(from).await {
                clock.lap("disable");
            }
            if self.is_overtaken() {
                return Ok(overtaken());
            }
            info!(%app, "Stopping {}", from.version);
        }
        let from = from.as_ref().unwrap_or(&to);
        self.stop(&record, from.timeouts.stop.duration()).await?;
        processes::end_strays(app, from.basedir.path(), &BTreeSet::new()).await?;
        clock.lap("stop");
        let another = inquiry(self.setlive, app, &to).answered_by_another().await;
        info!(%app, "Symlinking current to {app}_{}", to.version);
        let staged = match self.put(staged).await {
            Ok(staged) => staged,
            Err(error) => return self.failed(&to, record, format!("{error:#}"), &Logs::from_now(&to)).await,
        };
        clock.lap("write");
        info!(%app, "Starting {}", to.version);
        let logs = Logs::from_now(&to);
        if let Some(waiting) = self.start(&to).await? {
            return Ok(Next::Done(waiting));
        }
        clock.lap("start");
        // What was renamed is made to last before the record says that it is there, and after it was waited for.
        blocking(move || staged.sync()).await?;
        clock.lap("sync");
        match another {
            Some(reason) => self.failed(&to, record, reason, &logs).await,
            None => self.settle(&to, record, &mut clock, &logs).await,
        }
    }

    /// Has the app's finisher replace `from`, of which this agent is a part, by `to`: last of all, while no other app is between
    /// stop and healthy, since this agent ends on the way.
    async fn hand_over(&mut self, from: &Definition, to: &Definition, service: &str, record: Record) -> Result<Next> {
        let app = self.app;
        let permits = match self.task.try_all_permits() {
            Some(permits) => permits,
            None => {
                info!(%app, "Waiting until no other app is at work, to hand over to {}", to.version);
                self.task.all_permits().await
            }
        };
        if let Some(waiting) = self.await_supervision(Some(&record)).await? {
            return Ok(Next::Done(waiting));
        }
        if self.is_overtaken() {
            return Ok(overtaken());
        }
        // One that has nothing left to finish may still be there.
        remove::services(self.setlive, app, [finisher(app)].iter(), from.timeouts.stop.duration()).await?;
        let record = record.begun(to);
        self.save(record.clone()).await?;
        // Its predecessor's, with which the finisher ran that led here.
        self.setlive.tidy(app, from);
        self.stage(to).await?;
        self.write_finisher(from, service).await?;
        self.keep_last(to, record.healthy.as_ref())?;
        self.drain(from, true, &format!("replaced by {}", to.version)).await?;
        self.disable(from).await;
        if self.is_overtaken() {
            return Ok(overtaken());
        }
        let record = record.handed_over(app, service);
        self.save(record.clone()).await?;
        info!(%app, "Handing over to {}; see {}", to.version, from.log_dir(&finisher(app)).join("current").display());
        self.setlive.handing_over.replace(Some(permits));
        self.see_to_finisher(to, &record).await
    }

    async fn write_finisher(&self, from: &Definition, service: &str) -> Result<()> {
        let (places, app, from) = (self.setlive.site.places.clone(), self.app.clone(), from.clone());
        let service = service.to_owned();
        blocking(move || places.write_finisher(&app, &from, &service)).await
    }

    /// The finisher is there and runs, or somebody has to see to it.
    async fn see_to_finisher(&self, to: &Definition, record: &Record) -> Result<Next> {
        let (app, site) = (self.app, &self.setlive.site);
        let (Some(from), Some(handover)) = (&record.healthy, &record.handover) else {
            bail!("{} does not say what the finisher is to come back to", site.records.path(app).display());
        };
        self.write_finisher(from, &handover.service).await?;
        let (places, name) = (site.places.clone(), app.clone());
        blocking(move || places.link_finisher(&name)).await?;
        let dir = site.places.staged(&finisher(app));
        let is_supervised = site.control.is_supervised(&dir).await?;
        let at_work = match site.control.observe(&dir)? {
            Service::Running { .. } => true,
            Service::Stopped => site.control.start(&dir).await?,
            Service::Absent | Service::Unsupervised | Service::Failing => false,
        };
        // Meanwhile this agent, which is to end, begins nothing. But for one that does not get on nobody waits.
        let held = self.setlive.handing_over.take();
        self.setlive.handing_over.replace(at_work.then(|| held.or_else(|| self.task.try_all_permits())).flatten());
        if !is_supervised {
            return Ok(Next::Done(self.no_runsvdir()));
        }
        let log = from.log_dir(&finisher(app)).join("current");
        let keeps = if at_work { "leads" } else { "keeps dying, and leads" };
        let waiting = format!("for the finisher, which {keeps} to {}; see {}", to.version, log.display());
        Ok(Next::Done(Outcome::Waiting(waiting)))
    }

    /// An outcome when a service is linked that nobody looks after: it could not be stopped, so nothing is begun.
    async fn await_supervision(&self, record: Option<&Record>) -> Result<Option<Outcome>> {
        let site = &self.setlive.site;
        for service in record.iter().flat_map(|record| &record.services) {
            let linked = fs::symlink_metadata(site.places.link(service)).is_ok();
            if linked && !site.control.is_supervised(&site.places.staged(service)).await? {
                return Ok(Some(self.no_runsvdir()));
            }
        }
        Ok(None)
    }

    fn no_runsvdir(&self) -> Outcome {
        let runit = self.setlive.site.places.runit.display();
        Outcome::Waiting(format!("for runsvdir to look after {runit}; is it running?"))
    }

    /// Waits for health, enables, and notes how it went.
    async fn settle(&mut self, to: &Definition, record: Record, clock: &mut Clock, logs: &Logs) -> Result<Next> {
        let app = self.app;
        match self.wait_for_health(to).await {
            Verdict::Healthy(after) => {
                clock.lap_of("healthy", after);
                if let Err(error) = self.enable(to).await {
                    return self.failed(to, record, format!("{error:#}"), logs).await;
                }
                let is_revert = record.healthy.as_ref() == Some(to);
                self.arrive(to, record).await?;
                if is_revert { &REVERTS } else { &REPLACEMENTS }.add(1);
                info!(%app, "{} is live ({})", to.version, clock.laps());
                Ok(Next::Look)
            }
            Verdict::Unhealthy(reason) => self.failed(to, record, reason, logs).await,
            Verdict::Overtaken => Ok(overtaken()),
        }
    }

    /// Notes that `to` is not to be had.
    async fn failed(&self, to: &Definition, record: Record, reason: String, logs: &Logs) -> Result<Next> {
        self.save(record.condemned(self.app, to, reason, logs.last_lines())).await?;
        Ok(Next::Look)
    }

    async fn await_health(&mut self, to: Definition, record: Record) -> Result<Next> {
        self.settle(&to, record, &mut Clock::new(), &Logs::of(&to)).await
    }

    async fn recheck(&mut self, to: Definition, failure: Failure, record: Record) -> Result<Next> {
        let asked = async {
            inquiry(self.setlive, self.app, &to).recovered().await?;
            self.enable(&to).await
        };
        let mut task = self.task.clone();
        let asked = tokio::select! {
            asked = asked => asked,
            () = changed(&mut task, self.wanted) => return Ok(overtaken()),
        };
        match asked {
            Ok(_) => {
                info!(app = %self.app, "{} is healthy after all", to.version);
                self.arrive(&to, record).await?;
                Ok(Next::Look)
            }
            Err(_) => bail!(
                "{} failed, and there is nothing to go back to: {}; see {}",
                failure.version,
                failure.reason,
                logs_of(&to)
            ),
        }
    }

    /// Starts what is in place and does not run.
    async fn restart(&mut self, to: &Definition) -> Result<Next> {
        // What runs without its runsv goes on until there is one again to start it anew: it is all that there is of the app.
        for service in to.services() {
            let site = &self.setlive.site;
            if !site.control.is_supervised(&site.places.staged(service)).await? {
                return Ok(Next::Done(self.no_runsvdir()));
            }
        }
        let provided = to.clone();
        blocking(move || data::ensure(&provided)).await?;
        // Then it holds what the service needs to run.
        processes::end_strays(self.app, to.basedir.path(), &self.running(to)?).await?;
        if let Some(waiting) = self.start(to).await? {
            return Ok(Next::Done(waiting));
        }
        match self.wait_for_health(to).await {
            Verdict::Healthy(_) => {
                info!(app = %self.app, "{} was not running, and is again", to.version);
                Ok(Next::Look)
            }
            Verdict::Unhealthy(reason) => {
                Err(anyhow!("{} was started again, but is {reason}; see {}", to.version, logs_of(to)))
            }
            Verdict::Overtaken => Ok(overtaken()),
        }
    }

    async fn wait_for_health(&mut self, to: &Definition) -> Verdict {
        inquiry(self.setlive, self.app, to).wait(changed(self.task, self.wanted)).await
    }

    /// Whether intent says something else by now.
    fn is_overtaken(&mut self) -> bool {
        !same(self.wanted, &self.task.wanted())
    }

    /// Stops the app and removes its services.
    async fn remove(&mut self, running: Option<Definition>, record: Record) -> Result<()> {
        let patience =
            running.as_ref().or(record.converging.as_ref()).map(|definition| definition.timeouts.stop.duration());
        if let Some(running) = &running {
            self.drain(running, true, "stopped").await?;
            self.disable(running).await;
        }
        let patience = patience.unwrap_or(Duration::from_secs(10));
        remove::services(self.setlive, self.app, record.services.iter(), patience).await?;
        processes::end_strays(self.app, record.basedir.path(), &BTreeSet::new()).await?;
        self.setlive.site.places.unbuild(self.app)?;
        self.setlive.clear(self.app, record.healthy.iter().chain(&record.converging));
        self.save(record.emptied()).await
    }
}

pub(crate) fn inquiry<'a>(setlive: &'a Setlive, app: &'a AppName, definition: &'a Definition) -> Inquiry<'a> {
    Inquiry { app, definition, places: &setlive.site.places, control: &setlive.site.control, http: &setlive.http }
}

/// Where a definition's logs are, for people.
fn logs_of(definition: &Definition) -> String {
    let logs = definition.services().map(|service| definition.log_dir(service).join("current").display().to_string());
    logs.collect::<Vec<_>>().join(", ")
}

fn overtaken() -> Next {
    Next::Done(Outcome::Waiting("intent changed on the way".to_owned()))
}

/// Resolves once intent says something else that matters here.
pub(crate) async fn changed(task: &mut Task, wanted: &Wanted) {
    loop {
        task.changed().await;
        if !same(wanted, &task.wanted()) {
            return;
        }
    }
}

/// Whether two intents are the same for what runs: neither ports matter, nor what is only to be prepared, nor how.
fn same(one: &Wanted, other: &Wanted) -> bool {
    let limits = Limits::default();
    let run = |app: &App| App {
        prep: Vec::new(),
        ports: Vec::new(),
        min_nodes: 0,
        allow_setuid: false,
        limits,
        artifacts: BTreeMap::new(),
        ..app.clone()
    };
    match (one, other) {
        (Wanted::App(one), Wanted::App(other)) => run(one) == run(other),
        (one, other) => one == other,
    }
}

fn recorded(record: Option<Record>) -> Result<Record> {
    record.context("decided on a record that is not there")
}
