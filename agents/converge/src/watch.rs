//! The stream of what this node shall run: one value at the start, and one after each change; or first why nobody knows,
//! when the store does not answer.
//!
//! Ensures: only what was read as a whole is passed on; a store that is down, hangs or answers nonsense is a line in the
//! log, once, and then tried again. What was known before stays in force meanwhile.

use std::time::Duration;

use store::intent::{Follower, NodeIntent};
use tokio::sync::mpsc;
use tracing::{debug, error, info};

use crate::agent::Host;
use crate::backoff::Backoff;
use crate::metrics::STORE_ERRORS;

/// The longest time after which an agent asks a store again that was away.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

type Intents = mpsc::Sender<Result<NodeIntent, String>>;

/// Watches the store until the receiver is dropped.
pub(crate) fn intents(host: &Host) -> mpsc::Receiver<Result<NodeIntent, String>> {
    let (sender, receiver) = mpsc::channel(1);
    let host = host.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = watch(&host, &sender) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn watch(host: &Host, sender: &Intents) {
    let mut backoff = Backoff::new(Duration::from_secs(1), LONGEST_BACKOFF);
    let mut follower = Follower::new(host.store.clone(), host.node.clone());
    let mut said = None;
    let mut told = false;
    loop {
        match follower.next().await {
            Ok(intent) => {
                tell_if_empty(host, &intent);
                // Nobody is left to tell only when the process is about to end.
                let _ = sender.send(Ok(intent)).await;
                backoff.reset();
                told = true;
                if said.take().is_some() {
                    info!("the store answers again");
                }
            }
            Err(error) => {
                STORE_ERRORS.add(1);
                let text = format!("{error:#}; everything stays as it is, trying again");
                if !std::mem::replace(&mut told, true) {
                    let _ = sender.send(Err(text.clone())).await;
                }
                if said.as_ref() == Some(&text) {
                    debug!("{text}");
                } else {
                    error!("{text}");
                    said = Some(text);
                }
                tokio::time::sleep(backoff.delay()).await;
            }
        }
    }
}

/// Says so when there is nothing to do: perhaps this node goes by another name. What cannot be read is not nothing.
pub(crate) fn tell_if_empty(host: &Host, intent: &NodeIntent) {
    if intent.is_empty() {
        info!("no app is meant for this node: there is nothing under nodes/{}/", host.node);
    }
}
