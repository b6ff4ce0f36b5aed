//! The finisher: it replaces the app of which the agent itself is a part, and which it therefore cannot stop.
//!
//! It is a service of that app, `<app>@finish`, and runs the old version's program with `--finish`; runsv starts it again when
//! it is killed. It puts the new version's files in place, has runsv end the old agents and start the new ones, and waits
//! until each has left the mark of its first pass; if they do not in time, it leads back. Ensures: killed at any
//! instruction, it goes on from what it finds; none of the services is ever told to be down; time counts only while the
//! store can be read, so that no version is condemned for a store that is away. Assumes that each service of the app is an agent
//! that leaves its mark beside this one's, under the name of its launch script.

mod next;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use converge::files::Lock;
use converge::{Host, LONGEST_BACKOFF, Passed, blocking};
use store::{AppName, Gather, intent};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::act::inquiry;
use crate::decide::Service;
use crate::definition::Definition;
use crate::logs::Logs;
use crate::record::{Record, finisher};
use crate::{Places, Setlive, processes, program};
use next::{Agent, Next, Sight, Way, next};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two questions to the store.
const STORE: Duration = Duration::from_secs(2);
/// Longer than a store's client waits for an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Finishes what was handed over, if anything was. As a service it stays until runsvdir lets it go; else it exits.
///
/// # Errors
/// When it cannot begin: what fails later is tried again.
pub async fn finish(app: &AppName, places: &Places, host: &Host, mark: &Path, deadline: Duration) -> Result<ExitCode> {
    let setlive = Setlive::new(places, host)?;
    let marks = mark.parent().unwrap_or(Path::new("/"));
    let time = Time { deadline, was_away: true, since: None, asked: None, is_named: true };
    let mut finisher = Finisher { setlive: &setlive, app, marks, time, logs: None, trouble: None };
    loop {
        let pause = match finisher.step().await {
            Ok(Step::Over) => break,
            Ok(Step::Done) => Duration::ZERO,
            Ok(Step::Wait) => PAUSE,
            Err(error) => {
                let trouble = Some(format!("{error:#}"));
                if finisher.trouble != trouble {
                    error!(%app, "{error:#}; trying again");
                    finisher.trouble = trouble;
                }
                PAUSE * 10
            }
        };
        finisher.time.ask(app, host).await;
        tokio::time::sleep(pause).await;
    }
    finisher.retire().await
}

/// What came of one look.
enum Step {
    /// Nothing is left to finish.
    Over,
    Done,
    Wait,
}

struct Finisher<'a> {
    setlive: &'a Setlive,
    app: &'a AppName,
    /// Where agents leave their marks.
    marks: &'a Path,
    time: Time,
    /// What the new agents log.
    logs: Option<Logs>,
    /// What it could not do itself, since it last could.
    trouble: Option<String>,
}

/// How long the new agents have had to make their first pass.
struct Time {
    deadline: Duration,
    /// The store was away since the files were written, or before this process began: agents may not ask it again at once.
    was_away: bool,
    /// Since when it could be read without a gap, and the files are there.
    since: Option<Instant>,
    /// When that was last asked.
    asked: Option<Instant>,
    /// Intent names the app, as far as is known.
    is_named: bool,
}

impl Time {
    fn begin(&mut self) {
        (self.was_away, self.since) = (false, None);
    }

    /// Takes note of whether the store can be read, as agents read it.
    async fn ask(&mut self, app: &AppName, host: &Host) {
        if self.asked.is_some_and(|asked| asked.elapsed() < STORE) {
            return;
        }
        let read = tokio::time::timeout(ANSWER, intent::read(&host.store, &host.node)).await;
        self.asked = Some(Instant::now());
        match read {
            Ok(Ok(intent)) => {
                self.since.get_or_insert_with(Instant::now);
                self.is_named = intent.apps.contains_key(app);
            }
            Ok(Err(_)) | Err(_) => (self.was_away, self.since) = (true, None),
        }
    }

    fn is_over(&self) -> bool {
        let grace = if self.was_away { LONGEST_BACKOFF } else { Duration::ZERO };
        self.since.is_some_and(|since| since.elapsed() >= self.deadline + grace)
    }
}

impl Finisher<'_> {
    /// One look, and what follows from it.
    async fn step(&mut self) -> Result<Step> {
        let Some(_lock) = self.lock().await? else { return Ok(Step::Wait) };
        let (site, app) = (&self.setlive.site, self.app);
        let (records, name) = (site.records.clone(), app.clone());
        let Some(record) = blocking(move || records.load(&name)).await?.filter(|record| record.handover.is_some())
        else {
            return Ok(Step::Over);
        };
        let (Some(from), Some(to)) = (record.healthy.clone(), record.converging.clone()) else {
            bail!("{} says that something was handed over, but not what", site.records.path(app).display());
        };
        let way = if record.failed.contains_key(&to.digest()) { Way::Back } else { Way::There };
        let target = if way == Way::There { &to } else { &from };
        let sight = self.look(way, target, &from).await?;
        match next(&sight) {
            Next::Wait => return Ok(Step::Wait),
            Next::Write => {
                info!(%app, "Symlinking current to {app}_{}", target.version);
                self.logs = Some(Logs::from_now(&to));
                let (places, name, target) = (site.places.clone(), app.clone(), target.clone());
                blocking(move || {
                    let staged = places.stage(&name, &target)?;
                    staged.put()?;
                    places.build()?;
                    staged.sync()
                })
                .await?;
                // What comes of that is waited for from here on; not of each process that is put in another's place.
                self.time.begin();
            }
            Next::Start(services) => {
                for service in services {
                    info!(%app, "Starting {service}");
                    site.control.start(&site.places.staged(&service)).await?;
                }
            }
            Next::Renew(services) => {
                for (service, pid) in services {
                    info!(%app, "Restarting {service} as {}", target.version);
                    site.control.renew(&site.places.staged(&service), pid, target.timeouts.stop.duration()).await?;
                }
            }
            Next::Condemn(late) => {
                let reason = self.why(&late);
                self.failed(record, &to, reason).await?;
            }
            Next::Arrive => match program::hook(app, &to, "bin/enable", to.timeouts.enable.duration()).await {
                Ok(_) => {
                    self.arrive(record, &to).await?;
                    info!(%app, "{} is live", to.version);
                }
                Err(error) => self.failed(record, &to, format!("{error:#}")).await?,
            },
            Next::Return => {
                if let Err(error) = program::hook(app, &from, "bin/enable", from.timeouts.enable.duration()).await {
                    warn!(%app, "{error:#}; going on");
                }
                warn!(%app, "{} runs again", from.version);
                self.arrive(record, &from).await?;
            }
        }
        self.trouble = None;
        Ok(Step::Done)
    }

    /// Nobody else is at work on the app for long: its own agent hands over and lets go.
    async fn lock(&self) -> Result<Option<Lock>> {
        let (records, app) = (self.setlive.site.records.clone(), self.app.clone());
        blocking(move || records.lock(&app)).await
    }

    async fn look(&self, way: Way, target: &Definition, from: &Definition) -> Result<Sight> {
        let (site, app, of) = (self.setlive.site.clone(), self.app.clone(), target.clone());
        let (marks, is_named, install) = (self.marks.to_owned(), self.time.is_named, from.install(&app));
        let (is_written, agents, can_return) = blocking(move || {
            let agent = |service: &str| {
                let observed = site.control.observe(&site.places.staged(service))?;
                let script = service.split_once('@').map_or(service, |(_, script)| script);
                let named = is_named.then_some(&app);
                Ok((service.to_owned(), agent(observed, &of, &of.install(&app), &marks.join(script), named)))
            };
            let agents = of.services().map(agent).try_gather()?;
            Ok((site.places.hold(&app, &of), agents, install.is_dir()))
        })
        .await?;
        let mut sight = Sight { way, is_written, agents, is_healthy: true, is_late: self.time.is_over(), can_return };
        if next(&sight) == Next::Arrive && target.health.is_some() {
            sight.is_healthy = inquiry(self.setlive, self.app, target).now().await.is_ok();
        }
        Ok(sight)
    }

    /// Why a version is given up of which these have not passed.
    fn why(&self, late: &[String]) -> String {
        let what = match late {
            [] => "its check does not pass".to_owned(),
            late => format!("no first pass of {}", late.join(", ")),
        };
        let trouble = self.trouble.as_ref().map(|trouble| format!("; the finisher: {trouble}")).unwrap_or_default();
        format!("{what} within {:?}, while the store could be read{trouble}", self.time.deadline)
    }

    async fn arrive(&self, record: Record, at: &Definition) -> Result<()> {
        self.setlive.clear(self.app, record.healthy.iter().chain(&record.converging));
        self.setlive.site.records.note(self.app, record.arrived(at)).await
    }

    async fn failed(&self, record: Record, to: &Definition, reason: String) -> Result<()> {
        let log = self.logs.as_ref().map_or_else(|| Logs::of(to).last_lines(), Logs::last_lines);
        self.setlive.site.records.note(self.app, record.condemned(self.app, to, reason, log)).await
    }

    /// Nothing is left to do. The agent removes what is left of the service.
    async fn retire(&self) -> Result<ExitCode> {
        let (site, app) = (&self.setlive.site, self.app);
        let dir = site.places.staged(&finisher(app));
        let own = std::process::id().cast_signed();
        if site.control.observe(&dir)? != (Service::Running { pid: own }) {
            info!(%app, "nothing is left to finish");
            return Ok(ExitCode::SUCCESS);
        }
        let link = site.places.link(&finisher(app));
        blocking(move || converge::files::remove("link to the finisher", &link))
            .await
            .context("letting go of the finisher")?;
        // Who exits before runsvdir has seen that is started again.
        std::future::pending().await
    }
}

/// What a service's process is, as it was seen. Its mark counts where its intent names the app, if that is known to be
/// `named`: a store that is another one would not.
fn agent(observed: Service, target: &Definition, install: &Path, mark: &Path, named: Option<&AppName>) -> Agent {
    let pid = match observed {
        Service::Running { pid } => pid,
        Service::Stopped => return Agent::Down,
        Service::Absent | Service::Unsupervised | Service::Failing => return Agent::Starting,
    };
    let has_passed = |passed: &Passed| {
        let is_its = passed.pid == pid && fs::canonicalize(install).is_ok_and(|dir| passed.program.starts_with(dir));
        is_its && named.is_none_or(|app| passed.apps.contains(app))
    };
    match processes::config(pid) {
        // The shell that is about to become it.
        None => Agent::Starting,
        Some(config) if config != target.config_path() => Agent::Other { pid },
        Some(_) if Passed::read(mark).as_ref().is_some_and(has_passed) => Agent::Passed,
        Some(_) => Agent::Started,
    }
}
