//! Which agents are alive.
//!
//! Ensures: an agent that died, however it did, is known to be dead, at once in a directory and within [`ALIVE_LASTS`] in
//! Consul; what nobody ever said is not known, and neither dead nor alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{Alive, NodeName, Store, is_name};

/// How long [`Store::say_alive`] counts.
pub const ALIVE_LASTS: Duration = Duration::from_secs(60);
/// After how long it is to be said again.
pub const ALIVE_AGAIN: Duration = Duration::from_secs(20);

/// What is known of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Alive,
    Dead,
}

impl Store {
    /// Says that this agent of this node is alive until the guard is dropped or the process ends. To Consul it has to be
    /// [said again](Store::say_alive) and again.
    pub async fn stay_alive(&self, node: &NodeName, agent: &str) -> Result<Alive> {
        match self {
            Self::Consul(_) => Ok(Alive::default()),
            Self::Directory(directory) => directory.stay_alive(node, agent).await,
        }
    }

    /// Says to the Consul agent of this host that this agent of this node is alive, which counts for [`ALIVE_LASTS`]. One that
    /// `is_new` is registered, and so is one of which Consul knows nothing any more. In a directory it is
    /// [said](Store::stay_alive) once.
    pub async fn say_alive(&self, node: &NodeName, agent: &str, is_new: bool) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.say_alive(node, agent, is_new).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Takes back what [`Store::say_alive`] said: from then on nothing is known of the agent. Fine when nothing was.
    pub async fn say_gone(&self, node: &NodeName, agent: &str) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.say_gone(node, agent).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// What is known of the agents of these nodes, by an agent's name; nothing of those that never said they were alive, or,
    /// to Consul, that were told to end. To a token without rights nothing seems to be known.
    pub async fn alive_agents(&self, nodes: &BTreeSet<NodeName>) -> Result<BTreeMap<(NodeName, String), Life>> {
        match self {
            Self::Consul(consul) => consul.alive_agents(nodes).await,
            Self::Directory(directory) => directory.alive_agents(nodes).await,
        }
    }
}

/// No agent's name has a dot, and a node's may.
pub(crate) fn ensure_agent(name: &str) -> Result<()> {
    ensure!(is_name(name) && !name.contains('.'), "{name:?} is no agent's name: a name without a dot");
    Ok(())
}
