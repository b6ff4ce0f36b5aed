//! A finisher is killed at each of its steps, and finishes all the same.

use std::fs;

use fixtures::{SOON, eventually};

use crate::hosts::EXITS;
use crate::site::{Packed, Site};

/// A host on which versions of the platform are activated one after the other, and the finisher's steps are listed.
struct Walk {
    site: Site,
    /// Each time with other settings, or there would be no file of them to write, and what has failed would not be tried.
    times: u32,
}

impl Walk {
    fn new() -> Self {
        let site = Site::new();
        site.kickstart(&[]);
        let walk = Self { site, times: 0 };
        walk.tell("PLATYPUS_STEPS", "/mnt/steps");
        walk
    }

    /// A variable of what is launched from now on.
    fn tell(&self, variable: &str, value: &str) {
        fs::write(self.site.host.disk("srv/platypus/data/env").join(variable), value).unwrap();
    }

    /// The finisher's steps, in the order in which it came to them.
    fn steps(&self) -> Vec<String> {
        let steps = fs::read_to_string(self.site.host.disk("mnt/steps")).unwrap_or_default();
        steps.lines().filter_map(|line| line.strip_prefix("finisher:")).map(str::to_owned).collect()
    }

    /// From that version on one that does not work is taken for that after so many seconds.
    fn activate(&mut self, platform: &Packed, patience: f64) {
        self.times += 1;
        let _ = fs::remove_file(self.site.host.disk("mnt/steps"));
        self.site.activate(&platform.version, patience + f64::from(self.times) / 1000.0);
    }

    /// Has the finisher die at each of these steps in turn, whenever it comes to it, until it is told the next.
    #[track_caller]
    fn is_killed_at(&self, steps: &[String]) {
        for step in steps {
            let times = || self.steps().iter().filter(|it| *it == step).count();
            let before = times();
            self.tell("PLATYPUS_DIE_AT", &format!("finisher:{step}:1"));
            eventually(&format!("the finisher comes to {step}"), SOON, || (times() > before).then_some(()));
        }
        fs::remove_file(self.site.host.disk("srv/platypus/data/env/PLATYPUS_DIE_AT")).unwrap();
    }
}

/// Each once, where it first stands.
fn distinct(steps: &[String]) -> Vec<String> {
    let first = |(at, step): &(usize, &String)| !steps[..*at].contains(step);
    steps.iter().enumerate().filter(first).map(|(_, step)| step.clone()).collect()
}

#[test]
fn a_finisher_that_is_killed_at_each_of_its_steps_finishes_all_the_same() {
    let mut walk = Walk::new();
    let repo = walk.site.host.disk("mnt/repo");
    let (one, other) = (walk.site.platform.successor(&repo), walk.site.platform.successor(&repo));
    walk.activate(&one, 60.0);
    walk.site.is_on(&one);
    let there = distinct(&walk.steps());
    println!("on the way: {there:?}");
    assert!(there.len() > 10);
    walk.activate(&other, 1.0);
    walk.is_killed_at(&there);
    walk.site.is_on(&other);

    let bad = walk.site.platform.with("pp-setlive", EXITS, &repo);
    walk.activate(&bad, 1.0);
    walk.site.fails(&bad);
    walk.site.is_on(&other);
    let all = walk.steps();
    // It has condemned the version once that is in the record.
    let condemned = all.iter().position(|step| step == "rename record").unwrap();
    let back = distinct(&all[condemned + 1..]);
    println!("on the way back: {back:?}");
    assert!(back.len() > 10);
    walk.activate(&bad, 1.0);
    walk.is_killed_at(&[&all[condemned..=condemned], &back[..]].concat());
    walk.site.is_on(&other);
}
