//! Where artifacts come from: `--repo`, the address of one artifact in it, and whether it is there.
//!
//! Ensures: what an address holds of a user and a password is never shown.

mod access;
mod allow;
mod ask;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, StatusCode, Url};

use crate::{AppName, Version};

pub use access::Access;
pub use allow::{UrlPrefix, ensure_allowed};
pub use ask::ask;

const MAX_REDIRECTS: usize = 5;

/// A repository of artifacts: `<repo>/<app>/<app>_<version>.tar.gz`.
#[derive(Clone, PartialEq, Eq)]
pub enum Repo {
    Directory(PathBuf),
    /// May hold a user and a password.
    Http(Url),
}

/// The address of one artifact.
#[derive(Clone, PartialEq, Eq)]
pub enum Artifact {
    File(PathBuf),
    Http(Url),
}

impl Repo {
    pub fn artifact(&self, app: &AppName, version: &Version) -> Artifact {
        let file = format!("{app}_{version}.tar.gz");
        match self {
            Self::Directory(dir) => Artifact::File(dir.join(app.as_str()).join(file)),
            Self::Http(base) => {
                let mut url = base.clone();
                let mut path = url.path_segments_mut().expect("http addresses have a path");
                path.pop_if_empty().extend([app.as_str(), &file]);
                drop(path);
                Artifact::Http(url)
            }
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file:{}", path.display()),
            Self::Http(url) => shown(url).fmt(f),
        }
    }
}

impl fmt::Debug for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Repo {
    type Err = anyhow::Error;

    /// Reads `file:path`, `file:///path`, `http://host/path` or `https://host/path`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("file", path)) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                ensure!(!path.is_empty(), "no path after 'file:'");
                Ok(Self::Directory(PathBuf::from(path)))
            }
            Some(("http" | "https", _)) => http(text.parse().context("not an address")?),
            _ => bail!("not a repository: file:path, http://host/path or https://host/path"),
        }
    }
}

fn http(url: Url) -> Result<Repo> {
    ensure!(url.query().is_none() && url.fragment().is_none(), "an address of a directory, without '?' and '#'");
    Ok(Repo::Http(url))
}

/// A client as repositories need it, with `settings` on top. It follows redirects, but only to http and https, never
/// from https to http, and, if `allowed` says where to, nowhere else.
pub fn client(settings: impl Fn(ClientBuilder) -> ClientBuilder, allowed: Option<&[UrlPrefix]>) -> Result<Client> {
    let builder = || {
        let allowed = allowed.map(<[UrlPrefix]>::to_vec);
        let policy = Policy::custom(move |attempt| match refused(&attempt, allowed.as_deref()) {
            Some(reason) => attempt.error(reason),
            None => attempt.follow(),
        });
        // Where we come from may be nobody else's business.
        settings(crate::http_client()).redirect(policy).referer(false)
    };
    // A host without any CA certificates, for which the first fails, can still fetch from a plain server.
    builder().build().or_else(|_| builder().tls_certs_only([]).build()).context("making an HTTP client")
}

/// Why a redirect is not followed.
fn refused(attempt: &Attempt, allowed: Option<&[UrlPrefix]>) -> Option<String> {
    let (from, to) = (attempt.previous().last()?, attempt.url());
    if attempt.previous().len() > MAX_REDIRECTS {
        Some("too many redirects".to_owned())
    } else if !matches!(to.scheme(), "http" | "https") {
        Some(format!("a redirect to {}, which is neither http nor https", shown(to)))
    } else if from.scheme() == "https" && to.scheme() != "https" {
        Some(format!("a redirect from https to {}", shown(to)))
    } else {
        let refused = ensure_allowed(allowed?, to).err()?;
        Some(format!("a redirect to {}: {refused:#}", shown(to)))
    }
}

/// An address without what in it may be secret: a user and a password, and a query, which may be a signature.
fn shown(url: &Url) -> Url {
    let mut shown = url.clone();
    // Fail only for addresses that can have neither.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown
}

/// Whether a server says that an artifact is there, or that it is not; an error when it says something else.
pub fn is_there(status: StatusCode) -> Result<bool> {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Ok(false),
        status => {
            ensure!(status == StatusCode::OK, "the server answers {status}");
            Ok(true)
        }
    }
}

impl Artifact {
    /// What is beside it, such as `slug_0.2.tar.gz.minisig`.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        match self {
            Self::File(path) => {
                let mut path = path.clone().into_os_string();
                path.push(suffix);
                Self::File(path.into())
            }
            Self::Http(url) => {
                let mut beside = url.clone();
                beside.set_path(&format!("{}{suffix}", url.path()));
                Self::Http(beside)
            }
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http(url) => shown(url).fmt(f),
        }
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_in_its_apps_directory() {
        let table = [
            ("file:test_data/repo", "test_data/repo/slug/slug_0.2.tar.gz"),
            ("file:///tmp/local-repo/", "/tmp/local-repo/slug/slug_0.2.tar.gz"),
            ("file:/tmp/repo", "/tmp/repo/slug/slug_0.2.tar.gz"),
            ("http://repo", "http://repo/slug/slug_0.2.tar.gz"),
            ("http://repo:81/a/b", "http://repo:81/a/b/slug/slug_0.2.tar.gz"),
            ("https://repo/a/b/", "https://repo/a/b/slug/slug_0.2.tar.gz"),
        ];
        for (repo, artifact) in table {
            let found = repo.parse::<Repo>().unwrap().artifact(&"slug".parse().unwrap(), &"0.2".parse().unwrap());
            assert_eq!(found.to_string(), artifact);
        }
    }

    #[test]
    fn a_password_is_part_of_an_address_and_never_shown() {
        let repo = "https://user:secret@repo/a".parse::<Repo>().unwrap();
        let artifact = repo.artifact(&"slug".parse().unwrap(), &"0.2".parse().unwrap());
        assert_eq!(artifact.to_string(), "https://repo/a/slug/slug_0.2.tar.gz");
        assert!(matches!(&artifact, Artifact::Http(url) if url.password() == Some("secret")));
        for shown in [format!("{repo}"), format!("{repo:?}"), format!("{artifact:?}")] {
            assert!(!shown.contains("secret") && !shown.contains("user"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in ["", "file:", "file://", "/srv/repo", "ftp://a/b", "http:", "http://a/?b", "http://a/#b"] {
            assert!(text.parse::<Repo>().is_err(), "{text:?}");
        }
    }
}
