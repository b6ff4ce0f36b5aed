//! Reads of what is under many prefixes, a few at a time.
//!
//! Ensures: what is asked for next is on its way before what has come is made sense of, so that Consul works meanwhile; and the
//! first is on its way before all prefixes are known.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::client::{Answer, Entry, Request, TIMEOUT};
use super::{Consul, documents, listed, path, rule};
use crate::{Documents, Prefix};

/// The most operations that `/v1/txn` takes on Consul 1.8; later ones take more.
const MOST_OPERATIONS: usize = 64;
/// How many transactions are under way at once.
const TRANSACTIONS_AT_ONCE: usize = 4;

/// Not of an empty prefix beside others: a transaction takes none.
pub(crate) struct Reads {
    consul: Consul,
    /// Not asked for yet.
    waiting: VecDeque<Prefix>,
    running: JoinSet<Result<Read>>,
}

/// What there is under some prefixes, as Consul answered.
pub(crate) struct Read {
    prefixes: Vec<Prefix>,
    answer: Answer,
}

impl Reads {
    pub(crate) fn new(consul: Consul) -> Self {
        Self { consul, waiting: VecDeque::new(), running: JoinSet::new() }
    }

    /// Also of what is under `prefix`.
    pub(crate) async fn add(&mut self, prefix: Prefix) {
        self.waiting.push_back(prefix);
        if self.waiting.len() >= MOST_OPERATIONS {
            self.ask().await;
        }
    }

    /// What is under some of the prefixes, all of it. `None` once all has come.
    pub(crate) async fn next(&mut self) -> Option<Result<Read>> {
        self.ask().await;
        let answered = self.running.join_next().await?;
        self.ask().await;
        Some(answered.context("a read's task ended early").and_then(|read| read))
    }

    /// As far as may be under way at once.
    async fn ask(&mut self) {
        let before = self.running.len();
        while self.running.len() < TRANSACTIONS_AT_ONCE && !self.waiting.is_empty() {
            let many = self.waiting.len().min(MOST_OPERATIONS);
            let (consul, prefixes) = (self.consul.clone(), self.waiting.drain(..many).collect::<Vec<_>>());
            self.running.spawn(async move {
                let answer = consul.under(&prefixes).await?;
                Ok(Read { prefixes, answer })
            });
        }
        if self.running.len() > before {
            // Has it sent now, not when we wait for something.
            tokio::task::yield_now().await;
        }
    }
}

impl Consul {
    /// One request.
    async fn under(&self, prefixes: &[Prefix]) -> Result<Answer> {
        let [first, .., last] = prefixes else {
            let prefix = prefixes.first().context("nothing to ask for")?;
            return self.client.query(prefix, format!("{}?recurse&consistent", path(prefix)), TIMEOUT).await;
        };
        let get = |prefix| Operation { kv: GetTree { verb: "get-tree", key: Prefix::as_str(prefix) } };
        let operations = prefixes.iter().map(get).collect::<Vec<_>>();
        let request = Request {
            method: Method::PUT,
            path: "/v1/txn?consistent".to_owned(),
            body: serde_json::to_vec(&operations).expect("prefixes are strings"),
            timeout: TIMEOUT,
            about: &format!("{first} … {last} (a transaction of {} reads)", prefixes.len()),
            rule: rule("key_prefix", first.as_str(), "read"),
        };
        self.client.send(request).await
    }
}

impl Read {
    pub(crate) fn documents(&self) -> Result<(&[Prefix], Documents)> {
        let documents = match &self.prefixes[..] {
            [_] => listed(&self.answer)?.1,
            _ => {
                let transaction = self.answer.json::<Transaction<'_>>()?;
                documents(transaction.results.unwrap_or_default().into_iter().map(|result| result.kv))?
            }
        };
        Ok((&self.prefixes, documents))
    }

    /// Of what was asked, and of all that was answered, byte for byte.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let Answer { status, body, .. } = &self.answer;
        let asked = self.prefixes.iter().map(|prefix| prefix.as_str().as_bytes());
        let mut hash = Sha256::new();
        for part in asked.chain([status.as_str().as_bytes(), body]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// What `/v1/txn` is asked.
#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Operation<'a> {
    kv: GetTree<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetTree<'a> {
    verb: &'static str,
    key: &'a str,
}

/// What it answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transaction<'a> {
    #[serde(borrow)]
    results: Option<Vec<TransactionResult<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct TransactionResult<'a> {
    #[serde(borrow)]
    kv: Entry<'a>,
}
