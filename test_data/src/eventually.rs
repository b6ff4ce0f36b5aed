//! Waiting for a condition with a deadline, in place of a sleep.

use std::thread;
use std::time::{Duration, Instant};

/// Between two tries: short against anything that a test waits for, long against the cost of a try.
const EVERY: Duration = Duration::from_millis(5);

/// Tries `found` until it is `Some`, and panics with `what` when it is not so within `within`.
///
/// The condition is tried once more at the deadline, so that a test machine that stalls fails no test.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        let last = Instant::now() >= deadline;
        if let Some(value) = found() {
            return value;
        }
        assert!(!last, "not within {within:?}: {what}");
        thread::sleep(EVERY);
    }
}

/// Lets time pass: for whoever asks at a pace, or acts at a random moment. Not a wait for a condition.
///
/// A thread that is only parked goes on at once when one that it had scoped has ended since.
pub fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_was_found_as_soon_as_it_is_found() {
        let mut tries = 0;
        let found = eventually("three tries", Duration::from_secs(10), || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "pigs fly")]
    fn at_the_deadline_it_says_what_did_not_happen() {
        eventually("pigs fly", Duration::from_millis(20), || None::<()>);
    }
}
