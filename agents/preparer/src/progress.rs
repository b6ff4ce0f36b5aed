//! How far the artifacts are that are being read: a line of the log every few seconds, or bars for who looks on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use converge::Counter;
use store::{AppName, bar};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::info;

/// For metrics.
pub(crate) static FETCHED: Counter =
    Counter::new("platypus_fetched_bytes_total", "Bytes of artifacts that were read from a repository.");

/// Between two words about one artifact.
const EVERY: Duration = Duration::from_secs(5);

/// Between two looks of a bar.
const FRAME: Duration = Duration::from_millis(100);

/// Characters of a line that no terminal folds.
const LINE: usize = 79;

/// Lines that every terminal has.
const MOST_LINES: usize = 12;

/// Where it is shown.
#[derive(Debug)]
pub(crate) enum Screen {
    Log,
    /// Under the lines of the log.
    Terminal(Bars),
}

/// A line for each artifact that is being read. (The crates for this estimate when it will be done, by which each agent
/// would have the library of mathematics in memory for as long as it runs.)
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars(Arc<Mutex<Drawing>>);

#[derive(Debug, Default)]
struct Drawing {
    /// By their names.
    shown: BTreeMap<String, Progress>,
    /// So many lines of the terminal, the last ones, are ours.
    lines: usize,
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
        let bars = Bars::default();
        let drawn = bars.clone();
        converge::keep_aside(move |write| drawn.lock().aside(write));
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
                let _shown = bars.show(name, progress);
                tokio::select! {
                    done = work => done,
                    never = bars.draw() => match never {},
                }
            }
        }
    }
}

impl Bars {
    fn lock(&self) -> MutexGuard<'_, Drawing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is dropped.
    fn show(&self, name: &str, progress: &Progress) -> Shown<'_> {
        self.lock().shown.insert(name.to_owned(), progress.clone());
        Shown { bars: self, name: name.to_owned() }
    }

    async fn draw(&self) -> Infallible {
        let mut ticks = ticks(FRAME);
        loop {
            ticks.tick().await;
            self.lock().aside(&mut || {});
        }
    }
}

struct Shown<'a> {
    bars: &'a Bars,
    name: String,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let mut drawing = self.bars.lock();
        drawing.shown.remove(&self.name);
        drawing.aside(&mut || {});
    }
}

impl Drawing {
    /// Takes away what is drawn, runs `write`, and draws it again, as it is by now. A terminal that takes nothing shows
    /// nothing.
    fn aside(&mut self, write: &mut dyn FnMut()) {
        if self.lines > 0 {
            let _ = write!(stderr(), "\x1b[{}A\x1b[J", self.lines);
        }
        write();
        let lines = self.shown.iter().take(MOST_LINES).map(|(name, progress)| progress.line(name)).collect::<String>();
        self.lines = self.shown.len().min(MOST_LINES);
        let _ = stderr().write_all(lines.as_bytes());
    }
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

    /// `[######------------------] 12.0 of 48.3 MB  slug_0.2`
    fn line(&self, name: &str) -> String {
        let bar = bar(self.came.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        let line = format!("{bar} {}  {name}", self.text());
        line.chars().take(LINE).chain(['\n']).collect()
    }

    /// `12.0 of 48.3 MB`.
    fn text(&self) -> String {
        let (came, of) = (self.came.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        if of < came.max(1) {
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
        assert_eq!(text(0, None), "0 B");
        assert_eq!(text(12_000_000, None), "12.0 MB");
        assert_eq!(text(12_000_000, Some(11_000_000)), "12.0 MB", "what a server says may be wrong");
    }

    #[test]
    fn a_line_is_never_folded() {
        let progress = Progress::default();
        progress.begin(Some(48_300_000));
        progress.add(12_000_000);
        assert_eq!(progress.line("slug_0.2"), "[#####-------------------] 12.0 of 48.3 MB  slug_0.2\n");
        assert_eq!(progress.line(&"x".repeat(200)).len(), LINE + 1);
    }
}
