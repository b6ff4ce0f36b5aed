use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use store::Store;
use store::reality::State;
use tokio::task::LocalSet;

use super::*;
use crate::agent::Permits;

/// An agent whose attempts end as the script says, then converge; it notes when each began.
#[derive(Default)]
struct Scripted {
    script: RefCell<VecDeque<(AppName, Step)>>,
    began: RefCell<Vec<(String, Duration)>>,
    /// When the host was attempted, and how many of those attempts fail.
    whole: RefCell<Vec<Duration>>,
    whole_fails: usize,
    start: std::cell::OnceCell<Instant>,
}

enum Step {
    Fail,
    Wait,
    Hang,
    /// For ever.
    Work,
    UntilChanged,
}

impl Agent for Scripted {
    const NAME: &'static str = "pp-scripted";

    fn present(&self) -> Result<BTreeSet<AppName>> {
        Ok(["left".parse()?].into())
    }

    async fn converge(&self, mut task: Task) -> Result<Outcome> {
        let wanted = match task.wanted() {
            Wanted::App(_) => "App",
            Wanted::Unnamed => "Unnamed",
            Wanted::Unknown => "Unknown",
            Wanted::Held => "Held",
        };
        let at = self.start.get_or_init(Instant::now).elapsed();
        self.began.borrow_mut().push((format!("{} {wanted}", task.app), at));
        let mine = self.script.borrow().iter().position(|(app, _)| *app == task.app);
        let step = mine.and_then(|index| self.script.borrow_mut().remove(index));
        match step.map(|(_, step)| step) {
            None => Ok(Outcome::Converged),
            Some(Step::Fail) => anyhow::bail!("as the script says"),
            Some(Step::Wait) => Ok(Outcome::Waiting("for the next step".to_owned())),
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Work) => {
                let _permit = task.permit().await;
                std::future::pending().await
            }
            Some(Step::UntilChanged) => {
                task.changed().await;
                Ok(Outcome::Waiting("changed".to_owned()))
            }
        }
    }

    async fn converge_host(&self, _: Rc<NodeIntent>, _: &Host) -> Result<Outcome> {
        let at = self.start.get_or_init(Instant::now).elapsed();
        self.whole.borrow_mut().push(at);
        anyhow::ensure!(self.whole.borrow().len() > self.whole_fails, "as the script says");
        Ok(Outcome::Converged)
    }
}

fn intent(apps: &[(&str, &str)]) -> NodeIntent {
    let app = |name: &str, kind: &str| match kind {
        "invalid" => Err(Invalid { key: "k".to_owned(), reason: "r".to_owned() }),
        _ => Ok(app_at(name, kind).into()),
    };
    let apps = apps.iter().map(|(name, kind)| (name.parse().unwrap(), app(name, kind))).collect();
    NodeIntent { apps, strays: Vec::new() }
}

/// An app whose active version is `kind`, or which is held.
pub(crate) fn app_at(name: &str, kind: &str) -> store::intent::App {
    let key = |what: &str| format!("clusters/{name}/dev/{what}");
    let documents = [
        (format!("nodes/web1/{name}"), format!(r#"{{"cluster": "dev", "hold": {}}}"#, kind == "hold")),
        (key("config"), format!(r#"{{"versions": {{"{kind}": "active"}}}}"#)),
        (key("deploy_config"), format!(r#"{{"basedir": "/srv/{name}"}}"#)),
    ];
    let document = |text: String| store::Document { bytes: text.into(), revision: store::Revision(String::new()) };
    let documents = documents.into_iter().map(|(key, text)| (key, Ok(document(text)))).collect();
    let listing = store::intent::Listing::new(&"web1".parse().unwrap(), &documents);
    Arc::unwrap_or_clone(listing.intent(&documents).apps.remove(name).unwrap().unwrap())
}

/// Runs the schedule for some virtual time on each of the intents, and tells which attempts began when.
async fn run(script: Vec<(&str, Step)>, intents: Vec<NodeIntent>, each: Duration) -> Vec<(String, Duration)> {
    run_on(script, intents.into_iter().map(Some).collect(), each).await
}

async fn run_on(
    script: Vec<(&str, Step)>,
    intents: Vec<Option<NodeIntent>>,
    each: Duration,
) -> Vec<(String, Duration)> {
    let script = script.into_iter().map(|(app, step)| (app.parse().unwrap(), step)).collect::<VecDeque<_>>();
    let agent = Rc::new(Scripted { script: script.into(), ..Scripted::default() });
    drive(&agent, intents, each).await;
    agent.began.take()
}

async fn drive(agent: &Rc<Scripted>, intents: Vec<Option<NodeIntent>>, each: Duration) {
    drive_marked(agent, intents, each, None).await;
}

async fn drive_marked(agent: &Rc<Scripted>, intents: Vec<Option<NodeIntent>>, each: Duration, mark: Option<Mark>) {
    drive_telling(agent, intents, each, (mark, Reporter::default())).await;
}

async fn drive_telling(
    agent: &Rc<Scripted>,
    intents: Vec<Option<NodeIntent>>,
    each: Duration,
    to: (Option<Mark>, Reporter),
) {
    agent.start.get_or_init(Instant::now);
    let host = Host {
        node: "web1".parse().unwrap(),
        store: Store::open(Some("file:nowhere")).unwrap(),
        source: crate::Source::Store,
        read_only: false,
        permits: Permits::new(NonZeroU32::MIN),
        life: Arc::default(),
    };
    let (sender, receiver) = mpsc::channel(1);
    LocalSet::new()
        .run_until(async {
            let loops = keep_converging(agent.clone(), host, receiver, Duration::from_secs(60), to);
            let feed = async {
                for intent in intents {
                    sender.send(intent.ok_or_else(|| "it is down".to_owned())).await.unwrap();
                    tokio::time::sleep(each).await;
                }
            };
            tokio::select! { _ = loops => {}, () = feed => {} }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn how_far_each_app_is_and_the_host_is_told_as_it_comes() {
    let told = async |script: Vec<(&str, Step)>, intents| {
        let script = script.into_iter().map(|(app, step)| (app.parse().unwrap(), step)).collect::<VecDeque<_>>();
        let agent = Rc::new(Scripted { script: script.into(), whole_fails: 1000, ..Scripted::default() });
        let (sender, mut receiver) = mpsc::unbounded_channel();
        drive_telling(&agent, intents, Duration::from_millis(10), (None, Reporter::to(sender))).await;
        let mut said = crate::report::Said::default();
        while let Some(news) = receiver.recv().await {
            said.hear(news, "now");
        }
        let report = said.report().expect("there is something to say");
        let apps = report.apps.into_iter().map(|(app, report)| (app.to_string(), report.state));
        (apps.collect::<Vec<_>>(), report.host)
    };
    let names = [("a", "1"), ("b", "hold"), ("c", "invalid"), ("d", "1"), ("e", "1"), ("f", "1"), ("g", "1")];
    let script = vec![("a", Step::Fail), ("d", Step::Wait), ("e", Step::Hang), ("f", Step::Work)];
    let (apps, host) = told(script, vec![Some(intent(&names))]).await;
    let expected = [
        ("a", State::Failing),
        ("b", State::Held),
        ("c", State::Held),
        ("d", State::Waiting),
        // It has only looked so far at e, and left is nothing of ours.
        ("f", State::Converging),
        ("g", State::Converged),
    ];
    assert_eq!(apps, expected.map(|(app, state)| (app.to_owned(), state)));
    assert_eq!(host.unwrap().state, State::Failing);
    let (apps, host) = told(Vec::new(), vec![None]).await;
    assert_eq!((apps, host), (vec![("left".to_owned(), State::Held)], None));
}

fn times(began: &[(String, Duration)], app: &str) -> Vec<f64> {
    began.iter().filter(|(name, _)| name.split(' ').next() == Some(app)).map(|(_, at)| at.as_secs_f64()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_app_that_fails_is_tried_again_after_a_backoff_that_new_intent_resets() {
    let script = (0..8).map(|_| ("a", Step::Fail)).collect();
    let began = run(script, vec![intent(&[("a", "1")]), intent(&[("a", "2")])], Duration::from_secs(20)).await;
    let at = times(&began, "a");
    let gaps = at.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    assert!((0.5..=1.01).contains(&gaps[0]) && (1.0..=2.01).contains(&gaps[1]) && (2.0..=4.01).contains(&gaps[2]));
    let second = at.iter().position(|at| (20.0..20.1).contains(at)).expect("new intent is tried at once");
    assert!(at[second + 1] - at[second] < 1.01, "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_hangs_delays_no_other_and_is_not_tried_twice_at_a_time() {
    let intents = vec![intent(&[("a", "1"), ("b", "1")]), intent(&[("a", "2"), ("b", "2")])];
    let began = run(vec![("a", Step::Hang)], intents, Duration::from_secs(5)).await;
    assert_eq!(times(&began, "a").len(), 1);
    assert_eq!(times(&began, "b").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_running_attempt_hears_of_new_intent_and_is_followed_by_another() {
    let intents = vec![intent(&[("a", "1")]), intent(&[("a", "2")])];
    let began = run(vec![("a", Step::UntilChanged)], intents, Duration::from_secs(5)).await;
    let at = times(&began, "a");
    assert!(at.len() >= 2 && at[1] < 5.2, "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_looked_at_again_soon_and_what_converged_each_interval() {
    let began = run(vec![("a", Step::Wait)], vec![intent(&[("a", "1")])], Duration::from_secs(100)).await;
    let at = times(&began, "a");
    assert!(at[1] <= 0.11, "{at:?}");
    assert!((45.0..=75.1).contains(&(at[2] - at[1])), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn held_apps_are_left_alone_and_those_of_which_nothing_is_known_only_finish_what_was_begun() {
    let intents = vec![intent(&[("a", "invalid"), ("b", "hold")])];
    let began = run(Vec::new(), intents, Duration::from_secs(5)).await;
    assert_eq!(began.iter().map(|(app, _)| app.as_str()).collect::<Vec<_>>(), ["a Unknown", "left Unnamed"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_store_what_was_begun_is_finished_and_intent_takes_over_when_it_comes() {
    let began = run_on(Vec::new(), vec![None, Some(intent(&[("a", "1")]))], Duration::from_secs(5)).await;
    let began = began.iter().map(|(app, _)| app.as_str()).collect::<Vec<_>>();
    assert_eq!(began, ["left Unknown", "a App", "left Unnamed"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_intent_again_starts_nothing() {
    let intents = vec![intent(&[("a", "1")]), intent(&[("a", "1")])];
    let began = run(Vec::new(), intents, Duration::from_secs(5)).await;
    assert_eq!(times(&began, "a").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_host_as_a_whole_waits_for_intent_is_tried_again_when_it_fails_and_again_on_each_new_intent() {
    let agent = Rc::new(Scripted { whole_fails: 1, ..Scripted::default() });
    let known = |version| Some(intent(&[("a", version)]));
    drive(&agent, vec![None, known("1"), known("1"), known("2")], Duration::from_secs(5)).await;
    let at = agent.whole.take().iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
    assert!(matches!(at[..], [5.0..5.1, 5.5..6.1, 15.0..15.1]), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_made_once_each_app_was_looked_at_as_intent_wants_it() {
    let marked = async |script: Vec<(&str, Step)>, whole_fails, intents| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passed/agent");
        std::fs::create_dir(dir.path().join("passed")).unwrap();
        std::fs::write(&path, "another's").unwrap();
        let mark = Mark::new(&path, &"web1".parse().unwrap(), "file:nowhere").unwrap();
        assert!(!path.exists(), "what another process left says nothing of this one");
        let script = script.into_iter().map(|(app, step)| (app.parse().unwrap(), step)).collect::<VecDeque<_>>();
        let agent = Rc::new(Scripted { script: script.into(), whole_fails, ..Scripted::default() });
        drive_marked(&agent, intents, Duration::from_millis(10), Some(mark)).await;
        std::fs::read_to_string(path).ok()
    };
    let two = || Some(intent(&[("a", "1"), ("b", "hold"), ("c", "invalid")]));
    let text = marked(vec![("a", Step::Fail)], 1, vec![None, two()]).await.expect("also where something failed");
    let mark = serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!((mark["node"].as_str(), mark["store"].as_str()), (Some("web1"), Some("file:nowhere")));
    assert_eq!((&mark["pid"], &mark["apps"]), (&std::process::id().into(), &serde_json::json!(["a", "b", "c"])));
    assert!(marked(vec![], 0, vec![Some(intent(&[]))]).await.is_some());
    assert_eq!(marked(vec![], 0, vec![None]).await, None, "without a store there is no pass");
    assert_eq!(marked(vec![("a", Step::Hang)], 0, vec![two()]).await, None);
    assert!(marked(vec![("a", Step::Hang)], 0, vec![two(), Some(intent(&[]))]).await.is_none());
    let before = vec![("left", Step::Work)];
    assert_eq!(marked(before, 0, vec![None, two()]).await, None, "what began without intent looked at nothing");
    let at_work = vec![("a", Step::Work)];
    assert!(marked(at_work, 0, vec![two()]).await.is_some(), "what takes long is not waited for");
}
