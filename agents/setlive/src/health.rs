//! Whether a started definition is healthy: the same processes for two seconds, or its own check passing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use store::schema::{Check, Health};
use store::{AppName, Gather};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::decide::Service;
use crate::definition::Definition;
use crate::program::{self, Output};
use crate::runit::Control;
use crate::service::Places;

/// Without a check of its own, an app is healthy when it has not died for this long.
const STEADY: Duration = Duration::from_secs(2);
/// And has failed when it keeps dying for this long.
const STEADY_DEADLINE: Duration = Duration::from_secs(10);

/// The client for HTTP checks: asks this host only, and a process that is no more cannot answer on an old connection.
fn client() -> Result<reqwest::Client> {
    let direct = store::http_client().no_proxy().redirect(reqwest::redirect::Policy::none());
    // Without TLS there is nothing to verify, and a host without any CA certificates is a host all the same.
    direct.pool_max_idle_per_host(0).tls_certs_only([]).build().context("setting up an HTTP client")
}

/// After an answer it has to go on for this long: one that cannot have its port dies, and another's answer on that port
/// is not its own.
const CONFIRMED: Duration = Duration::from_millis(100);

/// Between a stop and a start.
const BRIEFLY: Duration = Duration::from_millis(200);

/// How waiting for health ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// And how long it took to the first good answer.
    Healthy(Duration),
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
    pub(crate) http: &'a OnceCell<reqwest::Client>,
}

/// By service.
type Pids<'a> = BTreeMap<&'a str, i32>;

impl Inquiry<'_> {
    /// Waits until the instance is healthy, or its deadline is over, or `overtaken` resolves.
    pub(crate) async fn wait(&self, overtaken: impl Future<Output = ()>) -> Verdict {
        tokio::select! {
            verdict = self.until_deadline() => verdict,
            () = overtaken => Verdict::Overtaken,
        }
    }

    async fn until_deadline(&self) -> Verdict {
        let health = self.definition.health.as_ref();
        let patience = health.map_or(STEADY_DEADLINE, |health| health.deadline.duration());
        let longest = health.map_or(STEADY, |health| health.interval.duration());
        let (began, mut first) = (Instant::now(), None);
        let deadline = began + patience;
        // Often at first, since most apps answer at once; then as the interval says.
        let mut pause = Duration::from_millis(2);
        loop {
            let asked = Instant::now();
            let reason = match (self.ask(deadline).await, &first) {
                // Without a check, having stayed is all there is to confirm.
                (Ok(_), _) if health.is_none() => return Verdict::Healthy(began.elapsed()),
                (Ok(pids), Some((before, after))) if pids == *before => return Verdict::Healthy(*after),
                (Ok(pids), _) => {
                    first = Some((pids, began.elapsed()));
                    tokio::time::sleep(CONFIRMED).await;
                    continue;
                }
                (Err(error), _) => format!("{error:#}"),
            };
            first = None;
            // Asked for the last time at the deadline, not before it.
            if asked >= deadline {
                return Verdict::Unhealthy(format!("not healthy within {patience:?}: {reason}"));
            }
            tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Asks once, until the deadline or for a second after it. An answer counts only when the same processes, which are
    /// returned, ran before and after.
    pub(crate) async fn ask(&self, deadline: Instant) -> Result<Pids<'_>> {
        let before = self.processes()?;
        match &self.definition.health {
            Some(health) => {
                let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
                let timeout = health.timeout.duration().min(left);
                let asked = tokio::time::timeout(timeout, self.check(health, timeout));
                asked.await.unwrap_or_else(|_| bail!("its check did not answer within {timeout:.1?}"))?;
            }
            None => self.stay(&before).await?,
        }
        ensure!(self.processes()? == before, "it died while it was asked");
        Ok(before)
    }

    /// Asks once how an instance is that was healthy: all run, and its check passes. What can be said of that.
    pub(crate) async fn now(&self) -> Result<&'static str> {
        self.processes()?;
        let Some(health) = &self.definition.health else { return Ok("runs") };
        let timeout = health.timeout.duration();
        let asked = tokio::time::timeout(timeout, self.check(health, timeout)).await;
        asked.unwrap_or_else(|_| bail!("its check did not answer within {timeout:.1?}"))?;
        Ok("its check passes")
    }

    /// Asks whether an instance that has failed is healthy after all. One that keeps dying is up now and then, and
    /// somebody else may answer for it, so it has to stay as well.
    pub(crate) async fn recovered(&self) -> Result<()> {
        let patience = self.definition.health.as_ref().map_or(STEADY, |health| health.timeout.duration());
        let before = self.ask(Instant::now() + patience).await?;
        self.stay(&before).await
    }

    /// While every service is stopped: why a check that passes will not tell whether this instance is healthy.
    pub(crate) async fn answered_by_another(&self) -> Option<String> {
        let health = self.definition.health.as_ref()?;
        let port = match &health.check {
            Check::Http(http) => http.port.get(),
            Check::Tcp(tcp) => tcp.port.get(),
            Check::Script(_) => return None,
        };
        // Nobody is served meanwhile: a port on which nobody listens says so at once.
        let asked = tokio::time::timeout(BRIEFLY, self.check(health, BRIEFLY)).await;
        let passes = asked.is_ok_and(|answer| answer.is_ok());
        passes.then(|| format!("its check passes while it is stopped: another program answers on port {port}"))
    }

    async fn check(&self, health: &Health, timeout: Duration) -> Result<()> {
        match &health.check {
            Check::Http(http) => {
                let url = format!("http://127.0.0.1:{}{}", http.port.get(), http.path.as_str());
                let http = self.http.get_or_try_init(async || client()).await?;
                let asked = async { http.get(&url).send().await?.error_for_status().map(|answer| answer.status()) };
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
            Check::Script(path) => program::run(self.app, self.definition, path.as_str(), timeout, Output::Debug).await,
        }
    }

    /// Fails as soon as one of the processes is another.
    async fn stay(&self, before: &Pids<'_>) -> Result<()> {
        let end = Instant::now() + STEADY;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ensure!(self.processes()? == *before, "it keeps dying");
        }
        Ok(())
    }

    /// The process of each service; an error unless all run.
    fn processes(&self) -> Result<Pids<'_>> {
        let pid = |service| match self.control.observe(&self.places.staged(service))? {
            Service::Running { pid } => Ok((service, pid)),
            Service::Absent | Service::Unsupervised | Service::Stopped | Service::Failing => {
                bail!("{service} is not running")
            }
        };
        self.definition.services().map(pid).try_gather()
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
