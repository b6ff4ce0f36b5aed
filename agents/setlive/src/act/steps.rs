//! The steps of a replacement, each of which can be done again. In what order they are taken is [`super`]'s.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use converge::{Outcome, blocking, effect, files};
use store::{AppName, Gather};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Act, changed};
use crate::Setlive;
use crate::decide::Service;
use crate::definition::{Definition, install_link};
use crate::program;
use crate::record::Record;
use crate::service::{Staged, current, last};

impl Act<'_> {
    pub(super) async fn save(&self, record: Record) -> Result<()> {
        self.setlive.site.records.note(self.app, record).await
    }

    /// Notes that `to` is healthy, and leaves nothing of what else was under way: while the record still has whoever comes
    /// next do it, if we do not.
    pub(super) async fn arrive(&self, to: &Definition, record: Record) -> Result<()> {
        self.setlive.tidy(self.app, to);
        self.setlive.clear(self.app, [to].into_iter().chain(&record.converging));
        self.save(record.arrived(to)).await
    }

    pub(super) async fn stage(&self, to: &Definition) -> Result<Staged> {
        let (places, app, to) = (self.setlive.site.places.clone(), self.app.clone(), to.clone());
        blocking(move || places.stage(&app, &to)).await
    }

    pub(super) async fn put(&self, staged: Staged) -> Result<Staged> {
        let places = self.setlive.site.places.clone();
        blocking(move || {
            staged.put()?;
            places.build()?;
            Ok(staged)
        })
        .await
    }

    /// Keeps `<basedir>/last` pointing at what would be gone back to, or, while nothing was healthy yet, at what `current`
    /// pointed at before. So what was healthy has one of the two links at any time, by which whoever tidies up among installs
    /// knows that it is needed: also after a version that was given up on the way, to which `current` points by now.
    pub(super) fn keep_last(&self, to: &Definition, healthy: Option<&Definition>) -> Result<()> {
        let basedir = to.basedir.path();
        let before = match healthy.filter(|healthy| healthy.basedir == to.basedir) {
            Some(healthy) => install_link(self.app, &healthy.version),
            None => match fs::read_link(current(basedir)) {
                Ok(current) => current,
                Err(_) => return Ok(()),
            },
        };
        if !to.install(self.app).ends_with(&before) {
            files::link("last", &last(basedir), &before)?;
        }
        Ok(())
    }

    /// Stops every service that may be there, all at once.
    pub(super) async fn stop(&self, record: &Record, patience: Duration) -> Result<()> {
        let mut stopping = JoinSet::new();
        for service in &record.services {
            let site = &self.setlive.site;
            let (control, dir) = (site.control.clone(), site.places.staged(service));
            // What has neither a link nor a runsv is not there yet, or no more.
            let linked = fs::symlink_metadata(site.places.link(service)).is_ok();
            if linked || control.observe(&dir)? != Service::Unsupervised {
                stopping.spawn_local(async move { control.stop(&dir, patience).await });
            }
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped.context("stopping")??;
        }
        Ok(())
    }

    /// The processes that the definition's services run now.
    pub(super) fn running(&self, of: &Definition) -> Result<BTreeSet<i32>> {
        let site = &self.setlive.site;
        let services = of.services().map(|service| site.control.observe(&site.places.staged(service)));
        let pid = |service| match service {
            Ok(Service::Running { pid }) => Some(Ok(pid)),
            Ok(Service::Absent | Service::Unsupervised | Service::Stopped | Service::Failing) => None,
            Err(error) => Some(Err(error)),
        };
        services.filter_map(pid).try_gather()
    }

    /// Starts every service; an outcome when runsvdir does not look after one.
    pub(super) async fn start(&self, to: &Definition) -> Result<Option<Outcome>> {
        let mut starting = JoinSet::new();
        for service in to.services() {
            let (control, dir) = (self.setlive.site.control.clone(), self.setlive.site.places.staged(service));
            starting.spawn_local(async move { control.start(&dir).await });
        }
        while let Some(started) = starting.join_next().await {
            if !started.context("starting")?? {
                return Ok(Some(self.no_runsvdir()));
            }
        }
        Ok(None)
    }

    /// Has the store send no more clients to the instance, and gives those that keep an address for a while the time to
    /// notice, unless it was out of service before. Tells whether there was anything to do. What the store cannot be told
    /// keeps nothing from going on: the cluster has allowed it, or nobody counts on the instance.
    ///
    /// # Errors
    /// When we have no right to tell it: then it could not be told what comes after that either, now or later.
    pub(super) async fn drain(&mut self, from: &Definition, serves: bool, why: &str) -> Result<bool> {
        if self.setlive.site.alone {
            return Ok(false);
        }
        let host = self.task.host.clone();
        match effect::drain("drain", &host.store, &host.node, self.app, why).await {
            Ok(()) => {}
            Err(error) if error.is::<store::Refused>() => return Err(error.context("held as it is: not drained")),
            Err(error) => warn!(app = %self.app, "not drained: {error:#}; going on"),
        }
        if let Some(patience) = from.timeouts.drain.filter(|_| serves) {
            info!(app = %self.app, "Draining for {:?}", patience.duration());
            tokio::select! {
                () = tokio::time::sleep(patience.duration()) => {}
                () = changed(self.task, self.wanted) => {}
            }
        }
        Ok(true)
    }

    pub(super) async fn enable(&self, to: &Definition) -> Result<bool> {
        program::hook(self.app, to, "bin/enable", to.timeouts.enable.duration()).await
    }

    /// Tells whether there was anything to run. An app that cannot be taken out of service politely is taken out all the
    /// same.
    pub(super) async fn disable(&self, from: &Definition) -> bool {
        program::hook(self.app, from, "bin/disable", from.timeouts.disable.duration()).await.unwrap_or_else(|error| {
            warn!(app = %self.app, "{error:#}; going on");
            true
        })
    }
}

impl Setlive {
    /// Removes configuration files that are not of `to`, which is healthy. Of no consequence when it fails: whoever goes back
    /// to another definition writes its file again.
    pub(super) fn tidy(&self, app: &AppName, to: &Definition) {
        let keep = to.config_path();
        let Ok(entries) = fs::read_dir(to.basedir.path().join("config")) else { return };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in paths.filter(|path| is_config(path) && *path != keep) {
            if let Err(error) = files::remove("old configuration", &path) {
                debug!(%app, "{error:#}");
            }
        }
    }

    /// Removes what was written for these definitions and never came to its place. Of no consequence when it fails: it is
    /// overwritten, or stays unread.
    pub(crate) fn clear<'a>(&self, app: &AppName, definitions: impl Iterator<Item = &'a Definition>) {
        for definition in definitions {
            if let Err(error) = self.site.places.clear(app, definition) {
                debug!(%app, "{error:#}");
            }
        }
    }
}

/// Whether a file in `<basedir>/config` is one of ours, by its name: `<digest>.json`, or what a crash left beside that. Others
/// may keep theirs there.
fn is_config(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digest = files::is_beside(name).unwrap_or(name).strip_suffix(".json").unwrap_or_default();
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Where the time of a replacement went.
pub(super) struct Clock {
    last: Instant,
    laps: Vec<String>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    pub(super) fn lap(&mut self, what: &str) {
        self.lap_of(what, self.last.elapsed());
    }

    pub(super) fn lap_of(&mut self, what: &str, took: Duration) {
        self.laps.push(format!("{what} {:.1} ms", took.as_secs_f64() * 1000.0));
        self.last = Instant::now();
    }

    pub(super) fn laps(&self) -> String {
        self.laps.join(", ")
    }
}
