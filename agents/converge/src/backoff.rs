//! How long to wait before trying again: twice as long each time, up to a limit, and never in step with others.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The next delay: from half of it to all of it, so that hosts that failed together do not come back together.
    pub fn delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.most);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

/// `around`, give or take a quarter.
pub(crate) fn jittered(around: Duration) -> Duration {
    around.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for whole in [1, 2, 4, 8, 16, 32, 60, 60] {
            let delay = backoff.delay().as_secs_f64();
            assert!(delay >= f64::from(whole) / 2.0 && delay <= f64::from(whole), "{delay} of {whole}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_secs(1));
    }
}
