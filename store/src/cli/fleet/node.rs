//! One node of a cluster: how far it is, and what keeps it from being as intent has it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use store::intent::{App, Invalid};
use store::reality::{AppReport, Report, State, configuration};
use store::{AppName, Life, NodeName, Registered, Version};

pub(in super::super) const PREPARER: &str = "pp-preparer";
pub(in super::super) const SETLIVE: &str = "pp-setlive";
const IPTABLES: &str = "pp-iptables";

/// One node that intent has the app on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Node {
    pub(in super::super) name: NodeName,
    /// The version that is wanted is installed.
    pub(in super::super) prepared: bool,
    /// It runs, as far as the host can tell.
    pub(in super::super) live: bool,
    /// Clients are sent to it.
    pub(in super::super) healthy: bool,
    /// Clients are sent to just what is wanted: also its configuration is.
    pub(in super::super) arrived: bool,
    /// Nothing is to run here for now.
    pub(in super::super) drained: bool,
    /// `None` when all is as intent wants it.
    pub(in super::super) obstacle: Option<Obstacle>,
}

/// What keeps a node from being as intent has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Obstacle {
    pub(in super::super) trouble: Trouble,
    /// In a sentence, with what to do where that can be known.
    pub(in super::super) says: String,
    pub(in super::super) since: Option<String>,
    /// The last lines of what did not start.
    pub(in super::super) log: Vec<String>,
}

/// Those that need somebody most come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Trouble {
    Converging,
    /// An agent has yet to see what intent says now.
    Unseen,
    /// By an operator.
    Held,
    Waiting,
    /// Nothing is known of an agent.
    Unknown,
    Invalid,
    /// The agent.
    Dead,
    Failing,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Converging => "converging",
            Self::Unseen => "unseen",
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Unknown => "unknown",
            Self::Invalid => "invalid",
            Self::Dead => "dead",
            Self::Failing => "failing",
        })
    }
}

/// What was seen of a node.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Seen<'a> {
    pub(in super::super) node: &'a NodeName,
    pub(in super::super) app: &'a AppName,
    pub(in super::super) intent: &'a Result<Arc<App>, Invalid>,
    /// By the agent's name; `Err` for one that cannot be read.
    pub(in super::super) reports: &'a BTreeMap<String, Result<Report, String>>,
    pub(in super::super) agents: &'a BTreeMap<String, Life>,
    /// Its instance; `Err` where instances cannot be known.
    pub(in super::super) instance: Result<Option<&'a Registered>, &'a str>,
}

impl Seen<'_> {
    pub(in super::super) fn node(&self) -> Node {
        let passes = |it: &Registered| it.passing && Some(&it.version) == self.active();
        let healthy = self.instance.is_ok_and(|it| it.is_some_and(passes));
        let runs_it = |said: &AppReport| self.intent.as_ref().is_ok_and(|app| has_configuration(said, app));
        Node {
            name: self.node.clone(),
            prepared: self.has(PREPARER),
            live: self.has(SETLIVE),
            healthy,
            arrived: healthy && self.has(SETLIVE) && self.said(SETLIVE).is_some_and(runs_it),
            drained: self.intent.as_ref().is_ok_and(|app| app.drain),
            obstacle: self.obstacle(),
        }
    }

    /// What is to run here.
    fn active(&self) -> Option<&Version> {
        self.intent.as_ref().ok().and_then(|app| running(app))
    }

    /// Whether an agent says that what is to run is there.
    fn has(&self, agent: &str) -> bool {
        self.active().is_some_and(|version| self.said(agent).is_some_and(|it| it.there.contains(version)))
    }

    fn said(&self, agent: &str) -> Option<&AppReport> {
        self.reports.get(agent)?.as_ref().ok()?.apps.get(self.app)
    }

    fn obstacle(&self) -> Option<Obstacle> {
        let Self { node, app: name, .. } = self;
        let app = match self.intent {
            Err(invalid) => return Some(plain(Trouble::Invalid, format!("{invalid}; what runs is left as it is"))),
            Ok(app) if app.hold => {
                let says = format!("nodes/{node}/{name} says \"hold\": true; `pp-store unhold {node} {name}`");
                return Some(plain(Trouble::Held, says));
            }
            Ok(app) => app,
        };
        let (prepares, runs) = (self.agent(PREPARER, app), self.agent(SETLIVE, app));
        let first = match &prepares {
            // Trouble with a version that is only to be at hand keeps nobody from running what is there.
            Some(prepares) if !self.has(PREPARER) && runs.as_ref().is_none_or(|it| it.trouble <= prepares.trouble) => {
                Some(prepares.clone())
            }
            Some(_) | None => runs,
        };
        let first = first.or_else(|| self.host(SETLIVE)).or_else(|| self.instance(app));
        first.or(prepares).or_else(|| self.filter())
    }

    /// What keeps one agent from having done its part.
    fn agent(&self, agent: &str, app: &App) -> Option<Obstacle> {
        let Self { node, .. } = self;
        let life = self.agents.get(agent);
        let said = match self.reports.get(agent) {
            Some(Err(reason)) => {
                return Some(plain(Trouble::Unknown, format!("reality/{node}/{agent}: {reason}")));
            }
            None if life.is_none() => {
                let says = format!("no {agent} of {node} has ever said anything here: is it started, on this store?");
                return Some(plain(Trouble::Unknown, says));
            }
            None => None,
            Some(Ok(report)) => report.apps.get(self.app),
        };
        if life == Some(&Life::Dead) {
            return Some(plain(Trouble::Dead, dead(agent, node)));
        }
        if life.is_none() {
            let says = format!("{agent} of {node} was ended, or this token may not see that it is alive");
            return Some(plain(Trouble::Unknown, says));
        }
        let Some(said) = said.filter(|said| is_of_now(agent, said, app)) else {
            let says =
                format!("{agent} of {node} has yet to see what intent says now; if that lasts, see its log there");
            return Some(plain(Trouble::Unseen, says));
        };
        let trouble = match said.state {
            State::Converged => return None,
            State::Converging => Trouble::Converging,
            State::Waiting => Trouble::Waiting,
            State::Held => Trouble::Held,
            State::Failing => Trouble::Failing,
        };
        let reason = said.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let does = match said.state {
            State::Converged | State::Converging => "is at work on it",
            State::Waiting => "waits",
            State::Held => "leaves it as it is",
            State::Failing => "fails",
        };
        let logged = said.log.last().map(|line| format!("; it logged: {line}")).unwrap_or_default();
        Some(Obstacle {
            trouble,
            says: format!("{agent} {does}{reason}{logged}"),
            since: Some(said.since.clone()),
            log: said.log.clone(),
        })
    }

    /// What keeps the packet filter from being as intent has it, where an agent looks after one.
    fn filter(&self) -> Option<Obstacle> {
        match self.agents.get(IPTABLES)? {
            Life::Dead => Some(plain(Trouble::Dead, dead(IPTABLES, self.node))),
            Life::Alive => self.host(IPTABLES),
        }
    }

    /// What an agent fails at that concerns all apps of the host.
    fn host(&self, agent: &str) -> Option<Obstacle> {
        let said = self.reports.get(agent)?.as_ref().ok()?.host.as_ref().filter(|it| it.state == State::Failing)?;
        let says = format!("{agent} fails: {}", said.reason.as_deref().unwrap_or_default());
        Some(Obstacle { since: Some(said.since.clone()), ..plain(Trouble::Failing, says) })
    }

    /// Why clients are not sent to what its agents are content with.
    fn instance(&self, app: &App) -> Option<Obstacle> {
        let active = running(app)?;
        let instance = match self.instance {
            Ok(instance) => instance,
            Err(reason) => {
                return Some(plain(Trouble::Unknown, format!("whether it passes cannot be known: {reason}")));
            }
        };
        let says = match instance {
            None => "it runs, and is not registered yet".to_owned(),
            Some(it) if it.version != *active => format!("{} is still registered", it.version),
            Some(it) if it.passing => return None,
            Some(Registered { maintenance: Some(notes), .. }) => {
                format!("no client is sent there: an operator's maintenance is on ({notes})")
            }
            Some(it) if it.check_passes => {
                "no client is sent there: its host, or another check of it, does not pass".to_owned()
            }
            Some(it) => {
                format!("no client is sent there: its check says: {}", it.says.lines().next().unwrap_or_default())
            }
        };
        Some(plain(Trouble::Failing, says))
    }
}

/// Whether an agent that said this had seen what intent says now.
fn is_of_now(agent: &str, said: &AppReport, app: &App) -> bool {
    // Which versions are wanted is said once an attempt has ended.
    if said.state == State::Converging {
        return true;
    }
    if said.state == State::Converged && running(app).is_some() && !has_configuration(said, app) {
        return false;
    }
    let is_cluster = said.cluster.as_ref() == Some(&app.cluster);
    let is_wanted = match agent {
        PREPARER => app.versions().all(|version| said.wanted.contains(version)),
        _ => said.wanted.iter().eq(running(app)),
    };
    is_cluster && is_wanted
}

/// Whether what runs was started with what intent says now; an agent that does not tell is taken at its word.
fn has_configuration(said: &AppReport, app: &App) -> bool {
    let now = configuration(&app.user_config, app.restart.as_deref());
    said.configuration.as_ref().is_none_or(|it| *it == now)
}

fn dead(agent: &str, node: &NodeName) -> String {
    format!(
        "{agent} of {node} is dead, cut off or refused by the store: unless its host is down, what runs there runs on as it is; \
         see its log there"
    )
}

/// The version that is to run on a node with this intent.
fn running(app: &App) -> Option<&Version> {
    app.active.as_ref().filter(|_| !app.drain)
}

fn plain(trouble: Trouble, says: String) -> Obstacle {
    Obstacle { trouble, says, since: None, log: Vec::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use store::intent::Listing;
    use store::{Document, NodeName, Reports, Revision};

    use super::*;

    /// Of web1, on which version 2 of slug is wanted.
    struct Host {
        intent: Result<Arc<App>, Invalid>,
        reports: BTreeMap<String, Result<Report, String>>,
        agents: BTreeMap<String, Life>,
        instance: Option<Registered>,
    }

    impl Host {
        fn new() -> Self {
            let mut host = Self {
                intent: intent(&json!({"cluster": "dev"})),
                reports: BTreeMap::new(),
                agents: [PREPARER, SETLIVE].map(|agent| (agent.to_owned(), Life::Alive)).into(),
                instance: Some(instance()),
            };
            host.says(PREPARER, json!({"state": "converged", "wanted": ["1", "2"], "there": ["1", "2"]}));
            host.says(SETLIVE, json!({"state": "converged", "wanted": ["2"], "there": ["2"]}));
            host
        }

        fn says(&mut self, agent: &str, mut app: Value) {
            app["since"] = json!("2026-11-22T03:14:08Z");
            app["cluster"] = json!("dev");
            let report = json!({"version": "0.1.0", "apps": {"slug": app}});
            self.reports.insert(agent.to_owned(), Ok(serde_json::from_value(report).unwrap()));
        }

        fn node(&self) -> Node {
            let (node, app) = (&"web1".parse::<NodeName>().unwrap(), &"slug".parse::<AppName>().unwrap());
            let Self { intent, reports, agents, instance } = self;
            Seen { node, app, intent, reports, agents, instance: Ok(instance.as_ref()) }.node()
        }

        fn obstacle(&self) -> Option<(Trouble, String)> {
            self.node().obstacle.map(|it| (it.trouble, it.says))
        }
    }

    fn intent(node: &Value) -> Result<Arc<App>, Invalid> {
        let documents = [
            ("nodes/web1/slug", node.clone()),
            ("clusters/slug/dev/config", json!({"versions": {"1": "prep", "2": "active"}})),
            ("clusters/slug/dev/deploy_config", json!({"basedir": "/srv/slug"})),
        ];
        let document = |text: Value| Ok(Document { bytes: text.to_string().into(), revision: Revision(String::new()) });
        let documents = documents.into_iter().map(|(key, text)| (key.to_owned(), document(text))).collect();
        let intent = Listing::new(&"web1".parse().unwrap(), &documents).intent(&documents);
        intent.apps.into_values().next().unwrap()
    }

    fn instance() -> Registered {
        Registered {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: "web1".parse().unwrap(),
            version: "2".parse().unwrap(),
            digest: "d2".to_owned(),
            port: None,
            host: "web1".to_owned(),
            checks: std::collections::BTreeSet::new(),
            passing: true,
            check_passes: true,
            drained: None,
            maintenance: None,
            says: String::new(),
            reports: Reports::Lasting,
        }
    }

    type Change = fn(&mut Host);

    #[test]
    fn of_all_that_keeps_a_node_what_the_rest_waits_for_is_said() {
        let healthy = Host::new().node();
        assert_eq!((healthy.prepared, healthy.live, healthy.healthy, healthy.obstacle), (true, true, true, None));
        let table: [(Change, Trouble, &str); 16] = [
            (
                |host| host.intent = intent(&json!({"cluster": 1})),
                Trouble::Invalid,
                "nodes/web1/slug: cluster: invalid type: integer `1`, expected a string at line 1 column 12; what runs is \
                 left as it is",
            ),
            (
                |host| host.intent = intent(&json!({"cluster": "dev", "hold": true})),
                Trouble::Held,
                "nodes/web1/slug says \"hold\": true; `pp-store unhold web1 slug`",
            ),
            (
                |host| {
                    host.says(
                        PREPARER,
                        json!({"state": "failing", "wanted": ["1", "2"], "there": ["1"], "reason": "404"}),
                    );
                    host.says(SETLIVE, json!({"state": "waiting", "wanted": ["2"], "reason": "for slug_2"}));
                },
                Trouble::Failing,
                "pp-preparer fails: 404",
            ),
            (
                |host| {
                    host.says(
                        PREPARER,
                        json!({"state": "failing", "wanted": ["1", "2"], "there": ["1"], "reason": "404"}),
                    );
                    host.says(SETLIVE, json!({"state": "failing", "wanted": ["2"], "reason": "no runsv"}));
                },
                Trouble::Failing,
                "pp-preparer fails: 404",
            ),
            (
                |host| {
                    host.says(SETLIVE, json!({"state": "waiting", "wanted": ["2"], "reason": "2 of 3 healthy, min 2"}));
                },
                Trouble::Waiting,
                "pp-setlive waits: 2 of 3 healthy, min 2",
            ),
            (
                |host| host.says(SETLIVE, json!({"state": "converging", "wanted": ["1"], "there": ["1"]})),
                Trouble::Converging,
                "pp-setlive is at work on it",
            ),
            (
                |host| host.says(SETLIVE, json!({"state": "held", "wanted": ["2"], "reason": "403"})),
                Trouble::Held,
                "pp-setlive leaves it as it is: 403",
            ),
            (
                |host| host.says(SETLIVE, json!({"state": "converged", "wanted": ["1"], "there": ["1"]})),
                Trouble::Unseen,
                "pp-setlive of web1 has yet to see what intent says now; if that lasts, see its log there",
            ),
            (
                |host| host.reports.get_mut(SETLIVE).unwrap().as_mut().unwrap().apps.clear(),
                Trouble::Unseen,
                "pp-setlive of web1 has yet to see what intent says now; if that lasts, see its log there",
            ),
            (
                |host| {
                    host.agents.insert(SETLIVE.to_owned(), Life::Dead);
                    host.says(SETLIVE, json!({"state": "waiting", "wanted": ["2"], "reason": "for web2"}));
                },
                Trouble::Dead,
                "pp-setlive of web1 is dead, cut off or refused by the store: unless its host is down, what runs there runs on as it \
                 is; see its log there",
            ),
            (
                |host| {
                    host.agents.clear();
                    host.reports.clear();
                },
                Trouble::Unknown,
                "no pp-preparer of web1 has ever said anything here: is it started, on this store?",
            ),
            (
                |host| host.agents.retain(|agent, _| agent != SETLIVE),
                Trouble::Unknown,
                "pp-setlive of web1 was ended, or this token may not see that it is alive",
            ),
            (
                |host| drop(host.reports.insert(SETLIVE.to_owned(), Err("this is no report".to_owned()))),
                Trouble::Unknown,
                "reality/web1/pp-setlive: this is no report",
            ),
            (|host| host.instance = None, Trouble::Failing, "it runs, and is not registered yet"),
            (
                |host| {
                    let it = host.instance.as_mut().unwrap();
                    (it.passing, it.check_passes, it.says) = (false, false, "503\nbusy".to_owned());
                },
                Trouble::Failing,
                "no client is sent there: its check says: 503",
            ),
            (
                |host| {
                    let failing = json!({"state": "failing", "since": "2026-11-22T03:14:08Z", "reason": "no iptables"});
                    let report = json!({"version": "0.1.0", "host": failing});
                    host.reports.insert(IPTABLES.to_owned(), Ok(serde_json::from_value(report).unwrap()));
                    host.agents.insert(IPTABLES.to_owned(), Life::Alive);
                },
                Trouble::Failing,
                "pp-iptables fails: no iptables",
            ),
        ];
        for (change, trouble, says) in table {
            let mut host = Host::new();
            change(&mut host);
            assert_eq!(host.obstacle(), Some((trouble, says.to_owned())));
        }
    }

    #[test]
    fn what_passes_with_another_configuration_has_not_arrived() {
        let mut host = Host::new();
        assert!(host.node().arrived, "an agent from before there was that does not tell");
        let name = |restart| configuration(&serde_json::Map::new(), restart);
        for (told, arrived) in [(name(None), true), (name(Some("now")), false)] {
            host.says(SETLIVE, json!({"state": "converged", "wanted": ["2"], "there": ["2"], "configuration": told}));
            let node = host.node();
            assert_eq!((node.healthy, node.arrived), (true, arrived));
            assert_eq!(node.obstacle.map(|it| it.trouble), (!arrived).then_some(Trouble::Unseen));
        }
        host.reports.remove(SETLIVE);
        assert!(host.node().healthy && !host.node().arrived);
    }

    #[test]
    fn a_version_that_is_only_to_be_at_hand_comes_after_what_runs() {
        let mut host = Host::new();
        host.says(PREPARER, json!({"state": "failing", "wanted": ["1", "2"], "there": ["2"], "reason": "no 1"}));
        assert_eq!(host.obstacle(), Some((Trouble::Failing, "pp-preparer fails: no 1".to_owned())));
        host.says(SETLIVE, json!({"state": "waiting", "wanted": ["2"], "reason": "for web2"}));
        assert_eq!(host.obstacle(), Some((Trouble::Waiting, "pp-setlive waits: for web2".to_owned())));
    }
}
