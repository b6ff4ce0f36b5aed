//! The agent, as the loop sees it: what it does for one app, and what it would do.
//!
//! Ensures: a pass over a host that has everything writes nothing, not even a lock.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use converge::{Agent, Counter, Glance, Outcome, Task, Versions, Wanted, blocking};
use store::intent::App;
use store::{AppName, Gather, Version};
use tokio::sync::OwnedSemaphorePermit;

use crate::attempt::{Attempt, all};
use crate::decide::{Plan, Unwanted, decide, install_name};
use crate::fetch::Fetcher;
use crate::install::Installs;
use crate::progress::FETCHED;
use crate::progress::{Screen, size};
use crate::prune::{Keep, Prune, doomed};
use crate::sources::Sources;

/// Makes every version in intent exist on the host.
#[derive(Debug)]
pub struct Preparer {
    pub(crate) sources: Sources,
    pub(crate) fetcher: Fetcher,
    pub(crate) screen: Screen,
    pub(crate) keep: Keep,
    /// The installs that could not be made at some time: that they are tried again is no news.
    pub(crate) failed: RefCell<BTreeSet<String>>,
}

impl Preparer {
    /// Where it `is_watched`, how far artifacts are is drawn on the terminal.
    ///
    /// # Errors
    /// When the flags contradict each other.
    pub fn new(sources: Sources, keep: Keep, is_watched: bool) -> Result<Self> {
        sources.check()?;
        let (fetcher, screen) = (Fetcher::new(&sources), Screen::new(is_watched));
        Ok(Self { fetcher, screen, sources, keep, failed: RefCell::default() })
    }
}

impl Agent for Preparer {
    const NAME: &'static str = "pp-preparer";
    const COUNTERS: &'static [&'static Counter] = &[&FETCHED];

    /// Of an app that intent does not name nothing is removed.
    fn present(&self) -> Result<BTreeSet<AppName>> {
        Ok(BTreeSet::new())
    }

    fn glance(&self) -> Option<Glance> {
        let keep = self.keep;
        Some(Glance::by(move |app| look(app, &keep).is_ok_and(|found| is_done(&found))))
    }

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let Wanted::App(app) = task.wanted() else { return Ok(Outcome::Nothing) };
        let (keep, seen) = (self.keep, app.clone());
        if is_done(&blocking(move || look(&seen, &keep)).await?) {
            return Ok(Outcome::Converged);
        }
        let permit = task.permit().await;
        // Of all apps few get as far at a time, and what it takes from here on is 15 kB for each.
        Box::pin(self.attempt(task, permit)).await
    }

    async fn versions(&self, _: &AppName, wanted: &Wanted) -> Result<Versions> {
        let Wanted::App(app) = wanted.clone() else { return Ok(Versions::default()) };
        blocking(move || {
            // What keeps them from being seen is for an attempt to say.
            let installed = Installs::of(&app).names().unwrap_or_default();
            let wanted = app.versions().cloned().gather::<BTreeSet<_>>();
            let is_there = |version: &&Version| installed.contains(&install_name(&app.name, version));
            let there = wanted.iter().filter(is_there).cloned().gather();
            Ok(Versions { wanted, there, ..Versions::default() })
        })
        .await
    }

    async fn plan(&self, mut task: Task) -> Result<Vec<String>> {
        let Wanted::App(app) = task.wanted() else { return Ok(Vec::new()) };
        let (keep, seen) = (self.keep, app.clone());
        let (Plan { remove, put_back, prepare, retire, recall }, doomed) = blocking(move || look(&seen, &keep)).await?;
        let installs = Installs::of(&app);
        let at = |name: &str| installs.dir().join(name).display().to_string();
        let remove = remove.iter().map(|stage| format!("remove {}, left by an interrupted pass", at(stage)));
        let put_back = put_back.iter().map(|name| format!("put {} back, set aside by an interrupted pass", at(name)));
        let prepare = prepare.iter().map(|version| {
            let place = at(&install_name(&app.name, version));
            match self.sources.of(&app, version) {
                Ok(source) => format!("fetch {} and unpack it to {place}", source.artifact),
                Err(error) => format!("refuse {error:#}"),
            }
        });
        let doomed = doomed?;
        let prune = doomed.iter().map(|Unwanted { name, bytes, .. }| {
            format!("remove {}, which intent names no more ({})", at(name), size(*bytes))
        });
        let retire = retire.iter().map(|name| format!("note that intent names {} no more", at(name)));
        let recall = recall.iter().map(|name| format!("forget that intent did not name {}", at(name)));
        Ok(put_back.chain(remove).chain(prepare).chain(prune).chain(retire).chain(recall).collect())
    }
}

impl Preparer {
    /// At an app that has something to be done, once it has its turn.
    async fn attempt(&self, mut task: Task, permit: OwnedSemaphorePermit) -> Result<Outcome> {
        // That may have taken long enough for intent to change.
        let Wanted::App(app) = task.wanted() else { return Ok(Outcome::Nothing) };
        let installs = Installs::of(&app);
        let holding = installs.clone();
        let Some(lock) = blocking(move || holding.lock()).await? else {
            let dir = installs.dir().display();
            return Ok(Outcome::Waiting(format!("another pp-preparer is at work on {dir}")));
        };
        let guard = Arc::new((lock, permit));
        let prepared = Attempt::new(self, installs.clone(), guard.clone()).run(task.clone()).await;
        // Last, since what is wanted comes first; and also when that failed, perhaps for want of space.
        let pruned = Prune { installs, guard, keep: self.keep }.run(task).await;
        all([prepared, pruned].into_iter().filter_map(Result::err).collect())?;
        Ok(Outcome::Converged)
    }
}

/// What is to be done, from what is there now.
pub(crate) async fn observe(app: &App) -> Result<Plan> {
    let app = app.clone();
    blocking(move || Ok(decide(&app, &Installs::of(&app).names()?))).await
}

/// The same with what is to be removed, oldest first; what keeps that from being known keeps nothing else from being done.
pub(crate) fn look(app: &App, keep: &Keep) -> Result<(Plan, Result<Vec<Unwanted>>)> {
    let names = Installs::of(app).names()?;
    Ok((decide(app, &names), doomed(app, &names, keep)))
}

fn is_done((plan, doomed): &(Plan, Result<Vec<Unwanted>>)) -> bool {
    plan.is_empty() && doomed.as_ref().is_ok_and(Vec::is_empty)
}
