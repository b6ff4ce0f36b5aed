//! One attempt at one app, under its lock: what interrupted passes left is removed, then one version after the other is
//! fetched and installed.
//!
//! Ensures: a version that cannot be prepared keeps none of the app's others from it; intent that changes meanwhile is
//! followed at once, if need be by giving up the fetch under way.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow};
use converge::files::Lock;
use converge::{Task, Wanted, blocking};
use reqwest::Url;
use store::Version;
use store::intent::App;
use store::repository::Artifact;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info};

use crate::agent::{Preparer, observe};
use crate::decide::install_name;
use crate::fetch;
use crate::install::Installs;
use crate::unpack::Unpacked;

/// What whoever changes an app's installs holds. Shared with the threads that do, since one may outlive the attempt that
/// started it.
pub(crate) type Guard = (Lock, OwnedSemaphorePermit);

pub(crate) struct Attempt<'a> {
    agent: &'a Preparer,
    installs: Installs,
    guard: Arc<Guard>,
    /// Not tried a second time in this attempt.
    failed: BTreeSet<Version>,
    errors: Vec<Error>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(agent: &'a Preparer, installs: Installs, guard: Guard) -> Self {
        Self { agent, installs, guard: Arc::new(guard), failed: BTreeSet::new(), errors: Vec::new() }
    }

    pub(crate) async fn run(mut self, mut task: Task) -> Result<()> {
        self.remove_leftovers(task.wanted()).await?;
        while let Some((app, version)) = self.next(task.wanted()).await? {
            let overtaken = self.overtaken(task.clone(), &version);
            if let Err(error) = self.prepare(&app, &version, overtaken).await {
                self.errors.push(error);
                self.agent.failed.borrow_mut().insert(install_name(&app.name, &version));
                self.failed.insert(version);
            }
        }
        all(self.errors)
    }

    async fn remove_leftovers(&mut self, wanted: Wanted) -> Result<()> {
        let Wanted::App(app) = wanted else { return Ok(()) };
        for stage in observe(&app).await?.remove {
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

    /// Resolves when, by new intent, another version than this is next.
    async fn overtaken(&self, mut task: Task, version: &Version) {
        loop {
            task.changed().await;
            let wanted = task.wanted();
            // Unknown, perhaps only while somebody edits, is no reason to throw away what came so far.
            let known = wanted != Wanted::Unknown;
            if known && !matches!(self.next(wanted).await, Ok(Some((_, next))) if next == *version) {
                return;
            }
        }
    }

    async fn prepare(&self, app: &App, version: &Version, overtaken: impl Future<Output = ()>) -> Result<()> {
        let (name, artifact) = (install_name(&app.name, version), self.agent.repo.artifact(&app.name, version));
        if self.agent.failed.borrow().contains(&name) {
            debug!(app = %app.name, "Fetching {artifact} again");
        } else {
            info!(app = %app.name, "Fetching {artifact}");
        }
        let began = Instant::now();
        let fetched = match &artifact {
            Artifact::File(path) => self.read_file(&name, path.clone()).await,
            Artifact::Http(url) => self.download(&name, url, overtaken).await,
        };
        match fetched.with_context(|| artifact.to_string())? {
            Fetched::Installed(unpacked) => {
                let (took, what) = (began.elapsed().as_millis(), figures(unpacked));
                info!(app = %app.name, "Prepared {name} in {took} ms ({what})");
                Ok(())
            }
            Fetched::Overtaken => {
                info!(app = %app.name, "Gave up preparing {name}: intent has changed");
                Ok(())
            }
            Fetched::Missing => Err(anyhow!(
                "no such artifact, {artifact}: put it there, or take version {version} out of clusters/{}/{}/config",
                app.name,
                app.cluster
            )),
        }
    }

    async fn read_file(&self, name: &str, path: PathBuf) -> Result<Fetched> {
        match blocking(move || fetch::open(&path)).await? {
            None => Ok(Fetched::Missing),
            Some(file) => self.install(name, file).await.map(Fetched::Installed),
        }
    }

    async fn download(&self, name: &str, url: &Url, overtaken: impl Future<Output = ()>) -> Result<Fetched> {
        let mut overtaken = pin!(overtaken);
        let response = tokio::select! {
            response = self.agent.fetcher.get(url) => response?,
            () = &mut overtaken => return Ok(Fetched::Overtaken),
        };
        let Some(response) = response else { return Ok(Fetched::Missing) };
        let (to, body) = fetch::pipe();
        let pumping = async move {
            tokio::select! {
                pumped = fetch::pump(response, to) => pumped.map(|()| None),
                () = overtaken => Ok(Some(Fetched::Overtaken)),
            }
        };
        // Whichever stops first stops the other. What stopped the fetch is then the reason for both.
        let (pumped, installed) = tokio::join!(pumping, self.install(name, body));
        match (pumped?, installed) {
            (Some(overtaken), Err(_)) => Ok(overtaken),
            (_, installed) => installed.map(Fetched::Installed),
        }
    }

    async fn install(&self, name: &str, artifact: impl Read + Send + 'static) -> Result<Unpacked> {
        let name = name.to_owned();
        self.blocking(move |installs| installs.install(&name, artifact)).await
    }

    /// Changes the installs on a thread of its own, which holds the lock until it is done whatever becomes of us.
    async fn blocking<T: Send + 'static>(
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

enum Fetched {
    Installed(Unpacked),
    /// There is no such artifact.
    Missing,
    /// New intent made it pointless.
    Overtaken,
}

/// Several errors as one.
fn all(errors: Vec<Error>) -> Result<()> {
    let texts = || errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ");
    if errors.is_empty() { Ok(()) } else { Err(anyhow!(texts())) }
}

/// `34 files, 1.2 MB`.
fn figures(Unpacked { files, bytes }: Unpacked) -> String {
    let size = match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    };
    format!("{files} file{}, {size}", if files == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        let table = [
            (1, 0, "1 file, 0 B"),
            (0, 999, "0 files, 999 B"),
            (34, 1_234_567, "34 files, 1.2 MB"),
            (2, 1_500, "2 files, 1.5 kB"),
            (2, 12_000_000_000, "2 files, 12.0 GB"),
        ];
        for (files, bytes, text) in table {
            assert_eq!(figures(Unpacked { files, bytes }), text);
        }
    }

    #[test]
    fn no_error_is_lost() {
        assert!(all(Vec::new()).is_ok());
        assert_eq!(all(vec![anyhow!("a").context("b"), anyhow!("c")]).unwrap_err().to_string(), "b: a; c");
    }
}
