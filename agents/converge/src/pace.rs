//! When something is written that changes now and then, or all the time. Pure, but for the jitter of a back-off.
//!
//! Ensures: what changes within a short while is written at once, as often as an operator's hour at work takes it; what goes
//! on changing is written rarely, so that an hour of it is some 120 writes; after a quiet spell the next change is written
//! soon again. What was not written is.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// One change seldom comes alone.
const TOGETHER: Duration = Duration::from_millis(300);
/// Between two writes.
const LEAST: Duration = Duration::from_secs(1);
/// What a write costs in the long run.
const EACH: Duration = Duration::from_secs(33);
/// How far writes may be ahead of that: sixteen of them. A roll that fails, and the way back from it, take less.
const AHEAD: Duration = EACH.saturating_mul(15);
/// Between two tries of a write that fails.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Pace {
    due: Option<Instant>,
    wrote: Option<Instant>,
    /// When all that was written would have been, one after the other at the pace of the long run.
    worth: Option<Instant>,
    failing: Backoff,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { due: None, wrote: None, worth: None, failing: Backoff::new(LEAST, LONGEST_BACKOFF) }
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
        let not_before = [
            Some(now + TOGETHER),
            self.wrote.map(|wrote| wrote + LEAST),
            self.worth.and_then(|worth| worth.checked_sub(AHEAD)),
        ];
        self.due = not_before.into_iter().flatten().max();
    }

    /// It was not possible to write.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.due = Some(now + self.failing.delay());
    }

    pub(crate) fn wrote(&mut self, now: Instant) {
        self.wrote = Some(now);
        self.worth = Some(self.worth.map_or(now, |worth| worth.max(now)) + EACH);
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
    fn what_goes_on_changing_is_written_soon_for_a_while_and_then_rarely() {
        let flaps = writes((0..3600).map(|second| second * 1000));
        assert_eq!(flaps[..16], std::array::from_fn::<u64, 16, _>(|second| second as u64 * 1000 + 300));
        assert_eq!(flaps[16..19], [33_300, 66_300, 99_300]);
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
