//! Log lines as operators know them: `INFO  [2014-08-31 02:42:58.077] slug: Symlinking`, to standard error, in UTC.
//!
//! `RUST_LOG` sets what is shown (default `info`): a level, or levels for parts of the program (`info,store=debug`). A line
//! that nobody takes, since the disk under the log is full or its reader is gone, is lost; the agent goes on.

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogFormat;

pub(crate) fn start(format: LogFormat) {
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    let (shown, complaint) = shown(&wanted);
    // To complain of standard error there would be a panic.
    let lines = layer().with_writer(|| Stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(shown);
    match format {
        LogFormat::Text => registry.with(lines.event_format(Text)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    if let Some(complaint) = complaint {
        warn!("RUST_LOG: {complaint}; showing info");
    }
}

/// What is shown, and what is wrong with what `RUST_LOG` says.
fn shown(wanted: &str) -> (Targets, Option<String>) {
    let info = Targets::new().with_default(LevelFilter::INFO);
    match wanted.parse() {
        _ if wanted.is_empty() => (info, None),
        Ok(targets) => (targets, None),
        Err(error) => (info, Some(format!("{wanted:?}: {error}"))),
    }
}

/// Runs what it is given while nothing but the log is on the terminal.
type Aside = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static ASIDE: OnceLock<Aside> = OnceLock::new();

/// For who draws on the terminal to which the log goes: `aside` takes away what is drawn, runs what it is given, and draws
/// it again. Only the first one counts.
pub fn keep_aside(aside: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
    let _ = ASIDE.set(Box::new(aside));
}

struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(aside) = ASIDE.get() else { return io::stderr().write(line) };
        let mut written = Ok(());
        aside(&mut || written = io::stderr().write_all(line));
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
        let now = OffsetDateTime::now_utc().format(&format).map_err(|_| fmt::Error)?;
        let mut parts = Parts::default();
        event.record(&mut parts);
        write!(line, "{:<5} [{now}] ", event.metadata().level())?;
        if let Some(app) = parts.app {
            write!(line, "{app}: ")?;
        }
        writeln!(line, "{}{}", one_line(&parts.message), parts.rest)
    }
}

#[derive(Default)]
struct Parts {
    app: Option<String>,
    message: String,
    rest: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "app" => self.app = Some(format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            name => self.rest.push_str(&format!(" {name}={value:?}")),
        }
    }
}

/// One event is one line, whatever an error quotes: nobody can forge a line of the log.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_forge_a_line() {
        assert_eq!(one_line("a\nINFO  [x] b\u{1b}[31m é"), "a\\nINFO  [x] b\\u{1b}[31m é");
    }

    #[test]
    fn what_is_shown_is_a_level_or_levels_of_parts() {
        let debug = |wanted: &str, part: &str| shown(wanted).0.would_enable(part, &tracing::Level::DEBUG);
        assert!(!debug("", "store") && debug("debug", "store") && debug("info,store=debug", "store"));
        assert!(!debug("info,store=debug", "setlive"));
    }

    #[test]
    fn what_cannot_be_shown_is_said_and_costs_no_line_of_info() {
        let (shown, complaint) = shown("store=loud");
        assert!(complaint.is_some_and(|said| said.contains("store=loud")));
        assert!(shown.would_enable("store", &tracing::Level::INFO));
    }
}
