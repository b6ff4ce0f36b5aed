//! One attempt at one app, under its lock: what interrupted passes left is removed, then one version after the other is
//! fetched and installed.
//!
//! Ensures: a version that cannot be prepared keeps none of the app's others from it; intent that changes meanwhile is
//! followed at once, if need be by giving up the fetch under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use converge::files::Lock;
use converge::{Task, Wanted, blocking};
use store::Version;
use store::intent::App;
use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use crate::agent::{Preparer, observe};
use crate::decide::{Plan, install_name};
use crate::install::Installs;

/// What whoever changes an app's installs holds. Shared with the threads that do, since one may outlive the attempt that
/// started it.
pub(crate) type Guard = (Lock, OwnedSemaphorePermit);

pub(crate) struct Attempt<'a> {
    pub(crate) agent: &'a Preparer,
    pub(crate) installs: Installs,
    guard: Arc<Guard>,
    /// Not tried a second time in this attempt.
    failed: BTreeSet<Version>,
    errors: Vec<Error>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(agent: &'a Preparer, installs: Installs, guard: Arc<Guard>) -> Self {
        Self { agent, installs, guard, failed: BTreeSet::new(), errors: Vec::new() }
    }

    pub(crate) async fn run(mut self, mut task: Task) -> Result<()> {
        self.tidy(task.wanted()).await?;
        while let Some((app, version)) = self.next(task.wanted()).await? {
            let overtaken = self.overtaken(task.clone(), &app, &version);
            if let Err(error) = self.prepare(&app, &version, overtaken).await {
                self.errors.push(error);
                self.agent.failed.borrow_mut().insert(install_name(&app.name, &version));
                self.failed.insert(version);
            }
        }
        all(self.errors)
    }

    /// Ends what interrupted passes began.
    async fn tidy(&mut self, wanted: Wanted) -> Result<()> {
        let Wanted::App(app) = wanted else { return Ok(()) };
        let Plan { remove, put_back, .. } = observe(&app).await?;
        for name in put_back {
            info!(app = %app.name, "Putting {name} back, which an interrupted pass had set aside");
            let put = self.blocking(move |installs| installs.put_back(&name)).await;
            self.errors.extend(put.err());
        }
        for stage in remove {
            info!(app = %app.name, "Removing {stage}, left by an interrupted pass");
            let removed = self.blocking(move |installs| installs.remove(&stage)).await;
            self.errors.extend(removed.err());
        }
        Ok(())
    }

    /// The version to prepare next, by what intent and the host say now.
    async fn next(&self, wanted: Wanted) -> Result<Option<(Arc<App>, Version)>> {
        let Wanted::App(app) = wanted else { return Ok(None) };
        if Installs::of(&app) != self.installs {
            // Elsewhere, under another lock: the next attempt's.
            return Ok(None);
        }
        let missing = observe(&app).await?.prepare;
        let next = missing.into_iter().find(|version| !self.failed.contains(version));
        Ok(next.map(|version| (app, version)))
    }

    /// Resolves when, by new intent, another version than this is next, or another artifact of it.
    async fn overtaken(&self, mut task: Task, app: &App, version: &Version) {
        let same = |now: &App, next: &Version| next == version && now.artifacts.get(next) == app.artifacts.get(next);
        loop {
            task.changed().await;
            let wanted = task.wanted();
            // Unknown, perhaps only while somebody edits, is no reason to throw away what came so far.
            let known = wanted != Wanted::Unknown;
            if known && !matches!(self.next(wanted).await, Ok(Some((now, next))) if same(&now, &next)) {
                return;
            }
        }
    }

    /// Changes the installs on a thread of its own, which holds the lock until it is done whatever becomes of us.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Installs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (installs, guard) = (self.installs.clone(), self.guard.clone());
        blocking(move || {
            let _guard = guard;
            change(&installs)
        })
        .await
    }
}

/// Several errors as one.
pub(crate) fn all(errors: Vec<Error>) -> Result<()> {
    let texts = || errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ");
    if errors.is_empty() { Ok(()) } else { Err(anyhow!(texts())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_is_lost() {
        assert!(all(Vec::new()).is_ok());
        assert_eq!(all(vec![anyhow!("a").context("b"), anyhow!("c")]).unwrap_err().to_string(), "b: a; c");
    }
}
