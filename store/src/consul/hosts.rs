//! Which hosts Consul knows, and which of them are alive.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::{Request, TIMEOUT};
use super::instances::encoded;
use super::{Consul, rule};

impl Consul {
    /// The name of the host that the agent we talk to is on.
    pub(crate) async fn host(&self) -> Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Myself {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            node_name: String,
        }
        let needs = rule("agent_prefix", "", "read");
        Ok(self.ask::<Myself>("/v1/agent/self", "the agent's own name", needs).await?.config.node_name)
    }

    /// Whether Consul shows the host that the agent we talk to is on. To a token that may not see it, no check on it fails.
    pub(crate) async fn shows_own_host(&self) -> Result<bool> {
        self.is_known(&self.host().await?).await
    }

    pub(crate) async fn alive(&self, hosts: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        if hosts.is_empty() {
            return Ok(BTreeSet::new());
        }
        // To a token that may not see hosts, every host looks as if it were unknown.
        let own = self.host().await?;
        ensure!(
            self.is_known(&own).await?,
            "Consul does not show its own host {own}: the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE needs {}",
            rule("node_prefix", "", "read")
        );
        let mut alive = BTreeSet::new();
        for host in hosts.iter().filter(|host| can_be_asked_for(host)) {
            if self.is_alive(host).await? {
                alive.insert(host.clone());
            }
        }
        Ok(alive)
    }

    async fn is_alive(&self, host: &str) -> Result<bool> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Check {
            #[serde(rename = "CheckID")]
            id: String,
            status: String,
        }
        let checks = self.of_host::<Vec<Check>>("health", host, "").await?;
        match checks.iter().find(|check| check.id == "serfHealth") {
            Some(serf) => Ok(serf.status == "passing"),
            // Nobody watches over one that has no agent of Consul's.
            None => Ok(!checks.is_empty() || self.is_known(host).await?),
        }
    }

    async fn is_known(&self, host: &str) -> Result<bool> {
        // None of its services is of interest.
        let known = self.of_host::<Option<Value>>("catalog", host, "&filter=ID%3D%3D%22%22").await?;
        Ok(known.is_some())
    }

    async fn of_host<T: DeserializeOwned>(&self, what: &str, host: &str, filter: &str) -> Result<T> {
        let path = format!("/v1/{what}/node/{}?consistent{filter}", encoded(host));
        self.ask(&path, &format!("the host {host}"), rule("node_prefix", "", "read")).await
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, about: &str, rule: String) -> Result<T> {
        let (path, body) = (path.to_owned(), Vec::new());
        let request = Request { method: Method::GET, path, body, timeout: TIMEOUT, about, rule };
        self.client.send(request).await?.json()
    }
}

/// A URL's path cannot hold these, however they are spelt, and Consul refuses it. No host of Consul's is called so.
fn can_be_asked_for(host: &str) -> bool {
    !matches!(host, "" | "." | "..") && !host.contains(|c: char| c == '/' || c.is_control())
}
