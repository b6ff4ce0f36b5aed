//! How we show a repository who we are.
//!
//! Ensures: what is secret is read when it is needed, so that it may be replaced at any time, and is not shown.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reqwest::RequestBuilder;

use crate::sources::Sources;

#[derive(Debug)]
pub(super) enum Access {
    /// Or what stands in the address, which the client makes use of by itself.
    Nobody,
    /// A file with a bearer token.
    Token(PathBuf),
    /// A file with `user:password`.
    Login(PathBuf),
}

impl Access {
    pub(super) fn of(sources: &Sources) -> Self {
        match (&sources.repo_token, &sources.repo_login) {
            (Some(file), _) => Self::Token(file.clone()),
            (None, Some(file)) => Self::Login(file.clone()),
            (None, None) => Self::Nobody,
        }
    }

    pub(super) fn apply(&self, request: RequestBuilder) -> Result<RequestBuilder> {
        match self {
            Self::Nobody => Ok(request),
            Self::Token(file) => {
                let token = line(file).with_context(|| format!("--repo-token {}", file.display()))?;
                Ok(request.bearer_auth(token))
            }
            Self::Login(file) => {
                let login = || -> Result<(String, String)> {
                    let line = line(file)?;
                    let (user, password) = line.split_once(':').context("it is not user:password")?;
                    Ok((user.to_owned(), password.to_owned()))
                };
                let (user, password) = login().with_context(|| format!("--repo-login {}", file.display()))?;
                Ok(request.basic_auth(user, Some(password)))
            }
        }
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
