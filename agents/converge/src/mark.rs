//! A mark for whoever waits for this agent to be at work: after an upgrade of it, say.
//!
//! Ensures: where there is a mark, the process that it names has read its intent from the store and has looked at each app
//! since; what it does about one may take longer. A process that never gets so far leaves none, nor does one of before
//! stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use store::{AppName, NodeName};
use tracing::{debug, error};

use crate::files;

/// Where it goes, and what it says.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    text: String,
}

impl Mark {
    /// This process's; that of another is removed.
    pub(crate) fn new(path: &Path, node: &NodeName, store: &str) -> Result<Self> {
        // Where an install is run from, this says which one.
        let program = std::env::current_exe().context("finding out which program this is")?;
        files::directory("directory of marks", path.parent().unwrap_or(Path::new("/")))?;
        files::remove("another's mark", path)?;
        let text = json!({"program": program, "pid": std::process::id(), "node": node, "store": store}).to_string();
        Ok(Self { path: path.to_owned(), text })
    }
}

/// The process that has left a mark in this file, if there is one.
pub fn marked(path: &Path) -> Option<i32> {
    let mark = serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok()?;
    mark["pid"].as_i64()?.try_into().ok()
}

/// What is left of the first pass.
#[derive(Debug)]
pub(crate) struct FirstPass {
    /// `None` once it is written, or when nobody wants one.
    mark: Option<Mark>,
    /// Whom no attempt has looked at yet: apps, and the host as a whole. `None` while no intent was read.
    left: Option<BTreeSet<Option<AppName>>>,
}

impl FirstPass {
    pub(crate) fn new(mark: Option<Mark>) -> Self {
        Self { mark, left: None }
    }

    /// Intent was read, by which these apps are attempted.
    pub(crate) fn over<'a>(&mut self, apps: impl Iterator<Item = &'a AppName>) {
        if self.mark.is_none() {
            return;
        }
        let all = apps.cloned().map(Some).chain([None]).collect::<BTreeSet<_>>();
        match &mut self.left {
            // What came meanwhile is another pass's.
            Some(left) => left.retain(|whose| all.contains(whose)),
            left => *left = Some(all),
        }
        self.write_when_done();
    }

    /// An attempt has looked at an app, or at the host as a whole.
    pub(crate) fn looked(&mut self, whose: Option<&AppName>) {
        if let Some(left) = &mut self.left {
            left.remove(&whose.cloned());
            self.write_when_done();
        }
    }

    fn write_when_done(&mut self) {
        if let (Some(mark), Some(left)) = (&self.mark, &self.left)
            && left.is_empty()
        {
            match files::write("mark", &mark.path, mark.text.as_bytes(), 0o644) {
                Ok(_) => {
                    debug!("the first pass is made");
                    self.mark = None;
                }
                // Tried again after the next attempt.
                Err(error) => error!("{error:#}"),
            }
        }
    }
}
