//! Publishes what an agent says of itself, as `reality/<node>/<agent>`.
//!
//! Ensures: nobody waits for it; what the store is known to hold is not written again; a store that is down gets the last
//! state once it is back, and is a line in the log, once. A daemon's only: who runs a single pass sees what it says.

use std::time::Duration;

use anyhow::Result;
use store::reality::{AppReport, Report, report_key};
use store::{AppName, Key, Prefix, Store, look_up};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::agent::{Agent, Host, Outcome, Wanted};
use crate::metrics::{Metrics, STORE_ERRORS};
use crate::pace::Pace;
use crate::report::{Ended, News, Said, Versions, now};
use crate::schedule::until;
use crate::{Source, effect};

/// To whom an agent tells its news.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reporter {
    /// `None` where nothing is published.
    news: Option<mpsc::UnboundedSender<News>>,
}

impl Reporter {
    /// That of a daemon which follows a store. What is one file is never written to.
    pub(crate) fn new<A: Agent>(host: &Host, metrics: Option<Metrics>) -> Self {
        let key = report_key(&host.node, A::NAME).filter(|_| host.is_told());
        let news = key.map(|key| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::task::spawn_local(Publisher::new(host.store.clone(), key, metrics).run(receiver));
            sender
        });
        Self { news }
    }

    pub(crate) fn tell(&self, news: impl FnOnce() -> News) {
        if let Some(sender) = &self.news {
            // Nobody listens any more only when the process is about to end.
            let _ = sender.send(news());
        }
    }

    /// Tells how an attempt at an app ended, for which this was wanted.
    pub(crate) async fn settled<A: Agent>(&self, agent: &A, app: &AppName, wanted: &Wanted, result: &Result<Outcome>) {
        if self.news.is_some() {
            let versions = agent.versions(app, wanted).await.unwrap_or_else(|error| {
                debug!(%app, "{error:#}; which versions are there is not reported");
                Versions::default()
            });
            self.tell(|| News::Settled(app.clone(), ended(result), versions));
        }
    }

    pub(crate) fn host(&self, result: &Result<Outcome>) {
        self.tell(|| News::Host(ended(result)));
    }
}

fn ended(result: &Result<Outcome>) -> Ended {
    match result {
        Ok(outcome) => Ok(outcome.clone()),
        Err(error) => Err(format!("{error:#}")),
    }
}

impl Host {
    /// Whether others are to know of what is here: not from a host that goes by a file of its own.
    pub(crate) fn is_told(&self) -> bool {
        self.source == Source::Store && self.store.keeps_instances()
    }
}

struct Publisher {
    store: Store,
    key: Key,
    said: Said,
    pace: Pace,
    held: Held,
    /// Said already: why it cannot be read or written.
    trouble: Option<String>,
    metrics: Option<Metrics>,
    /// When they are to be written next.
    metrics_due: Option<Instant>,
    /// Said already.
    metrics_trouble: Option<String>,
}

/// What comes within this time goes into the metrics at once.
const COLLECTED: Duration = Duration::from_secs(1);

/// What the store is known to hold.
enum Held {
    /// Nothing was ever read.
    Unread,
    /// A write failed, or is under way.
    Unknown,
    Document(Vec<u8>),
}

impl Publisher {
    fn new(store: Store, key: Key, metrics: Option<Metrics>) -> Self {
        let metrics_due = metrics.as_ref().map(|_| Instant::now());
        let (said, pace) = (Said::default(), Pace::new());
        Self { store, key, said, pace, held: Held::Unread, trouble: None, metrics, metrics_due, metrics_trouble: None }
    }

    async fn run(mut self, mut news: mpsc::UnboundedReceiver<News>) {
        self.read().await;
        loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard).await,
                    None => return,
                },
                () = until(self.pace.due()) => self.publish().await,
                () = until(self.metrics_due) => self.write_metrics().await,
            }
        }
    }

    async fn hear(&mut self, news: News) {
        if let News::Again = news {
            self.held = Held::Unread;
            return self.pace.changed(Instant::now());
        }
        if let (Held::Unread, News::Verdicts(_)) = (&self.held, &news) {
            // The store is back. What an agent before this one said comes before what this one is about to do.
            self.read().await;
        }
        if self.said.hear(news, &now()) {
            self.pace.changed(Instant::now());
        }
        if self.metrics.is_some() {
            self.metrics_due.get_or_insert_with(|| Instant::now() + COLLECTED);
        }
    }

    /// What cannot be written is tried again with the next news.
    async fn write_metrics(&mut self) {
        self.metrics_due = None;
        let Some(metrics) = &mut self.metrics else { return };
        match metrics.write(self.said.report().as_ref(), self.said.is_whole()).await {
            Ok(()) => self.metrics_trouble = None,
            Err(error) => {
                let text = format!("{error:#}");
                if self.metrics_trouble.as_ref() != Some(&text) {
                    error!("{text}");
                    self.metrics_trouble = Some(text);
                }
            }
        }
    }

    async fn publish(&mut self) {
        if let Held::Unread = self.held {
            self.read().await;
        }
        let Some(bytes) = self.said.report().map(Report::bytes) else { return self.pace.done() };
        match &self.held {
            Held::Unread => return,
            Held::Document(held) if *held == bytes => return self.pace.done(),
            Held::Document(_) | Held::Unknown => {}
        }
        self.held = Held::Unknown;
        match effect::put("write report", &self.store, &self.key, &bytes).await {
            Ok(()) => {
                self.held = Held::Document(bytes);
                self.pace.wrote(Instant::now());
                if self.trouble.take().is_some() {
                    info!("what this agent reports is in the store again");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Reads what an agent before this one said. What is no report is written over.
    async fn read(&mut self) {
        let prefix = self.key.as_str().rsplit_once('/').map(|(above, _)| Prefix::parse(above));
        let prefix = prefix.expect("a key has two names").expect("what leads to a key is a prefix");
        let documents = match self.store.documents(&[prefix]).await {
            Ok(documents) => documents,
            Err(error) => return self.failed(&error),
        };
        self.held = match look_up(&documents, self.key.as_str()) {
            Some(Ok(document)) => {
                match Report::parse(document) {
                    Ok(report) => self.said.take_over(sound(report)),
                    Err(reason) => debug!("{}: {reason}; it is written anew", self.key),
                }
                Held::Document(document.bytes.clone())
            }
            Some(Err(_)) | None => Held::Unknown,
        };
        self.trouble = None;
        self.pace.done();
    }

    fn failed(&mut self, error: &anyhow::Error) {
        STORE_ERRORS.add(1);
        let text = format!("{error:#}");
        if self.trouble.as_ref() == Some(&text) {
            debug!("{text}");
        } else {
            error!("{text}; what this agent reports is kept for later");
            self.trouble = Some(text);
        }
        self.pace.failed(Instant::now());
    }
}

/// Without what says of no time that it has been so since then: somebody else may have written it.
fn sound(mut report: Report) -> Report {
    let is_sound = |app: &AppReport| app.since.len() <= 40 && OffsetDateTime::parse(&app.since, &Rfc3339).is_ok();
    report.apps.retain(|_, app| is_sound(app));
    report.host = report.host.filter(is_sound);
    report
}

#[cfg(test)]
impl Reporter {
    /// One that tells somebody else.
    pub(crate) fn to(news: mpsc::UnboundedSender<News>) -> Self {
        Self { news: Some(news) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use store::reality::State;
    use tokio::task::LocalSet;

    use super::*;
    use crate::schedule::Verdict;
    use crate::schedule::tests::app_at;

    /// A store, and what an agent tells whoever publishes it there.
    struct Place {
        dir: tempfile::TempDir,
        news: mpsc::UnboundedSender<News>,
    }

    impl Place {
        fn new(dir: tempfile::TempDir) -> Self {
            let (news, receiver) = mpsc::unbounded_channel();
            let store = Store::open(Some(&format!("file:{}", dir.path().join("store").display()))).unwrap();
            let key = report_key(&"web1".parse().unwrap(), "pp-some").unwrap();
            tokio::task::spawn_local(Publisher::new(store, key, None).run(receiver));
            Self { dir, news }
        }

        fn empty() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("store")).unwrap();
            Self::new(dir)
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("store")
        }

        fn path(&self) -> PathBuf {
            self.root().join("reality/web1/pp-some.json")
        }

        fn intent(&self) {
            let app = app_at("a", "1");
            let verdicts = BTreeMap::from([(app.name.clone(), Verdict::Converge(Wanted::App(app.into())))]);
            self.news.send(News::Verdicts(verdicts)).unwrap();
        }

        fn settled(&self, ended: Ended) {
            self.news.send(News::Settled("a".parse().unwrap(), ended, Versions::default())).unwrap();
        }

        fn report(&self) -> Option<Report> {
            serde_json::from_slice(&fs::read(self.path()).ok()?).unwrap()
        }

        fn state(&self) -> Option<State> {
            Some(self.report()?.apps.values().next()?.state)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_store_has_lost_that_was_away_is_said_again() {
        LocalSet::new()
            .run_until(async {
                let place = Place::empty();
                place.intent();
                place.settled(Ok(Outcome::Converged));
                seconds(60).await;
                let before = place.report().unwrap();
                fs::remove_dir_all(place.root().join("reality")).unwrap();
                place.settled(Ok(Outcome::Converged));
                seconds(60).await;
                assert_eq!(place.report(), None, "nobody has said that anything is amiss");
                place.news.send(News::Again).unwrap();
                seconds(60).await;
                assert_eq!(place.report(), Some(before));
            })
            .await;
    }

    fn modified(path: &Path) -> Option<SystemTime> {
        fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
    }

    async fn seconds(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn converged() -> Ended {
        Ok(Outcome::Converged)
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_flaps_for_an_hour_costs_a_bounded_number_of_writes_and_its_last_state_arrives() {
        let flap = async {
            let place = Place::empty();
            place.intent();
            let (mut writes, mut last) = (0, None);
            for second in 0..3600 {
                let ended = if second % 2 == 0 { Err(format!("for the {second}. time")) } else { converged() };
                place.settled(ended);
                seconds(1).await;
                let now = modified(&place.path());
                writes += u32::from(now != last);
                last = now;
            }
            assert!((60..=126).contains(&writes), "{writes}");
            place.settled(Err("at last".to_owned()));
            seconds(31).await;
            assert_eq!(place.report().unwrap().apps.values().next().unwrap().reason.as_deref(), Some("at last"));
        };
        LocalSet::new().run_until(flap).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_down_gets_the_last_state_once_it_is_back() {
        let go = async {
            let place = Place::empty();
            let away = place.dir.path().join("away");
            place.intent();
            place.settled(converged());
            seconds(1).await;
            assert_eq!(place.state(), Some(State::Converged));
            fs::rename(place.root(), &away).unwrap();
            for n in 0..100 {
                place.settled(Err(n.to_string()));
                seconds(5).await;
            }
            fs::rename(&away, place.root()).unwrap();
            assert_eq!(place.state(), Some(State::Converged));
            seconds(61).await;
            assert_eq!(place.report().unwrap().apps.values().next().unwrap().reason.as_deref(), Some("99"));
        };
        LocalSet::new().run_until(go).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_starts_again_writes_nothing_unless_something_is_different() {
        let go = async {
            let place = Place::empty();
            place.intent();
            place.settled(converged());
            seconds(1).await;
            let mut before = place.report().unwrap();
            before.apps.values_mut().for_each(|app| app.since = "2026-01-01T00:00:00Z".to_owned());
            fs::write(place.path(), before.clone().bytes()).unwrap();
            let written = modified(&place.path());
            let Place { dir, news } = place;
            drop(news);

            let again = Place::new(dir);
            again.intent();
            seconds(1).await;
            again.settled(converged());
            seconds(100).await;
            assert_eq!(modified(&again.path()), written);
            again.settled(Err("x".to_owned()));
            seconds(1).await;
            assert!(again.report().unwrap().apps.values().all(|app| *app.since > *"2026-01-02"));

            // What makes no sense is written over.
            let mut again = again;
            before.apps.values_mut().for_each(|app| app.since = "y".repeat(10_000));
            for nonsense in [b"[]".to_vec(), before.bytes()] {
                fs::write(again.path(), nonsense).unwrap();
                let Place { dir, news } = again;
                drop(news);
                again = Place::new(dir);
                again.intent();
                again.settled(converged());
                seconds(1).await;
                let report = again.report().unwrap();
                assert!(again.state() == Some(State::Converged) && sound(report.clone()) == report);
            }
        };
        LocalSet::new().run_until(go).await;
    }
}
