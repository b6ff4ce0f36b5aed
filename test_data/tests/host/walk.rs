//! A finisher is killed at each of its steps, and finishes all the same.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::thread;

use fixtures::{SOON, eventually};

use crate::hosts::EXITS;
use crate::site::{Packed, Site};

/// Where a finisher is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// On its way to a version that works.
    TheWay,
    /// On its way to one that does not, and back.
    TheWayBack,
}

/// A host on which versions of the platform are activated one after the other, and the finisher's steps are listed.
struct Walk {
    on: On,
    site: Site,
    other: Packed,
    bad: Packed,
    /// Each time with other settings, or there would be no file of them to write, and what has failed would not be tried.
    times: Cell<u32>,
}

impl Walk {
    fn new(on: On) -> Self {
        let site = Site::new();
        site.kickstart(&[]);
        let repo = site.host.disk("mnt/repo");
        let (other, bad) = (site.platform.successor(&repo), site.platform.with("pp-setlive", EXITS, &repo));
        let walk = Self { on, site, other, bad, times: Cell::new(0) };
        walk.tell("PLATYPUS_STEPS", "/mnt/steps");
        walk.goes_to(&walk.other, || {});
        walk
    }

    /// A variable of what is launched from now on.
    fn tell(&self, variable: &str, value: &str) {
        fs::write(self.site.host.disk("srv/platypus/data/env").join(variable), value).unwrap();
    }

    /// How often the finisher has come to each of its steps.
    fn steps(&self) -> BTreeMap<String, usize> {
        let steps = fs::read_to_string(self.site.host.disk("mnt/steps")).unwrap_or_default();
        let mut counts = BTreeMap::new();
        for step in steps.lines().filter_map(|line| line.strip_prefix("finisher:")) {
            *counts.entry(step.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Activates a version, does something meanwhile, and waits until all is as it shall be.
    #[track_caller]
    fn goes_to(&self, platform: &Packed, meanwhile: impl FnOnce()) {
        // What leads away from this version takes a bad one for bad after a second.
        let seconds = if self.on == On::TheWay { 60.0 } else { 1.0 };
        self.times.set(self.times.get() + 1);
        let _ = fs::remove_file(self.site.host.disk("mnt/steps"));
        self.site.activate(&platform.version, seconds + f64::from(self.times.get()) / 1000.0);
        meanwhile();
        if platform.version == self.bad.version {
            self.site.fails(platform);
            self.site.is_on(&self.other);
        } else {
            self.site.is_on(platform);
        }
    }

    #[track_caller]
    fn goes(&self, meanwhile: impl FnOnce()) {
        let is_other = || self.site.record()["healthy"]["version"] == self.other.version.as_str();
        match self.on {
            On::TheWayBack => self.goes_to(&self.bad, meanwhile),
            On::TheWay if is_other() => self.goes_to(&self.site.platform, meanwhile),
            On::TheWay => self.goes_to(&self.other, meanwhile),
        }
    }

    /// The finisher is killed when it comes to this step for the `k`th time.
    #[track_caller]
    fn is_killed(&self, step: &str, k: usize) {
        self.tell("PLATYPUS_DIE_AT", &format!("finisher:{step}:{k}"));
        self.goes(|| {
            let came = || (self.steps().get(step).is_some_and(|times| *times >= k)).then_some(());
            eventually(&format!("the finisher comes to {step} for the {k}th time"), SOON, came);
            // Until now it is killed there again and again.
            fs::remove_file(self.site.host.disk("srv/platypus/data/env/PLATYPUS_DIE_AT")).unwrap();
        });
    }
}

/// On each of some hosts at the same time, which mostly wait: at the first of each step, or at the last.
fn walk(on: On, hosts: usize) {
    let first = Walk::new(on);
    first.goes(|| {});
    let steps = first.steps();
    println!("the finisher's steps on {on:?}, and how often it comes to them: {steps:#?}");
    assert!(steps.len() > 10, "{steps:?}");
    let deaths = steps.into_iter().map(|(step, times)| (step, if on == On::TheWay { 1 } else { times }));
    let left = Mutex::new(deaths.collect::<Vec<_>>());
    let rest = |walk: &Walk| {
        while let Some((step, k)) = { left.lock().unwrap().pop() } {
            walk.is_killed(&step, k);
        }
    };
    thread::scope(|scope| {
        for _ in 1..hosts {
            scope.spawn(|| rest(&Walk::new(on)));
        }
        rest(&first);
    });
}

#[test]
fn a_finisher_that_is_killed_at_any_of_its_steps_finishes_all_the_same() {
    walk(On::TheWay, 2);
}

#[test]
fn a_finisher_that_is_killed_on_its_way_back_comes_back() {
    walk(On::TheWayBack, 2);
}
