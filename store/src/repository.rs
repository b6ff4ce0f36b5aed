//! Where artifacts come from: `--repo`, the address of one artifact in it, and whether it is there.

mod ask;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, StatusCode, Url};

use crate::{AppName, Version};

pub use ask::ask;

const MAX_REDIRECTS: usize = 5;

/// A repository of artifacts: `<repo>/<app>/<app>_<version>.tar.gz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repo {
    Directory(PathBuf),
    Http(Url),
}

/// The address of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
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
            Self::Http(url) => url.fmt(f),
        }
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
    ensure!(url.username().is_empty() && url.password().is_none(), "a password here could be read by all on this host");
    ensure!(url.query().is_none() && url.fragment().is_none(), "an address of a directory, without '?' and '#'");
    Ok(Repo::Http(url))
}

/// A client as repositories need it, with `settings` on top: it follows redirects, but none from https to what is not.
pub fn client(settings: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client> {
    let builder = || settings(crate::http_client()).redirect(Policy::custom(redirect));
    // A host without any CA certificates, for which the first fails, can still fetch from a plain server.
    builder().build().or_else(|_| builder().tls_certs_only([]).build()).context("making an HTTP client")
}

fn redirect(attempt: Attempt) -> reqwest::redirect::Action {
    let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if from_https && attempt.url().scheme() != "https" {
        attempt.error("a redirect from https to what is not")
    } else {
        attempt.follow()
    }
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

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http(url) => url.fmt(f),
        }
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
    fn what_is_no_repository_is_refused() {
        for text in
            ["", "file:", "file://", "/srv/repo", "ftp://a/b", "http:", "http://u:p@a/", "http://a/?b", "http://a/#b"]
        {
            assert!(text.parse::<Repo>().is_err(), "{text:?}");
        }
    }
}
