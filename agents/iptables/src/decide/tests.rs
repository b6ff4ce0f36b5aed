//! Tables for single decisions; and a simulation that lets operators, agents and crashes at a packet filter in turns, and
//! then expects it to be right.

use store::intent::Listing;
use store::{Document, Documents, Revision};

use super::*;
use crate::said::changes;
use crate::table::CHAIN;

fn us(source: Source) -> Us {
    Us { node: "web1".parse().unwrap(), source, adopt: false }
}

/// Intent for `web1`: an app each, with its `ports` as JSON; or "hold", or "invalid".
fn intent(apps: &[(&str, &str)]) -> NodeIntent {
    let mut documents = Documents::new();
    let mut put = |key: String, text: String| {
        documents.insert(key, Ok(Document { bytes: text.into(), revision: Revision(String::new()) }));
    };
    for (app, ports) in apps {
        let (hold, ports) = if *ports == "hold" { (true, "[]") } else { (false, *ports) };
        put(format!("nodes/web1/{app}"), format!(r#"{{"cluster": "dev", "hold": {hold}}}"#));
        put(format!("clusters/{app}/dev/config"), r#"{"versions": {}}"#.to_owned());
        put(format!("clusters/{app}/dev/deploy_config"), format!(r#"{{"basedir": "/srv/{app}", "ports": {ports}}}"#));
    }
    Listing::new(&"web1".parse().unwrap(), &documents).intent(&documents)
}

fn rule(port: u16, owner: &str) -> String {
    format!(r#"-p tcp -m tcp --dport {port} -m comment --comment "{owner}" -j ACCEPT"#)
}

fn chain_of(texts: &[String]) -> Tables {
    let table = Table { chain: Some(texts.iter().map(|text| Rule::read(text).into()).collect()), jumps: 1 };
    Tables { v4: table.clone(), v6: Some(table) }
}

fn gone(apps: &[&str]) -> Gone {
    apps.iter().map(|app| (app.parse().unwrap(), "dev".parse().unwrap())).collect()
}

/// What is there of apps after one round.
fn after(seen: &Tables, intent: &NodeIntent, gone: &Gone, us: &Us) -> Vec<String> {
    let verdicts = verdicts(intent, &present(seen), gone, us);
    let tables = tables(seen, &verdicts, us, &End::FallThrough);
    tables.v4.rules().filter(|rule| rule.owner().is_some()).map(|rule| rule.text.clone()).collect()
}

#[test]
fn whose_rules_stay_and_whose_go() {
    use Source::{Direct, Store};
    let (by_store, by_direct) = (rule(80, "slug/dev"), rule(80, "slug/dev (direct)"));
    let (new, new_direct) = (rule(81, "slug/dev"), rule(81, "slug/dev (direct)"));
    // Who decides, what intent says, whether the store says that it is gone, what is there, and what is there then.
    let table = [
        (Store, Some("[81]"), false, &by_store, Some(&new)),
        (Store, Some("[81]"), false, &by_direct, Some(&new)),
        (Store, Some("[]"), false, &by_store, None),
        (Store, Some("hold"), false, &by_store, Some(&by_store)),
        (Store, Some("[0]"), true, &by_store, Some(&by_store)),
        (Store, Some("[0]"), true, &by_direct, Some(&by_direct)),
        (Store, None, false, &by_store, Some(&by_store)),
        (Store, None, true, &by_store, None),
        (Store, None, true, &by_direct, Some(&by_direct)),
        (Direct, Some("[81]"), false, &by_direct, Some(&new_direct)),
        (Direct, Some("[81]"), false, &by_store, Some(&by_store)),
        (Direct, None, true, &by_store, Some(&by_store)),
        (Direct, None, true, &by_direct, None),
        (Direct, None, false, &by_direct, Some(&by_direct)),
    ];
    for (source, ports, is_gone, there, then) in table {
        let intent = intent(&ports.map(|ports| ("slug", ports)).into_iter().collect::<Vec<_>>());
        let gone = if is_gone { gone(&["slug"]) } else { Gone::new() };
        let found = after(&chain_of(std::slice::from_ref(there)), &intent, &gone, &us(source));
        assert_eq!(found, then.into_iter().cloned().collect::<Vec<_>>(), "{source:?} {ports:?} {is_gone} {there}");
    }
}

#[test]
fn only_what_is_not_named_is_asked_about_and_only_ours() {
    let seen =
        chain_of(&[rule(1, "named/dev"), rule(2, "left/dev"), rule(3, "left/prod"), rule(4, "other/dev (direct)")]);
    let intent = intent(&[("named", "[0]")]);
    let verdicts = verdicts(&intent, &present(&seen), &Gone::new(), &us(Source::Store));
    let asked = verdicts.ask.iter().map(|(app, cluster)| format!("{app}/{cluster}")).collect::<Vec<_>>();
    assert_eq!(asked, ["left/dev", "left/prod"]);
    assert!(verdicts.complaints.is_empty());
}

#[test]
fn with_adopt_direct_takes_over_what_the_store_had_made() {
    let seen = chain_of(&[rule(80, "slug/dev")]);
    let us = Us { adopt: true, ..us(Source::Direct) };
    assert_eq!(after(&seen, &intent(&[("slug", "[81]")]), &Gone::new(), &us), [rule(81, "slug/dev (direct)")]);
}

#[test]
fn what_the_store_and_direct_both_name_is_settled_after_one_pass_of_each() {
    for (by_store, by_direct) in PORTS.into_iter().flat_map(|one| PORTS.map(|other| (one, other))) {
        let mut seen = Tables { v6: Some(Table::default()), ..Tables::default() };
        let mut pass = |source: Source, ports: &str| {
            let (intent, us) = (intent(&[("slug", ports)]), us(source));
            let after = tables(&seen, &verdicts(&intent, &present(&seen), &Gone::new(), &us), &us, &End::FallThrough);
            std::mem::replace(&mut seen, after) != seen
        };
        pass(Source::Direct, by_direct);
        pass(Source::Store, by_store);
        for _ in 0..2 {
            assert!(!pass(Source::Direct, by_direct), "{by_store} {by_direct}");
            assert!(!pass(Source::Store, by_store), "{by_store} {by_direct}");
        }
    }
    let taken_over = after(
        &chain_of(&[rule(80, "slug/dev (direct)")]),
        &intent(&[("slug", "[]")]),
        &Gone::new(),
        &us(Source::Store),
    );
    assert_eq!(taken_over, [r#"-m comment --comment "slug/dev""#], "nothing is open that the store does not name");
    let left = after(&chain_of(&taken_over), &intent(&[]), &gone(&["slug"]), &us(Source::Store));
    assert_eq!(left, [""; 0]);
}

#[test]
fn an_agent_that_goes_by_a_wrong_name_closes_nothing() {
    let node = |name: &str| Rule::node(&name.parse().unwrap(), Source::Store).text;
    let seen = chain_of(&[node("web2"), rule(80, "slug/dev")]);
    let (nothing, gone) = (intent(&[]), gone(&["slug"]));
    let decided = verdicts(&nothing, &present(&seen), &gone, &us(Source::Store));
    assert!(decided.close.is_empty() && decided.ask.is_empty());
    assert!(decided.complaints["slug"].contains("made for another node, web2"));
    // And it does not make the chain its own by that, to close it the next time.
    assert_eq!(tables(&seen, &decided, &us(Source::Store), &End::FallThrough), seen);
    assert_eq!(after(&seen, &nothing, &gone, &Us { adopt: true, ..us(Source::Store) }), [""; 0]);
}

#[test]
fn direct_leaves_the_end_of_the_chain_to_the_stores_agent_where_there_is_one() {
    let end = End::Drop(vec!["22".parse().unwrap()]);
    let by_store = |seen: &Tables, end: &End, source| {
        let intent = intent(&[]);
        tables(seen, &verdicts(&intent, &[], &Gone::new(), &us(source)), &us(source), end)
    };
    let dropping = by_store(&Tables::default(), &end, Source::Store);
    assert_eq!(dropping.v4.rules().filter(|rule| rule.meaning == Meaning::End).count(), 5);
    let direct = by_store(&dropping, &End::FallThrough, Source::Direct);
    assert_eq!(direct.v4.rules().filter(|rule| rule.meaning == Meaning::End).count(), 5);
    let falling = by_store(&direct, &End::FallThrough, Source::Store);
    assert_eq!(falling.v4.rules().filter(|rule| rule.meaning == Meaning::End).count(), 0);
}

/// The filter table of one family, as iptables keeps it: text.
#[derive(Debug, Clone, Default)]
struct Kernel {
    input: Vec<String>,
    chain: Option<Vec<String>>,
}

const JUMP: &str = "-j PLATYPUS";

impl Kernel {
    fn save(&self) -> String {
        let mut save = "*filter\n:INPUT ACCEPT [1:2]\n".to_owned();
        save.extend(self.chain.iter().map(|_| format!(":{CHAIN} - [0:0]\n")));
        save.extend(self.input.iter().map(|rule| format!("-A INPUT {rule}\n")));
        save.extend(self.chain.iter().flatten().map(|rule| format!("-A {CHAIN} {rule}\n")));
        save + "COMMIT\n"
    }

    /// All of it or nothing.
    fn restore(&mut self, text: &str) {
        let mut next = self.clone();
        for line in text.lines() {
            if line.starts_with(":PLATYPUS ") {
                next.chain = Some(Vec::new());
            } else if let Some(rule) = line.strip_prefix("-A PLATYPUS ") {
                next.chain.as_mut().unwrap().push(rule.to_owned());
            } else if let Some(rule) = line.strip_prefix("-D INPUT ") {
                let at = next.input.iter().position(|there| there == rule).expect("it is there");
                next.input.remove(at);
            } else if let Some(rule) = line.strip_prefix("-I INPUT ") {
                next.input.insert(0, rule.to_owned());
            } else {
                assert!(["*filter", "COMMIT"].contains(&line), "{line}");
            }
        }
        *self = next;
    }

    fn others(&self) -> Vec<&String> {
        self.input.iter().filter(|rule| *rule != JUMP).collect()
    }

    fn of(&self, app: &str) -> Vec<&String> {
        let begins = format!("\"{app}/");
        let opens = |rule: &&String| rule.contains(&begins) && rule.contains(" -j ");
        self.chain.iter().flatten().filter(opens).collect()
    }
}

/// A host, its intent, and what its store says of apps that intent does not name.
struct World {
    v4: Kernel,
    v6: Kernel,
    intent: BTreeMap<&'static str, &'static str>,
    clusters: BTreeSet<&'static str>,
    end: End,
}

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const PORTS: [&str; 6] = [
    "[]",
    "[80]",
    r#"[80, {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}]"#,
    r#"[{"port": 1, "source": "::/0"}]"#,
    "hold",
    "[0]",
];

impl World {
    fn new() -> Self {
        let ours = ["-i eth7 -j ACCEPT", "-j DROP"].map(str::to_owned).to_vec();
        let kernel = Kernel { input: ours, chain: None };
        let clusters = APPS.into();
        Self { v4: kernel.clone(), v6: kernel, intent: BTreeMap::new(), clusters, end: End::FallThrough }
    }

    fn intent(&self) -> NodeIntent {
        intent(&self.intent.iter().map(|(app, ports)| (*app, *ports)).collect::<Vec<_>>())
    }

    fn look(&self) -> Tables {
        Tables { v4: Table::read(&self.v4.save()).unwrap(), v6: Some(Table::read(&self.v6.save()).unwrap()) }
    }

    /// One pass, killed after so many restores. What was said of it.
    fn pass(&mut self, mut restores: usize) -> Vec<String> {
        let (intent, us) = (self.intent(), us(Source::Store));
        let mut said = Vec::new();
        let mut gone = Gone::new();
        for _ in 0..2 {
            let seen = self.look();
            let verdicts = verdicts(&intent, &present(&seen), &gone, &us);
            let wanted = tables(&seen, &verdicts, &us, &self.end);
            let lines = changes(&seen, &wanted);
            assert_eq!(lines.is_empty(), seen == wanted);
            said.extend(lines.iter().map(ToString::to_string));
            for (family, table) in wanted.each() {
                let (before, kernel) = match family {
                    Family::V4 => (&seen.v4, &mut self.v4),
                    Family::V6 => (seen.v6.as_ref().unwrap(), &mut self.v6),
                };
                if table != before {
                    if restores == 0 {
                        return said;
                    }
                    restores -= 1;
                    kernel.restore(&table.restore(before));
                }
            }
            gone = verdicts.ask.into_iter().filter(|(app, _)| self.clusters.contains(app.as_str())).collect();
        }
        said
    }

    /// Something happens to the host, its intent or its store.
    fn change(&mut self, random: &mut fastrand::Rng) {
        let app = *random.choice(APPS.iter()).unwrap();
        let port = random.u16(1..9);
        let texts = [rule(port, "a/dev"), rule(port, "b/dev (direct)"), "-j ACCEPT".to_owned(), rule(port, "x")];
        let text = random.choice(texts).unwrap();
        let kernel = if random.bool() { &mut self.v4 } else { &mut self.v6 };
        match random.u8(0..11) {
            0 => drop(self.intent.remove(app)),
            1..=3 => drop(self.intent.insert(app, random.choice(PORTS).unwrap())),
            4 if !self.clusters.remove(app) => drop(self.clusters.insert(app)),
            5 => kernel.chain = None,
            6 => kernel.chain.iter_mut().for_each(Vec::clear),
            7 => kernel.chain.iter_mut().for_each(|chain| chain.push(text.clone())),
            8 => kernel.chain.iter_mut().for_each(|chain| random.shuffle(chain)),
            9 => kernel.input.insert(random.usize(0..=kernel.input.len()), JUMP.to_owned()),
            10 => kernel.input.retain(|rule| rule != JUMP),
            _ => self.end = if random.bool() { End::FallThrough } else { End::Drop(vec!["22".parse().unwrap()]) },
        }
        // A jump needs its chain: iptables lets nobody remove one that is jumped to.
        for kernel in [&mut self.v4, &mut self.v6] {
            if kernel.chain.is_none() {
                kernel.input.retain(|rule| rule != JUMP);
            }
        }
    }

    /// What must be there of an app after a pass; `None` where that is whatever was there before.
    fn wanted(&self, app: &str, family: Family) -> Option<usize> {
        let intent = self.intent();
        match intent.apps.get(app) {
            Some(Ok(app)) if !app.hold => Some(app.ports.iter().filter_map(|port| in_family(port, family)).count()),
            Some(_) => None,
            None => self.clusters.contains(app).then_some(0),
        }
    }
}

#[test]
fn whatever_happened_before_a_pass_makes_the_chain_right_and_a_further_one_changes_nothing() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        for step in 0..40 {
            (0..random.usize(0..4)).for_each(|_| world.change(&mut random));
            let before = [(Family::V4, world.v4.clone()), (Family::V6, world.v6.clone())];
            // Killed at some point, or not at all.
            let restores = if random.bool() { usize::MAX } else { random.usize(0..4) };
            world.pass(restores);
            let whole = restores == usize::MAX;
            for ((family, before), now) in before.iter().zip([&world.v4, &world.v6]) {
                let at = format!("seed {seed}, step {step}, {family:?}: {before:?} {now:?}");
                assert_eq!(before.others(), now.others(), "{at}");
                for app in APPS {
                    let by_direct = |rule: &&String| rule.contains("(direct)");
                    match world.wanted(app, *family) {
                        // Whoever was killed or not: what nobody is sure of is as it was.
                        None => assert_eq!(before.of(app), now.of(app), "{app} {at}"),
                        Some(0) if whole && !world.intent.contains_key(app) => {
                            assert!(now.of(app).iter().all(by_direct), "{app} {at}");
                        }
                        Some(count) if whole => assert_eq!(now.of(app).len(), count, "{app} {at}"),
                        Some(_) => {}
                    }
                }
                let jumps = now.input.iter().filter(|rule| *rule == JUMP).count();
                let foreign = now.chain.iter().flatten().any(|rule| rule == "-j ACCEPT");
                assert!(!whole || (jumps == 1 && !foreign), "{at}");
            }
            if whole {
                let (v4, v6) = (world.v4.save(), world.v6.save());
                assert_eq!(world.pass(usize::MAX), [""; 0], "seed {seed}, step {step}");
                assert_eq!((v4, v6), (world.v4.save(), world.v6.save()));
            }
        }
    }
}
