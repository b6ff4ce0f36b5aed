//! What an agent says of itself: of each app, and of the host as a whole, how far it is. Pure.
//!
//! Ensures: `since` is when the state became what it is, over restarts of the agent, whatever becomes of the reason; an app
//! that is tried again and again is failing all the time, not converging now and then; a look at what is as it should be
//! changes nothing. What changes all the time is not in it.

use std::collections::{BTreeMap, BTreeSet};

use store::intent::Invalid;
use store::reality::{AppReport, Report, State};
use store::{AppName, Gather, Version};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::agent::{Outcome, Wanted};
use crate::schedule::Verdict;

/// Which versions of an app an agent has to do with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// That it is to have there.
    pub wanted: BTreeSet<Version>,
    /// That are there.
    pub there: BTreeSet<Version>,
    /// What the one that runs was started with, by its [name](store::reality::configuration).
    pub configuration: Option<String>,
    /// The last lines that one logged which would not start.
    pub log: Vec<String>,
}

/// What an agent learns that may be worth a word.
#[derive(Debug)]
pub(crate) enum News {
    /// What is to become of each app that intent names or that is present; of others nothing is said any more.
    Verdicts(BTreeMap<AppName, Verdict>),
    /// No intent was ever read, for this reason; these are present, and left as they are.
    Unknown(BTreeSet<AppName>, String),
    /// The store was away, and may not hold any more what it held.
    Again,
    /// An attempt is about to change something.
    Begun(AppName),
    Settled(AppName, Ended, Versions),
    /// What became of the host as a whole.
    Host(Ended),
}

/// How an attempt ended, or how it failed.
pub(crate) type Ended = Result<Outcome, String>;

/// Now, in UTC and whole seconds: `2026-11-22T03:14:08Z`.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a number of nanoseconds");
    now.format(&Rfc3339).expect("a year of four digits")
}

/// All that is to be said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    apps: BTreeMap<AppName, App>,
    host: Entry,
    known: Known,
    /// What an agent before this one had said last.
    before: BTreeMap<AppName, AppReport>,
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    /// Since when, and why.
    Unknown {
        present: BTreeSet<AppName>,
        reason: String,
        since: String,
    },
    Intent,
}

#[derive(Debug)]
struct App {
    /// `None` until there is one.
    verdict: Option<Verdict>,
    entry: Entry,
    /// It has failed, and nobody has said since that something else is wanted.
    is_retried: bool,
}

#[derive(Debug, Default)]
struct Entry {
    report: Option<AppReport>,
    /// It was said by an agent before this one, or is the first that this one has to say.
    is_first: bool,
}

impl Said {
    /// Takes note; tells whether there is something else to say now.
    pub(crate) fn hear(&mut self, news: News, now: &str) -> bool {
        match news {
            News::Verdicts(verdicts) => self.judge(verdicts, now),
            News::Unknown(present, reason) => self.leave(present, reason, now),
            News::Again => false,
            News::Begun(name) => self.apps.get_mut(&name).is_some_and(|app| app.begin(now)),
            News::Settled(name, ended, versions) => {
                self.apps.get_mut(&name).is_some_and(|app| app.settle(ended, versions, now))
            }
            News::Host(ended) => self.host.end(ended, now),
        }
    }

    /// Goes on from what an agent before this one had said last.
    pub(crate) fn take_over(&mut self, before: Report) {
        let Report { version: _, mut apps, host } = before;
        self.host.inherit(host);
        match self.known {
            Known::Nothing | Known::Unknown { .. } => self.before = apps,
            Known::Intent => self.apps.iter_mut().for_each(|(name, app)| app.inherit(apps.remove(name))),
        }
    }

    /// Whether something is said of each app that intent names or that is present.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.known, Known::Intent) && self.apps.values().all(|app| app.entry.report.is_some())
    }

    /// The report, once there is something to say.
    pub(crate) fn report(&self) -> Option<Report> {
        let apps = match &self.known {
            Known::Nothing => return None,
            Known::Intent => {
                self.apps.iter().filter_map(|(name, app)| Some((name.clone(), app.entry.report.clone()?))).gather()
            }
            Known::Unknown { present, reason, since } => {
                let held = |name: &AppName| {
                    let mut entry = Entry { report: self.before.get(name).cloned(), is_first: true };
                    entry.turn(State::Held, Some(reason.clone()), since);
                    Some((name.clone(), entry.report?))
                };
                // What an agent has nothing of to look at, it may still have said something of.
                present.iter().chain(self.before.keys()).filter_map(held).gather()
            }
        };
        Some(Report { version: env!("CARGO_PKG_VERSION").to_owned(), apps, host: self.host.report.clone() })
    }

    fn judge(&mut self, verdicts: BTreeMap<AppName, Verdict>, now: &str) -> bool {
        let was_known = matches!(self.known, Known::Intent);
        self.known = Known::Intent;
        let before = self.apps.len();
        self.apps.retain(|app, _| verdicts.contains_key(app));
        let mut is_news = !was_known || self.apps.len() < before;
        for (name, verdict) in verdicts {
            let app = self.apps.entry(name).or_insert_with_key(|name| App::new(self.before.remove(name)));
            is_news |= app.judge(verdict, now);
        }
        // From here on what is not in the report is new when it comes.
        self.before.clear();
        is_news
    }

    fn leave(&mut self, present: BTreeSet<AppName>, reason: String, now: &str) -> bool {
        if !matches!(self.known, Known::Nothing) {
            return false;
        }
        self.known = Known::Unknown { present, reason, since: now.to_owned() };
        true
    }
}

impl App {
    fn new(before: Option<AppReport>) -> Self {
        let mut new = Self { verdict: None, entry: Entry::default(), is_retried: false };
        new.inherit(before);
        new
    }

    fn inherit(&mut self, before: Option<AppReport>) {
        self.is_retried |= before.as_ref().is_some_and(|before| before.state == State::Failing);
        self.entry.inherit(before);
    }

    fn judge(&mut self, verdict: Verdict, now: &str) -> bool {
        let held = match &verdict {
            Verdict::Held => Some(Verdict::HELD.to_owned()),
            Verdict::Invalid(invalid) => Some(held_as_it_is(invalid)),
            Verdict::Converge(_) => None,
        };
        let before = self.verdict.replace(verdict);
        // What an agent before this one failed at may be wanted still.
        self.is_retried &= before.is_none() || before == self.verdict;
        let is_news = held.is_some_and(|reason| self.entry.turn(State::Held, Some(reason), now));
        self.note_cluster() || is_news
    }

    fn note_cluster(&mut self) -> bool {
        let (Some(Verdict::Converge(Wanted::App(app))), Some(report)) = (&self.verdict, &mut self.entry.report) else {
            return false;
        };
        let is_news = report.cluster.as_ref() != Some(&app.cluster);
        report.cluster = Some(app.cluster.clone());
        is_news
    }

    fn begin(&mut self, now: &str) -> bool {
        let may_converge = matches!(self.verdict, Some(Verdict::Converge(_))) && !self.is_retried;
        let is_news = may_converge && self.entry.turn(State::Converging, None, now);
        self.note_cluster() || is_news
    }

    fn settle(&mut self, ended: Ended, versions: Versions, now: &str) -> bool {
        // What is held stays as it is said to be: what is still finished of it is in the log.
        let Some(Verdict::Converge(wanted)) = &self.verdict else { return false };
        self.is_retried = ended.is_err();
        // Nothing of it is left here, or nothing of it was ours.
        let is_gone = *wanted == Wanted::Unnamed && matches!(ended, Ok(Outcome::Converged));
        let mut is_news = self.entry.end(if is_gone { Ok(Outcome::Nothing) } else { ended }, now);
        is_news |= self.entry.note(versions);
        self.note_cluster() || is_news
    }
}

/// As it is logged.
pub(crate) fn held_as_it_is(invalid: &Invalid) -> String {
    format!("held as it is: {invalid}")
}

impl Entry {
    fn inherit(&mut self, before: Option<AppReport>) {
        match (&mut self.report, before) {
            (None, Some(before)) if !self.is_first => (self.report, self.is_first) = (Some(before), true),
            (Some(now), Some(before)) if self.is_first && now.state == before.state => now.since = before.since,
            (_, Some(_) | None) => {}
        }
    }

    fn end(&mut self, ended: Ended, now: &str) -> bool {
        match ended {
            Ok(Outcome::Converged) => self.turn(State::Converged, None, now),
            Ok(Outcome::Waiting(reason)) => self.turn(State::Waiting, Some(reason), now),
            Ok(Outcome::Nothing) => {
                self.is_first = false;
                self.report.take().is_some()
            }
            Err(error) => self.turn(State::Failing, Some(error), now),
        }
    }

    /// Tells whether that is news.
    fn turn(&mut self, state: State, reason: Option<String>, now: &str) -> bool {
        let Some(report) = &mut self.report else {
            let (since, wanted, there) = (now.to_owned(), BTreeSet::new(), BTreeSet::new());
            let (cluster, configuration, log) = (None, None, Vec::new());
            self.report = Some(AppReport { cluster, state, since, reason, wanted, there, configuration, log });
            self.is_first = true;
            return true;
        };
        if report.state != state {
            self.is_first = false;
            (report.state, report.since) = (state, now.to_owned());
            report.log.clear();
        } else if report.reason == reason {
            return false;
        }
        report.reason = reason;
        true
    }

    fn note(&mut self, versions: Versions) -> bool {
        let Some(report) = &mut self.report else { return false };
        let Versions { wanted, there, configuration, mut log } = versions;
        if report.state == State::Converged {
            log.clear();
        }
        let is_news = (&report.wanted, &report.there, &report.configuration, &report.log)
            != (&wanted, &there, &configuration, &log);
        (report.wanted, report.there, report.configuration, report.log) = (wanted, there, configuration, log);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::app_at;

    fn name(text: &str) -> AppName {
        text.parse().unwrap()
    }

    /// The verdict on an app of which this is wanted.
    fn verdict(kind: &str) -> Verdict {
        match kind {
            "unnamed" => Verdict::Converge(Wanted::Unnamed),
            "hold" => Verdict::Held,
            "invalid" => Verdict::Invalid(Invalid { key: "nodes/web1/a".to_owned(), reason: "is empty".to_owned() }),
            version => Verdict::Converge(Wanted::App(app_at("a", version).into())),
        }
    }

    fn verdicts(kind: &str) -> News {
        News::Verdicts(BTreeMap::from([(name("a"), verdict(kind))]))
    }

    fn settled(ended: Ended) -> News {
        let (wanted, there) = (BTreeSet::from(["2".parse().unwrap()]), BTreeSet::from(["1".parse().unwrap()]));
        News::Settled(name("a"), ended, Versions { wanted, there, configuration: None, log: vec!["no".to_owned()] })
    }

    fn begun() -> News {
        News::Begun(name("a"))
    }

    fn converged() -> News {
        settled(Ok(Outcome::Converged))
    }

    fn failed(reason: &str) -> News {
        settled(Err(reason.to_owned()))
    }

    /// What is said of the app: its state, since when, and why.
    fn said(said: &Said) -> Option<(State, String, Option<String>)> {
        let app = said.report()?.apps.remove(&name("a"))?;
        Some((app.state, app.since, app.reason))
    }

    /// Hears one after the other, at 1, 2, …; tells what is said after each.
    fn hear(of: &mut Said, news: Vec<News>) -> Vec<String> {
        let tell = |of: &Said| match said(of) {
            Some((state, since, reason)) => format!("{state:?} {since} {}", reason.unwrap_or_default()),
            None => "-".to_owned(),
        };
        let each = news.into_iter().zip(1..).map(|(news, now)| {
            let before = of.report();
            let is_news = of.hear(news, &now.to_string());
            assert_eq!(is_news, of.report() != before, "what is not news is not written");
            tell(of).trim().to_owned()
        });
        each.collect()
    }

    #[test]
    fn since_changes_with_the_state_and_not_with_the_reason() {
        let waiting = || settled(Ok(Outcome::Waiting("for b".to_owned())));
        let news = vec![verdicts("1"), waiting(), failed("x"), failed("y"), converged(), converged(), failed("x")];
        let told = hear(&mut Said::default(), news);
        let expected =
            ["-", "Waiting 2 for b", "Failing 3 x", "Failing 3 y", "Converged 5", "Converged 5", "Failing 7 x"];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_app_is_converging_from_the_first_change_on_and_never_by_a_look() {
        let news = vec![verdicts("1"), converged(), converged(), begun(), converged(), converged()];
        let told = hear(&mut Said::default(), news);
        assert_eq!(told, ["-", "Converged 2", "Converged 2", "Converging 4", "Converged 5", "Converged 5"]);
    }

    #[test]
    fn what_is_tried_again_is_failing_all_the_time_until_something_else_is_wanted() {
        let news = vec![verdicts("1"), begun(), failed("x"), begun(), failed("x"), verdicts("2"), begun(), converged()];
        let told = hear(&mut Said::default(), news);
        assert_eq!(told[1..4], ["Converging 2", "Failing 3 x", "Failing 3 x"]);
        assert_eq!(told[4..], ["Failing 3 x", "Failing 3 x", "Converging 7", "Converged 8"]);
    }

    #[test]
    fn what_nobody_may_touch_is_held_and_says_why_whatever_is_finished_of_it() {
        let news = vec![verdicts("hold"), verdicts("invalid"), begun(), failed("x"), verdicts("1"), begun()];
        let told = hear(&mut Said::default(), news);
        let invalid = "Held 1 held as it is: nodes/web1/a: is empty";
        let held = format!("Held 1 {}", Verdict::HELD);
        assert_eq!(told, [&held, invalid, invalid, invalid, invalid, "Converging 6"]);
        let unknown = || News::Unknown(BTreeSet::from([name("a")]), "down".to_owned());
        let told =
            hear(&mut Said::default(), vec![unknown(), begun(), converged(), verdicts("1"), converged(), unknown()]);
        assert_eq!(told, ["Held 1 down", "Held 1 down", "Held 1 down", "-", "Converged 5", "Converged 5"]);
    }

    #[test]
    fn of_what_is_gone_and_of_what_is_not_this_agents_nothing_is_said() {
        let gone = || News::Verdicts(BTreeMap::new());
        let news = vec![verdicts("1"), converged(), verdicts("unnamed"), begun(), converged(), converged()];
        let told = hear(&mut Said::default(), news);
        assert_eq!(told[2..], ["Converged 2", "Converging 4", "-", "-"]);
        let mut of = Said::default();
        let nothing = settled(Ok(Outcome::Nothing));
        let told = hear(&mut of, vec![verdicts("1"), converged(), gone(), verdicts("1"), nothing]);
        assert_eq!(told, ["-", "Converged 2", "-", "-", "-"]);
        assert_eq!(of.report().unwrap().host, None);
        of.hear(News::Host(Ok(Outcome::Nothing)), "6");
        assert_eq!(of.report().unwrap().host, None);
        of.hear(News::Host(Err("no iptables".to_owned())), "7");
        assert_eq!(of.report().unwrap().host.unwrap().reason.as_deref(), Some("no iptables"));
    }

    /// What an agent says that takes over from one that had heard this.
    fn after(before: Vec<News>) -> Said {
        let mut one = Said::default();
        for news in before {
            one.hear(news, "0");
        }
        let mut other = Said::default();
        other.take_over(one.report().unwrap());
        other
    }

    #[test]
    fn an_agent_that_starts_again_says_the_same_until_something_is_different() {
        for (before, news, told) in [
            (vec![verdicts("1"), converged()], vec![verdicts("1"), converged()], vec!["Converged 0", "Converged 0"]),
            (vec![verdicts("1"), converged()], vec![verdicts("1"), failed("x")], vec!["Converged 0", "Failing 2 x"]),
            (
                vec![verdicts("1"), failed("x")],
                vec![verdicts("1"), begun(), failed("x"), begun()],
                vec!["Failing 0 x", "Failing 0 x", "Failing 0 x", "Failing 0 x"],
            ),
            (
                vec![verdicts("1"), failed("x")],
                vec![verdicts("1"), verdicts("2"), begun()],
                vec!["Failing 0 x", "Failing 0 x", "Converging 3"],
            ),
            (vec![verdicts("1"), begun()], vec![verdicts("1"), begun()], vec!["Converging 0", "Converging 0"]),
            (
                vec![verdicts("hold")],
                vec![verdicts("hold")],
                vec![concat!("Held 0 held: intent says \"hold\": true for", " this app on this node")],
            ),
            // It is not what it was when it comes back.
            (
                vec![verdicts("1"), converged()],
                vec![News::Verdicts(BTreeMap::new()), verdicts("1"), converged()],
                vec!["-", "-", "Converged 3"],
            ),
        ] {
            let mut of = after(before);
            assert_eq!(of.report(), None, "nothing is said before intent is known");
            // As while the store does not answer.
            of.hear(News::Unknown(BTreeSet::from([name("a")]), "down".to_owned()), "1");
            assert_eq!(hear(&mut of, news), told);
        }
    }

    #[test]
    fn what_the_store_holds_is_gone_on_from_also_when_it_is_read_late() {
        let before = after(vec![verdicts("1"), converged()]);
        let before = Report { apps: before.before, version: "1".to_owned(), host: None };
        let mut of = Said::default();
        hear(&mut of, vec![verdicts("1"), converged()]);
        of.take_over(before.clone());
        assert_eq!(said(&of).unwrap().1, "0");
        let mut of = Said::default();
        hear(&mut of, vec![verdicts("1"), failed("x"), converged()]);
        of.take_over(before);
        assert_eq!(said(&of).unwrap().1, "3", "it was otherwise in between");
    }

    #[test]
    fn of_an_app_that_is_converged_no_log_is_told_and_of_every_one_its_cluster_and_versions() {
        let mut of = Said::default();
        hear(&mut of, vec![verdicts("1"), failed("x")]);
        let app = of.report().unwrap().apps.remove(&name("a")).unwrap();
        assert_eq!((app.cluster.unwrap().as_str(), app.log), ("dev", vec!["no".to_owned()]));
        assert_eq!((app.wanted.len(), app.there.len()), (1, 1));
        hear(&mut of, vec![converged()]);
        assert!(of.report().unwrap().apps.remove(&name("a")).unwrap().log.is_empty());
    }
}
