//! Agents in Consul's catalog: each is an instance of the one service `platypus-agent`, tagged with its name.
//!
//! A service `<agent>@<node>` of the host's own Consul agent, with a check of the same name that counts for a while. No name holds
//! an `@`, so that it is nobody's app, also where somebody has an app of the service's name; and the check is the service's own,
//! so that no instance is worse off when an agent is dead. Ensures: to be alive for longer changes nothing in the catalog.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Request, TIMEOUT};
use super::instances::{done, done_or_gone, encoded};
use super::{Consul, rule};
use crate::alive::{ALIVE_LASTS, Life, ensure_agent};
use crate::{NodeName, is_name};

const SERVICE: &str = "platypus-agent";

/// One element of the answer about the service's health.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    service: Service,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID")]
    id: String,
    status: String,
}

impl Consul {
    pub(crate) async fn say_alive(&self, node: &NodeName, agent: &str, is_new: bool) -> Result<()> {
        ensure_agent(agent)?;
        let pass = format!("check/pass/{}", encoded(&id(node, agent)));
        if !is_new {
            let answer = self.change_agent(&pass, None).await?;
            // Consul has several words for a check that it does not have.
            if matches!(answer.status, StatusCode::OK | StatusCode::FORBIDDEN) {
                return done(&answer);
            }
        }
        done(&self.change_agent("service/register", Some(registration(node, agent))).await?)?;
        // What was registered before is as it was.
        done(&self.change_agent(&pass, None).await?)
    }

    pub(crate) async fn say_gone(&self, node: &NodeName, agent: &str) -> Result<()> {
        ensure_agent(agent)?;
        let id = id(node, agent);
        done_or_gone(&self.change_agent(&format!("service/deregister/{}", encoded(&id)), None).await?, &id)
    }

    pub(crate) async fn alive_agents(&self, nodes: &BTreeSet<NodeName>) -> Result<BTreeMap<(NodeName, String), Life>> {
        let request = Request {
            method: Method::GET,
            path: format!("/v1/health/service/{SERVICE}?consistent"),
            body: Vec::new(),
            timeout: TIMEOUT,
            about: "which agents are alive",
            rule: rule("service", SERVICE, "read"),
        };
        let found = self.client.send(request).await?.json::<Vec<Found>>()?;
        let mut agents = BTreeMap::new();
        for (agent, life) in found.iter().filter_map(life).filter(|((node, _), _)| nodes.contains(node)) {
            // Another may be left of a host that this node was on before.
            let known = agents.entry(agent).or_insert(life);
            if life == Life::Alive {
                *known = life;
            }
        }
        Ok(agents)
    }

    async fn change_agent(&self, path: &str, body: Option<Value>) -> Result<Answer> {
        let request = Request {
            method: Method::PUT,
            path: format!("/v1/agent/{path}"),
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            timeout: TIMEOUT,
            about: path,
            rule: rule("service", SERVICE, "write"),
        };
        self.client.send(request).await
    }
}

fn id(node: &NodeName, agent: &str) -> String {
    format!("{agent}@{node}")
}

fn registration(node: &NodeName, agent: &str) -> Value {
    let id = id(node, agent);
    json!({
        "ID": id,
        "Name": SERVICE,
        "Tags": [agent],
        "Meta": {"platypus": "agent", "node": node, "agent": agent},
        "Checks": [{
            "CheckID": id,
            "Name": format!("{agent} on {node}"),
            "TTL": format!("{}s", ALIVE_LASTS.as_secs()),
            "Status": "passing",
        }],
    })
}

/// Whose service it is, if it is an agent's, and what is known of that agent.
fn life(found: &Found) -> Option<((NodeName, String), Life)> {
    let Found { service: Service { id: service, meta }, checks } = found;
    let said = |name: &str| meta.as_ref()?.get(name);
    let (node, agent) = (said("node")?.parse().ok()?, said("agent").filter(|agent| is_name(agent))?);
    if said("platypus")? != "agent" || *service != id(&node, agent) {
        return None;
    }
    // Of its host only whether Consul reaches it counts: in maintenance its agents are at work.
    let passes = |check: &&Check| check.status == "passing";
    let mut own = checks.iter().filter(|check| check.id == *service);
    let mut serf = checks.iter().filter(|check| check.id == "serfHealth");
    let is_alive = own.next().as_ref().is_some_and(passes) && serf.next().as_ref().is_none_or(passes);
    Some(((node, agent.clone()), if is_alive { Life::Alive } else { Life::Dead }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_alive_while_its_own_check_passes_and_consul_reaches_its_host() {
        let own = |status: &str| json!({"CheckID": "pp-setlive@web1", "Status": status});
        let host = |id: &str, status: &str| json!({"CheckID": id, "Status": status});
        for (checks, alive) in [
            (vec![own("passing"), host("serfHealth", "passing")], Life::Alive),
            (vec![own("passing")], Life::Alive),
            (vec![own("passing"), host("_node_maintenance", "critical")], Life::Alive),
            (vec![own("critical"), host("serfHealth", "passing")], Life::Dead),
            (vec![own("passing"), host("serfHealth", "critical")], Life::Dead),
            (vec![host("serfHealth", "passing")], Life::Dead),
        ] {
            let mut service = registration(&"web1".parse().unwrap(), "pp-setlive");
            let found =
                |service: &Value| life(&serde_json::from_value(json!({"Service": service, "Checks": checks})).unwrap());
            let web1 = "web1".parse().unwrap();
            assert_eq!(found(&service), Some(((web1, "pp-setlive".to_owned()), alive)), "{checks:?}");
            for (pointer, value) in [
                ("/ID", json!("web1:platypus-agent")),
                ("/Meta", json!(null)),
                ("/Meta", json!({"platypus": "1", "node": "web1", "agent": "pp-setlive"})),
                ("/Meta/node", json!("web2")),
                ("/Meta/agent", json!("a b")),
            ] {
                let before = std::mem::replace(service.pointer_mut(pointer).unwrap(), value);
                assert_eq!(found(&service), None, "{pointer}");
                *service.pointer_mut(pointer).unwrap() = before;
            }
        }
    }
}
