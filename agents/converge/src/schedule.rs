//! Which app is attempted when: at once when its intent changed, again after a back-off when it failed, soon when it
//! waits for something, and from time to time to find what changed on the host without anybody saying so.
//!
//! Ensures: apps are attempted independently of each other, and never the same app twice at a time; an app that is held
//! is not attempted, and one that is invalid only to finish what was begun; the same reason is not logged twice in a
//! row.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use store::intent::{Invalid, NodeIntent};
use store::{AppName, Gather};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{error, info};

use crate::agent::{Agent, Host, Outcome, Task, Wake, Wanted};
use crate::mark::{FirstPass, Mark};
use crate::metrics::passed;
use crate::publish::Reporter;
use crate::report::{News, held_as_it_is};
use crate::turn::Turn;

/// What is to become of one app.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Converge(Wanted),
    /// By an operator.
    Held,
    Invalid(Invalid),
}

impl Verdict {
    /// What an attempt at the app is told.
    pub(crate) fn wanted(&self) -> Wanted {
        match self {
            Self::Converge(wanted) => wanted.clone(),
            Self::Invalid(_) => Wanted::Unknown,
            Self::Held => Wanted::Held,
        }
    }

    pub(crate) const HELD: &str = "held: intent says \"hold\": true for this app on this node";
}

/// The verdict on every app that intent names or that is present on the host.
pub(crate) fn verdicts(intent: &NodeIntent, present: BTreeSet<AppName>) -> BTreeMap<AppName, Verdict> {
    let mut verdicts =
        present.into_iter().map(|app| (app, Verdict::Converge(Wanted::Unnamed))).gather::<BTreeMap<_, _>>();
    verdicts.extend(intent.apps.iter().map(|(name, app)| {
        let verdict = match app {
            Ok(app) if app.hold => Verdict::Held,
            Ok(app) => Verdict::Converge(Wanted::App(app.clone())),
            Err(invalid) => Verdict::Invalid(invalid.clone()),
        };
        (name.clone(), verdict)
    }));
    verdicts
}

/// Runs for ever, on each intent that arrives, or the reason why none is known; ends when no more can.
pub(crate) async fn keep_converging<A: Agent>(
    agent: Rc<A>,
    host: Host,
    mut intents: mpsc::Receiver<Result<NodeIntent, String>>,
    interval: Duration,
    (mark, reporter): (Option<Mark>, Reporter),
) -> ExitCode {
    let (looked, mut looking) = mpsc::unbounded_channel();
    let mut schedule = Schedule {
        agent,
        host,
        interval,
        first_pass: FirstPass::new(mark),
        reporter,
        looked,
        apps: BTreeMap::new(),
        intent: None,
        whole: Turn::new(None),
        strays: Vec::new(),
        running: JoinSet::new(),
        waking: JoinSet::new(),
    };
    loop {
        let due = schedule.start_what_is_due();
        tokio::select! {
            intent = intents.recv() => match intent {
                Some(Ok(intent)) => schedule.apply(intent),
                Some(Err(reason)) => schedule.finish_what_was_begun(reason),
                None => return ExitCode::FAILURE,
            },
            Some(done) = schedule.running.join_next() => match done {
                Ok((whose, result)) => schedule.settle(whose.as_ref(), result),
                Err(panic) => {
                    error!("{panic}");
                    return ExitCode::FAILURE;
                }
            },
            Some(app) = looking.recv() => schedule.first_pass.looked(Some(&app)),
            Some(woken) = schedule.waking.join_next() => schedule.wake(woken.ok()),
            () = until(due) => {}
        }
    }
}

pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Schedule<A> {
    agent: Rc<A>,
    host: Host,
    interval: Duration,
    first_pass: FirstPass,
    reporter: Reporter,
    looked: mpsc::UnboundedSender<AppName>,
    apps: BTreeMap<AppName, Slot>,
    /// `None` until one was read.
    intent: Option<Rc<NodeIntent>>,
    /// Of what all apps come to together.
    whole: Turn,
    /// Said already.
    strays: Vec<Invalid>,
    /// Whose attempt it is: an app's, or the host's as a whole.
    running: JoinSet<(Option<AppName>, Result<Outcome>)>,
    /// What apps wait for that did not converge.
    waking: JoinSet<AppName>,
}

/// One app's place in the schedule.
struct Slot {
    verdict: Verdict,
    /// What a running attempt listens to.
    wanted: watch::Sender<Wanted>,
    turn: Turn,
    wake: Wake,
    /// The task that waits, while it does.
    waiting: Option<AbortHandle>,
}

impl Slot {
    fn new(app: &AppName, verdict: Verdict) -> Self {
        Self {
            verdict,
            wanted: watch::Sender::new(Wanted::Unnamed),
            turn: Turn::new(Some(app.clone())),
            wake: Wake::default(),
            waiting: None,
        }
    }

    fn wait_no_more(&mut self) {
        self.wake.take();
        if let Some(waiting) = self.waiting.take() {
            waiting.abort();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.wait_no_more();
    }
}

impl<A: Agent> Schedule<A> {
    /// No intent was ever read: all that can be done is to finish what an agent before this one began.
    fn finish_what_was_begun(&mut self, reason: String) {
        let unknown = |app| {
            let slot = Slot::new(&app, Verdict::Converge(Wanted::Unknown));
            (app, slot)
        };
        self.apps = self.present().into_iter().map(unknown).gather();
        self.reporter.tell(|| News::Unknown(self.apps.keys().cloned().gather(), reason));
        self.tell();
    }

    /// Takes over new intent: what changed is due now.
    fn apply(&mut self, intent: NodeIntent) {
        for stray in intent.strays.iter().filter(|stray| !self.strays.contains(stray)) {
            error!("{stray}; what it may stand for stays as it is");
        }
        self.strays.clone_from(&intent.strays);
        let mut verdicts = verdicts(&intent, self.present());
        for (app, _) in self.apps.iter().filter(|(_, slot)| slot.turn.running) {
            verdicts.entry(app.clone()).or_insert(Verdict::Converge(Wanted::Unnamed));
        }
        self.apps.retain(|app, _| verdicts.contains_key(app));
        for (app, verdict) in verdicts {
            match self.apps.get_mut(&app) {
                Some(slot) if slot.verdict == verdict => {}
                Some(slot) => {
                    slot.verdict = verdict;
                    slot.turn.reset();
                }
                None => {
                    let slot = Slot::new(&app, verdict);
                    self.apps.insert(app, slot);
                }
            }
        }
        if self.intent.as_deref() == Some(&intent) {
            // The same again is what a store says that was away.
            self.reporter.tell(|| News::Again);
            self.apps.values_mut().for_each(|slot| slot.turn.retry());
            self.whole.retry();
        } else {
            self.intent = Some(Rc::new(intent));
            self.whole.reset();
        }
        let attempted = self.apps.iter().filter(|(_, slot)| slot.verdict != Verdict::Held);
        let named = self.intent.iter().flat_map(|intent| intent.apps.keys());
        self.first_pass.over(named, attempted.map(|(app, _)| app));
        let verdicts = |(app, slot): (&AppName, &Slot)| (app.clone(), slot.verdict.clone());
        self.reporter.tell(|| News::Verdicts(self.apps.iter().map(verdicts).gather()));
        self.tell();
    }

    fn present(&self) -> BTreeSet<AppName> {
        self.agent.present().unwrap_or_else(|error| {
            error!("{error:#}");
            BTreeSet::new()
        })
    }

    /// Tells running attempts what is wanted now, and people which apps are left alone.
    fn tell(&mut self) {
        for (app, slot) in &mut self.apps {
            let wanted = slot.verdict.wanted();
            slot.wanted.send_if_modified(|before| std::mem::replace(before, wanted.clone()) != wanted);
            match slot.verdict.clone() {
                Verdict::Converge(_) => {}
                Verdict::Held => {
                    if slot.turn.is_news(Verdict::HELD) {
                        info!(%app, "{}", Verdict::HELD);
                    }
                }
                Verdict::Invalid(invalid) => {
                    let text = held_as_it_is(&invalid);
                    if slot.turn.is_news(&text) {
                        error!(%app, "{text}");
                    }
                }
            }
        }
    }

    /// Starts every attempt that is due, and tells when the next one will be.
    fn start_what_is_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        let mut is_due = |turn: &mut Turn| {
            let later = !turn.running && turn.due > now;
            if later {
                next = Some(next.map_or(turn.due, |next: Instant| next.min(turn.due)));
            }
            let due = !turn.running && !later;
            turn.running |= due;
            due
        };
        for (app, slot) in self.apps.iter_mut().filter(|(_, slot)| slot.verdict != Verdict::Held) {
            if is_due(&mut slot.turn) {
                slot.wait_no_more();
                let (host, wanted, wake) = (self.host.clone(), slot.wanted.subscribe(), slot.wake.clone());
                // Without intent there is nothing to look at an app by.
                let looked = self.intent.as_ref().map_or_else(|| mpsc::unbounded_channel().0, |_| self.looked.clone());
                let (app, agent, reporter) = (app.clone(), self.agent.clone(), self.reporter.clone());
                let (tell_looked, now) = (looked.clone(), wanted.clone());
                let task = Task { app: app.clone(), host, wanted, wake, tell_looked, reporter: reporter.clone() };
                self.running.spawn_local(async move {
                    let began = Instant::now();
                    let result = agent.converge(task).await;
                    passed(&result, began.elapsed());
                    let _ = looked.send(app.clone());
                    let now = now.borrow().clone();
                    reporter.settled(&*agent, &app, &now, &result).await;
                    (Some(app), result)
                });
            }
        }
        if let Some(intent) = &self.intent
            && is_due(&mut self.whole)
        {
            let (agent, host, intent) = (self.agent.clone(), self.host.clone(), intent.clone());
            self.running.spawn_local(async move {
                let began = Instant::now();
                let result = agent.converge_host(intent, &host).await;
                passed(&result, began.elapsed());
                (None, result)
            });
        }
        next
    }

    fn settle(&mut self, whose: Option<&AppName>, result: Result<Outcome>) {
        let Some(app) = whose else {
            self.first_pass.looked(None);
            self.reporter.host(&result);
            return self.whole.settle(result, self.interval, true, false);
        };
        let slot = self.apps.get_mut(app).expect("a slot with a running attempt is kept");
        let wanted = matches!(slot.verdict, Verdict::Converge(Wanted::App(_)));
        let waiting = slot.wake.take();
        slot.turn.settle(result, self.interval, wanted, waiting.is_some());
        if let Some(waiting) = waiting {
            let app = app.clone();
            slot.waiting = Some(self.waking.spawn_local(async move {
                waiting.await;
                app
            }));
        }
    }

    /// What an app waited for has come; nothing, of one that was told to wait no more.
    fn wake(&mut self, app: Option<AppName>) {
        if let Some(slot) = app.and_then(|app| self.apps.get_mut(&app)) {
            slot.turn.wake();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
