//! How we show a repository who we are, and how we know it.
//!
//! Ensures: what is secret is read when it is needed, so that it may be replaced at any time, and is not shown.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reqwest::{Certificate, RequestBuilder};

/// The flags that say so. Without any of them, whatever stands in the address, which the client makes use of by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Access {
    /// A file with the bearer token that the repository wants; sent to no other host
    #[arg(long, value_name = "FILE", conflicts_with = "repo_login")]
    pub repo_token: Option<PathBuf>,

    /// A file with user:password for the repository; sent to no other host
    #[arg(long, value_name = "FILE")]
    pub repo_login: Option<PathBuf>,

    /// The certificates, in PEM, by which the repository's server is trusted, in place of this host's
    #[arg(long, value_name = "FILE")]
    pub repo_ca: Option<PathBuf>,
}

impl Access {
    /// Whether anything is shown to the repository.
    pub fn is_shown(&self) -> bool {
        self.repo_token.is_some() || self.repo_login.is_some()
    }

    /// Shows it, with a request to the repository's own host.
    pub fn apply(&self, request: RequestBuilder) -> Result<RequestBuilder> {
        if let Some(file) = &self.repo_token {
            let token = line(file).with_context(|| format!("--repo-token {}", file.display()))?;
            return Ok(request.bearer_auth(token));
        }
        let Some(file) = &self.repo_login else { return Ok(request) };
        let login = || -> Result<(String, String)> {
            let line = line(file)?;
            let (user, password) = line.split_once(':').context("it is not user:password")?;
            Ok((user.to_owned(), password.to_owned()))
        };
        let (user, password) = login().with_context(|| format!("--repo-login {}", file.display()))?;
        Ok(request.basic_auth(user, Some(password)))
    }

    /// Those by whose certificates the repository is trusted; `None`: this host's.
    pub fn authorities(&self) -> Result<Option<Vec<Certificate>>> {
        let Some(path) = &self.repo_ca else { return Ok(None) };
        let read = || -> Result<Vec<Certificate>> {
            let authorities = Certificate::from_pem_bundle(&fs::read(path)?)?;
            ensure!(!authorities.is_empty(), "it holds no certificate in PEM");
            Ok(authorities)
        };
        read().map(Some).with_context(|| format!("--repo-ca {}", path.display()))
    }
}

/// The only line of a file.
fn line(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let line = text.trim();
    ensure!(!line.is_empty(), "it is empty");
    ensure!(!line.chars().any(char::is_control), "it has more than one line, or a control character");
    Ok(line.to_owned())
}
