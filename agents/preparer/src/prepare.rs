//! One version: its artifact is fetched and, while it comes, hashed and unpacked; then it is put in place, or is not.
//!
//! Ensures: what is not the right artifact, or did not come as a whole, leaves nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use converge::blocking;
use reqwest::Url;
use store::Version;
use store::intent::App;
use store::repository::Artifact;
use tracing::{debug, info};

use crate::attempt::Attempt;
use crate::decide::install_name;
use crate::fetch::{self, Streamed};
use crate::progress::{Progress, size};
use crate::sources::{Origin, Source};
use crate::space;
use crate::unpack::{Allowed, Unpacked};
use crate::verify::{Checked, Expected, Signed, trusted};

/// Longer than any signature with its comments.
const MOST_SIGNATURE: usize = 16 << 10;

enum Fetched {
    Installed(Unpacked),
    /// There is no such artifact.
    Missing,
    /// New intent made it pointless.
    Overtaken,
}

/// One version in the making.
struct Making {
    name: String,
    expected: Arc<Expected>,
    allowed: Allowed,
    progress: Progress,
}

impl Attempt<'_> {
    pub(crate) async fn prepare(
        &self,
        app: &App,
        version: &Version,
        overtaken: impl Future<Output = ()>,
    ) -> Result<()> {
        let (name, source) = (install_name(&app.name, version), self.agent.sources.of(app, version)?);
        let artifact = &source.artifact;
        if self.agent.failed.borrow().contains(&name) {
            debug!(app = %app.name, "Fetching {artifact} again");
        } else {
            info!(app = %app.name, "Fetching {artifact}");
        }
        let (began, progress) = (Instant::now(), Progress::default());
        let fetching = self.fetch(app, version, &source, progress.clone(), overtaken);
        let fetched = self.agent.screen.show(&app.name, &name, &progress, fetching).await;
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

    async fn fetch(
        &self,
        app: &App,
        version: &Version,
        source: &Source,
        progress: Progress,
        overtaken: impl Future<Output = ()>,
    ) -> Result<Fetched> {
        let mut overtaken = pin!(overtaken);
        let signed = tokio::select! {
            signed = self.signed(app, version, source) => signed?,
            () = &mut overtaken => return Ok(Fetched::Overtaken),
        };
        let expected = Arc::new(Expected { sha256: source.sha256.clone(), signed });
        let allowed = Allowed { limits: app.limits, setuid: app.allow_setuid };
        let making = Making { name: install_name(&app.name, version), expected, allowed, progress };
        match &source.artifact {
            Artifact::File(path) => self.read_file(&making, path.clone(), overtaken).await,
            Artifact::Http(url) => self.download(&making, url, source.origin, overtaken).await,
        }
    }

    /// The artifact's signature, where it has to have one or does have one.
    async fn signed(&self, app: &App, version: &Version, source: &Source) -> Result<Option<Signed>> {
        let Some(keys) = self.agent.sources.trusted_keys.clone() else { return Ok(None) };
        let keys = blocking(move || trusted(&keys)).await?;
        let at = source.artifact.with_suffix(".minisig");
        let text = match at.clone() {
            Artifact::File(path) => blocking(move || read_small(&path)).await,
            Artifact::Http(url) => self.agent.fetcher.small(&url, source.origin, MOST_SIGNATURE).await,
        };
        match text.with_context(|| at.to_string())? {
            Some(text) => Signed::read(&text, keys, &app.name, version).with_context(|| at.to_string()).map(Some),
            None => {
                ensure!(!self.agent.sources.require_signature, "it is not signed: there is no {at}");
                Ok(None)
            }
        }
    }

    async fn read_file(
        &self,
        making: &Making,
        path: PathBuf,
        overtaken: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Fetched> {
        let Some(file) = blocking(move || fetch::open(&path)).await? else { return Ok(Fetched::Missing) };
        self.begin(making, Some(file.metadata()?.len())).await?;
        let mut installing = pin!(self.install(making, file));
        tokio::select! {
            installed = &mut installing => installed.map(Fetched::Installed),
            () = overtaken => {
                making.progress.stop();
                Ok(installing.await.map_or(Fetched::Overtaken, Fetched::Installed))
            }
        }
    }

    async fn download(
        &self,
        making: &Making,
        url: &Url,
        origin: Origin,
        mut overtaken: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Fetched> {
        let download = tokio::select! {
            download = self.agent.fetcher.download(url, origin) => download?,
            () = &mut overtaken => return Ok(Fetched::Overtaken),
        };
        let Some(mut download) = download else { return Ok(Fetched::Missing) };
        loop {
            self.begin(making, download.length()).await?;
            let (to, body) = fetch::pipe();
            let streaming = async {
                tokio::select! {
                    streamed = download.stream(to) => streamed.map(Some),
                    () = &mut overtaken => Ok(None),
                }
            };
            // Whichever stops first stops the other. What stopped the fetch is then the reason for both.
            let (streamed, installed) = tokio::join!(streaming, self.install(making, body));
            match (streamed?, installed) {
                (None, Err(_)) => return Ok(Fetched::Overtaken),
                (Some(Streamed::Changed), Err(_)) => {}
                (_, installed) => return installed.map(Fetched::Installed),
            }
        }
    }

    async fn begin(&self, making: &Making, length: Option<u64>) -> Result<()> {
        making.progress.begin(length);
        let Some(length) = length else { return Ok(()) };
        // What it unpacks to takes no less.
        self.blocking(move |installs| space::ensure_room(installs.dir(), length)).await
    }

    async fn install(&self, making: &Making, artifact: impl Read + Send + 'static) -> Result<Unpacked> {
        let Making { name, expected, allowed, progress } = making;
        let (name, expected, allowed, progress) = (name.clone(), Arc::clone(expected), *allowed, progress.clone());
        self.blocking(move |installs| {
            let checked = Checked::new(&expected, artifact, progress)?;
            let installed = installs.install(&name, checked.reader(), &allowed, || checked.verify());
            installed.map_err(|error| space::explain(error, installs.dir()))
        })
        .await
    }
}

fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = fetch::open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MOST_SIGNATURE as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= MOST_SIGNATURE, "longer than {MOST_SIGNATURE} bytes");
    Ok(Some(bytes))
}

/// `34 files, 1.2 MB`.
fn figures(Unpacked { files, bytes }: Unpacked) -> String {
    format!("{files} file{}, {}", if files == 1 { "" } else { "s" }, size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        assert_eq!(figures(Unpacked { files: 1, bytes: 0 }), "1 file, 0 B");
        assert_eq!(figures(Unpacked { files: 34, bytes: 1_234_567 }), "34 files, 1.2 MB");
    }
}
