use std::collections::BTreeSet;

use serde_json::{Value, json};
use store::lease::Leases;
use store::reality::Report;
use store::{Document, Life, NodeName, Registered, Reports, Revision};

use super::super::super::change::changes;
use super::super::super::fleet::{PREPARER, SETLIVE};
use super::super::sides::{intents, touched};
use super::super::words;
use super::*;

/// Three hosts that run version 1 of slug, of which two have to pass, and that have 2 as well.
struct Fleet {
    before: Documents,
    after: Documents,
    known: Known,
}

const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

impl Fleet {
    fn new() -> Self {
        let mut fleet = Self { before: Documents::new(), after: Documents::new(), known: Known::default() };
        fleet.both(CONFIG, json!({"versions": {"1": "active", "2": "prep"}, "min_nodes": 2}));
        fleet.both(DEPLOY, json!({"basedir": "/srv/slug", "ports": [80]}));
        for node in ["web1", "web2", "web3"] {
            fleet.both(&format!("nodes/{node}/slug"), json!({"cluster": "dev"}));
            fleet.says(node, PREPARER, json!({"wanted": ["1", "2"], "there": ["1", "2"]}));
            fleet.says(node, SETLIVE, json!({"wanted": ["1"], "there": ["1"]}));
            fleet.instance(node, "1");
        }
        fleet
    }

    fn both(&mut self, key: &str, value: Value) {
        self.before.insert(key.to_owned(), document(&value));
        self.after(key, value);
    }

    fn after(&mut self, key: &str, value: Value) {
        self.after.insert(key.to_owned(), document(&value));
    }

    fn config(&mut self, value: Value) {
        let mut config = json!({"versions": {"1": "active", "2": "prep"}, "min_nodes": 2});
        value.as_object().unwrap().iter().for_each(|(field, value)| config[field] = value.clone());
        self.after(CONFIG, config);
    }

    fn activate(&mut self, version: &str) {
        self.config(json!({"versions": {"1": "prep", version: "active"}}));
    }

    fn node(&mut self, node: &str, value: Value) {
        self.after(&format!("nodes/{node}/slug"), value);
    }

    /// Of an agent that is alive.
    fn says(&mut self, node: &str, agent: &str, mut app: Value) {
        app["since"] = json!("2026-11-22T03:14:08Z");
        app["cluster"] = json!("dev");
        app["state"] = app.get("state").cloned().unwrap_or(json!("converged"));
        let report = serde_json::from_value::<Report>(json!({"version": "0.1.0", "apps": {"slug": app}})).unwrap();
        let node = name(node);
        self.known.reports.entry(node.clone()).or_default().insert(agent.to_owned(), Ok(report));
        self.known.agents.entry(node).or_default().insert(agent.to_owned(), Life::Alive);
    }

    fn instance(&mut self, node: &str, version: &str) {
        let place = ("slug".parse().unwrap(), "dev".parse().unwrap());
        let all = self.known.instances.entry(place).or_default();
        all.retain(|it| it.node.as_str() != node);
        all.push(Registered {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: name(node),
            version: version.parse().unwrap(),
            digest: "d1".to_owned(),
            port: None,
            host: node.to_owned(),
            checks: BTreeSet::new(),
            passing: true,
            check_passes: true,
            drained: None,
            maintenance: None,
            says: String::new(),
            reports: Reports::Lasting,
        });
    }

    /// As if nobody had ever heard of this node.
    fn forget(&mut self, node: &str) {
        self.known.reports.remove(&name(node));
        self.known.agents.remove(&name(node));
        self.known.instances.values_mut().for_each(|all| all.retain(|it| it.node.as_str() != node));
    }

    fn foreseen(&self) -> Foreseen {
        let (was, is) = (intents(&self.before), intents(&self.after));
        let (changes, _) = changes(&self.before, &self.after, |_| true);
        let sides = Sides { before: &self.before, after: &self.after, intents: &is };
        foresee(sides, &touched(&was, &is), &changes, &self.known)
    }

    /// What is said, but for the name of the cluster and for keys.
    fn lines(&self) -> Vec<String> {
        let is_key = |line: &str| line.starts_with("  nodes/") || line.starts_with("  clusters/");
        let lines = words::lines(&self.foreseen()).into_iter();
        lines.filter(|line| line.starts_with("  ") && !is_key(line)).map(|line| line.trim().to_owned()).collect()
    }
}

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn document(value: &Value) -> Result<Document, String> {
    Ok(Document { bytes: value.to_string().into(), revision: Revision("1".to_owned()) })
}

type Change = fn(&mut Fleet);

#[test]
fn each_consequence_is_said_of_the_hosts_that_it_is_of() {
    let table: [(Change, &[&str]); 23] = [
        (|_| (), &[]),
        (|fleet| fleet.activate("2"), &["web1 web2 web3: 2 is prepared; replace 1 by 2, one at a time"]),
        (
            |fleet| {
                fleet.activate("2");
                fleet.says("web2", PREPARER, json!({"wanted": ["1", "2"], "there": ["1"]}));
            },
            &[
                "web1 web3: 2 is prepared; replace 1 by 2, one at a time",
                "web2: fetch and prepare 2; replace 1 by 2, one at a time",
            ],
        ),
        (
            |fleet| fleet.activate("3"),
            &[
                "web1 web2 web3: fetch and prepare 3; replace 1 by 3, one at a time",
                "warning: no host reports 3 as prepared: until one has it, hosts go on with what they run",
            ],
        ),
        (
            |fleet| fleet.config(json!({"versions": {"1": "active", "3": "prep"}})),
            &["web1 web2 web3: fetch and prepare 3"],
        ),
        (
            |fleet| fleet.config(json!({"user_config": {"a": 1}, "restart": "now", "min_nodes": 1})),
            &["web1 web2 web3: restart 1, one first, then at most 2 at a time, for another user_config, restart"],
        ),
        (
            |fleet| fleet.config(json!({"user_config": {"a": 1}, "min_nodes": 0})),
            &["web1 web2 web3: restart 1, one first, then all others, for another user_config"],
        ),
        (|fleet| fleet.config(json!({"min_nodes": 1})), &["web1 web2 web3: goes on as it is"]),
        (
            |fleet| fleet.config(json!({"stop_seconds": 1})),
            &["web1 web2 web3: judge and stop it otherwise from now on, restart nothing"],
        ),
        (
            |fleet| fleet.config(json!({"versions": {"1": "prep"}})),
            &[
                "web1 web2 web3: stop 1 and remove its services, at once",
                "warning: no version is active then: all hosts stop at once, whatever min_nodes says",
            ],
        ),
        (
            |fleet| fleet.config(json!({"versions": {"2": "active"}, "min_nodes": 3})),
            &[
                "web1 web2 web3: 2 is prepared; replace 1 by 2, which min_nodes never lets it while it passes",
                "warning: min_nodes 3 can never be met by 3 nodes: nothing that passes there is replaced or taken off",
            ],
        ),
        (
            |fleet| {
                fleet.after(
                    DEPLOY,
                    json!({"basedir": "/srv/slug", "ports": [{"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}]}),
                );
            },
            &["web1 web2 web3: open 53/udp from 10.0.0.0/8; close 80/tcp"],
        ),
        (
            |fleet| fleet.after(DEPLOY, json!({"basedir": "/srv/other", "ports": [80]})),
            &["web1 web2 web3: fetch and prepare 1, 2; restart 1, one at a time, for another basedir"],
        ),
        (
            |fleet| {
                fleet.node("web4", json!({"cluster": "dev"}));
                fleet.says("web4", PREPARER, json!({}));
                fleet.says("web4", SETLIVE, json!({}));
            },
            &["web4: fetch and prepare 1, 2; start 1; open 80/tcp"],
        ),
        (
            |fleet| fleet.node("web4", json!({"cluster": "dev"})),
            &[
                "web4: fetch and prepare 1, 2; start 1; open 80/tcp",
                "but web4: unknown: no pp-preparer of web4 has ever said anything here: is it started, on this store?",
            ],
        ),
        (
            |fleet| drop(fleet.after.remove("nodes/web3/slug")),
            &[
                "web3: stop 1 and remove its services, as min_nodes lets it; close 80/tcp",
                "warning: min_nodes 2 can never be met by 2 nodes: nothing that passes there is replaced or taken off",
            ],
        ),
        (
            |fleet| {
                fleet.config(json!({"min_nodes": 1}));
                fleet.node("web3", json!({"cluster": "dev", "drain": true}));
            },
            &[
                "web1 web2: goes on as it is",
                "web3: stop 1, as min_nodes lets it",
                "but web3: drained: nothing is started there until `pp-store undrain web3`",
            ],
        ),
        (
            |fleet| {
                fleet.activate("2");
                fleet.known.agents.get_mut(&name("web1")).unwrap().insert(SETLIVE.to_owned(), Life::Dead);
                fleet.says(
                    "web2",
                    SETLIVE,
                    json!({"state": "failing", "wanted": ["1"], "there": ["1"], "reason": "503"}),
                );
            },
            &[
                "web1 web2 web3: 2 is prepared; replace 1 by 2, one at a time",
                "but web1: dead: pp-setlive of web1 is dead, cut off or refused by the store: unless its host is down, what runs \
                 there runs on as it is; see its log there",
                "but web2: failing: pp-setlive fails: 503",
            ],
        ),
        (
            |fleet| {
                fleet.activate("2");
                for node in ["web1", "web3"] {
                    fleet.known.agents.get_mut(&name(node)).unwrap().clear();
                }
            },
            &[
                "web1 web2 web3: 2 is prepared; replace 1 by 2, one at a time",
                "but web1 web3: unknown: pp-setlive of <node> was ended, or this token may not see that it is alive",
            ],
        ),
        (
            |fleet| {
                fleet.activate("2");
                fleet.forget("web1");
            },
            &[
                "web1: fetch and prepare 2, unless it is there; run 2, one at a time; what it runs now, and how, is not known",
                "but web1: unknown: no pp-preparer of web1 has ever said anything here: is it started, on this store?",
                "web2 web3: 2 is prepared; replace 1 by 2, one at a time",
            ],
        ),
        (
            // It came back to 1 by itself, since 2 failed there.
            |fleet| {
                fleet.before.insert(
                    CONFIG.to_owned(),
                    document(&json!({"versions": {"1": "prep", "2": "active"}, "min_nodes": 2})),
                );
                fleet.says("web1", SETLIVE, json!({"state": "failing", "wanted": ["2"], "there": ["1"]}));
                fleet.says("web2", SETLIVE, json!({"wanted": ["2"], "there": ["2"]}));
                fleet.instance("web2", "2");
                fleet.says("web3", SETLIVE, json!({"wanted": ["2"]}));
                fleet.instance("web3", "2");
            },
            &[
                "web1: 1 is prepared",
                "but web1: failing: pp-setlive fails",
                "web2 web3: 1 is prepared; replace 2 by 1, one at a time",
            ],
        ),
        (
            // What somebody did by hand nobody knows.
            |fleet| {
                fleet.both("nodes/web1/slug", json!({"cluster": "dev", "hold": true}));
                fleet.says(
                    "web1",
                    SETLIVE,
                    json!({"state": "held", "wanted": ["1"], "there": ["1"], "reason": "by an operator"}),
                );
                fleet.node("web1", json!({"cluster": "dev"}));
                fleet.activate("2");
                fleet.node("web2", json!({"cluster": "dev", "hold": true}));
                fleet.after.remove("nodes/web3/slug");
            },
            &[
                "web1: 2 is prepared; replace 1 by 2, which min_nodes never lets it while it passes",
                "web2: is left as it is",
                "web2: held: nodes/web2/slug says \"hold\": true",
                "web3: stop 1 and remove its services, as min_nodes lets it; close 80/tcp",
                "warning: min_nodes 2 can never be met by 2 nodes: nothing that passes there is replaced or taken off",
            ],
        ),
        (
            |fleet| {
                fleet.node("web3", json!({"cluster": "live"}));
                fleet.both("clusters/slug/live/config", json!({"versions": {"2": "active"}}));
                fleet.both("clusters/slug/live/deploy_config", json!({"basedir": "/srv/slug"}));
            },
            &["web3: goes over to live", "web3: 2 is prepared; replace 1 by 2; close 80/tcp"],
        ),
    ];
    for (change, expected) in table {
        let mut fleet = Fleet::new();
        change(&mut fleet);
        assert_eq!(fleet.lines(), expected);
    }
}

#[test]
fn keys_come_first_and_those_that_change_alike_are_one_line() {
    let mut fleet = Fleet::new();
    fleet.activate("2");
    for node in ["web4", "web5"] {
        fleet.node(node, json!({"cluster": "dev"}));
    }
    fleet
        .before
        .insert("nodes/web1/slug".to_owned(), Ok(Document { bytes: b"{".into(), revision: Revision(String::new()) }));
    let lines = words::lines(&fleet.foreseen());
    let expected = [
        "slug dev",
        "  clusters/slug/dev/config: version 1 -> 2",
        "  nodes/web1/slug: rewritten",
        "  nodes/web4/slug nodes/web5/slug: new",
    ];
    assert_eq!(lines[..4], expected);
    assert!(lines[4].starts_with("  web1: 2 is prepared; run 2, ") || lines[4].contains("replace 1 by 2"), "{lines:?}");
    // What is of no app can be removed all the same.
    let mut fleet = Fleet::new();
    fleet.before.insert("nodes/web1/no/app".to_owned(), document(&json!({})));
    assert_eq!(words::lines(&fleet.foreseen()), ["nodes/web1/no/app: removed"]);
}

#[test]
fn what_has_failed_in_the_cluster_is_said_and_is_another_plan() {
    let mut fleet = Fleet::new();
    fleet.activate("2");
    let token = fleet.foreseen().token.text();
    let mut leases = json!({"rev": 1, "failed": {"d2": {"version": "2", "node": "web1", "reason": "503", "at": ""}}});
    let place = ("slug".parse().unwrap(), "dev".parse().unwrap());
    let set = |fleet: &mut Fleet, leases: &Value| {
        fleet.known.leases.insert(place.clone(), serde_json::from_value::<Leases>(leases.clone()).unwrap());
    };
    set(&mut fleet, &leases);
    let warning = "warning: 2 has failed in this cluster, on web1 (503): where all of its definition is as it was then, nobody \
                   tries it before `pp-store retry slug dev 2`";
    assert_eq!(fleet.lines()[1..], [warning]);
    assert!(fleet.foreseen().token.differs(&token).is_some());
    leases["failed"]["d2"]["retry"] = json!("2026-11-22T03:14:08Z");
    set(&mut fleet, &leases);
    assert_eq!((fleet.lines().len(), fleet.foreseen().token.differs(&token)), (1, None));
}

#[test]
fn a_token_is_of_what_would_be_written_and_done_and_of_nothing_else() {
    let planned = |change: Change| {
        let mut fleet = Fleet::new();
        fleet.activate("2");
        change(&mut fleet);
        fleet.foreseen().token
    };
    let token = planned(|_| ());
    let same: [Change; 3] = [
        |_| (),
        // Time passes: other reasons and lines, in the same state.
        |fleet| {
            fleet.says(
                "web1",
                SETLIVE,
                json!({"state": "waiting", "wanted": ["1"], "there": ["1"], "reason": "since 40 s"}),
            );
        },
        |fleet| fleet.instance("web1", "1"),
    ];
    for change in same {
        assert_eq!(planned(change).differs(&token.text()), None);
    }
    let done = "the same would be written, and hosts would do other things with it";
    let written = "other documents would be written, or over others, and hosts would do other things";
    let others: [(Change, &str); 7] = [
        (|fleet| fleet.activate("3"), written),
        (|fleet| drop(fleet.before.insert(CONFIG.to_owned(), document(&json!({"versions": {}})))), written),
        (|fleet| fleet.both("nodes/web4/slug", json!({"cluster": "dev"})), done),
        (|fleet| drop((fleet.before.remove("nodes/web3/slug"), fleet.after.remove("nodes/web3/slug"))), done),
        (|fleet| fleet.both("nodes/web3/slug", json!({"cluster": "dev", "hold": true})), done),
        (|fleet| fleet.says("web1", PREPARER, json!({"wanted": ["1", "2"], "there": ["1"]})), done),
        (|fleet| fleet.both(DEPLOY, json!({"basedir": "/srv/slug", "ports": [80, 81]})), done),
    ];
    for (change, says) in others {
        assert_eq!(planned(change).differs(&token.text()), Some(says));
    }
    for wrong in ["", "0", &token.text()[1..], &format!("{}0", token.text())] {
        assert!(token.differs(wrong).is_some(), "{wrong:?}");
    }
}
