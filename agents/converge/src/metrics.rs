//! What changes all the time about an agent, as metrics in Prometheus' text format, in a file for node_exporter's textfile
//! collector.
//!
//! Ensures: whoever reads the file reads all of one state; every series has the agent's name, so that the files of several
//! agents can be collected together; counters begin at 0 with the process.
//!
//! The format is that of <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use store::reality::{Report, State};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::agent::Outcome;
use crate::files;
use crate::threads::blocking;

/// Something that an agent counts.
#[derive(Debug)]
pub struct Counter {
    /// `platypus_…_total`.
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicU64::new(0) }
    }

    pub fn add(&self, more: u64) {
        self.value.fetch_add(more, Relaxed);
    }
}

pub(crate) static STORE_ERRORS: Counter =
    Counter::new("platypus_store_errors_total", "Reads and writes of the store that failed.");

const STATES: [State; 5] = [State::Converged, State::Converging, State::Waiting, State::Held, State::Failing];

/// The attempts of this process.
static CONVERGED: AtomicU64 = AtomicU64::new(0);
static WAITING: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static MICROSECONDS: AtomicU64 = AtomicU64::new(0);
/// When the last one ended, in seconds of Unix time; 0 before the first.
static LAST: AtomicU64 = AtomicU64::new(0);

/// An attempt at an app, or at the host as a whole, has ended.
pub(crate) fn passed(result: &Result<Outcome>, took: Duration) {
    let ended = match result {
        Ok(Outcome::Converged) => &CONVERGED,
        Ok(Outcome::Waiting(_)) => &WAITING,
        // It is not for this agent to do anything there.
        Ok(Outcome::Nothing) => return,
        Err(_) => &FAILED,
    };
    ended.fetch_add(1, Relaxed);
    MICROSECONDS.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    LAST.store(now(), Relaxed);
}

/// In seconds of Unix time.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Where the metrics go.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    agent: &'static str,
    counters: &'static [&'static Counter],
    /// When everything was last found as intent wants it; 0 before it ever was.
    all_converged: u64,
}

impl Metrics {
    pub(crate) fn new(path: &Path, agent: &'static str, counters: &'static [&'static Counter]) -> Self {
        Self { path: path.to_owned(), agent, counters, all_converged: 0 }
    }

    /// `is_whole` when the report tells of everything that there is.
    pub(crate) async fn write(&mut self, report: Option<&Report>, is_whole: bool) -> Result<()> {
        let is_converged =
            |report: &Report| report.apps.values().chain(&report.host).all(|it| it.state == State::Converged);
        if is_whole && LAST.load(Relaxed) > 0 && report.is_some_and(is_converged) {
            self.all_converged = now();
        }
        let (path, text) = (self.path.clone(), self.text(report));
        blocking(move || files::write("metrics", &path, text.as_bytes(), 0o644).map(drop)).await
    }

    fn text(&self, report: Option<&Report>) -> String {
        let mut text = Text { agent: self.agent, text: String::new() };
        text.family("platypus_agent_info", "gauge", "Which version of the agent it is.");
        text.sample("platypus_agent_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);

        text.family(
            "platypus_passes_total",
            "counter",
            "Attempts at an app, or at the host as a whole, by how they ended.",
        );
        let counts = [("converged", &CONVERGED), ("waiting", &WAITING), ("failed", &FAILED)];
        let counts = counts.map(|(outcome, count)| (outcome, count.load(Relaxed)));
        for (outcome, count) in counts {
            text.sample("platypus_passes_total", &[("outcome", outcome)], count as f64);
        }
        text.family("platypus_pass_seconds", "summary", "How long attempts took.");
        text.sample("platypus_pass_seconds_sum", &[], MICROSECONDS.load(Relaxed) as f64 / 1e6);
        text.sample("platypus_pass_seconds_count", &[], counts.iter().map(|(_, count)| count).sum::<u64>() as f64);
        for (name, help, at) in [
            ("platypus_last_pass_timestamp_seconds", "When an attempt last ended, in Unix time.", LAST.load(Relaxed)),
            (
                "platypus_converged_timestamp_seconds",
                "When everything was last found as intent wants it, in Unix time.",
                self.all_converged,
            ),
        ] {
            text.family(name, "gauge", help);
            if at > 0 {
                text.sample(name, &[], at as f64);
            }
        }
        let apps = report.map(|report| &report.apps);
        text.family("platypus_apps", "gauge", "Apps on this node, by how far this agent is with them.");
        for state in STATES {
            let count = apps.into_iter().flat_map(|apps| apps.values()).filter(|app| app.state == state).count();
            text.sample("platypus_apps", &[("state", word(state))], count as f64);
        }
        let name = "platypus_app_unconverged_since_timestamp_seconds";
        text.family(name, "gauge", "Since when an app is not as intent wants it, in Unix time; of no others.");
        for (app, said) in apps.into_iter().flatten().filter(|(_, said)| said.state != State::Converged) {
            if let Ok(since) = OffsetDateTime::parse(&said.since, &Rfc3339) {
                text.sample(name, &[("app", app.as_str()), ("state", word(said.state))], since.unix_timestamp() as f64);
            }
        }
        let name = "platypus_host_unconverged_since_timestamp_seconds";
        text.family(name, "gauge", "Since when the host as a whole is not as intent wants it, in Unix time.");
        if let Some(said) = report.and_then(|report| report.host.as_ref()).filter(|it| it.state != State::Converged)
            && let Ok(since) = OffsetDateTime::parse(&said.since, &Rfc3339)
        {
            text.sample(name, &[("state", word(said.state))], since.unix_timestamp() as f64);
        }
        for Counter { name, help, value } in [&STORE_ERRORS].into_iter().chain(self.counters.iter().copied()) {
            text.family(name, "counter", help);
            text.sample(name, &[], value.load(Relaxed) as f64);
        }
        text.text
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Converged => "converged",
        State::Converging => "converging",
        State::Waiting => "waiting",
        State::Held => "held",
        State::Failing => "failing",
    }
}

struct Text {
    agent: &'static str,
    text: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}")
            .expect("a text takes whatever is written to it");
    }

    /// Values of labels are names, which hold nothing that would have to be escaped.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(label, value)| format!(",{label}=\"{value}\"")).collect::<String>();
        writeln!(self.text, "{name}{{agent=\"{}\"{labels}}} {value}", self.agent).expect("as above");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static COUNTERS: [&Counter; 1] = [&FETCHED];
    static FETCHED: Counter = Counter::new("platypus_fetched_bytes_total", "Bytes of artifacts that were fetched.");

    #[tokio::test]
    async fn what_is_counted_and_how_far_each_app_is_can_be_collected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pp-preparer.prom");
        let mut metrics = Metrics::new(&path, "pp-preparer", &COUNTERS);
        FETCHED.add(1000);
        let before = [&CONVERGED, &FAILED].map(|count| count.load(Relaxed));
        passed(&Ok(Outcome::Converged), Duration::from_millis(1500));
        passed(&Ok(Outcome::Waiting("for it".to_owned())), Duration::from_millis(250));
        passed(&Err(anyhow::anyhow!("no")), Duration::from_millis(250));
        passed(&Ok(Outcome::Nothing), Duration::from_secs(9));
        let since = "1970-01-01T00:01:40Z";
        let apps = json!({"slug": {"state": "failing", "since": since}, "two": {"state": "converged", "since": since}});
        let report = serde_json::from_value(json!({"version": "1", "apps": apps})).unwrap();
        metrics.write(Some(&report), true).await.unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        // Other tests of this process attempt things, too.
        for (outcome, before) in ["converged", "failed"].into_iter().zip(before) {
            let head = format!("platypus_passes_total{{agent=\"pp-preparer\",outcome=\"{outcome}\"}} ");
            let count = text.lines().find_map(|line| line.strip_prefix(&head)).unwrap();
            assert!(count.parse::<u64>().unwrap() > before, "{text}");
        }
        for line in [
            "platypus_apps{agent=\"pp-preparer\",state=\"failing\"} 1",
            "platypus_apps{agent=\"pp-preparer\",state=\"held\"} 0",
            "platypus_app_unconverged_since_timestamp_seconds{agent=\"pp-preparer\",app=\"slug\",state=\"failing\"} 100",
            "platypus_fetched_bytes_total{agent=\"pp-preparer\"} 1000",
            "# TYPE platypus_store_errors_total counter",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: not in\n{text}");
        }
        assert!(!text.contains("app=\"two\"") && !text.contains("platypus_converged_timestamp_seconds{"));
    }
}
