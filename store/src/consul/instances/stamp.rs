//! What tells, for next to nothing, that all that is registered of a node is as it was: its services and checks are a
//! third of a megabyte each where there are a thousand, and this is four answers of a few bytes.
//!
//! Ensures: another stamp, or none, once a service was registered otherwise or is gone, by way of this agent or of the
//! catalog, once there is another number of checks, and while one of ours or of our host's does not pass. What it does not
//! tell: one check in another's place, and what the agent has not told its servers yet (nor could anybody be sent there).

use anyhow::Result;
use reqwest::Method;
use serde::Deserialize;

use super::super::client::{Answer, Request, TIMEOUT};
use super::super::{Consul, rule};
use super::answers::Check;
use super::encoded;
use crate::NodeName;

/// What the agent says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Myself {
    config: Config,
    stats: Stats,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    node_name: String,
    /// Another one where its data is another.
    #[serde(rename = "NodeID")]
    node_id: String,
}

#[derive(Deserialize)]
struct Stats {
    agent: Counts,
}

/// Of what is registered with it.
#[derive(Deserialize)]
struct Counts {
    services: String,
    checks: String,
}

impl Consul {
    pub(crate) async fn registered_stamp(&self, node: &NodeName) -> Result<Option<String>> {
        let (about, agents) = (format!("instances of {node}"), rule("agent_prefix", "", "read"));
        let filter = encoded(&format!("ServiceID == \"\" or ServiceID matches \"^{node}:\""));
        let failing = async |state: &str| -> Result<_> {
            let answer = self.overview(&format!("health/state/{state}?consistent&filter={filter}"), &about).await?;
            answer.json::<Vec<Check>>()
        };
        let (myself, services, critical, warning) = tokio::try_join!(
            self.agent("self", &about, agents),
            // Of no host at all: the index is that of all services.
            self.overview("catalog/services?consistent&node-meta=platypus:none", &about),
            failing("critical"),
            failing("warning"),
        )?;
        let Myself { config: Config { node_name, node_id }, stats } = myself.json()?;
        let Counts { services: number, checks } = stats.agent;
        let index = services.index.ok_or_else(|| services.error())?;
        if critical.iter().chain(&warning).any(|check| check.concerns(node, &node_name)) {
            return Ok(None);
        }
        let address = &self.client.address;
        Ok(Some(format!("{address} {node_name} {node_id} {index} {number} {checks}")))
    }

    /// What the catalog says of all hosts.
    async fn overview(&self, what: &str, about: &str) -> Result<Answer> {
        let (path, rule) = (format!("/v1/{what}"), rule("service_prefix", "", "read"));
        self.client.send(Request { method: Method::GET, path, body: Vec::new(), timeout: TIMEOUT, about, rule }).await
    }
}
