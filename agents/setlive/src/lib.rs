//! Makes the active version the running one.
//!
//! Ensures: a version runs only once its install is there; what was healthy comes back when what was wanted is not
//! healthy in time; killed at any instruction, the next pass goes on. Assumes that runsvdir looks after the directory of
//! links, and that nobody else writes below the staging directory.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod act;
mod attempt;
mod cli;
mod data;
mod decide;
mod definition;
mod finish;
mod health;
mod keep;
mod known;
mod logs;
mod processes;
mod program;
mod protocol;
mod record;
mod remove;
mod runit;
mod service;
mod user;
mod words;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use converge::files;
use converge::{
    Agent, Counter, Glance, Host, Outcome, Source, Task, Versions, Wanted, all_looked, blocking, looking_threads,
};
use store::intent::{App, Fingerprint, NodeIntent, looks_gone};
use store::reality::configuration;
use store::{AppName, ClusterName, Gather, NodeName, Store, Version};
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit};
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

pub use cli::Cli;
pub use finish::finish;

use act::{REPLACEMENTS, REVERTS, inquiry};
use attempt::Attempt;
use decide::{Decision, Goal, Owner, Part, Seen, Service, candidates, decide};
use definition::Definition;
use known::Known;
use record::{Record, Records};
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

    /// Seconds that the store may take to show an instance passing that is healthy here, before that is said and the next
    /// app gets its turn
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = converge::positive_seconds)]
    pub passing_timeout: Duration,

    /// Take over services and apps that are there but are not recorded as ours; what runs differently is restarted
    #[arg(long)]
    pub adopt: bool,
}

/// The agent.
#[derive(Debug)]
pub struct Setlive {
    site: Arc<Site>,
    /// For checks over HTTP, once there is one.
    http: OnceCell<reqwest::Client>,
    /// What the store calls this host, once that was asked.
    host: OnceCell<String>,
    store: Store,
    /// Threads of a single pass that look at what earlier ones noted.
    looks: RefCell<JoinSet<()>>,
    /// What a single pass reads.
    intent: RefCell<Option<Fingerprint>>,
    /// Of what is registered, as a single pass asked for it when it began.
    stamp: RefCell<Option<JoinHandle<Result<Option<String>>>>>,
    stamped: OnceCell<Option<String>>,
    /// How many apps wait with queries of their own.
    watches: Rc<Cell<usize>>,
    /// One for each app: within this process a look at its registration makes no attempt give up.
    turns: RefCell<BTreeMap<AppName, Rc<Mutex<()>>>>,
    /// Held once this agent has handed over to its successor, so that it begins nothing more.
    handing_over: RefCell<Option<OwnedSemaphorePermit>>,
}

/// This agent's part of the host.
#[derive(Debug)]
struct Site {
    node: NodeName,
    source: Source,
    places: service::Places,
    control: Control,
    records: Records,
    /// The program that this agent is; not known where there is no `/proc`.
    program: Option<PathBuf>,
    /// Nobody else follows the same intent.
    alone: bool,
    passing_timeout: Duration,
    adopt: bool,
    /// `None` where all is looked at in full.
    known: Option<Known>,
}

impl Setlive {
    pub fn new(places: &Places, host: &Host) -> Result<Self> {
        let existing = |dir: &Path| if host.read_only { absolute(dir) } else { existing(dir) };
        let stage = existing(&places.runit_stage)?;
        let builder = places.servicebuilder.as_ref().map(|command| -> Result<_> {
            Ok(service::Builder { command: command.clone(), config: existing(&places.config)? })
        });
        let records = Records::open(&stage);
        let resolved = service::Places { stage, runit: existing(&places.runit)?, builder: builder.transpose()? };
        let mut site = Site {
            node: host.node.clone(),
            source: host.source,
            records,
            places: resolved,
            program: std::env::current_exe().ok(),
            control: places.sv.clone().map_or(Control::Supervise, Control::Sv),
            alone: host.source == Source::Direct || !host.store.keeps_instances(),
            passing_timeout: places.passing_timeout,
            adopt: places.adopt,
            known: None,
        };
        if !host.read_only {
            if let Err(error) = site.records.clear() {
                debug!("{error:#}; going on");
            }
            site.known = site.known();
        }
        Ok(Self {
            site: Arc::new(site),
            http: OnceCell::new(),
            host: OnceCell::new(),
            store: host.store.clone(),
            looks: RefCell::default(),
            intent: RefCell::default(),
            stamp: RefCell::default(),
            stamped: OnceCell::new(),
            watches: Rc::default(),
            turns: RefCell::default(),
            handing_over: RefCell::default(),
        })
    }
}

/// The path that `pieces` make together, below `dir`. Joined one by one, each piece would be room that is made anew, and a
/// look at an app has ten paths.
fn below(dir: &Path, pieces: &[&str]) -> PathBuf {
    let length = dir.as_os_str().len() + 1 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let mut path = PathBuf::with_capacity(length);
    path.extend([dir, Path::new("")]);
    let mut path = path.into_os_string();
    pieces.iter().for_each(|piece| path.push(piece));
    path.into()
}

/// A directory that is there from now on, as an absolute path: service links and scripts hold it.
fn existing(dir: &Path) -> Result<PathBuf> {
    files::directory("directory of services", dir)?;
    absolute(dir)
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    let resolved = if dir.exists() { fs::canonicalize(dir) } else { std::path::absolute(dir) };
    resolved.with_context(|| format!("resolving {}", dir.display()))
}

impl Agent for Setlive {
    const NAME: &'static str = "pp-setlive";
    const COUNTERS: &'static [&'static Counter] = &[&REPLACEMENTS, &REVERTS];

    fn present(&self) -> Result<BTreeSet<AppName>> {
        self.site.records.apps()
    }

    fn glance(&self) -> Option<Glance> {
        self.ask_for_stamp();
        if self.site.known.is_some() {
            let looking = |_| {
                let site = self.site.clone();
                move || site.known.as_ref().into_iter().for_each(|known| site.look_at_noted(known))
            };
            (0..looking_threads()).map(looking).for_each(|look| drop(self.looks.borrow_mut().spawn_blocking(look)));
        }
        let site = self.site.clone();
        // What went wrong is for an attempt to say.
        let is_settled = move |app: &Arc<App>| site.is_settled(&app.name, &Wanted::App(app.clone())).unwrap_or(false);
        let site = self.site.clone();
        Some(Glance::by(move |app| site.knows(app) || is_settled(app)))
    }

    fn recalls(&self) -> bool {
        // Of what is registered elsewhere there is no stamp.
        self.site.known.is_some() && (self.site.alone || matches!(self.store, Store::Consul(_)))
    }

    async fn is_as_left(&self, intent: Fingerprint) -> bool {
        let Some(known) = &self.site.known else { return false };
        let mut looks = self.looks.take();
        // Nobody waits for looks where it is plain by now that they do not matter.
        let is_on_host = !known.is_of_other(&intent)
            && all_looked(&mut looks, known.looked()).await
            && self.site.is_left_so(known, &intent);
        self.intent.replace(Some(intent));
        is_on_host && (self.site.alone || self.is_registered_so().await)
    }

    async fn passed(&self, converged: BTreeSet<AppName>, all_of: Option<Fingerprint>) {
        let site = self.site.clone();
        if let Err(error) = blocking(move || site.remember(&converged, all_of.as_ref())).await {
            debug!("{error:#}; the next pass looks at all of it");
        }
    }

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let wanted = task.wanted();
        let (site, app, asked) = (self.site.clone(), task.app.clone(), wanted.clone());
        // Only who acts needs the lock, and looks again under it.
        if blocking(move || site.is_settled(&app, &asked)).await? {
            return Ok(Outcome::Converged);
        }
        // Of all apps few have more to do at a time, and what that takes is 20 kB for each.
        Box::pin(self.attempt(task, wanted)).await
    }

    async fn converge_host(&self, intent: Rc<NodeIntent>, host: &Host) -> Result<Outcome> {
        if self.site.alone {
            return Ok(Outcome::Nothing);
        }
        self.say_alive(host).await?;
        self.keep_registered(&intent, host).await?;
        Ok(Outcome::Converged)
    }

    async fn versions(&self, app: &AppName, wanted: &Wanted) -> Result<Versions> {
        let active = match wanted {
            Wanted::App(app) => app.active.clone().filter(|_| !app.drain),
            Wanted::Unnamed | Wanted::Unknown | Wanted::Held => None,
        };
        let (site, app) = (self.site.clone(), app.clone());
        blocking(move || {
            // One that cannot be read is the reason why an attempt failed, and what is wanted is so all the same.
            let record = site.records.load(&app).ok().flatten();
            Ok(versions(active, record.filter(|record| site.owner(record) == Owner::Us)))
        })
        .await
    }

    async fn plan(&self, mut task: Task) -> Result<Vec<String>> {
        let wanted = task.wanted();
        if !self.confirm(&task, &wanted).await? {
            return Ok(Vec::new());
        }
        let (goal, seen) = self.look(&task.app, &wanted, &task.host).await?;
        let steps = decide(&goal, &seen).describe();
        match &goal {
            Goal::Run(Definition { runas: Some(user), .. })
                if !steps.is_empty() && user::is_to_be_made(user).await? =>
            {
                Ok([vec![format!("create the system user {}", user.as_str())], steps].concat())
            }
            _ => Ok(steps),
        }
    }
}

impl Setlive {
    /// Of an app that is not settled.
    async fn attempt(&self, mut task: Task, wanted: Wanted) -> Result<Outcome> {
        if !self.confirm(&task, &wanted).await? {
            return Ok(Outcome::Converged);
        }
        let turn = self.turn(&task.app);
        let _turn = turn.lock().await;
        let (site, app) = (self.site.clone(), task.app.clone());
        let Some(_lock) = blocking(move || site.records.lock(&app)).await? else {
            return Ok(Outcome::Waiting("another process is at work on this app".to_owned()));
        };
        // Whoever cannot be told so does not see our instances pass either: what was begun is finished all the same.
        if let Err(error) = self.say_alive(&task.host).await {
            debug!("{error:#}");
        }
        let app = task.app.clone();
        Attempt::new(self, &app, &mut task, &wanted).run().await
    }

    fn turn(&self, app: &AppName) -> Rc<Mutex<()>> {
        self.turns.borrow_mut().entry(app.clone()).or_default().clone()
    }

    async fn say_alive(&self, host: &Host) -> Result<()> {
        if !self.site.alone {
            host.stay_alive(Self::NAME).await?;
        }
        Ok(())
    }

    /// What the store calls this host.
    async fn host_of(&self, host: &Host) -> Result<()> {
        self.host.get_or_try_init(|| host.store.host_of(&host.node)).await.map(drop)
    }

    /// As [`Setlive::host_of`] found; nothing is written before it has.
    fn known_host(&self) -> String {
        self.host.get().cloned().unwrap_or_default()
    }

    /// Whether the app is any concern of ours. Fails unless one that is not named has really left this node: the store
    /// is asked twice, so that one in the middle of something is not taken at its word.
    async fn confirm(&self, task: &Task, wanted: &Wanted) -> Result<bool> {
        let (site, app, asked) = (self.site.clone(), task.app.clone(), wanted.clone());
        let concern = blocking(move || Ok(site.concern(&asked, site.records.load(&app)?.as_ref()))).await?;
        let Some(runs_in) = concern else { return Ok(false) };
        if let (Wanted::Unnamed, Some(cluster)) = (wanted, runs_in) {
            let ask = || looks_gone(&task.host.store, &task.host.node, &task.app, &cluster);
            ask().await.context("held as it is")?;
            tokio::time::sleep(Duration::from_millis(1100)).await;
            ask().await.context("held as it is")?;
        }
        Ok(true)
    }

    async fn look(&self, app: &AppName, wanted: &Wanted, host: &Host) -> Result<(Goal, Seen)> {
        let (site, looked_for, wanted) = (self.site.clone(), app.clone(), wanted.clone());
        let (goal, seen) = blocking(move || {
            let record = site.records.load(&looked_for)?;
            site.goal_and_seen(&looked_for, &wanted, record)
        })
        .await?;
        let goal = match goal {
            Goal::Run(definition) => match self.provide(app, &definition, &seen, host).await {
                Ok(()) => Goal::Run(definition),
                Err(error) => Goal::Unusable { reason: format!("{error:#}") },
            },
            other => other,
        };
        Ok((goal, seen))
    }

    /// Has what is new in a definition be there: the user that it is to run as, and room for its data, before anything is
    /// asked or stopped for it, and a check that passes, before all others that watch the instance go by it.
    async fn provide(&self, app: &AppName, wanted: &Definition, seen: &Seen, host: &Host) -> Result<()> {
        let mut known = seen.record.iter().flat_map(|record| record.healthy.iter().chain(&record.converging));
        match &wanted.runas {
            Some(user) if known.any(|known| known.runas.as_ref() == Some(user)) => {}
            Some(user) if host.read_only => drop(user::is_to_be_made(user).await?),
            Some(user) => user::ensure(app, user, &wanted.data_dir()).await?,
            None => {}
        }
        if !seen.on_disk.contains(&wanted.digest()) {
            let path = wanted.data_dir();
            blocking(move || data::is_there(&path)).await?;
        }
        let settled = seen.record.as_ref().filter(|record| record.converging.is_none());
        match settled.and_then(|record| record.healthy.as_ref()) {
            Some(runs) if runs.health != wanted.health && runs.digest() == wanted.digest() => {
                let asked = inquiry(self, app, wanted).now().await;
                let config = format!("clusters/{app}/{}/config", wanted.cluster);
                asked.map(drop).with_context(|| {
                    format!("{config}: its health does not pass here, so that the instance is judged as before")
                })
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn goal(app: &AppName, wanted: &Wanted) -> Goal {
    let wanted = match wanted {
        Wanted::App(app) => app,
        Wanted::Unknown | Wanted::Held => return Goal::Finish,
        Wanted::Unnamed => return Goal::Nothing { why: "it was taken off this node", heeds_minimum: true },
    };
    let Some(version) = &wanted.active else {
        return Goal::Nothing { why: "no version is active", heeds_minimum: false };
    };
    if wanted.drain {
        return Goal::Nothing { why: "it is drained on this node", heeds_minimum: true };
    }
    // Most often it is there. It may also come between one question and the next, so this is the last one too.
    if let Ok(definition) = Definition::new(wanted, version) {
        return Goal::Run(definition);
    }
    let install = definition::install(&wanted.basedir, app, version);
    match install.try_exists() {
        Ok(true) => {}
        Ok(false) => return Goal::Unprepared { version: version.clone(), install },
        Err(error) => return Goal::Unusable { reason: format!("looking for {}: {error}", install.display()) },
    }
    match Definition::new(wanted, version) {
        Ok(definition) => Goal::Run(definition),
        Err(error) => Goal::Unusable { reason: format!("{error:#}") },
    }
}

/// What there is to report of an app of which this version is the active one.
fn versions(active: Option<Version>, record: Option<Record>) -> Versions {
    let Some(record) = record else { return Versions { wanted: active.into_iter().gather(), ..Versions::default() } };
    let failures = record.failed.into_values().filter(|failure| Some(&failure.version) == active.as_ref());
    let log = failures.map(|failure| failure.log).next_back().unwrap_or_default();
    let started_with = |it: &Definition| configuration(&it.user_config, it.restart.as_deref());
    let configuration = record.healthy.as_ref().map(started_with);
    let there = record.healthy.into_iter().map(|healthy| healthy.version).gather();
    Versions { wanted: active.into_iter().gather(), there, configuration, log }
}

impl Site {
    /// Whether an attempt would find nothing to do.
    fn is_settled(&self, app: &AppName, wanted: &Wanted) -> Result<bool> {
        let record = self.records.load(app)?;
        match (wanted, self.concern(wanted, record.as_ref())) {
            (_, None) => Ok(true),
            // The store has to confirm that.
            (Wanted::Unnamed, Some(_)) => Ok(false),
            (Wanted::App(_) | Wanted::Unknown | Wanted::Held, Some(_)) => {
                let owes = !self.alone && record.as_ref().is_some_and(Record::is_owing);
                let (goal, seen) = self.goal_and_seen(app, wanted, record)?;
                Ok(!owes && decide(&goal, &seen) == Decision::Converged)
            }
        }
    }

    /// `None` when there is nothing to look at: what is not ours and not wanted either. Else where it runs, if it does.
    fn concern(&self, wanted: &Wanted, record: Option<&Record>) -> Option<Option<ClusterName>> {
        let runs_in = |record: &Record| Some(record.cluster.clone());
        match (wanted, record) {
            (Wanted::Held, _) => None,
            (Wanted::Unnamed | Wanted::Unknown, record) => {
                record.filter(|record| self.owner(record) == Owner::Us).map(runs_in)
            }
            (Wanted::App(app), None) => (app.active.is_some() && !app.drain).then_some(None),
            (Wanted::App(_), Some(record)) => Some(runs_in(record)),
        }
    }

    fn owner(&self, record: &Record) -> Owner {
        if record.node != self.node {
            Owner::Node(record.node.clone())
        } else if record.source != self.source {
            Owner::Source(record.source)
        } else {
            Owner::Us
        }
    }

    /// What intent comes to here, and what is there. The app that this agent is of is not drained: nobody would be left to
    /// bring the others back.
    fn goal_and_seen(&self, app: &AppName, wanted: &Wanted, record: Option<Record>) -> Result<(Goal, Seen)> {
        let first = goal(app, wanted);
        let seen = self.observe(app, &first, record)?;
        match wanted {
            Wanted::App(drained) if drained.drain && seen.part != Part::None => {
                let whole = Wanted::App(Arc::new(App { drain: false, ..App::clone(drained) }));
                let goal = goal(app, &whole);
                let seen = self.observe(app, &goal, seen.record)?;
                Ok((goal, seen))
            }
            Wanted::App(_) | Wanted::Unnamed | Wanted::Unknown | Wanted::Held => Ok((first, seen)),
        }
    }

    fn observe(&self, app: &AppName, goal: &Goal, record: Option<Record>) -> Result<Seen> {
        let definitions = candidates(goal, record.as_ref());
        let recorded = record.iter().flat_map(|record| record.services.iter().map(String::as_str));
        let names = definitions.iter().flat_map(|definition| definition.services()).chain(recorded);
        let names = names.gather::<BTreeSet<_>>();
        let services = names.iter().map(|name| Ok(((*name).to_owned(), self.service(name)?))).try_gather()?;
        let digests = |is: &dyn Fn(&Definition) -> bool| {
            definitions.iter().filter(|definition| is(definition)).map(|definition| definition.digest()).gather()
        };
        let on_disk = digests(&|definition| self.places.hold(app, definition));
        // A goal is to run only what is there.
        let is_goal = |definition: &Definition| matches!(goal, Goal::Run(wanted) if wanted == definition);
        let installed = digests(&|definition| is_goal(definition) || definition.install(app).is_dir());
        let owner = record.as_ref().map_or(Owner::Us, |record| self.owner(record));
        let part = self.part(app, &definitions, &services);
        Ok(Seen { services, on_disk, installed, owner, alone: self.alone, adopt: self.adopt, part, record })
    }

    /// What this agent is in the app.
    fn part(&self, app: &AppName, definitions: &[&Definition], services: &BTreeMap<String, Service>) -> Part {
        let us = Service::Running { pid: std::process::id().cast_signed() };
        let finisher = record::finisher(app);
        if let Some((service, _)) = services.iter().find(|(name, service)| **service == us && **name != finisher) {
            return Part::Service(service.clone());
        }
        let is_of = |program: &Path, definition: &Definition| {
            let install = definition.install(app);
            // It is seldom, and what the names tell takes no look at the disk.
            program.ancestors().any(|dir| dir.file_name() == install.file_name())
                && fs::canonicalize(install).is_ok_and(|install| program.starts_with(install))
        };
        match &self.program {
            Some(program) if definitions.iter().any(|definition| is_of(program, definition)) => Part::Program,
            Some(_) | None => Part::None,
        }
    }

    fn service(&self, service: &str) -> Result<Service> {
        let (link, staged) = (self.places.link(service), self.places.staged(service));
        let is_there = || fs::symlink_metadata(&link).is_ok() || fs::symlink_metadata(&staged).is_ok();
        match &self.control {
            // Of what runsv looks after there is no question whether it is there.
            Control::Supervise => match self.control.observe(&staged)? {
                Service::Unsupervised if !is_there() => Ok(Service::Absent),
                seen => Ok(seen),
            },
            Control::Sv(_) if is_there() => self.control.observe(&staged),
            Control::Sv(_) => Ok(Service::Absent),
        }
    }
}
