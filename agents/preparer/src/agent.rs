//! The agent, as the loop sees it: what it does for one app, and what it would do.
//!
//! Ensures: a pass over a host that has everything writes nothing, not even a lock.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::attempt::Attempt;
use crate::decide::{Plan, decide, install_name};
use crate::fetch::Fetcher;
use crate::install::Installs;
use crate::progress::Screen;
use crate::sources::Sources;
use anyhow::Result;
use converge::{Agent, Glance, Outcome, Task, Wanted, blocking};
use store::AppName;
use store::intent::App;

/// Makes every version in intent exist on the host.
#[derive(Debug)]
pub struct Preparer {
    pub(crate) sources: Sources,
    pub(crate) fetcher: Fetcher,
    pub(crate) screen: Screen,
    /// The installs that could not be made at some time: that they are tried again is no news.
    pub(crate) failed: RefCell<BTreeSet<String>>,
}

impl Preparer {
    /// Where it `is_watched`, how far artifacts are is drawn on the terminal.
    ///
    /// # Errors
    /// When the flags contradict each other.
    pub fn new(sources: Sources, is_watched: bool) -> Result<Self> {
        sources.check()?;
        let (fetcher, screen) = (Fetcher::new(&sources), Screen::new(is_watched));
        Ok(Self { fetcher, screen, sources, failed: RefCell::default() })
    }
}

impl Agent for Preparer {
    /// Nothing that is there is ever removed, so what is not wanted is nobody's business.
    fn present(&self) -> Result<BTreeSet<AppName>> {
        Ok(BTreeSet::new())
    }

    fn glance(&self) -> Option<Glance> {
        Some(Arc::new(|app| look(app).is_ok_and(|plan| plan.is_empty())))
    }

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let Wanted::App(app) = task.wanted() else { return Ok(Outcome::Converged) };
        if observe(&app).await?.is_empty() {
            return Ok(Outcome::Converged);
        }
        let permit = task.permit().await;
        // That may have taken long enough for intent to change.
        let Wanted::App(app) = task.wanted() else { return Ok(Outcome::Converged) };
        let installs = Installs::of(&app);
        let holding = installs.clone();
        let Some(lock) = blocking(move || holding.lock()).await? else {
            let dir = installs.dir().display();
            return Ok(Outcome::Waiting(format!("another pp-preparer is at work on {dir}")));
        };
        Attempt::new(self, installs, (lock, permit)).run(task).await?;
        Ok(Outcome::Converged)
    }

    async fn plan(&self, mut task: Task) -> Result<Vec<String>> {
        let Wanted::App(app) = task.wanted() else { return Ok(Vec::new()) };
        let Plan { remove, prepare } = observe(&app).await?;
        let installs = Installs::of(&app);
        let at = |name: &str| installs.dir().join(name).display().to_string();
        let remove = remove.iter().map(|stage| format!("remove {}, left by an interrupted pass", at(stage)));
        let prepare = prepare.iter().map(|version| {
            let place = at(&install_name(&app.name, version));
            match self.sources.of(&app, version) {
                Ok(source) => format!("fetch {} and unpack it to {place}", source.artifact),
                Err(error) => format!("refuse {error:#}"),
            }
        });
        Ok(remove.chain(prepare).collect())
    }
}

/// What is to be done, from what is there now.
pub(crate) async fn observe(app: &App) -> Result<Plan> {
    let app = app.clone();
    blocking(move || look(&app)).await
}

fn look(app: &App) -> Result<Plan> {
    Ok(decide(app, &Installs::of(app).names()?))
}
