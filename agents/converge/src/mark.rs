//! A mark for whoever waits for this agent to be at work: after an upgrade of it, say.
//!
//! Ensures: where there is a mark, the process that it names has read its intent from the store and has looked at each app
//! since; what it does about one may take longer. A process that never gets so far leaves none, and removes that of the one
//! before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use store::{AppName, Gather, NodeName};
use tracing::{debug, error};

use crate::files;

/// What a process says of its first pass.
#[derive(Debug, Serialize, Deserialize)]
pub struct Passed {
    /// Where an install is run from, this says which one.
    pub program: PathBuf,
    pub pid: i32,
    node: NodeName,
    store: String,
    /// Those that intent names for this node.
    #[serde(default)]
    pub apps: BTreeSet<AppName>,
}

impl Passed {
    /// What is said in this file, if anything is.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

/// Where it goes, and what it says.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    passed: Passed,
}

impl Mark {
    /// This process's; that of another is removed.
    pub(crate) fn new(path: &Path, node: &NodeName, store: &str) -> Result<Self> {
        let program = std::env::current_exe().context("finding out which program this is")?;
        files::directory("directory of marks", path.parent().unwrap_or(Path::new("/")))?;
        files::remove("another's mark", path)?;
        let (pid, apps) = (std::process::id().cast_signed(), BTreeSet::new());
        let passed = Passed { program, pid, node: node.clone(), store: store.to_owned(), apps };
        Ok(Self { path: path.to_owned(), passed })
    }

    fn write(&self) -> Result<bool> {
        let text = serde_json::to_vec(&self.passed).context("writing a mark as JSON")?;
        files::write("mark", &self.path, &text, 0o644)
    }
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

    /// Intent was read, which names some apps, and by which these are attempted.
    pub(crate) fn over<'a>(
        &mut self,
        named: impl Iterator<Item = &'a AppName>,
        apps: impl Iterator<Item = &'a AppName>,
    ) {
        let Some(mark) = &mut self.mark else { return };
        mark.passed.apps = named.cloned().gather();
        let all = apps.cloned().map(Some).chain([None]).gather::<BTreeSet<_>>();
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
            match mark.write() {
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
