//! Apps that an earlier pass found converged, known again by the stamps of all that they own: as git's index knows a file
//! that need not be read.
//!
//! Ensures: it is only a hint. What is missing, torn, another's or different in any way has an app looked at in full, and
//! does nothing else; a pass that knows all apps again writes nothing. Assumes that who changes a file changes its times:
//! what does not, as writing through a mapping may not, is found by an agent that runs on, not by a pass with `--once`.

mod registered;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::ops::Range;
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
use store::{AppName, Gather, Version};

use crate::Site;
use crate::definition::{self, Entries, Inputs};
use crate::runit::{self, Control};

/// Two changes of a file within one tick of the kernel's clock leave the same times. A tick takes 10 ms at the most.
const TICK: Duration = Duration::from_millis(20);

/// What is known of an app that was found converged: its definition's digest, and a hash of who found it so, of what is
/// wanted, and of the stamps of the app's record, of all files and links that it owns, and of what runsv says of its
/// services.
type Mark = String;
/// No change leaves it as it is.
type Stamp = [u8; 56];

/// What earlier passes found, and what this one could not know by it.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    /// Where is noted what is [`registered`].
    registered: PathBuf,
    /// What each mark begins with, who looks: another program, or one that is told otherwise, may find another thing.
    who: [u8; 32],
    earlier: OnceLock<Earlier>,
    unknown: Mutex<Vec<Arc<App>>>,
}

/// What a pass begins with.
#[derive(Debug)]
struct Earlier {
    marks: Marks,
    /// Of all links to services.
    links: Option<Stamp>,
}

impl Known {
    /// Of the staging directory `stage`, as far as it was found by the one that `who` tells from others.
    pub(crate) fn open(stage: &Path, who: &str) -> Option<Self> {
        let [path, registered] = [".known", ".registered"].map(|name| stage.join(".platypus").join(name));
        let program = stamp(&stat("/proc/self/exe").ok()?);
        let who = Sha256::new().chain_update(program).chain_update(who).finalize().into();
        Some(Self { path, registered, who, earlier: OnceLock::new(), unknown: Mutex::default() })
    }
}

/// A line for each app, in their order: its name and its mark. A line that is torn matches nothing.
#[derive(Debug, Default)]
struct Marks {
    text: String,
    lines: Vec<Line>,
}

/// Where in the text its parts are.
#[derive(Debug)]
struct Line {
    app: Range<usize>,
    mark: Range<usize>,
}

impl Marks {
    fn read(path: &Path) -> io::Result<Self> {
        let text = read_ours(path)?;
        let (mut lines, mut start) = (Vec::new(), 0);
        for line in text.split_terminator('\n') {
            let end = start + line.len();
            if let Some((app, _)) = line.split_once(' ') {
                let app = start..start + app.len();
                lines.push(Line { mark: app.end + 1..end, app });
            }
            start = end + 1;
        }
        Ok(Self { text, lines })
    }

    fn of(&self, app: &AppName) -> Option<&str> {
        let name = |line: &Line| &self.text[line.app.clone()];
        let at = self.lines.partition_point(|line| name(line) < app.as_str());
        let line = self.lines.get(at).filter(|line| name(line) == app.as_str())?;
        Some(&self.text[line.mark.clone()])
    }

    fn all(&self) -> BTreeMap<AppName, Mark> {
        let lines = self.lines.iter().map(|Line { app, mark }| (&self.text[app.clone()], &self.text[mark.clone()]));
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
        self.known.as_ref().map(|known| self.earlier(known));
    }

    fn earlier<'a>(&self, known: &'a Known) -> &'a Earlier {
        let read = || Earlier { marks: Marks::read(&known.path).unwrap_or_default(), links: self.stamp_of_links() };
        known.earlier.get_or_init(read)
    }

    /// Whether the app is as an earlier pass found it converged, and runs.
    pub(crate) fn knows(&self, app: &Arc<App>) -> bool {
        let Some(known) = &self.known else { return false };
        let is_known = || {
            let Earlier { marks, links } = self.earlier(known);
            let found = marks.of(&app.name)?;
            let (digest, _) = found.split_once(' ')?;
            let (version, entries) = launched(app)?;
            let mark = self.mark(known, links.as_ref()?, &Inputs::of(app, version, &entries), app, digest)?;
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
        let mark = |links: &Stamp, app: &Arc<App>| {
            let (version, entries) = launched(app)?;
            let inputs = Inputs::of(app, version, &entries);
            self.mark(known, links, &inputs, app, inputs.digest().as_str())
        };
        let Some(links) = self.stamp_of_links() else { return Ok(()) };
        let marked =
            unknown.into_iter().filter_map(|app| mark(&links, &app).map(|mark| (app, mark))).collect::<Vec<_>>();
        if marked.is_empty() {
            return Ok(());
        }
        // What is changed from here on shows in its stamp, and what was changed before is looked at.
        thread::sleep(TICK);
        if self.stamp_of_links() != Some(links) {
            return Ok(());
        }
        let is_settled = |app: &Arc<App>| self.is_settled(&app.name, &Wanted::App(app.clone())).unwrap_or(false);
        let same =
            marked.into_iter().filter(|(app, before)| mark(&links, app).as_ref() == Some(before) && is_settled(app));
        let mut marks = self.earlier(known).marks.all();
        marks.extend(same.map(|(app, mark)| (app.name.clone(), mark)));
        let present = self.records.apps()?;
        marks.retain(|app, _| present.contains(app));
        let text = marks.iter().map(|(app, mark)| format!("{app} {mark}\n")).collect::<String>();
        files::write("word of what is known", &known.path, text.as_bytes(), 0o600).map(drop)
    }

    /// Links are only ever replaced, and that changes the directory that they are in.
    fn stamp_of_links(&self) -> Option<Stamp> {
        settled_stamp(&stat(&self.places.runit).ok()?)
    }

    /// `None` when there is nothing to know it by.
    fn mark(&self, known: &Known, links: &Stamp, inputs: &Inputs<'_>, app: &App, digest: &str) -> Option<Mark> {
        let mut hashed = Bytes([&known.who[..], links].concat());
        (&app.name, inputs, &app.health, &app.timeouts).hash(&mut hashed);
        let mut all = self.places.owned(&app.basedir, digest, inputs.entries);
        all.push(self.records.path(&app.name));
        all.extend(inputs.entries.keys().map(|service| runit::status_of(&self.places.staged(service))));
        for path in &all {
            hashed.write(&settled_stamp(&lstat(path).ok()?)?);
        }
        Some(format!("{digest} {:x}", Sha256::digest(hashed.0)))
    }
}

/// The version that shall run, and what its install launches.
fn launched(app: &App) -> Option<(&Version, Entries)> {
    let version = app.active.as_ref().filter(|_| !app.drain)?;
    Some((version, definition::entries(&app.name, &definition::install(&app.basedir, &app.name, version)).ok()?))
}

/// What is hashed, for a hash that is the same in every process.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        let hash: [u8; 32] = Sha256::digest(&self.0).into();
        u64::from_le_bytes(*hash.first_chunk().expect("it is longer"))
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

/// `None` where a file system counts in whole seconds: its ticks are longer.
fn settled_stamp(found: &Stat) -> Option<Stamp> {
    (found.st_ctime_nsec != 0).then(|| stamp(found))
}

/// Device, inode, size and times.
fn stamp(found: &Stat) -> Stamp {
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
