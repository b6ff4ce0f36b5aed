//! The finisher: it replaces the app of which the agent itself is a part, and which it therefore cannot stop.
//!
//! It is a service of that app, `<app>@finish`, and runs the old version's program with `--finish`; runsv starts it again when
//! it is killed. It puts the new version's files in place, has runsv end the old agents and start the new ones, and waits
//! until each has left the mark of its first pass; if they do not in time, it leads back. Ensures: killed at any
//! instruction, it goes on from what it finds; none of the services is ever told to be down; time counts only while the
//! store can be read, so that no version is condemned for a store that is away. Assumes that each service of the app is an agent
//! that leaves its mark beside this one's, under the name of its launch script.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use converge::files::Lock;
use converge::{Host, LONGEST_BACKOFF, blocking, marked};
use store::{AppName, intent};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::act::inquiry;
use crate::decide::Service;
use crate::definition::Definition;
use crate::logs::Logs;
use crate::record::{Failure, Record, finisher};
use crate::{Places, Setlive, processes, program};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two questions to the store, and for an answer.
const STORE: Duration = Duration::from_secs(2);

/// Where the finisher leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// One of the agents of the definition that is led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// Somebody has told it to be.
    Down,
    /// It has no process yet, or one of which cannot be told what it is going to be.
    Starting,
    /// Its process is still of another definition.
    Other {
        pid: i32,
    },
    /// It has not made its first pass.
    Started,
    Passed,
}

/// What the finisher sees.
#[derive(Debug)]
struct Sight {
    way: Way,
    /// The files and links are those of the definition that is led to.
    is_written: bool,
    /// By service.
    agents: BTreeMap<String, Agent>,
    /// The definition's own check, where it has one.
    is_healthy: bool,
    /// The store could be read, without a gap, since the last thing that was done, for as long as may be waited.
    is_late: bool,
}

/// What it does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Write,
    Start(Vec<String>),
    /// Have runsv put another process in place of these.
    Renew(BTreeMap<String, i32>),
    Wait,
    Arrive,
    /// Lead back, for these have not passed.
    Condemn(Vec<String>),
    Return,
}

fn next(sight: &Sight) -> Next {
    let Sight { way, is_written, agents, is_healthy, is_late } = sight;
    let which = |is: fn(Agent) -> bool| {
        let those = agents.iter().filter(|(_, agent)| is(**agent));
        those.map(|(service, _)| service.clone()).collect::<Vec<_>>()
    };
    let other = |(service, agent): (&String, &Agent)| match agent {
        Agent::Other { pid } => Some((service.clone(), *pid)),
        Agent::Down | Agent::Starting | Agent::Started | Agent::Passed => None,
    };
    let (down, others) =
        (which(|agent| agent == Agent::Down), agents.iter().filter_map(other).collect::<BTreeMap<_, _>>());
    let late = which(|agent| agent != Agent::Passed);
    let runs = |agent: &Agent| matches!(agent, Agent::Started | Agent::Passed);
    match way {
        Way::There if late.is_empty() && *is_healthy && *is_written => Next::Arrive,
        Way::There if *is_late => Next::Condemn(late),
        _ if !is_written => Next::Write,
        _ if !down.is_empty() => Next::Start(down),
        _ if !others.is_empty() => Next::Renew(others),
        // It was healthy before: to wait for more would leave the host without an agent that goes on.
        Way::Back if agents.values().all(runs) => Next::Return,
        Way::There | Way::Back => Next::Wait,
    }
}

/// Finishes what was handed over, if anything was. As a service it stays until runsvdir lets it go; else it exits.
///
/// # Errors
/// When it cannot begin: what fails later is tried again.
pub async fn finish(app: &AppName, places: &Places, host: &Host, mark: &Path, deadline: Duration) -> Result<ExitCode> {
    let setlive = Setlive::new(places, host)?;
    let marks = mark.parent().unwrap_or(Path::new("/"));
    let time = Time { deadline, was_away: true, since: None, asked: None };
    let mut finisher = Finisher { setlive: &setlive, app, host, marks, time, logs: None };
    let mut said = None;
    loop {
        match finisher.step().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let text = format!("{error:#}");
                if said.as_ref() != Some(&text) {
                    error!(%app, "{text}; trying again");
                    said = Some(text);
                }
                finisher.time.ask(host).await;
                tokio::time::sleep(PAUSE * 10).await;
            }
        }
    }
    finisher.retire().await
}

struct Finisher<'a> {
    setlive: &'a Setlive,
    app: &'a AppName,
    host: &'a Host,
    /// Where agents leave their marks.
    marks: &'a Path,
    time: Time,
    /// What the new agents log.
    logs: Option<Logs>,
}

/// How long the new agents have had to make their first pass.
struct Time {
    deadline: Duration,
    /// The store was away since something was last done, or before this process began: agents may not ask it again at once.
    was_away: bool,
    /// Since when it could be read without a gap, and nothing was done.
    since: Option<Instant>,
    /// When that was last asked.
    asked: Option<Instant>,
}

impl Time {
    /// It is for what was done now that is waited from here on.
    fn reset(&mut self) {
        (self.was_away, self.since) = (false, None);
    }

    /// Takes note of whether the store can be read, as agents read it.
    async fn ask(&mut self, host: &Host) {
        if self.asked.is_some_and(|asked| asked.elapsed() < STORE) {
            return;
        }
        let read = tokio::time::timeout(STORE, intent::read(&host.store, &host.node)).await;
        self.asked = Some(Instant::now());
        match read {
            Ok(Ok(_)) => drop(self.since.get_or_insert_with(Instant::now)),
            Ok(Err(_)) | Err(_) => (self.was_away, self.since) = (true, None),
        }
    }

    fn is_over(&self) -> bool {
        let grace = if self.was_away { LONGEST_BACKOFF } else { Duration::ZERO };
        self.since.is_some_and(|since| since.elapsed() >= self.deadline + grace)
    }
}

impl Finisher<'_> {
    /// One look, and what follows from it. True when nothing is left to finish.
    async fn step(&mut self) -> Result<bool> {
        let Some(_lock) = self.lock().await? else { return Ok(false) };
        let (site, app) = (&self.setlive.site, self.app);
        let (records, name) = (site.records.clone(), app.clone());
        let Some(record) = blocking(move || records.load(&name)).await?.filter(|record| record.handover.is_some())
        else {
            return Ok(true);
        };
        let (Some(from), Some(to)) = (record.healthy.clone(), record.converging.clone()) else {
            bail!("{} says that something was handed over, but not what", site.records.path(app).display());
        };
        let way = if record.failed.contains_key(&to.digest()) { Way::Back } else { Way::There };
        let target = if way == Way::There { &to } else { &from };
        let sight = self.look(way, target).await?;
        match next(&sight) {
            Next::Wait => {
                self.time.ask(self.host).await;
                tokio::time::sleep(PAUSE).await;
                return Ok(false);
            }
            Next::Write => {
                info!(%app, "Symlinking current to {app}_{}", target.version);
                self.logs = Some(Logs::from_now(&to));
                let (places, name, target) = (site.places.clone(), app.clone(), target.clone());
                blocking(move || {
                    let staged = places.stage(&name, &target)?;
                    staged.put()?;
                    staged.sync()
                })
                .await?;
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
            Next::Condemn(late) => self.condemn(record, &to, &late).await?,
            Next::Arrive => match program::hook(app, &to, "bin/enable", to.timeouts.enable.duration()).await {
                Ok(_) => {
                    self.save(record.arrived(&to)).await?;
                    info!(%app, "{} is live", to.version);
                }
                Err(error) => self.failed(record, &to, format!("{error:#}")).await?,
            },
            Next::Return => {
                warn!(%app, "{} runs again", from.version);
                self.save(record.arrived(&from)).await?;
            }
        }
        self.time.reset();
        Ok(false)
    }

    /// Nobody else is at work on the app for long: its own agent hands over and lets go.
    async fn lock(&self) -> Result<Option<Lock>> {
        let (records, app) = (self.setlive.site.records.clone(), self.app.clone());
        let lock = blocking(move || records.lock(&app)).await?;
        if lock.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(lock)
    }

    async fn look(&self, way: Way, target: &Definition) -> Result<Sight> {
        let (site, app, of, marks) =
            (self.setlive.site.clone(), self.app.clone(), target.clone(), self.marks.to_owned());
        let (is_written, agents) = blocking(move || {
            let agent = |service: &str| {
                let observed = site.control.observe(&site.places.staged(service))?;
                let script = service.split_once('@').map_or(service, |(_, script)| script);
                Ok((service.to_owned(), agent(observed, &of, &marks.join(script))))
            };
            Ok((site.places.hold(&app, &of), of.services().map(agent).collect::<Result<_>>()?))
        })
        .await?;
        let is_healthy = target.health.is_none() || inquiry(self.setlive, self.app, target).now().await.is_ok();
        Ok(Sight { way, is_written, agents, is_healthy, is_late: self.time.is_over() })
    }

    async fn condemn(&self, record: Record, to: &Definition, late: &[String]) -> Result<()> {
        let reason = match late {
            [] => "its check does not pass".to_owned(),
            late => format!("no first pass of {}", late.join(", ")),
        };
        self.failed(record, to, format!("{reason} within {:?}, while the store could be read", self.time.deadline))
            .await
    }

    async fn failed(&self, mut record: Record, to: &Definition, reason: String) -> Result<()> {
        let app = self.app;
        warn!(%app, "{} failed: {reason}", to.version);
        let log = self.logs.as_ref().map_or_else(|| Logs::of(to).last_lines(), Logs::last_lines);
        for line in &log {
            warn!(%app, "| {line}");
        }
        let (version, health) = (to.version.clone(), to.health.clone());
        record.failed.insert(to.digest(), Failure { version, reason, log, health, is_published: false });
        self.save(record).await
    }

    async fn save(&self, record: Record) -> Result<()> {
        let (records, app) = (self.setlive.site.records.clone(), self.app.clone());
        blocking(move || records.save(&app, &record)).await
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

/// What a service's process is, as it was seen.
fn agent(observed: Service, target: &Definition, mark: &Path) -> Agent {
    let pid = match observed {
        Service::Running { pid } => pid,
        Service::Stopped => return Agent::Down,
        Service::Absent | Service::Unsupervised | Service::Failing => return Agent::Starting,
    };
    match processes::config(pid) {
        // The shell that is about to become it.
        None => Agent::Starting,
        Some(config) if config != target.config_path() => Agent::Other { pid },
        Some(_) if marked(mark) == Some(pid) => Agent::Passed,
        Some(_) => Agent::Started,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(way: Way, is_written: bool, agents: &[(&str, Agent)]) -> Sight {
        let agents = agents.iter().map(|(service, agent)| ((*service).to_owned(), *agent)).collect();
        Sight { way, is_written, agents, is_healthy: true, is_late: false }
    }

    #[test]
    fn the_next_step_follows_from_what_is_seen() {
        use Agent::{Down, Other, Passed, Started, Starting};
        use Way::{Back, There};
        let all = |agent| [("setlive", agent), ("preparer", Passed)];
        let setlive = || vec!["setlive".to_owned()];
        for (way, is_written, agent, answer) in [
            (There, false, Other { pid: 7 }, Next::Write),
            (There, false, Passed, Next::Write),
            (There, true, Other { pid: 7 }, Next::Renew([("setlive".to_owned(), 7)].into())),
            (There, true, Down, Next::Start(setlive())),
            (There, true, Starting, Next::Wait),
            (There, true, Started, Next::Wait),
            (There, true, Passed, Next::Arrive),
            (Back, false, Passed, Next::Write),
            (Back, true, Other { pid: 7 }, Next::Renew([("setlive".to_owned(), 7)].into())),
            (Back, true, Down, Next::Start(setlive())),
            (Back, true, Starting, Next::Wait),
            (Back, true, Started, Next::Return),
            (Back, true, Passed, Next::Return),
        ] {
            assert_eq!(next(&sight(way, is_written, &all(agent))), answer, "{way:?} {is_written} {agent:?}");
        }
        let late = |way, agent| next(&Sight { is_late: true, ..sight(way, true, &all(agent)) });
        assert_eq!(late(There, Started), Next::Condemn(setlive()));
        assert_eq!(late(There, Other { pid: 7 }), Next::Condemn(setlive()), "also one that cannot be ended");
        assert_eq!(late(There, Passed), Next::Arrive, "it is late, but there");
        assert_eq!(late(Back, Started), Next::Return);
        let unhealthy = Sight { is_healthy: false, ..sight(There, true, &all(Passed)) };
        assert_eq!(next(&unhealthy), Next::Wait);
        assert_eq!(next(&Sight { is_late: true, ..unhealthy }), Next::Condemn(Vec::new()));
    }
}
