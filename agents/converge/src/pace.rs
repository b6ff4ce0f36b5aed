//! When something is written that changes now and then, or all the time. Pure, but for the jitter of a back-off.
//!
//! Ensures: what changes within a short while is written at once; what goes on changing is written ever more rarely, so that an
//! hour of it is some 120 writes; after a quiet spell the next change is written soon again. What was not written is.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// One change seldom comes alone.
const TOGETHER: Duration = Duration::from_millis(300);
/// Between two writes.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);
/// Without a write, after which it is as if there had been none.
const QUIET: Duration = Duration::from_secs(60);
/// Between two tries of a write that fails.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Pace {
    due: Option<Instant>,
    wrote: Option<Instant>,
    /// To the next write.
    gap: Duration,
    failing: Backoff,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { due: None, wrote: None, gap: LEAST, failing: Backoff::new(LEAST, LONGEST_BACKOFF) }
    }

    /// When to write, if there is anything to write.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is something to write.
    pub(crate) fn changed(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        if self.wrote.is_some_and(|wrote| now.duration_since(wrote) >= QUIET) {
            self.gap = LEAST;
        }
        let next = self.wrote.map_or(now, |wrote| wrote + self.gap);
        self.due = Some(next.max(now + TOGETHER));
    }

    /// It was not possible to write.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.due = Some(now + self.failing.delay());
    }

    pub(crate) fn wrote(&mut self, now: Instant) {
        if self.wrote.replace(now).is_some() {
            self.gap = (self.gap * 2).min(MOST);
        }
        self.done();
    }

    /// There was nothing to write after all.
    pub(crate) fn done(&mut self) {
        self.due = None;
        self.failing.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it is written, in milliseconds, what changes at these.
    fn writes(changes: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let (mut pace, mut writes) = (Pace::new(), Vec::new());
        let mut write = |pace: &mut Pace, until: Option<Instant>| {
            while let Some(due) = pace.due().filter(|due| until.is_none_or(|until| *due <= until)) {
                writes.push(due.duration_since(began).as_millis().try_into().unwrap());
                pace.wrote(due);
            }
        };
        for change in changes {
            write(&mut pace, Some(at(change)));
            pace.changed(at(change));
        }
        write(&mut pace, None);
        writes
    }

    #[test]
    fn what_comes_together_is_written_together_and_what_comes_later_soon() {
        assert_eq!(writes([0, 1, 299]), [300]);
        assert_eq!(writes([0, 1000, 1100]), [300, 1300]);
        assert_eq!(writes([0, 5000]), [300, 5300]);
    }

    #[test]
    fn what_goes_on_changing_is_written_ever_more_rarely() {
        let flaps = writes((0..3600).map(|second| second * 1000));
        assert_eq!(flaps[..8], [300, 1300, 3300, 7300, 15_300, 31_300, 61_300, 91_300]);
        assert!(flaps.len() <= 126, "{}", flaps.len());
        assert!(*flaps.last().unwrap() >= 3_599_000, "the last state arrives");
    }

    #[test]
    fn after_a_quiet_spell_a_change_is_written_soon_again() {
        let flaps = (0..600).map(|second| second * 1000);
        let writes = writes(flaps.chain([700_000, 702_000]));
        assert_eq!(writes[writes.len() - 2..], [700_300, 702_000 + 300]);
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely_and_what_changes_meanwhile_does_not_hurry_it() {
        let now = Instant::now();
        let mut pace = Pace::new();
        pace.changed(now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            pace.failed(now);
            pace.changed(now);
            let delay = pace.due().unwrap().duration_since(now).as_secs_f64();
            assert!((f64::from(seconds) / 2.0..=f64::from(seconds)).contains(&delay), "{delay} of {seconds}");
        }
        pace.wrote(now);
        assert_eq!(pace.due(), None);
    }
}
