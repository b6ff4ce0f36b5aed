//! What an agent is, to the loop: something that converges one app, and says which apps it has on this host.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};
use store::intent::{App, Fingerprint, NodeIntent};
use store::{AppName, NodeName, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::glance::Glance;
use crate::life::Life;
use crate::metrics::Counter;
use crate::publish::Reporter;
use crate::report::{News, Versions};

/// One agent: what it does for each app, or for the host as a whole, or both. Everything it does must be safe to be killed
/// at any instruction, and to be done again.
pub trait Agent: 'static {
    /// By which name others know it: of its report, and as one that is alive.
    const NAME: &'static str;

    /// What it counts beside what is counted of every agent: for its metrics.
    const COUNTERS: &'static [&'static Counter] = &[];

    /// The apps that this agent has something of on this host, whether intent names them or not.
    fn present(&self) -> Result<BTreeSet<AppName>> {
        Ok(BTreeSet::new())
    }

    /// Observes one app, decides and acts: once. Not called for apps that are held, and never twice at a time for the
    /// same app.
    ///
    /// # Errors
    /// What kept the app from converging, in words that stay the same while the reason does: a repeated one is not
    /// logged again. It is tried again after a back-off.
    fn converge(&self, _task: Task) -> impl Future<Output = Result<Outcome>> {
        async { Ok(Outcome::Nothing) }
    }

    /// Which versions of an app this agent has to do with, for its report: asked whenever an attempt has ended, so that it
    /// is to cost little.
    fn versions(&self, _app: &AppName, _wanted: &Wanted) -> impl Future<Output = Result<Versions>> {
        async { Ok(Versions::default()) }
    }

    /// What tells, for less than an attempt takes, that an attempt at an app would find nothing to do. A single pass asks
    /// it of every app as it comes, unless it is over before that: see [`Agent::is_as_left`].
    fn glance(&self) -> Option<Glance> {
        None
    }

    /// Whether [`Agent::is_as_left`] is worth asking: it has a single pass wait for all of intent.
    fn recalls(&self) -> bool {
        false
    }

    /// Whether a pass would find nothing to do, which an agent can tell that noted how it left all of it, and for which intent.
    /// A single pass asks it once, before it makes sense of intent.
    fn is_as_left(&self, _intent: Fingerprint) -> impl Future<Output = bool> {
        async { false }
    }

    /// A single pass is over, and found or made these as intent wants them. With `all_of`: these are all apps that this intent
    /// wants, none is on hold or invalid, and nothing failed or waits.
    fn passed(&self, _converged: BTreeSet<AppName>, _all_of: Option<Fingerprint>) -> impl Future<Output = ()> {
        async {}
    }

    /// What [`Agent::converge`] would do, a line each; changes nothing.
    fn plan(&self, _task: Task) -> impl Future<Output = Result<Vec<String>>> {
        async { Ok(Vec::new()) }
    }

    /// Converges what all apps of the host come to together: once, never twice at a time. Which apps are held or invalid,
    /// and which keys name no app, is said already; while nothing is known of intent, this is not called.
    ///
    /// # Errors
    /// As of [`Agent::converge`].
    fn converge_host(&self, _intent: Rc<NodeIntent>, _host: &Host) -> impl Future<Output = Result<Outcome>> {
        async { Ok(Outcome::Nothing) }
    }

    /// What [`Agent::converge_host`] would do; changes nothing.
    fn plan_host(&self, _intent: Rc<NodeIntent>, _host: &Host) -> impl Future<Output = Result<HostPlan>> {
        async { Ok(HostPlan::default()) }
    }
}

/// What would be done to a host as a whole.
#[derive(Debug, Default)]
pub struct HostPlan {
    /// A line each.
    pub steps: Vec<String>,
    /// Why it would fail, beside what it would do.
    pub failed: Option<Error>,
}

/// Who says what is to run on a host. What one of them had made the other leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Store,
    /// `pt-direct`, from a file.
    Direct,
}

/// How an attempt ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The host is as intent wants it.
    Converged,
    /// Something that somebody else does has to happen first; this says what. Looked at again soon.
    Waiting(String),
    /// It is not for this agent to do anything here, and nothing is reported of it.
    Nothing,
}

/// What intent says of one app.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    App(Arc<App>),
    /// The listing that was read does not name the app. Not a reason to remove anything: see
    /// [`store::intent::looks_gone`].
    Unnamed,
    /// Nobody can tell: the app is invalid, or no intent was ever read. Finish what was begun, so that a crash and a
    /// store that is away do not together keep an app down; begin nothing.
    Unknown,
    /// An operator is at work on the app: stop what is under way. No attempt begins with this.
    Held,
}

/// What all of a process's tasks share.
#[derive(Debug, Clone)]
pub struct Host {
    pub node: NodeName,
    pub store: Store,
    pub source: Source,
    /// Only looked at: for `--plan`.
    pub read_only: bool,
    pub(crate) permits: Permits,
    pub(crate) life: Arc<Life>,
}

/// The `--parallel` places of a process.
#[derive(Debug, Clone)]
pub(crate) struct Permits {
    free: Arc<Semaphore>,
    all: u32,
}

impl Permits {
    pub(crate) fn new(parallel: NonZeroU32) -> Self {
        let all = parallel.get();
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    async fn take(&self, many: u32) -> OwnedSemaphorePermit {
        self.free.clone().acquire_many_owned(many).await.expect("the semaphore is never closed")
    }
}

/// One attempt at one app.
#[derive(Debug, Clone)]
pub struct Task {
    pub app: AppName,
    pub host: Host,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) wake: Wake,
    /// See [`Task::looked`].
    pub(crate) tell_looked: mpsc::UnboundedSender<AppName>,
    pub(crate) reporter: Reporter,
}

/// What an attempt that ended waits for, if it said so.
#[derive(Clone, Default)]
pub(crate) struct Wake(Rc<RefCell<Option<Waiting>>>);

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

impl Wake {
    pub(crate) fn take(&self) -> Option<Waiting> {
        self.0.borrow_mut().take()
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Task {
    /// What intent says now. [`Task::changed`] is about what was seen last by this.
    pub fn wanted(&mut self) -> Wanted {
        self.wanted.borrow_and_update().clone()
    }

    /// Resolves once intent says something else of this app than [`Task::wanted`] last told.
    pub async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            // Nobody can say anything new any more.
            std::future::pending::<()>().await;
        }
    }

    /// Has the next attempt begin as soon as `waiting` resolves, and not only after a while. For an attempt that is about
    /// to end without having converged.
    pub fn wake_when(&self, waiting: impl Future<Output = ()> + 'static) {
        *self.wake.0.borrow_mut() = Some(Box::pin(waiting));
    }

    /// Waits for one of the `--parallel` places; held until it is dropped. Take it before the first change to the host.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        self.begin();
        self.host.permits.take(1).await
    }

    /// Waits until all of the `--parallel` places are free: while these are held, no other app is at work on.
    pub async fn all_permits(&self) -> OwnedSemaphorePermit {
        self.begin();
        self.host.permits.take(self.host.permits.all).await
    }

    fn begin(&self) {
        self.looked();
        self.reporter.tell(|| News::Begun(self.app.clone()));
    }

    /// As [`Task::all_permits`], if all are free now.
    pub fn try_all_permits(&self) -> Option<OwnedSemaphorePermit> {
        let Permits { free, all } = &self.host.permits;
        free.clone().try_acquire_many_owned(*all).ok()
    }

    /// Says that the attempt has looked, and is about to do something: for whoever waits for the first pass.
    pub fn looked(&self) {
        // Nobody listens in a single pass.
        let _ = self.tell_looked.send(self.app.clone());
    }
}
