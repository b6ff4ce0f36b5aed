//! When it is the next turn of something that is attempted again and again, and what is said about how an attempt went.
//!
//! Ensures: the same reason is not logged twice in a row.

use std::time::Duration;

use anyhow::Result;
use store::AppName;
use tokio::time::Instant;
use tracing::field::display;
use tracing::{debug, error, info};

use crate::agent::Outcome;
use crate::backoff::{Backoff, jittered};

/// Between two looks at what is watched.
const WATCHED: Duration = Duration::from_secs(15);

pub(crate) struct Turn {
    /// Whose attempts these are; the host's, without an app.
    app: Option<AppName>,
    pub(crate) running: bool,
    /// Something changed while an attempt was running.
    changed: bool,
    /// The next attempt, when none is running.
    pub(crate) due: Instant,
    /// How the last attempt ended.
    failed: bool,
    failing: Backoff,
    waiting: Backoff,
    /// The last thing said about why it does not converge.
    said: Option<String>,
}

impl Turn {
    pub(crate) fn new(app: Option<AppName>) -> Self {
        Self {
            app,
            running: false,
            changed: false,
            due: Instant::now(),
            failed: false,
            failing: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            waiting: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            said: None,
        }
    }

    /// What is wanted has changed: it is due now, or as soon as the attempt that is running ends.
    pub(crate) fn reset(&mut self) {
        self.due = Instant::now();
        self.changed = self.running;
        self.failing.reset();
        self.waiting.reset();
    }

    /// What it waited for has come: it is due now.
    pub(crate) fn wake(&mut self) {
        self.due = Instant::now();
    }

    /// Something that may have been why it failed is over: if it did, it is due now.
    pub(crate) fn retry(&mut self) {
        if self.failed && !self.running {
            self.due = Instant::now();
        }
    }

    /// True when `text` was not the last thing said.
    pub(crate) fn is_news(&mut self, text: &str) -> bool {
        let news = self.said.as_deref() != Some(text);
        if news {
            self.said = Some(text.to_owned());
        }
        news
    }

    /// Notes how an attempt ended, says so if it is news, and sets when the next one is due. That something converged is
    /// only said where it is `wanted`. Where what it waits for `is_watched`, it is looked at again for the sake of what that
    /// does not show.
    pub(crate) fn settle(&mut self, result: Result<Outcome>, interval: Duration, wanted: bool, is_watched: bool) {
        self.running = false;
        self.failed = result.is_err();
        // From the end of an attempt, so that one that takes long is not followed by the next at once.
        let delay = match &result {
            _ if std::mem::take(&mut self.changed) => Duration::ZERO,
            Ok(Outcome::Converged | Outcome::Nothing) => jittered(interval),
            _ if is_watched => jittered(interval.min(WATCHED)),
            Ok(Outcome::Waiting(_)) => self.waiting.delay(),
            Err(_) => self.failing.delay(),
        };
        self.due = Instant::now() + delay;
        let app = self.app.clone();
        let app = app.as_ref().map(display);
        match result {
            Ok(Outcome::Converged | Outcome::Nothing) => {
                self.failing.reset();
                self.waiting.reset();
                if wanted && self.said.take().is_some() {
                    info!(app, "converged");
                }
            }
            Ok(Outcome::Waiting(reason)) => {
                self.failing.reset();
                let text = format!("waiting: {reason}");
                if self.is_news(&text) { info!(app, "{text}") } else { debug!(app, "{text}") }
            }
            Err(error) => {
                let text = format!("{error:#}");
                if self.is_news(&text) { error!(app, "{text}") } else { debug!(app, "{text}") }
            }
        }
    }
}
