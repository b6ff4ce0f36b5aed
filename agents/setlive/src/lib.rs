//! Makes the active version the running one.
//!
//! Ensures: a version runs only once its install is there; what was healthy comes back when what was wanted is not
//! healthy in time; killed at any instruction, the next pass goes on. Assumes that runsvdir looks after the directory of
//! links, and that nobody else writes below the staging directory.

mod act;
mod decide;
mod definition;
mod health;
mod logs;
mod program;
mod record;
mod remove;
mod runit;
mod service;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use converge::files;
use converge::{Agent, Host, Outcome, Task, Wanted};
use store::AppName;
use store::intent::looks_gone;

use act::{Act, Next};
use decide::{Goal, Seen, Service, candidates, decide};
use definition::Definition;
use record::{Record, Records, Source};
use runit::Control;

/// Where things are on this host. The defaults are a developer's.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// The directory that runsvdir looks after
    #[arg(long, value_name = "DIR", default_value = "test_data/runit/service")]
    pub runit: PathBuf,

    /// Where service directories and our records (.platypus/) are kept
    #[arg(long, value_name = "DIR", default_value = "test_data/runit/stage")]
    pub runit_stage: PathBuf,

    /// Where an external --servicebuilder finds what to build (servicebuilder.d)
    #[arg(long, value_name = "DIR", default_value = "test_data/runit/servicebuilder.d")]
    pub config: PathBuf,

    /// Build service directories by this command, called with -c <config> -d <runit> -s <runit-stage>, instead of by
    /// ourselves
    #[arg(long, value_name = "CMD")]
    pub servicebuilder: Option<PathBuf>,

    /// Control services by this command, which has the interface of runit's sv, instead of directly: for machines
    /// without runit, as in test_data/bin/sv
    #[arg(long, value_name = "CMD")]
    pub sv: Option<PathBuf>,

    /// Take over services and apps that are there but are not recorded as ours; they are restarted
    #[arg(long)]
    pub adopt: bool,
}

/// The agent.
#[derive(Debug)]
pub struct Setlive {
    places: service::Places,
    control: Control,
    records: Records,
    adopt: bool,
    http: reqwest::Client,
}

impl Setlive {
    pub fn new(places: &Places, _: &Host) -> Result<Self> {
        let stage = existing(&places.runit_stage)?;
        let builder = places.servicebuilder.as_ref().map(|command| -> Result<_> {
            Ok(service::Builder { command: command.clone(), config: existing(&places.config)? })
        });
        Ok(Self {
            records: Records::open(&stage)?,
            places: service::Places { stage, runit: existing(&places.runit)?, builder: builder.transpose()? },
            control: places.sv.clone().map_or(Control::Supervise, Control::Sv),
            adopt: places.adopt,
            http: health::client().context("setting up an HTTP client")?,
        })
    }
}

/// A directory that is there from now on, as an absolute path: service links and scripts hold it.
fn existing(dir: &Path) -> Result<PathBuf> {
    files::directory(dir)?;
    fs::canonicalize(dir).with_context(|| format!("resolving {}", dir.display()))
}

impl Agent for Setlive {
    fn present(&self) -> Result<BTreeSet<AppName>> {
        self.records.apps()
    }

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let app = task.app.clone();
        let wanted = task.wanted();
        if self.is_of_no_concern(&task, &wanted)? {
            return Ok(Outcome::Converged);
        }
        if wanted == Wanted::Unnamed {
            self.confirm_gone(&task).await?;
        }
        let Some(_lock) = self.records.lock(&app)? else {
            return Ok(Outcome::Waiting("another process is at work on this app".to_owned()));
        };
        // Every step brings the app closer to where the next look finds nothing to do. One way there and one back are
        // fewer steps than these.
        for _ in 0..12 {
            let goal = self.goal(&app, &wanted)?;
            let seen = self.observe(&app, &goal)?;
            let mut act = Act { setlive: self, app: &app, task: &mut task };
            if let Next::Done(outcome) = act.on(decide(&goal, &seen), seen.record).await? {
                return Ok(outcome);
            }
        }
        bail!("does not settle: look at what changes it back")
    }

    async fn plan(&self, mut task: Task) -> Result<Vec<String>> {
        let wanted = task.wanted();
        if self.is_of_no_concern(&task, &wanted)? {
            return Ok(Vec::new());
        }
        if wanted == Wanted::Unnamed {
            self.confirm_gone(&task).await?;
        }
        let goal = self.goal(&task.app, &wanted)?;
        let seen = self.observe(&task.app, &goal)?;
        Ok(decide(&goal, &seen).describe())
    }
}

impl Setlive {
    /// What is not ours and not wanted either: nothing to look at.
    fn is_of_no_concern(&self, task: &Task, wanted: &Wanted) -> Result<bool> {
        let record = self.records.load(&task.app)?;
        let foreign = |record: &Record| record.node != task.host.node || record.source != Source::Store;
        Ok(match (wanted, record) {
            (Wanted::Unnamed | Wanted::Unknown, record) => record.is_none_or(|record| foreign(&record)),
            (Wanted::App(app), None) => app.active.is_none(),
            (Wanted::App(_), Some(record)) if record.node != task.host.node && !self.adopt => {
                bail!("runs here for another node, {}: give --node {0}, or --adopt to take it over", record.node)
            }
            (Wanted::App(_), Some(_)) => false,
        })
    }

    /// Fails unless the app has really left this node: asked twice, so that a store in the middle of something is not
    /// taken at its word.
    async fn confirm_gone(&self, task: &Task) -> Result<()> {
        let Some(record) = self.records.load(&task.app)? else { return Ok(()) };
        let ask = || looks_gone(&task.host.store, &task.host.node, &task.app, &record.cluster);
        ask().await.context("held as it is")?;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        ask().await.context("held as it is")
    }

    fn goal(&self, app: &AppName, wanted: &Wanted) -> Result<Goal> {
        let wanted = match wanted {
            Wanted::App(app) => app,
            Wanted::Unknown => return Ok(Goal::Finish),
            Wanted::Unnamed => return Ok(Goal::Nothing { why: "it was taken off this node" }),
        };
        let Some(version) = &wanted.active else { return Ok(Goal::Nothing { why: "no version is active" }) };
        let install = definition::install(&wanted.basedir, app, version);
        if install.try_exists().with_context(|| format!("looking for {}", install.display()))? {
            Definition::new(wanted, version).map(Goal::Run)
        } else {
            Ok(Goal::Unprepared { version: version.clone(), install })
        }
    }

    fn observe(&self, app: &AppName, goal: &Goal) -> Result<Seen> {
        let record = self.records.load(app)?;
        let definitions = candidates(goal, record.as_ref());
        let recorded = record.iter().flat_map(|record| record.services.iter().map(String::as_str));
        let names = definitions.iter().flat_map(|definition| definition.services()).chain(recorded);
        let names = names.collect::<BTreeSet<_>>();
        let services = names.iter().map(|name| Ok(((*name).to_owned(), self.look(name)?))).collect::<Result<_>>()?;
        let on_disk = definitions.iter().filter(|definition| self.places.hold(app, definition));
        let on_disk = on_disk.map(|definition| definition.digest()).collect();
        Ok(Seen { services, on_disk, adopt: self.adopt, record: record.clone() })
    }

    fn look(&self, service: &str) -> Result<Service> {
        let (link, staged) = (self.places.link(service), self.places.staged(service));
        if fs::symlink_metadata(&link).is_err() && fs::symlink_metadata(&staged).is_err() {
            return Ok(Service::Absent);
        }
        self.control.observe(&staged)
    }
}
