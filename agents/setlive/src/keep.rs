//! Keeps what is registered of this node as it is on the host: repairs what somebody else removed, and says again what
//! counts only for a while.
//!
//! Ensures: what a pass with `--once` knows from an earlier one is not looked at again. Assumes that attempts see to what
//! they change themselves.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use converge::{Host, Wanted, blocking, effect};
use store::intent::{App, NodeIntent};
use store::{AppName, Registered};
use tracing::{debug, info};

use crate::Setlive;
use crate::act::inquiry;
use crate::attempt::{check, instance, open_port};
use crate::decide::Owner;

impl Setlive {
    /// Asks for a stamp of what is registered, while intent is read. Before any look at that, so that what changes after
    /// the look changes the stamp.
    pub(crate) fn ask_for_stamp(&self) {
        if !self.site.alone && self.site.known.is_some() {
            let (store, node) = (self.store.clone(), self.site.node.clone());
            self.stamp.replace(Some(tokio::spawn(async move { store.registered_stamp(&node).await })));
        }
    }

    pub(crate) async fn keep_registered(&self, intent: &NodeIntent, host: &Host) -> Result<()> {
        if self.is_registered_so().await {
            return Ok(());
        }
        let all = self.all_registered().await;
        let registered = host.store.registered(&host.node).await.context("what is registered here cannot be seen")?;
        let site = self.site.clone();
        // What intent does not name runs on until the store confirms that it is gone, and the cluster can spare it.
        let mut apps = blocking(move || site.records.apps()).await?;
        apps.extend(intent.apps.keys().cloned());
        let now = SystemTime::now();
        let due = apps.iter().filter_map(|app| registered.get(app)?.report_due(now)).min();
        // What was reported at different times would be repeated at different times, and each of a thousand passes would
        // have a few to repeat, where one pass can be known by the one before.
        let are_repeated = all.is_none() || due.is_some_and(|due| due <= now);
        let (mut all_as_wanted, mut failed) = (true, None);
        for app in &apps {
            let wanted = intent.apps.get(app).and_then(|app| app.as_ref().ok());
            let known = registered.get(app);
            if is_as_wanted(known, wanted.map(|app| &**app), are_repeated) {
                continue;
            }
            all_as_wanted = false;
            if let Err(error) = self.keep_one(app, known, wanted, host).await {
                failed = failed.or(Some(error.context(format!("{app}: keeping it registered"))));
            }
        }
        if let Some(all) = all.filter(|_| all_as_wanted)
            && let Err(error) = self.note(all, due, host).await
        {
            debug!("{error:#}; the next pass looks at all that is registered");
        }
        failed.map_or(Ok(()), Err)
    }

    /// Whether all that is registered is as a pass before this one found it, and was wanted so.
    pub(crate) async fn is_registered_so(&self) -> bool {
        let Some(all) = self.all_registered().await else { return false };
        let site = self.site.clone();
        let is_known = blocking(move || Ok(site.known.as_ref().is_some_and(|known| known.knows_registered(&all))));
        is_known.await.unwrap_or(false)
    }

    /// What is wanted, and the stamp of what there is, once it has come.
    async fn all_registered(&self) -> Option<Arc<str>> {
        let stamp = self.stamped.get_or_init(|| self.stamp()).await.as_ref()?;
        Some(format!("{} {stamp}", self.intent.borrow().as_ref()?).into())
    }

    /// The stamp that was asked for.
    async fn stamp(&self) -> Option<String> {
        let asked = self.stamp.take()?;
        match asked.await.context("the task that asked ended early").and_then(|stamp| stamp) {
            Ok(stamp) => stamp,
            Err(error) => {
                debug!("{error:#}; looking at all that is registered");
                None
            }
        }
    }

    async fn note(&self, all: Arc<str>, due: Option<SystemTime>, host: &Host) -> Result<()> {
        if !host.store.shows_own_host().await? {
            return Ok(());
        }
        let site = self.site.clone();
        blocking(move || site.known.as_ref().map_or(Ok(()), |known| known.remember_registered(&all, due))).await
    }

    async fn keep_one(
        &self,
        app: &AppName,
        known: Option<&Registered>,
        wanted: Option<&Arc<App>>,
        host: &Host,
    ) -> Result<()> {
        // Whoever is at work on it sees to that himself.
        let turn = self.turn(app);
        let Ok(_turn) = turn.try_lock() else { return Ok(()) };
        let (site, name) = (self.site.clone(), app.clone());
        let Some(_lock) = blocking(move || site.records.lock(&name)).await? else { return Ok(()) };
        let (site, name) = (self.site.clone(), app.clone());
        let Some(record) = blocking(move || site.records.load(&name)).await? else { return Ok(()) };
        let Some(healthy) = record.healthy.as_ref().filter(|_| record.converging.is_none()) else { return Ok(()) };
        if self.site.owner(&record) != Owner::Us {
            return Ok(());
        }
        let held = wanted.is_some_and(|app| app.hold);
        let wanted = wanted.map_or(Wanted::Unknown, |app| Wanted::App(app.clone()));
        let mut instance = instance(app, &host.node, healthy, &wanted);
        if let (Wanted::Unknown, Some(known)) = (&wanted, known) {
            instance.port = known.port;
        }
        let is_current = known.is_some_and(|known| known.is(&instance));
        if !is_current && !held && !record.is_owing() {
            info!(%app, "Registering it anew");
            effect::register("register anew", &host.store, &instance).await?;
        } else if known.is_none() {
            return Ok(());
        }
        let now = inquiry(self, app, healthy).now().await;
        let (passes, says) = match &now {
            Ok(says) => (true, (*says).to_owned()),
            Err(error) => (false, format!("{error:#}")),
        };
        if passes && !held && !record.is_owing() && known.is_some_and(|known| known.drained.is_some()) {
            effect::undrain("undrain what passes", &host.store, &host.node, app).await?;
        }
        let due = known.is_none_or(|known| known.wants_report(passes, &says, SystemTime::now()));
        if due {
            effect::report("report anew", &host.store, &host.node, app, (passes, &says)).await?;
        }
        Ok(())
    }
}

/// Whether a look at what the store says of an app is enough to know that nothing has to be said to it. `are_repeated`:
/// reports that are old, but still count.
fn is_as_wanted(known: Option<&Registered>, wanted: Option<&App>, are_repeated: bool) -> bool {
    match (known, wanted) {
        (Some(known), Some(app)) => {
            let is_live = app.active.as_ref() == Some(&known.version) && app.cluster == known.cluster;
            let (check, checked) = check(app.health.as_ref());
            let is_checked = known.is_checked_by(&check) && known.port == open_port(app).or(checked);
            let is_old = || known.wants_report(true, &known.says, SystemTime::now());
            is_live && is_checked && known.passing && !(are_repeated && is_old())
        }
        // Nothing is known of what should run here, so that nothing can be missed.
        (None, Some(app)) => app.active.is_none() || app.drain,
        (_, None) => known.is_none(),
    }
}
