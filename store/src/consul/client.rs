//! Requests to Consul, and errors that say what was asked of whom, what it answered and what to do.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::rule;
use super::settings::{Address, Settings, TokenSource};
use crate::Prefix;

/// For every request that does not wait for a change.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way that wait for nothing. A Consul agent takes 200 connections from one address: the rest is for what
/// waits for a change, for other agents and for people.
const AT_ONCE: usize = 48;

/// One Consul. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    /// For people.
    pub(super) address: String,
    token: TokenSource,
    places: Arc<Semaphore>,
}

/// One request.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// With the query: `/v1/kv/nodes/web1/?recurse`.
    pub(super) path: String,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
    /// The key or the prefix that it is about, for people.
    pub(super) about: &'a str,
    /// What a token needs for it, for people: `key_prefix "nodes/web1/" { policy = "read" }`.
    pub(super) rule: String,
}

/// The store was asked for what our token has no right to. That does not pass by itself, as an outage does.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Vec<u8>,
    /// What was asked, for an error.
    asked: String,
    rule: String,
}

impl Client {
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let (http, base) = settings.client()?;
        let address = match settings.address {
            Address::Url(url) => url,
            Address::Unix(path) => format!("unix://{}", path.display()),
        };
        Ok(Self { http, base, address, token: settings.token, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer> {
        let asked = format!("{} {} at {}", request.method, request.about, self.address);
        let rule = request.rule.clone();
        match self.try_send(request).await {
            Ok((status, index, body)) => Ok(Answer { status, index, body, asked, rule }),
            Err(error) => Err(error.context(asked)),
        }
    }

    /// A read of something under a prefix, by one of the several ways there are.
    pub(super) async fn query(&self, prefix: &Prefix, path: String, timeout: Duration) -> Result<Answer> {
        let about = if prefix.as_str().is_empty() { "everything" } else { prefix.as_str() };
        let rule = rule("key_prefix", prefix.as_str(), "read");
        self.send(Request { method: Method::GET, path, body: Vec::new(), timeout, about, rule }).await
    }

    async fn try_send(&self, request: Request<'_>) -> Result<(StatusCode, Option<u64>, Vec<u8>)> {
        let mut http = self.http.request(request.method, format!("{}{}", self.base, request.path));
        if let Some(token) = self.token.read().await? {
            http = http.header("X-Consul-Token", secret(&token)?);
        }
        let timeout = request.timeout;
        let _place = match timeout == TIMEOUT {
            true => Some(self.places.acquire().await.expect("it is never closed")),
            false => None,
        };
        let failed = |error| explain(error, timeout);
        let answer = http.timeout(timeout).body(request.body).send().await.map_err(failed)?;
        let index = answer.headers().get("X-Consul-Index").and_then(|index| index.to_str().ok()?.parse().ok());
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?;
        Ok((status, index, body.into()))
    }
}

impl Answer {
    /// The body of an answer that says that all is well.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        if self.status != StatusCode::OK {
            return Err(self.error());
        }
        let wrong = || format!("{}: an answer that Consul does not give", self.asked);
        serde_json::from_str(std::str::from_utf8(&self.body).with_context(wrong)?).with_context(wrong)
    }

    /// What an answer says that all is not well.
    pub(super) fn error(&self) -> anyhow::Error {
        let text = self.says();
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("without a word");
        let first = first.chars().take(300).collect::<String>();
        let advice = self.advice(&first).map(|advice| format!("; {advice}")).unwrap_or_default();
        let text = format!("{}: {}: {first}{advice}", self.asked, self.status.as_u16());
        match self.status {
            StatusCode::FORBIDDEN => Refused(text).into(),
            _ => anyhow!(text),
        }
    }

    /// Text, but for a transaction, which lists what is wrong.
    fn says(&self) -> Cow<'_, str> {
        let json = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        match json.pointer("/Errors/0/What") {
            Some(Value::String(what)) => what.clone().into(),
            _ => String::from_utf8_lossy(&self.body),
        }
    }

    fn advice(&self, says: &str) -> Option<String> {
        match self.status {
            StatusCode::FORBIDDEN if says.contains("ACL not found") => {
                Some("Consul does not know the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE".to_owned())
            }
            StatusCode::FORBIDDEN => {
                Some(format!("the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE needs {}", self.rule))
            }
            StatusCode::OK => Some("it lacks X-Consul-Index: this is not Consul's HTTP API".to_owned()),
            StatusCode::NOT_FOUND => Some("this is not Consul's HTTP API".to_owned()),
            StatusCode::BAD_REQUEST if says.contains("HTTP request to an HTTPS server") => {
                Some("give the address as https://…".to_owned())
            }
            _ => None,
        }
    }
}

/// What a log of requests shows as `Sensitive`.
fn secret(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(token)
        .context("the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE holds what no HTTP header can")?;
    value.set_sensitive(true);
    Ok(value)
}

impl TokenSource {
    async fn read(&self) -> Result<Option<String>> {
        let Some(file) = self.file.clone() else { return Ok(self.token.clone()) };
        let read = {
            let file = file.clone();
            tokio::task::spawn_blocking(move || std::fs::read_to_string(file))
        };
        let text = read.await?.with_context(|| format!("CONSUL_HTTP_TOKEN_FILE {}", file.display()))?;
        let token = text.trim();
        // As the consul command does: an empty file counts as none.
        Ok(if token.is_empty() { self.token.clone() } else { Some(token.to_owned()) })
    }
}

/// What stopped a request, without the layers between it and us.
fn explain(error: reqwest::Error, timeout: Duration) -> anyhow::Error {
    if error.is_timeout() && !error.is_connect() {
        return anyhow!("no answer within {timeout:?}");
    }
    let connecting = error.is_connect();
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let (cause, what) = (cause.to_string(), if connecting { "cannot connect" } else { "the connection failed" });
    let advice = certificate_advice(&cause).unwrap_or_default();
    anyhow!("{what}: {cause}{advice}")
}

/// What to do where one side does not trust the other's certificate.
fn certificate_advice(cause: &str) -> Option<&'static str> {
    if cause.contains("invalid peer certificate") {
        return Some("; CONSUL_CACERT names the authority by which Consul's certificate is trusted");
    }
    let is_refused =
        cause.contains("received fatal alert") && (cause.contains("ertificate") || cause.contains("UnknownCA"));
    is_refused
        .then_some("; CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY name the certificate that Consul asks for, and its key")
}

/// One key as Consul's answers have it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry<'a> {
    pub(super) key: String,
    /// In base64; null when it is empty.
    #[serde(borrow)]
    pub(super) value: Option<Cow<'a, str>>,
    pub(super) modify_index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            index: None,
            body: body.into(),
            asked: "GET nodes/web1/ at http://a:1".to_owned(),
            rule: "key_prefix \"nodes/web1/\" { policy = \"read\" }".to_owned(),
        }
    }

    #[test]
    fn an_error_says_what_was_asked_what_consul_said_and_what_to_do() {
        for (status, body, says) in [
            (500, "No cluster leader", "GET nodes/web1/ at http://a:1: 500: No cluster leader"),
            (403, "Permission denied\n", "403: Permission denied; the token in CONSUL_HTTP_TOKEN or"),
            (403, "Permission denied", "needs key_prefix \"nodes/web1/\" { policy = \"read\" }"),
            (403, "ACL not found", "does not know the token"),
            (502, "\n", "502: without a word"),
            (409, r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"no such verb"}]}"#, "409: no such verb"),
            (404, "<html>", "this is not Consul's HTTP API"),
        ] {
            let error = answer(status, body).error().to_string();
            assert!(error.contains(says), "{error}");
        }
        let nonsense = answer(200, "<html>").json::<Vec<Entry>>().map(|_| ()).unwrap_err();
        assert!(format!("{nonsense:#}").contains("an answer that Consul does not give"));
    }
}
