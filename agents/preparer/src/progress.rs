//! How far the artifacts are that are being read: a line of the log every few seconds, or bars for who looks on.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use converge::Counter;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use store::AppName;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::info;

/// For metrics.
pub(crate) static FETCHED: Counter =
    Counter::new("platypus_fetched_bytes_total", "Bytes of artifacts that were read from a repository.");

/// Between two words about one artifact.
const EVERY: Duration = Duration::from_secs(5);

/// Between two looks of a bar.
const FRAME: Duration = Duration::from_millis(100);

/// Where it is shown.
#[derive(Debug)]
pub(crate) enum Screen {
    Log,
    /// Under the lines of the log.
    Terminal(MultiProgress),
}

/// Of one artifact. Clones are about the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    came: Arc<AtomicU64>,
    /// 0 while nobody knows.
    of: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Screen {
    pub(crate) fn new(is_watched: bool) -> Self {
        if !is_watched {
            return Self::Log;
        }
        let bars = MultiProgress::new();
        let drawn = bars.clone();
        converge::keep_aside(move |write| drawn.suspend(write));
        Self::Terminal(bars)
    }

    /// Does `work` on the artifact of `name`, and shows meanwhile how far it is.
    pub(crate) async fn show<T>(
        &self,
        app: &AppName,
        name: &str,
        progress: &Progress,
        work: impl Future<Output = T>,
    ) -> T {
        match self {
            Self::Log => tokio::select! {
                done = work => done,
                never = progress.log(app, name) => match never {},
            },
            Self::Terminal(bars) => {
                let bar = bars.add(ProgressBar::no_length().with_style(style()).with_prefix(name.to_owned()));
                let done = tokio::select! {
                    done = work => done,
                    never = progress.draw(&bar) => match never {},
                };
                bar.finish_and_clear();
                bars.remove(&bar);
                done
            }
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {wide_bar} {msg}").expect("the template is one")
}

impl Progress {
    /// From the beginning on, of so many bytes, if that is known.
    pub(crate) fn begin(&self, of: Option<u64>) {
        self.came.store(0, Ordering::Relaxed);
        self.of.store(of.unwrap_or_default(), Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.came.fetch_add(bytes as u64, Ordering::Relaxed);
        FETCHED.add(bytes as u64);
    }

    /// Whoever reads it is to give up.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    async fn log(&self, app: &AppName, name: &str) -> Infallible {
        let mut ticks = ticks(EVERY);
        // The first is at once, when there is nothing to tell.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            info!(%app, "Fetching {name}: {}", self.text());
        }
    }

    async fn draw(&self, bar: &ProgressBar) -> Infallible {
        let mut ticks = ticks(FRAME);
        loop {
            ticks.tick().await;
            let of = self.of.load(Ordering::Relaxed);
            if of > 0 {
                bar.set_length(of);
                bar.set_position(self.came.load(Ordering::Relaxed));
            }
            bar.set_message(self.text());
        }
    }

    /// `12.0 of 48.3 MB`.
    fn text(&self) -> String {
        let (came, of) = (self.came.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        if of < came {
            return size(came);
        }
        let (unit, name) = unit(of);
        let digits = usize::from(unit > 1.0);
        format!("{:.digits$} of {:.digits$} {name}", came as f64 / unit, of as f64 / unit)
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// `1.2 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = unit(bytes);
    let digits = usize::from(unit > 1.0);
    format!("{:.digits$} {name}", bytes as f64 / unit)
}

fn unit(bytes: u64) -> (f64, &'static str) {
    match bytes {
        0..1_000 => (1.0, "B"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (1_234_567, "1.2 MB"), (12_000_000_000, "12.0 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn how_far_it_is_is_said_in_the_unit_of_the_whole() {
        let text = |came: usize, of: Option<u64>| {
            let progress = Progress::default();
            progress.begin(of);
            progress.add(came);
            progress.text()
        };
        assert_eq!(text(12_000_000, Some(48_300_000)), "12.0 of 48.3 MB");
        assert_eq!(text(0, Some(500)), "0 of 500 B");
        assert_eq!(text(12_000_000, None), "12.0 MB");
        assert_eq!(text(12_000_000, Some(11_000_000)), "12.0 MB", "what a server says may be wrong");
    }
}
