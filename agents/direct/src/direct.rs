//! The agents of a host as one: each app is prepared, then set live, and the packet filter lets through what they listen on.
//!
//! Ensures: nothing here that the agents do not do by themselves. Which of them made what is for the record: the
//! [`Source`](converge::Source) that every agent's host carries.

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Result, anyhow};
use converge::{Agent, Glance, Host, HostPlan, Outcome, Task};
use iptables::{Filter, PacketFilter};
use preparer::Preparer;
use setlive::{Places, Setlive};
use store::AppName;
use store::intent::NodeIntent;

#[derive(Debug)]
pub(crate) struct Direct {
    preparer: Preparer,
    setlive: Setlive,
    filter: Option<PacketFilter>,
}

impl Direct {
    pub(crate) fn new(preparer: Preparer, places: &Places, filter: Option<&Filter>, host: &Host) -> Result<Self> {
        Ok(Self {
            preparer,
            setlive: Setlive::new(places, host)?,
            filter: filter.map(|filter| PacketFilter::new(filter, host)).transpose()?,
        })
    }
}

impl Agent for Direct {
    const NAME: &'static str = "pt-direct";

    fn present(&self) -> Result<BTreeSet<AppName>> {
        self.setlive.present()
    }

    fn glance(&self) -> Option<Glance> {
        let (prepared, live) = (self.preparer.glance()?, self.setlive.glance()?);
        Some(Glance::by(move |app| prepared.at(app) && live.at(app)))
    }

    /// One after the other, so that a single pass is enough.
    async fn converge(&self, task: Task) -> Result<Outcome> {
        let prepared = self.preparer.converge(task.clone()).await;
        both(prepared, self.setlive.converge(task).await)
    }

    async fn plan(&self, task: Task) -> Result<Vec<String>> {
        let prepare = self.preparer.plan(task.clone()).await?;
        Ok([prepare, self.setlive.plan(task).await?].concat())
    }

    async fn converge_host(&self, intent: Rc<NodeIntent>, host: &Host) -> Result<Outcome> {
        match &self.filter {
            Some(filter) => filter.converge_host(intent, host).await,
            None => Ok(Outcome::Nothing),
        }
    }

    async fn plan_host(&self, intent: Rc<NodeIntent>, host: &Host) -> Result<HostPlan> {
        match &self.filter {
            Some(filter) => filter.plan_host(intent, host).await,
            None => Ok(HostPlan::default()),
        }
    }
}

/// What comes of an app that was prepared, or not, and then set live, or not.
fn both(prepared: Result<Outcome>, live: Result<Outcome>) -> Result<Outcome> {
    match (prepared, live) {
        (Err(prepared), Err(live)) => Err(anyhow!("{prepared:#}; {live:#}")),
        // Whatever is waited for, it is not going to come.
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        (Ok(Outcome::Waiting(one)), Ok(Outcome::Waiting(other))) => Ok(Outcome::Waiting(format!("{one}; {other}"))),
        (Ok(Outcome::Nothing), Ok(outcome)) | (Ok(outcome), Ok(Outcome::Nothing)) => Ok(outcome),
        (Ok(Outcome::Converged), Ok(outcome)) | (Ok(outcome), Ok(Outcome::Converged)) => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_is_lost_and_a_failure_is_more_than_what_waits_for_it() {
        let waiting = |text: &str| Ok(Outcome::Waiting(text.to_owned()));
        let said = |prepared, live| match both(prepared, live) {
            Ok(Outcome::Converged | Outcome::Nothing) => String::new(),
            Ok(Outcome::Waiting(reason)) => format!("waiting: {reason}"),
            Err(error) => format!("{error:#}"),
        };
        let failed = || Err(anyhow!("a cause").context("failed"));
        assert_eq!(said(Ok(Outcome::Converged), Ok(Outcome::Converged)), "");
        assert_eq!(said(failed(), waiting("it is not prepared")), "failed: a cause");
        assert_eq!(said(failed(), Err(anyhow!("too"))), "failed: a cause; too");
        assert_eq!(said(waiting("a"), Ok(Outcome::Converged)), "waiting: a");
        assert_eq!(said(waiting("a"), waiting("b")), "waiting: a; b");
    }
}
