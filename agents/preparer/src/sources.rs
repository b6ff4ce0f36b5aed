//! Where artifacts come from and what is asked of them: the flags that say so, and what they come to for one version.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use converge::positive_seconds;
use store::Version;
use store::intent::App;
use store::repository::{Access, Artifact, Repo, UrlPrefix, ensure_allowed};
use store::schema::Sha256Digest;

/// What the flags say of artifacts.
#[derive(Debug, Clone, clap::Args)]
pub struct Sources {
    /// Where artifacts are: file:path, http://host/path or https://host/path. A user and a password in it can be read by
    /// everybody on this host: see --repo-login. Proxies are those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY
    #[arg(long, value_name = "URL", default_value = "file:test_data/repo")]
    pub repo: Repo,

    #[command(flatten)]
    pub access: Access,

    /// Fetch what intent gives a URL of its own, if that begins with this: same scheme, host and port, and whole segments
    /// of the path. Redirects, too, have to stay there. May be given several times [default: fetch no such artifact]
    #[arg(long, value_name = "PREFIX")]
    pub allow_url: Vec<UrlPrefix>,

    /// A directory with public keys of minisign, *.pub. A signature beside an artifact, <artifact>.minisig, then has to be
    /// by one of them, with a trusted comment that has the words app:<app> and version:<version>. Nobody but root and
    /// this user may be able to write there
    #[arg(long, value_name = "DIR")]
    pub trusted_keys: Option<PathBuf>,

    /// Refuse artifacts that have no signature
    #[arg(long, requires = "trusted_keys")]
    pub require_signature: bool,

    /// Seconds for a connection to a server to come about
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive_seconds)]
    pub connect_timeout: Duration,

    /// Seconds for which a server may say nothing
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive_seconds)]
    pub stall_timeout: Duration,

    /// Seconds for one artifact as a whole, its retries included
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = positive_seconds)]
    pub fetch_timeout: Duration,

    /// How often in a row, without a byte having come, a fetch that breaks is taken up again, after 0.2 seconds and twice as
    /// long each time, before the attempt has failed; then all of it is tried again as what fails is
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub fetch_retries: u32,
}

/// What is fetched for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) artifact: Artifact,
    pub(crate) origin: Origin,
    pub(crate) sha256: Option<Sha256Digest>,
}

/// Who says where an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Root, by `--repo`.
    Repo,
    /// An app's developers, in its config: believed only as far as `--allow-url` goes.
    Intent,
}

impl Sources {
    /// What the flags say about each other beyond what their parser sees.
    pub(crate) fn check(&self) -> Result<()> {
        if let Repo::Http(url) = &self.repo {
            let several = !url.username().is_empty() && self.access.is_shown();
            ensure!(!several, "--repo has a user in it: give that, or --repo-token, or --repo-login");
        }
        Ok(())
    }

    /// # Errors
    /// When the version is somewhere that the host's flags do not allow.
    pub(crate) fn of(&self, app: &App, version: &Version) -> Result<Source> {
        let spec = app.artifacts.get(version).cloned().unwrap_or_default();
        let (artifact, origin) = match spec.url {
            None => (self.repo.artifact(&app.name, version), Origin::Repo),
            Some(url) => {
                let artifact = Artifact::Http(url.get().clone());
                ensure_allowed(&self.allow_url, url.get()).with_context(|| artifact.to_string())?;
                (artifact, Origin::Intent)
            }
        };
        Ok(Source { artifact, origin, sha256: spec.sha256 })
    }
}
