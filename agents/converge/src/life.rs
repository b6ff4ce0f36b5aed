//! Says of an agent that it is alive: while it is, and no longer.
//!
//! Ensures: in a directory the kernel says so, by a lock that ends with the process; to Consul the agent says it again and again,
//! to the agent of Consul's on its own host only, and takes it back when it is told to end. Who is killed does not: then others
//! see that it died. What fails is tried again, is a line in the log, once, and stops nothing.

use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;
use store::{ALIVE_AGAIN, Alive, Store};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::agent::Host;
use crate::backoff::Backoff;
use crate::effect;

/// How long an agent that is to end may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// How this process is known to be alive.
#[derive(Debug, Default)]
pub(crate) struct Life {
    lock: OnceCell<Alive>,
    /// As which agent it is known to Consul, once it may be.
    said: OnceLock<&'static str>,
}

impl Host {
    /// Says in a directory that this node is alive, until the process ends; of Consul's hosts Consul says it.
    pub async fn stay_alive(&self, agent: &str) -> Result<()> {
        let stay_alive = || effect::stay_alive("stay alive", &self.store, &self.node, agent);
        self.life.lock.get_or_try_init(stay_alive).await.map(drop)
    }

    async fn say_alive(&self, agent: &'static str, is_new: bool) -> Result<()> {
        self.stay_alive(agent).await?;
        if let Store::Consul(_) = self.store {
            self.life.said.get_or_init(|| agent);
            effect::say_alive("say alive", &self.store, &self.node, agent, is_new).await?;
        }
        Ok(())
    }

    /// Takes back what was said.
    pub(crate) async fn say_gone(&self) {
        if let Some(agent) = self.life.said.get() {
            let gone = effect::say_gone("say gone", &self.store, &self.node, agent);
            match timeout(FAREWELL, gone).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("{error:#}"),
                Err(_) => debug!("Consul does not take it that this agent ends"),
            }
        }
    }
}

/// Says so for ever.
pub(crate) async fn stay_alive(host: &Host, agent: &'static str) -> Infallible {
    let mut backoff = Backoff::new(Duration::from_secs(1), ALIVE_AGAIN);
    let (mut is_new, mut trouble) = (true, None);
    loop {
        let pause = match host.say_alive(agent, is_new).await {
            Ok(()) => {
                is_new = false;
                backoff.reset();
                if trouble.take().is_some() {
                    info!("the store knows again that this agent is alive");
                }
                match host.store {
                    Store::Consul(_) => ALIVE_AGAIN,
                    Store::Directory(_) => return std::future::pending().await,
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                if trouble.as_ref() == Some(&text) {
                    debug!("{text}");
                } else {
                    error!("{text}; others may take this agent for dead");
                    trouble = Some(text);
                }
                backoff.delay()
            }
        };
        tokio::time::sleep(pause).await;
    }
}
