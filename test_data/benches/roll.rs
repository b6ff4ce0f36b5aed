//! How long five hosts take to replace a version of which three have to pass, beside one replacement: how much of a roll is
//! waiting for each other.
//!
//! Run by `kickstart/bench roll`. One goes first, then two at a time: three replacements one after the other are the least
//! that the minimum allows.

use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Behaviour, Fleet, median, probing};
use serde_json::json;

const ROLLS: usize = 9;
/// What an app might take to come up.
const STARTS: Behaviour = Behaviour::SlowStart(1000);
/// Between two looks at who answers.
const LOOK: Duration = Duration::from_millis(5);

fn main() {
    let fleet = Fleet::up(&[("1", STARTS), ("2", STARTS)]);
    let (mut firsts, mut rolls, mut ratios, mut least) = (Vec::new(), Vec::new(), Vec::new(), 5);
    probing(&fleet.cluster, |probe| {
        fleet.settles(probe, 5, "1");
        for n in 0..ROLLS {
            let version = if n % 2 == 0 { "2" } else { "1" };
            thread::sleep(Duration::from_secs(2));
            probe.from_now();
            let begun = Instant::now();
            fleet.activate(version, json!({}));
            // The next one goes down as soon as it may, which is when the first is back.
            let mut first = None;
            let until = |done: &mut dyn FnMut() -> bool| {
                while !done() {
                    thread::sleep(LOOK);
                }
                begun.elapsed().as_secs_f64()
            };
            let entered = until(&mut || {
                first = fleet.down().pop();
                first.is_some()
            });
            let back = until(&mut || !first.as_ref().is_some_and(|first| fleet.down().contains(first)));
            fleet.settles(probe, 5, version);
            let roll = begun.elapsed().as_secs_f64() - entered;
            firsts.push(back - entered);
            rolls.push(roll);
            ratios.push(roll / (3.0 * (back - entered)));
            least = least.min(probe.least());
        }
    });
    println!(
        "median of {ROLLS}: one replacement {:.2} s, the roll of five {:.2} s, which is {:.2} of three replacements; at \
         least {least} of 5 answered at any time",
        median(firsts),
        median(rolls),
        median(ratios)
    );
}
