//! Every step of the agents as the last one: at each, an agent is killed in place of the effect. The next rounds of the
//! agents find nothing in their way, and make the host what it is after rounds that nothing disturbed.
//!
//! A step is a call of `converge::step`, and `clippy.toml` has no effect of an agent go around it. What is walked is what an
//! undisturbed round comes to, of each name the first [`FIRST`] times and the last. `STEP` walks only those whose line has
//! this text.

mod itself;
mod names;
mod scenarios;
mod site;
mod snapshot;
mod supervisor;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Instant;

use fixtures::{Scratch, alone};

use scenarios::{On, Scenario, scenarios};
use site::Site;
use snapshot::Snapshot;

/// Mostly they wait.
const AT_A_TIME: [(On, usize); 4] = [(On::Consul, 1), (On::Accounts, 1), (On::Platform, 4), (On::Directory, 12)];
/// These and the last stand for what is done very often, as it is for each part of an artifact.
const FIRST: usize = 6;

#[test]
fn whichever_step_an_agent_dies_at_the_host_ends_as_if_it_had_not() {
    // The processes that agents look through are this test's own.
    if !alone("whichever_step_an_agent_dies_at_the_host_ends_as_if_it_had_not", Scratch::in_memory) {
        return;
    }
    let began = Instant::now();
    let all = scenarios();
    let (mut listed, mut failed) = (BTreeMap::new(), Vec::new());
    thread::scope(|scope| {
        let walking = AT_A_TIME.map(|(on, at_a_time)| {
            let scenarios = all.iter().filter(|scenario| scenario.on == on).collect::<Vec<_>>();
            scope.spawn(move || walk_all(on, &scenarios, at_a_time))
        });
        for walked in walking {
            let (steps, wrong) = walked.join().expect("what panics in a walk is caught");
            listed.extend(steps);
            failed.extend(wrong);
        }
    });
    print!("{}", table(&listed));
    let walked = all_walks(&all.iter().collect::<Vec<_>>(), &listed).len();
    println!("{walked} walks in {:.1?}", began.elapsed());
    let all = all.iter().filter_map(|scenario| Some(walks(scenario, listed.get(scenario.name)?))).flatten();
    let all = all.map(|(step, _)| names::of(&step).to_owned()).collect();
    failed.extend(names::in_sources().difference(&all).map(|name| format!("{name}: never walked")));
    assert!(failed.is_empty(), "{} are wrong:\n{}", failed.len(), failed.join("\n"));
}

/// What an undisturbed round came to, in that order: `<process>:<name>`.
type Steps = Vec<String>;

/// One place to die at.
#[derive(Clone)]
struct Walk<'a> {
    scenario: &'a Scenario,
    step: String,
    number: usize,
}

impl fmt::Display for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}:{}", self.scenario.name, self.step, self.number)
    }
}

/// By the scenario's name, what was come to; and what went wrong.
type Walked = (BTreeMap<&'static str, Steps>, Vec<String>);

fn walk_all(on: On, scenarios: &[&Scenario], at_a_time: usize) -> Walked {
    let (listed, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    let (next_scenario, next_walk, is_listed) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(at_a_time));
    let fail = |what: String| failed.lock().unwrap().push(what);
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                let site = caught(|| Site::new(on));
                // Of each site its own: paths and ports are in all that is there.
                let mut undisturbed = BTreeMap::new();
                let mut site = site.map_err(&fail).ok();
                while let (Some(site), Some(scenario)) = (&mut site, next(scenarios, &next_scenario)) {
                    match caught(|| site.undisturbed(scenario)) {
                        Ok((steps, snapshot)) => {
                            listed.lock().unwrap().insert(scenario.name, steps);
                            undisturbed.insert(scenario.name, snapshot);
                        }
                        Err(why) => fail(format!("{}, undisturbed: {why}", scenario.name)),
                    }
                }
                is_listed.wait();
                let all = all_walks(scenarios, &listed.lock().unwrap());
                while let (Some(site), Some(walk)) = (&mut site, next(&all, &next_walk)) {
                    if let Err(why) = caught(|| walk.go(site, &mut undisturbed)) {
                        fail(format!("{walk}: {why}"));
                    }
                }
            });
        }
    });
    (listed.into_inner().unwrap(), failed.into_inner().unwrap())
}

fn next<'a, T>(of: &'a [T], number: &AtomicUsize) -> Option<&'a T> {
    of.get(number.fetch_add(1, Ordering::SeqCst))
}

fn all_walks<'a>(scenarios: &[&'a Scenario], listed: &BTreeMap<&'static str, Steps>) -> Vec<Walk<'a>> {
    let only = env::var("STEP").unwrap_or_default();
    let of = |scenario: &&'a Scenario| {
        let scenario = *scenario;
        let walks = listed.get(scenario.name).map(|steps| walks(scenario, steps)).unwrap_or_default();
        walks.into_iter().map(move |(step, number)| Walk { scenario, step, number })
    };
    scenarios.iter().flat_map(of).filter(|walk| walk.to_string().contains(&only)).collect()
}

/// Which step, and the how manieth of its name.
fn walks(scenario: &Scenario, steps: &Steps) -> Vec<(String, usize)> {
    let counts = counts(steps).into_iter().filter(|(step, _)| scenario.walks(step));
    let walks = counts.flat_map(|(step, count)| (1..=count).map(move |number| (step, number, count)));
    let is_had_elsewhere = |step: &str| {
        let of_its_own = ["mark", "finisher's run", "finisher's log/run"];
        // Whether a finisher that lets go of itself has to be stopped is a matter of who comes first.
        let is_by_chance = step == "pp-setlive:tell runsv d";
        let is_of_its_own = of_its_own.iter().any(|what| step.ends_with(what));
        scenario.on == On::Platform && (is_by_chance || is_beside(step) && !is_of_its_own)
    };
    let walks = walks.filter(|(step, number, count)| is_walked(step, *number, *count) && !is_had_elsewhere(step));
    walks.map(|(step, number, _)| (step.to_owned(), number)).collect()
}

fn is_walked(step: &str, number: usize, count: usize) -> bool {
    // Which is the agents' own code.
    let is_known = step.starts_with("pt-direct:");
    // Until it is gone, which may take more than once.
    let is_repeated = names::of(step).starts_with("kill ");
    number == 1 || !is_repeated && (number == count || number <= FIRST && !is_beside(step) && !is_known)
}

/// What is begun beside a file's place is looked at again once it is about to be renamed.
fn is_beside(step: &str) -> bool {
    [":create ", ":write ", ":chmod "].iter().any(|verb| step.contains(verb))
}

fn counts(steps: &Steps) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for step in steps {
        *counts.entry(step.as_str()).or_default() += 1;
    }
    counts
}

impl Walk<'_> {
    fn go(&self, site: &mut Site, undisturbed: &mut BTreeMap<&'static str, Snapshot>) {
        let expected = undisturbed.entry(self.scenario.name).or_insert_with(|| site.undisturbed(self.scenario).1);
        let found = site.disturbed(self.scenario, &self.step, self.number);
        let differences = found.differences(expected);
        assert!(differences.is_empty(), "disturbed → undisturbed:\n  {}", differences.join("\n  "));
    }
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked").to_owned()
    })
}

fn table(listed: &BTreeMap<&'static str, Steps>) -> String {
    let lines = listed.iter().flat_map(|(scenario, steps)| {
        let steps = counts(steps).into_iter().map(|(step, count)| format!("  {count:4} {step}\n"));
        std::iter::once(format!("{scenario}\n")).chain(steps).collect::<Vec<_>>()
    });
    lines.collect()
}
