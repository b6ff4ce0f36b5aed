//! Whether a started definition is healthy: the same processes for two seconds, or its own check passing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use converge::Task;
use store::AppName;
use store::schema::{Check, Health};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::decide::Service;
use crate::definition::Definition;
use crate::program;
use crate::runit::Control;
use crate::service::Places;

/// Without a check of its own, an app is healthy when it has not died for this long.
const STEADY: Duration = Duration::from_secs(2);
/// And has failed when it keeps dying for this long.
const STEADY_DEADLINE: Duration = Duration::from_secs(10);

/// The client for HTTP checks: asks this host only, and a process that is no more cannot answer on an old connection.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    let direct = store::http_client().no_proxy().redirect(reqwest::redirect::Policy::none());
    direct.pool_max_idle_per_host(0).build()
}

/// How waiting for health ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Healthy,
    /// Not within the deadline; the last reason.
    Unhealthy(String),
    /// Intent says something else by now.
    Overtaken,
}

/// Asks how a definition's instance is.
pub(crate) struct Inquiry<'a> {
    pub(crate) app: &'a AppName,
    pub(crate) definition: &'a Definition,
    pub(crate) places: &'a Places,
    pub(crate) control: &'a Control,
    pub(crate) http: &'a reqwest::Client,
}

impl Inquiry<'_> {
    /// Waits until the instance is healthy, its deadline is over, or intent changes.
    pub(crate) async fn wait(&self, task: &mut Task) -> Verdict {
        let deadline = self.definition.health.as_ref().map_or(STEADY_DEADLINE, |health| health.deadline.duration());
        let mut last = "it was not asked in time".to_owned();
        let healthy = async {
            // Often at first, since most apps answer at once; then as its interval says.
            let mut pause = Duration::from_millis(2);
            let longest = self.definition.health.as_ref().map_or(STEADY, |health| health.interval.duration());
            loop {
                match self.ask().await {
                    Ok(()) => return,
                    Err(error) => last = format!("{error:#}"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        };
        tokio::select! {
            () = healthy => Verdict::Healthy,
            () = tokio::time::sleep(deadline) => Verdict::Unhealthy(format!("not healthy within {deadline:?}: {last}")),
            () = task.changed() => Verdict::Overtaken,
        }
    }

    /// Asks once. An answer counts only when the same processes ran before and after: another's answer on the same
    /// port is not ours.
    pub(crate) async fn ask(&self) -> Result<()> {
        let before = self.processes()?;
        match &self.definition.health {
            Some(health) => {
                let asked = tokio::time::timeout(health.timeout.duration(), self.check(health));
                let timeout = health.timeout.duration();
                asked.await.unwrap_or_else(|_| bail!("its check did not answer within {timeout:?}"))?;
            }
            None => self.stay(&before).await?,
        }
        ensure!(self.processes()? == before, "it died while it was asked");
        Ok(())
    }

    async fn check(&self, health: &Health) -> Result<()> {
        match &health.check {
            Check::Http(http) => {
                let url = format!("http://127.0.0.1:{}{}", http.port.get(), http.path.as_str());
                let asked =
                    async { self.http.get(&url).send().await?.error_for_status().map(|answer| answer.status()) };
                let status = asked.await.map_err(|error| anyhow::anyhow!("GET {url}: {}", root_cause(&error)))?;
                ensure!(status.is_success(), "GET {url}: answered {status}");
                Ok(())
            }
            Check::Tcp(tcp) => {
                let port = tcp.port.get();
                TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("connecting to port {port}"))?;
                Ok(())
            }
            // Its own time-out ends the program; the one around it would only drop it.
            Check::Script(path) => {
                program::run(self.app, self.definition, path.as_str(), health.timeout.duration()).await
            }
        }
    }

    /// Fails as soon as one of the processes is another.
    async fn stay(&self, before: &BTreeMap<&str, i32>) -> Result<()> {
        let end = Instant::now() + STEADY;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ensure!(self.processes()? == *before, "it keeps dying");
        }
        Ok(())
    }

    /// The process of each service; an error unless all run.
    fn processes(&self) -> Result<BTreeMap<&str, i32>> {
        let pid = |service| match self.control.observe(&self.places.staged(service))? {
            Service::Running { pid } => Ok((service, pid)),
            Service::Absent | Service::Unsupervised | Service::Stopped | Service::Failing => {
                bail!("{service} is not running")
            }
        };
        self.definition.services().map(pid).collect()
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    if let Some(status) = error.status() {
        return format!("answered {status}");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
