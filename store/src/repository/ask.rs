//! Asking a repository what it has.
//!
//! Ensures: an artifact is missing only when the repository says so. One that is down, refuses or is not there at all
//! is an error.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use reqwest::{Client, ClientBuilder, Method, StatusCode, Url};
use tokio::task::JoinSet;

use super::{Access, Artifact, Repo, client, is_there};
use crate::{AppName, Version};

/// How many questions are under way at once.
const AT_ONCE: usize = 8;
/// For one answer, which has no body.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Whether `repo` has each of `versions`, in their order. Tells `asked` how many are answered, after each.
pub async fn ask(
    repo: &Repo,
    access: &Access,
    versions: &[(AppName, Version)],
    mut asked: impl FnMut(usize),
) -> Result<Vec<Result<bool>>> {
    if let Repo::Directory(root) = repo {
        ensure!(fs::metadata(root).context(repo.to_string())?.is_dir(), "{repo} is not a directory");
    }
    let authorities = access.authorities()?;
    let settings = |client: ClientBuilder| {
        let client = client.timeout(TIMEOUT);
        authorities.iter().fold(client, |client, trusted| client.tls_certs_only(trusted.clone()))
    };
    let client = client(settings, None)?;
    let mut waiting = versions.iter().map(|(app, version)| repo.artifact(app, version)).enumerate();
    let mut running = JoinSet::new();
    let mut answers = versions.iter().map(|_| Err(anyhow!("it was not asked for"))).collect::<Vec<_>>();
    for answered in 0.. {
        while running.len() < AT_ONCE
            && let Some((n, artifact)) = waiting.next()
        {
            let (client, access) = (client.clone(), access.clone());
            running.spawn(async move { (n, exists(&client, &access, &artifact).await.context(artifact.to_string())) });
        }
        asked(answered);
        let Some(answer) = running.join_next().await else { break };
        let (n, answer) = answer.context("a question's task ended early")?;
        answers[n] = answer;
    }
    Ok(answers)
}

async fn exists(client: &Client, access: &Access, artifact: &Artifact) -> Result<bool> {
    match artifact {
        Artifact::File(path) => is_file(path),
        Artifact::Http(url) => is_served(client, access, url).await,
    }
}

fn is_file(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => {
            ensure!(metadata.is_file(), "not a file");
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// By HEAD, or, from a server that does not want to know of it, by a GET of which nothing but the status is read.
async fn is_served(client: &Client, access: &Access, url: &Url) -> Result<bool> {
    let status = async |method: Method| -> Result<StatusCode> {
        let request = access.apply(client.request(method, url.clone()))?;
        Ok(request.send().await.map_err(reqwest::Error::without_url)?.status())
    };
    match is_there(status(Method::HEAD).await?) {
        Err(_) => is_there(status(Method::GET).await?),
        answer => answer,
    }
}
