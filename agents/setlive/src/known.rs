//! Apps that an earlier pass found converged, known again by the stamps of all that they own: as git's index knows a file
//! that need not be read.
//!
//! Ensures: it is only a hint. What is missing, torn, another's or different in any way has an app looked at in full, and
//! does nothing else; a pass that knows all apps again writes nothing. Assumes that who changes a file changes its times:
//! what does not, as writing through a mapping may not, is found by an agent that runs on, not by a pass with `--once`.

mod registered;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use converge::{Source, Wanted, files};
use rustix::fs::{Mode, OFlags, Stat, lstat, open, stat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use store::intent::App;
use store::{AppName, Gather};

use crate::Site;
use crate::definition::{self, Entries};
use crate::runit::{self, Control};

/// Two changes of a file within one tick of the kernel's clock leave the same times. A tick takes 10 ms at the most.
const TICK: Duration = Duration::from_millis(20);

/// What is known of an app that was found converged: a hash of who found it so, of what is wanted, and of the stamps of
/// the app's record, of all files and links that it owns, and of what runsv says of its services.
type Mark = String;

/// What earlier passes found, and what this one could not know by it.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    /// Where is noted what is [`registered`].
    registered: PathBuf,
    /// What each mark begins with, who looks: another program, or one that is told otherwise, may find another thing.
    who: Sha256,
    marks: OnceLock<Marks>,
    unknown: Mutex<Vec<Arc<App>>>,
}

impl Known {
    /// Of the staging directory `stage`, as far as it was found by the one that `who` tells from others.
    pub(crate) fn open(stage: &Path, who: &str) -> Option<Self> {
        let [path, registered] = [".known", ".registered"].map(|name| stage.join(".platypus").join(name));
        let program = stamp(&stat("/proc/self/exe").ok()?);
        let who = Sha256::new().chain_update(program).chain_update(who);
        Some(Self { path, registered, who, marks: OnceLock::new(), unknown: Mutex::default() })
    }

    fn marks(&self) -> &Marks {
        self.marks.get_or_init(|| Marks::read(&self.path).unwrap_or_default())
    }
}

/// A line for each app, in their order: its name and its mark. A line that is torn matches nothing.
#[derive(Debug, Default)]
struct Marks {
    text: String,
    /// Where lines begin.
    lines: Vec<usize>,
}

impl Marks {
    fn read(path: &Path) -> io::Result<Self> {
        let text = read_ours(path)?;
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1));
        let lines = starts.filter(|start| *start < text.len()).collect();
        Ok(Self { text, lines })
    }

    fn of(&self, app: &AppName) -> Option<&str> {
        let at = self.lines.partition_point(|start| self.line(*start).0 < app.as_str());
        let (name, mark) = self.line(*self.lines.get(at)?);
        (name == app.as_str()).then_some(mark)
    }

    fn line(&self, start: usize) -> (&str, &str) {
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        line.split_once(' ').unwrap_or((line, ""))
    }

    fn all(&self) -> BTreeMap<AppName, Mark> {
        let lines = self.lines.iter().map(|start| self.line(*start));
        lines.filter_map(|(app, mark)| Some((app.parse().ok()?, mark.to_owned()))).gather()
    }
}

impl Site {
    /// `None` where what others build or run has to be asked for each time, and where another agent's passes would forget
    /// what ours know.
    pub(crate) fn known(&self) -> Option<Known> {
        let Self { node, source, places, control, records: _, program: _, alone, passing_timeout: _, adopt, known: _ } =
            self;
        match (source, control, &places.builder) {
            (Source::Store, Control::Supervise, None) => {
                Known::open(&places.stage, &format!("{node} {places:?} {alone} {adopt}"))
            }
            (Source::Store | Source::Direct, Control::Supervise | Control::Sv(_), _) => None,
        }
    }

    /// Reads what earlier passes found, while the store works.
    pub(crate) fn recall(&self) {
        self.known.as_ref().map(Known::marks);
    }

    /// Whether the app is as an earlier pass found it converged, and runs.
    pub(crate) fn knows(&self, app: &Arc<App>) -> bool {
        let Some(known) = &self.known else { return false };
        let is_known = || {
            let found = known.marks().of(&app.name)?;
            let (entries, mark) = self.mark(known, app)?;
            // What each service does, its runsv has in a file that the mark knows.
            let is_looked_after = |service: &String| runit::has_runsv(&self.places.staged(service)).unwrap_or(false);
            Some(mark == found && entries.keys().all(is_looked_after))
        };
        let is_known = is_known().unwrap_or(false);
        if !is_known {
            known.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(app.clone());
        }
        is_known
    }

    /// Notes of those among `converged` that were not known by what they are next time.
    pub(crate) fn remember(&self, converged: &BTreeSet<AppName>) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        let mut unknown = std::mem::take(&mut *known.unknown.lock().unwrap_or_else(PoisonError::into_inner));
        unknown.retain(|app| converged.contains(&app.name));
        let mark = |app: &Arc<App>| self.mark(known, app).map(|(_, mark)| mark);
        let marked = unknown.into_iter().filter_map(|app| mark(&app).map(|mark| (app, mark))).collect::<Vec<_>>();
        if marked.is_empty() {
            return Ok(());
        }
        // What is changed from here on shows in its stamp, and what was changed before is looked at.
        thread::sleep(TICK);
        let is_settled = |app: &Arc<App>| self.is_settled(&app.name, &Wanted::App(app.clone())).unwrap_or(false);
        let same = marked.into_iter().filter(|(app, before)| mark(app).as_ref() == Some(before) && is_settled(app));
        let mut marks = known.marks().all();
        marks.extend(same.map(|(app, mark)| (app.name.clone(), mark)));
        let present = self.records.apps()?;
        marks.retain(|app, _| present.contains(app));
        let text = marks.iter().map(|(app, mark)| format!("{app} {mark}\n")).collect::<String>();
        files::write("word of what is known", &known.path, text.as_bytes(), 0o600).map(drop)
    }

    /// `None` when there is nothing to know it by.
    fn mark(&self, known: &Known, app: &App) -> Option<(Entries, Mark)> {
        let version = app.active.as_ref().filter(|_| !app.drain)?;
        let entries = definition::entries(&app.name, &definition::install(&app.basedir, &app.name, version)).ok()?;
        let digest = definition::digest_of(app, version, &entries);
        let mut hash = known.who.clone();
        hash.update(serde_json::to_vec(&(&app.name, &digest, &app.health, &app.timeouts)).ok()?);
        let mut all = self.places.owned(&app.basedir, &digest, &entries);
        all.push(self.records.path(&app.name));
        all.extend(entries.keys().map(|service| runit::status_of(&self.places.staged(service))));
        for path in &all {
            let found = lstat(path).ok()?;
            // A file system that counts in whole seconds has longer ticks.
            if found.st_ctime_nsec == 0 {
                return None;
            }
            hash.update(stamp(&found));
        }
        let mark = format!("{:x}", hash.finalize());
        Some((entries, mark))
    }
}

/// A file that nobody else writes to: who does could have an app left as it is for ever.
fn read_ours(path: &Path) -> io::Result<String> {
    let file = open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut file = File::from(file);
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is not ours alone"));
    }
    let mut text = String::with_capacity(found.size() as usize + 1);
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Device, inode, size and times: no change leaves them as they are.
fn stamp(found: &Stat) -> [u8; 56] {
    let times = [found.st_mtime, found.st_ctime].map(i64::cast_unsigned);
    let [modified, changed] = times;
    let (modified_ns, changed_ns) = (found.st_mtime_nsec, found.st_ctime_nsec);
    let parts = [found.st_dev, found.st_ino, found.st_size.cast_unsigned(), modified, modified_ns, changed, changed_ns];
    let mut stamp = [0; 56];
    stamp.chunks_exact_mut(8).zip(parts).for_each(|(to, part)| to.copy_from_slice(&part.to_le_bytes()));
    stamp
}

#[cfg(test)]
mod tests;
