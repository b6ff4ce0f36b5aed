//! One attempt at an app: does what [`step`] says, one thing after the other, and tells it what came of that.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Error, Result, bail};
use converge::{Outcome, Task, Wanted, effect};
use store::intent;
use store::lease::ReadLeases;
use store::schema::{Check, Health};
use store::{AppName, ClusterName, Gather, Instance, InstanceCheck, Registered, Store};
use tokio::time::Instant;
use tracing::debug;

use crate::Setlive;
use crate::act::{Act, Next, changed, inquiry};
use crate::decide::{Decision, Goal, Part, Seen};
use crate::definition::Definition;
use crate::protocol::{Config, Own, Peer, Question, Reason, Step, Told, Us, Wait, failed_in, step};
use crate::record::Record;
use crate::words;

/// One way there and one back, with all that has to be asked and told, are fewer steps than these.
const MOST_STEPS: usize = 200;
/// Apps that wait with queries of their own: a Consul agent takes no more than 200 connections from one address.
const MOST_WATCHES: usize = 24;
/// Between two looks at an instance that waits without a query of its own.
const UNWATCHED: Duration = Duration::from_secs(1);

/// An attempt under way, under the app's lock.
pub(crate) struct Attempt<'a> {
    pub(crate) setlive: &'a Setlive,
    pub(crate) app: &'a AppName,
    pub(crate) task: &'a mut Task,
    /// What intent said when the attempt began.
    pub(crate) wanted: &'a Wanted,
    told: Told,
    /// What was told, as the store needs it to change it or to wait for a change.
    read: BTreeMap<ClusterName, Read>,
    /// Where clients find it, as it was registered when that was last asked.
    port: Option<u16>,
    away: Option<Error>,
}

#[derive(Default)]
struct Read {
    leases: Option<ReadLeases>,
    instances: Option<Vec<Registered>>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(setlive: &'a Setlive, app: &'a AppName, task: &'a mut Task, wanted: &'a Wanted) -> Self {
        Self { setlive, app, task, wanted, told: Told::default(), read: BTreeMap::new(), port: None, away: None }
    }

    pub(crate) async fn run(mut self) -> Result<Outcome> {
        let node = self.task.host.node.clone();
        let mut replacements = 0;
        for _ in 0..MOST_STEPS {
            let (goal, seen) = self.setlive.look(self.app, self.wanted, &self.task.host).await?;
            let is_handed_over = seen.record.as_ref().is_some_and(|record| record.handover.is_some());
            if seen.part != Part::None && !is_handed_over {
                // Who came back goes on.
                self.setlive.handing_over.take();
            }
            let us = Us { node: node.clone(), host: self.setlive.known_host(), now: words::now() };
            let next = step(&us, &goal, &seen, &self.told);
            debug!(app = %self.app, "step: {next:?}");
            if let Step::Act(Decision::Replace { .. }) = &next {
                replacements += 1;
                if replacements > 2 {
                    break;
                }
            }
            if let Some(outcome) = self.take(next, &goal, seen).await? {
                return Ok(outcome);
            }
        }
        bail!("does not settle: look for what changes it back")
    }

    async fn take(&mut self, next: Step, goal: &Goal, seen: Seen) -> Result<Option<Outcome>> {
        let store = self.task.host.store.clone();
        let (node, app) = (self.task.host.node.clone(), self.app);
        let changed = match next {
            Step::Ask(question) => self.ask(question, &seen).await,
            Step::Write(cluster, leases) => {
                let read = self.read.remove(&cluster).and_then(|read| read.leases).context("leases are read first")?;
                self.told.forget(&cluster);
                let (to, change) = (&store, (&leases, &read.expected));
                effect::set_leases("set leases", to, app, &cluster, change).await.map(drop)
            }
            Step::Note(record) => return self.setlive.site.records.note(app, *record).await.map(|()| None),
            Step::NoteAsked(cluster) => {
                let new = || match goal {
                    Goal::Run(wanted) => Ok(Record::new(&node, self.task.host.source, wanted)),
                    _ => bail!("asks for an app that it has no record of"),
                };
                let mut record = seen.record.map_or_else(new, Ok)?;
                record.asked.insert(cluster);
                return self.setlive.site.records.note(app, record).await.map(|()| None);
            }
            Step::Register => {
                self.told.own = None;
                effect::register("register", &store, &self.instance(&seen)?).await
            }
            Step::Report => match self.report(&seen).await {
                Ok(None) => Ok(()),
                Ok(outcome) => return Ok(outcome),
                Err(error) => Err(error),
            },
            Step::Undrain => {
                self.told.own = None;
                effect::undrain("undrain", &store, &node, app).await
            }
            Step::Deregister => {
                self.told.own = None;
                effect::deregister("deregister", &store, &node, app).await
            }
            Step::Act(decision) => {
                (self.told, self.read) = (Told::default(), BTreeMap::new());
                let mut act = Act { setlive: self.setlive, app, task: self.task, wanted: self.wanted };
                // What is kept to because of a failure ends with the leases' word on that.
                let watched = match &decision {
                    Decision::FellBack { digest, .. } => {
                        seen.record.as_ref().map(|record| failed_in(digest, goal, record))
                    }
                    Decision::Recheck(to, _) => Some(&to.cluster),
                    _ => None,
                };
                let watched = watched.filter(|_| !seen.alone).cloned();
                return match act.on(decision, seen.record.clone()).await {
                    Ok(Next::Look) => Ok(None),
                    Ok(Next::Done(outcome)) => Ok(Some(outcome)),
                    Err(error) => {
                        if let Some(cluster) = watched {
                            self.watch_leases(&cluster).await;
                        }
                        Err(error)
                    }
                };
            }
            Step::Wait(Wait { reason: Reason::Check, on }) => match self.until_shown(&on, is_back).await {
                Ok(None) => Ok(()),
                Ok(outcome) => return Ok(outcome),
                Err(error) => Err(error),
            },
            Step::Wait(Wait { reason, on }) => {
                self.watch(&on);
                return Ok(Some(Outcome::Waiting(words::reason(&reason, SystemTime::now()))));
            }
            Step::Held(failed) => {
                if let Goal::Run(wanted) = goal {
                    self.watch(&wanted.cluster);
                    bail!(words::held(app, &wanted.cluster, &failed, seen.record.as_ref()));
                }
                bail!("held, but nothing is wanted");
            }
            Step::Away => {
                return Err(self.away.take().unwrap_or_else(|| anyhow::anyhow!("the store does not answer")));
            }
        };
        if let Err(error) = changed {
            debug!(%app, "{error:#}");
            self.told.away = true;
            self.away = Some(error);
        }
        Ok(None)
    }

    async fn ask(&mut self, question: Question, seen: &Seen) -> Result<()> {
        let host = self.task.host.clone();
        match question {
            Question::Own => {
                let registered = host.store.registered(&host.node).await?.remove(self.app);
                self.port = registered.as_ref().and_then(|registered| registered.port);
                let instance = self.instance(seen).ok();
                self.told.own = Some(registered.map(|registered| own(&registered, instance)));
            }
            Question::Leases(cluster) => {
                self.setlive.host_of(&host).await?;
                let read = host.store.leases(self.app, &cluster).await?;
                self.told.learn(&cluster, read.leases.clone());
                self.read.insert(cluster, Read { leases: Some(read), instances: None });
            }
            Question::Config(cluster) => {
                let config = intent::config(&host.store, self.app, &cluster).await?;
                // Not known is not none: of two active versions neither can be meant.
                let config = match config {
                    Some(config) => Config { active: config.active()?.cloned(), min_nodes: config.min_nodes },
                    None => Config::default(),
                };
                self.told.clusters.entry(cluster).or_default().config = Some(config);
            }
            Question::Peers(cluster) => {
                let instances = host.store.instances(self.app, &cluster).await?;
                let known = self.told.clusters.entry(cluster.clone()).or_default();
                let down = known.leases.iter().flat_map(|leases| leases.down.values());
                let mut hosts = down.map(|down| down.host.clone()).gather::<BTreeSet<_>>();
                if instances.is_empty() {
                    // To a token that may not see hosts there are no instances, and to ask for hosts is refused.
                    hosts.insert(self.setlive.known_host());
                }
                let alive = if hosts.is_empty() { hosts } else { host.store.alive(&hosts).await? };
                let ours = self.setlive.ours(&instances, &host.node);
                let is_left = |it: &&Registered| it.node == host.node && ours.is_some_and(|ours| ours.host != it.host);
                let peer = |it: &Registered| {
                    let passing = if it.node == host.node { is_back(it) } else { it.passing };
                    Peer { node: it.node.clone(), digest: it.digest.clone(), passing }
                };
                let peers = instances.iter().filter(|it| !is_left(it)).map(peer).collect();
                (known.peers, known.alive) = (Some(peers), alive);
                self.read.entry(cluster).or_default().instances = Some(instances);
            }
            Question::IsWell => {
                let known = seen.record.iter().flat_map(|record| record.healthy.iter().chain(&record.converging));
                let runs = known.into_iter().find(|known| seen.on_disk.contains(&known.digest()));
                // Where it is not known what runs, somebody may count on it.
                self.told.is_well = Some(match runs {
                    Some(runs) => inquiry(self.setlive, self.app, runs).now().await.is_ok(),
                    None => true,
                });
            }
        }
        Ok(())
    }

    /// As what runs here is registered.
    fn instance(&self, seen: &Seen) -> Result<Instance> {
        let healthy = seen.record.as_ref().and_then(|record| record.healthy.as_ref());
        let healthy = healthy.context("nothing runs that could be registered")?;
        let mut instance = instance(self.app, &self.task.host.node, healthy, self.wanted);
        if !matches!(self.wanted, Wanted::App(_)) {
            instance.port = self.port.or(instance.port);
        }
        Ok(instance)
    }

    /// Tells the store how the instance is, or waits until the store has found that out by itself.
    async fn report(&mut self, seen: &Seen) -> Result<Option<Outcome>> {
        let healthy = seen.record.as_ref().and_then(|record| record.healthy.clone()).context("nothing runs")?;
        let host = self.task.host.clone();
        let ours = host.store.registered(&host.node).await?.remove(self.app);
        self.told.own = None;
        let Some(ours) = ours else { return Ok(None) };
        if ours.reports == store::Reports::Unneeded {
            return self.until_shown(&healthy.cluster, |ours| ours.check_passes).await;
        }
        match inquiry(self.setlive, self.app, &healthy).now().await {
            Ok(says) => effect::report("report", &host.store, &host.node, self.app, (true, says)).await.map(|()| None),
            Err(error) => {
                let says = format!("{error:#}");
                effect::report("report", &host.store, &host.node, self.app, (false, &says)).await?;
                Ok(Some(Outcome::Waiting(format!("for it to be healthy: {error:#}"))))
            }
        }
    }

    /// Waits until the store shows our own instance so, to everybody; an outcome when it does not come to that in time.
    async fn until_shown(
        &mut self,
        cluster: &ClusterName,
        is_shown: impl Fn(&Registered) -> bool,
    ) -> Result<Option<Outcome>> {
        let host = self.task.host.clone();
        self.setlive.host_of(&host).await?;
        let deadline = Instant::now() + self.setlive.site.passing_timeout;
        let watch = Watching::begin(&self.setlive.watches);
        loop {
            let instances = host.store.instances(self.app, cluster).await?;
            let ours = self.setlive.ours(&instances, &host.node);
            if ours.is_some_and(&is_shown) {
                self.told = Told::default();
                return Ok(None);
            }
            let why = ours.map_or("it shows no such instance".to_owned(), words::why_not_passing);
            let another = async {
                match &watch {
                    Some(_) => host.store.wait_instances(self.app, cluster, &instances).await,
                    None => {
                        tokio::time::sleep(UNWATCHED).await;
                        Ok(())
                    }
                }
            };
            tokio::select! {
                changed = another => changed?,
                () = changed(self.task, self.wanted) => {
                    return Ok(Some(Outcome::Waiting("intent changed on the way".to_owned())));
                }
                () = tokio::time::sleep_until(deadline) => {
                    drop(watch);
                    self.read.entry(cluster.clone()).or_default().instances = Some(instances);
                    self.watch(cluster);
                    return Ok(Some(Outcome::Waiting(format!("for the store to show it passing: {why}"))));
                }
            }
        }
    }

    async fn watch_leases(&mut self, cluster: &ClusterName) {
        if let Ok(read) = self.task.host.store.leases(self.app, cluster).await {
            self.read.entry(cluster.clone()).or_default().leases = Some(read);
            self.watch(cluster);
        }
    }

    /// Has the next attempt begin when something is different from what was read of a cluster.
    fn watch(&mut self, cluster: &ClusterName) {
        let Some(read) = self.read.remove(cluster) else { return };
        let Some(watch) = Watching::begin(&self.setlive.watches) else { return };
        let (store, app, cluster) = (self.task.host.store.clone(), self.app.clone(), cluster.clone());
        self.task.wake_when(async move {
            let _watch = watch;
            tokio::select! {
                () = leases_changed(&store, read.leases) => {}
                () = instances_changed(&store, &app, &cluster, read.instances) => {}
            }
        });
    }
}

async fn leases_changed(store: &Store, read: Option<ReadLeases>) {
    match read {
        // A store that cannot be watched is asked again, after a while.
        Some(read) if store.wait(&read.token).await.is_ok() => {}
        Some(_) | None => std::future::pending().await,
    }
}

async fn instances_changed(store: &Store, app: &AppName, cluster: &ClusterName, seen: Option<Vec<Registered>>) {
    match seen {
        Some(seen) if store.wait_instances(app, cluster, &seen).await.is_ok() => {}
        Some(_) | None => std::future::pending().await,
    }
}

/// One of the apps that wait with queries of their own.
struct Watching(Rc<Cell<usize>>);

impl Watching {
    fn begin(count: &Rc<Cell<usize>>) -> Option<Self> {
        (count.get() < MOST_WATCHES).then(|| {
            count.set(count.get() + 1);
            Self(count.clone())
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether an instance is as it was before it was taken down for a replacement, to everybody: it passes, or all that keeps
/// it from that is an operator's maintenance, for which nobody has to wait.
fn is_back(it: &Registered) -> bool {
    it.passing || it.check_passes && it.drained.is_none() && it.maintenance.is_some()
}

/// How a definition's instance is registered. Where intent is not known its port is left as it is.
pub(crate) fn instance(app: &AppName, node: &store::NodeName, of: &Definition, wanted: &Wanted) -> Instance {
    let (check, checked) = check(of.health.as_ref());
    let open = match wanted {
        Wanted::App(app) => open_port(app),
        Wanted::Unnamed | Wanted::Unknown | Wanted::Held => None,
    };
    Instance {
        app: app.clone(),
        cluster: of.cluster.clone(),
        node: node.clone(),
        version: of.version.clone(),
        digest: of.digest().as_str().to_owned(),
        port: open.or(checked),
        check,
    }
}

/// The first port that intent has open for clients.
pub(crate) fn open_port(app: &intent::App) -> Option<u16> {
    let tcp = app.ports.iter().find(|port| port.protocol == store::schema::Protocol::Tcp);
    tcp.map(|port| port.port)
}

/// How the store checks what is healthy so, and on which port.
pub(crate) fn check(health: Option<&Health>) -> (InstanceCheck, Option<u16>) {
    match health.map(|health| (health, &health.check)) {
        Some((health, Check::Http(http))) => {
            let (port, path) = (http.port.get(), http.path.as_str().to_owned());
            let (interval, timeout) = (health.interval.duration(), health.timeout.duration());
            (InstanceCheck::Http { port, path, interval: whole(interval), timeout }, Some(port))
        }
        Some((health, Check::Tcp(tcp))) => {
            let (interval, timeout) = (health.interval.duration(), health.timeout.duration());
            (InstanceCheck::Tcp { port: tcp.port.get(), interval: whole(interval), timeout }, Some(tcp.port.get()))
        }
        Some((_, Check::Script(_))) | None => (InstanceCheck::Reported, None),
    }
}

/// Consul checks at most once a second, and says so in its log when it is asked for more.
fn whole(interval: Duration) -> Duration {
    interval.max(Duration::from_secs(1))
}

fn own(registered: &Registered, instance: Option<Instance>) -> Own {
    Own {
        is_current: instance.is_some_and(|instance| registered.is(&instance)),
        check_passes: registered.check_passes,
        is_drained: registered.drained.is_some(),
    }
}

impl Setlive {
    /// Our own among a cluster's instances. Beside it there may be one that is left of another host, by which Consul knew
    /// this one before it was installed anew.
    fn ours<'a>(&self, instances: &'a [Registered], node: &store::NodeName) -> Option<&'a Registered> {
        let mut ours = instances.iter().filter(|it| it.node == *node);
        let here = ours.clone().find(|it| it.host == self.known_host());
        here.or_else(|| ours.next())
    }
}
