//! The agent, as the loop sees it: a look, a decision and an act, for all apps at once.
//!
//! Ensures: what is to be opened is opened before it is asked whether anything has gone; an app of which that is not sure
//! is kept as it is, and reported, and delays no other; what is converged is not written, and nothing is said of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail, ensure};
use converge::files::{self, Lock};
use converge::{Agent, Glance, Host, HostPlan, Outcome, blocking};
use store::AppName;
use store::intent::{NodeIntent, looks_gone};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info};

use crate::authority::{self, Authority};
use crate::decide::{Gone, Us, Verdicts, present, tables, verdicts};
use crate::end::End;
use crate::filter::Filter;
use crate::kernel::Kernel;
use crate::rules_file::RulesFile;
use crate::said::{Line, changes};
use crate::table::{CHAIN, Tables};

/// How long whoever else is at work may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the packet filter as intent wants it.
#[derive(Debug)]
pub struct PacketFilter {
    place: Place,
    us: Us,
    end: End,
    /// What a single pass sees of the chain while the store answers.
    early: RefCell<Option<JoinHandle<Result<Look>>>>,
    /// Only look.
    read_only: bool,
    /// What was said of a change that has not been made yet: that it is tried again is no news.
    said: RefCell<Vec<Line>>,
}

/// Where rules go.
#[derive(Debug)]
enum Place {
    Chain(Rc<Chain>),
    Authority(Authority),
}

/// Where our chain is.
#[derive(Debug)]
enum Chain {
    Kernel(Kernel),
    File(RulesFile),
}

/// What there is of our chain, and what is wrong with a family.
type Look = (Tables, Option<Error>);

/// What one round came to.
struct Round {
    lines: Vec<Line>,
    ask: Gone,
    complaints: BTreeMap<AppName, String>,
    /// With a family, which does not keep the other one.
    trouble: Option<Error>,
}

impl Round {
    fn new(lines: Vec<Line>, verdicts: Verdicts<'_>, trouble: Option<Error>) -> Self {
        Self { lines, ask: verdicts.ask, complaints: verdicts.complaints, trouble }
    }
}

impl PacketFilter {
    /// # Errors
    /// When this process has no right to change what it is to change.
    pub fn new(filter: &Filter, host: &Host) -> Result<Self> {
        let place = match (&filter.cmd, &filter.config_dir) {
            (Some(command), Some(dir)) => Place::Authority(Authority { command: command.clone(), dir: dir.clone() }),
            _ if filter.apply => Place::Chain(Rc::new(Chain::Kernel(Kernel::open(filter.variant, filter.lock())?))),
            _ => Place::Chain(Rc::new(Chain::File(RulesFile { path: filter.rules() }))),
        };
        let end = if filter.default_drop { End::Drop(filter.keep.clone()) } else { End::FallThrough };
        let us = Us { node: host.node.clone(), source: host.source, adopt: filter.adopt };
        Ok(Self { place, us, end, early: RefCell::default(), read_only: host.read_only, said: RefCell::default() })
    }
}

impl Agent for PacketFilter {
    const NAME: &'static str = "pp-iptables";

    fn glance(&self) -> Option<Glance> {
        if let Place::Chain(chain) = &self.place {
            let chain = chain.clone();
            self.early.replace(Some(spawn_local(async move { chain.look().await })));
        }
        Some(Glance::NotNeeded)
    }

    async fn converge_host(&self, intent: Rc<NodeIntent>, host: &Host) -> Result<Outcome> {
        // Only who writes needs the lock, and looks again under it.
        if self.is_settled(&intent).await {
            return Ok(Outcome::Converged);
        }
        let (_, doubts) = self.converge_to(&intent, host).await?;
        doubts.map_or(Ok(Outcome::Converged), Err)
    }

    async fn plan_host(&self, intent: Rc<NodeIntent>, host: &Host) -> Result<HostPlan> {
        let (lines, failed) = self.converge_to(&intent, host).await?;
        Ok(HostPlan { steps: lines.iter().map(Line::to_string).collect(), failed })
    }
}

impl PacketFilter {
    /// Whether what was seen early is as intent wants it.
    async fn is_settled(&self, intent: &NodeIntent) -> bool {
        let (Place::Chain(chain), Some(early)) = (&self.place, self.early.take()) else { return false };
        let Ok(Ok((seen, None))) = early.await else { return false };
        let verdicts = verdicts(intent, &present(&seen), &Gone::new(), &self.us);
        let nothing_to_say = verdicts.ask.is_empty() && verdicts.complaints.is_empty();
        let is_settled = nothing_to_say && tables(&seen, &verdicts, &self.us, &self.end) == seen && chain.is_clear();
        // A single pass is about to end: what it takes to free all of it would be lost.
        std::mem::forget(seen);
        is_settled
    }

    /// The lines of what was left to do, and what is wrong with single apps or with a family.
    async fn converge_to(&self, intent: &NodeIntent, host: &Host) -> Result<(Vec<Line>, Option<Error>)> {
        let Round { mut lines, ask, mut complaints, mut trouble } = self.round(intent, &Gone::new()).await?;
        // To be sure that an app has gone takes time, and may fail: all else is done by now.
        let (gone, doubts) = confirm(ask, host).await;
        complaints.extend(doubts);
        if !gone.is_empty() {
            Round { lines, trouble, .. } = self.round(intent, &gone).await?;
        }
        let complaints = complaints.into_iter().map(|(app, complaint)| format!("{app}: {complaint}"));
        let trouble = trouble.map(|error| format!("{error:#}"));
        let doubts = trouble.into_iter().chain(complaints).collect::<Vec<_>>();
        Ok((lines, (!doubts.is_empty()).then(|| anyhow!(doubts.join("; ")))))
    }

    async fn round(&self, intent: &NodeIntent, gone: &Gone) -> Result<Round> {
        let lock = if self.read_only { None } else { Some(hold(&self.place.lock()?).await?) };
        // Once it is written, it is looked at again: what was done is what a look shows, not what a command said.
        for _ in 0..4 {
            let round = match &self.place {
                Place::Chain(chain) => self.chain_step(chain, intent, gone, lock.as_ref()).await?,
                Place::Authority(authority) => self.authority_step(authority, intent, gone).await?,
            };
            if round.lines.is_empty() || self.read_only || round.trouble.is_some() {
                return Ok(round);
            }
        }
        bail!("does not settle: look for what changes {CHAIN} back")
    }

    /// Looks, decides and acts, once; the lines are of what there was to do.
    async fn chain_step(&self, chain: &Chain, intent: &NodeIntent, gone: &Gone, lock: Option<&Lock>) -> Result<Round> {
        let (seen, mut trouble) = chain.look().await?;
        let verdicts = verdicts(intent, &present(&seen), gone, &self.us);
        let wanted = tables(&seen, &verdicts, &self.us, &self.end);
        let lines = changes(&seen, &wanted);
        if let (Chain::File(file), Some(_)) = (chain, lock) {
            files::clear(&file.path)?;
        }
        if let (Some(lock), false) = (lock, lines.is_empty()) {
            self.say(&lines);
            match chain.write(&seen, &wanted, lock).await {
                Ok(()) => drop(self.said.take()),
                Err(error) => trouble = Some(error),
            }
        }
        Ok(Round::new(lines, verdicts, trouble))
    }

    async fn authority_step(&self, authority: &Authority, intent: &NodeIntent, gone: &Gone) -> Result<Round> {
        let seen = authority.look().await?;
        if !self.read_only {
            authority.clear(&seen).await?;
        }
        let mut verdicts = verdicts(intent, &seen.present(), gone, &self.us);
        let mut changes = authority::decide(&seen, &mut verdicts, &self.us);
        if changes.rebuild {
            changes.lines.push(Line::of(CHAIN, format!("Running {} rebuild", authority.command.display())));
        }
        if changes.rebuild && !self.read_only {
            self.say(&changes.lines);
            authority.act(&changes).await?;
            self.said.take();
        }
        Ok(Round::new(changes.lines, verdicts, None))
    }

    fn say(&self, lines: &[Line]) {
        let mut said = self.said.borrow_mut();
        for line in lines {
            let (app, text) = (&line.about, &line.text);
            if said.contains(line) {
                debug!(%app, "{text}");
            } else {
                info!(%app, "{text}");
                said.push(line.clone());
            }
        }
    }
}

impl Place {
    /// The file to lock before a change; its directory is there from now on.
    fn lock(&self) -> Result<PathBuf> {
        let lock = match self {
            Self::Chain(chain) => match &**chain {
                Chain::Kernel(kernel) => kernel.lock.clone(),
                Chain::File(file) => file.lock(),
            },
            Self::Authority(authority) => authority.lock(),
        };
        let parent = lock.parent().filter(|parent| *parent != Path::new(""));
        parent.map_or(Ok(()), |parent| files::directory("directory of the lock", parent))?;
        Ok(lock)
    }
}

impl Chain {
    /// Whether no crash left anything that whoever holds the lock has to see to.
    fn is_clear(&self) -> bool {
        match self {
            Self::Kernel(_) => true,
            Self::File(file) => files::is_clear(&file.path),
        }
    }

    async fn look(&self) -> Result<Look> {
        match self {
            Self::Kernel(kernel) => kernel.look().await,
            Self::File(file) => {
                let file = file.clone();
                blocking(move || Ok((file.look()?, None))).await
            }
        }
    }

    async fn write(&self, before: &Tables, after: &Tables, lock: &Lock) -> Result<()> {
        match self {
            Self::Kernel(kernel) => kernel.write(before, after, lock).await,
            Self::File(file) => {
                let (path, text) = (file.path.clone(), RulesFile::render(after));
                blocking(move || files::write("rules", &path, text.as_bytes(), 0o644).map(drop)).await
            }
        }
    }
}

/// Waits for the lock, as long as anybody who holds it may need it.
async fn hold(path: &Path) -> Result<Lock> {
    let deadline = Instant::now() + PATIENCE;
    let mut said = false;
    loop {
        if let Some(lock) = Lock::try_hold("lock of the filter", path)? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut said, true) {
            debug!("waiting for another process to be done with {}", path.display());
        }
        ensure!(
            Instant::now() < deadline,
            "another process has held {} for {PATIENCE:?}; is it stopped? `fuser -v {0}` names it",
            path.display()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asks the store twice, so that one in the middle of something is not taken at its word. What is not gone for sure is in
/// doubt, with the reason.
async fn confirm(ask: Gone, host: &Host) -> (Gone, BTreeMap<AppName, String>) {
    let mut gone = ask;
    let mut doubts = BTreeMap::new();
    for again in [false, true] {
        if again && !gone.is_empty() {
            sleep(Duration::from_millis(1100)).await;
        }
        // For all of them together: a store that hangs must not keep the next intent waiting.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut sure = Gone::new();
        for (app, cluster) in gone {
            let answer = timeout_at(deadline, looks_gone(&host.store, &host.node, &app, &cluster)).await;
            match answer {
                Ok(Ok(())) => drop(sure.insert((app, cluster))),
                Ok(Err(error)) => drop(doubts.insert(app, format!("held as it is: {error:#}"))),
                Err(_) => drop(doubts.insert(app, "held as it is: the store does not answer".to_owned())),
            }
        }
        gone = sure;
    }
    (gone, doubts)
}
