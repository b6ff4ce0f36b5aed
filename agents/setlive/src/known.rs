//! Apps that an earlier pass found converged, known again by the stamps of all that they own: as git's index knows a file
//! that need not be read.
//!
//! Ensures: it is only a hint. What is missing, torn, another's or different in any way has an app looked at in full, and
//! does nothing else; a pass that knows all apps again writes nothing. Where a pass found all of an intent as it shall be, and
//! the next finds the same intent and all apps as they were noted, there is nothing for it to do. Assumes that who changes a
//! file changes its times: what does not, as writing through a mapping may not, is found by an agent that runs on, not by a
//! pass with `--once`.

mod notes;
mod registered;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use converge::{Source, Wanted, files};
use rustix::fs::{Mode, OFlags, Stat, lstat, open, stat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use store::intent::{App, Fingerprint};
use store::{AppName, Version};

use self::notes::{Line, Note, Notes};
use crate::definition::{self, Inputs};
use crate::runit::{self, Control};
use crate::{Site, below, service};

/// Two changes of a file within one tick of the kernel's clock leave the same times. A tick takes 10 ms at the most.
const TICK: Duration = Duration::from_millis(20);

/// No change leaves it as it is.
type Stamp = [u8; 56];

/// What earlier passes found, and what this one could not know by it.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    /// Where is noted what is [`registered`].
    registered: PathBuf,
    /// Who looks: another program, or one that is told otherwise, may find another thing.
    who: [u8; 32],
    earlier: OnceLock<Earlier>,
    /// The turns of those who look at what was noted: first at which apps there are, then at one after the other.
    looked: AtomicUsize,
    unknown: Mutex<Vec<Arc<App>>>,
}

/// What a pass begins with.
#[derive(Debug)]
struct Earlier {
    notes: Notes,
    /// Of all links to services.
    links: Option<Stamp>,
    /// Whether the apps that are noted are those that there are; once somebody looked.
    is_complete: OnceLock<bool>,
}

impl Known {
    /// Of the staging directory `stage`, as far as it was found by the one that `who` tells from others.
    pub(crate) fn open(stage: &Path, who: &str) -> Option<Self> {
        let [path, registered] = [".known", ".registered"].map(|name| stage.join(".platypus").join(name));
        let program = stamp(&stat("/proc/self/exe").ok()?);
        let who = Sha256::new().chain_update(program).chain_update(who).finalize().into();
        let (earlier, looked, unknown) = (OnceLock::new(), AtomicUsize::new(0), Mutex::default());
        Some(Self { path, registered, who, earlier, looked, unknown })
    }

    /// It grows as long as somebody looks at what was noted.
    pub(crate) fn looked(&self) -> &AtomicUsize {
        &self.looked
    }

    /// Whether what was noted is of another intent, or not all of one; as far as it was read by now.
    pub(crate) fn is_of_other(&self, intent: &Fingerprint) -> bool {
        self.earlier.get().is_some_and(|earlier| earlier.notes.all_of() != Some(&self.all_of(intent)))
    }

    /// As notes have it.
    fn all_of(&self, intent: &Fingerprint) -> String {
        short(Sha256::new().chain_update(self.who).chain_update(intent.to_string()))
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

    fn earlier<'a>(&self, known: &'a Known) -> &'a Earlier {
        let read = || {
            let notes = read_ours(&known.path).map(Notes::new).unwrap_or_default();
            Earlier { notes, links: self.stamp_of_links(), is_complete: OnceLock::new() }
        };
        known.earlier.get_or_init(read)
    }

    /// Looks at all that is noted, while the store works: in turns with other threads that do.
    pub(crate) fn look_at_noted(&self, known: &Known) {
        let earlier = self.earlier(known);
        loop {
            match known.looked.fetch_add(1, Relaxed) {
                0 => drop(earlier.is_complete.set(self.is_complete(&earlier.notes))),
                turn => match earlier.notes.lines.get(turn - 1) {
                    Some(line) => drop(self.is_so(known, earlier, line)),
                    None => return,
                },
            }
        }
    }

    /// Whether all is as the pass left it that noted it, and for this intent; of what was looked at by now.
    pub(crate) fn is_left_so(&self, known: &Known, intent: &Fingerprint) -> bool {
        let Some(Earlier { notes, links: _, is_complete }) = known.earlier.get() else { return false };
        !known.is_of_other(intent)
            && is_complete.get() == Some(&true)
            && notes.lines.iter().all(|line| line.is_so.get() == Some(&true))
    }

    /// Whether the app is as an earlier pass found it converged, and runs.
    pub(crate) fn knows(&self, app: &Arc<App>) -> bool {
        let Some(known) = &self.known else { return false };
        let is_known = || {
            let earlier = self.earlier(known);
            let line = earlier.notes.of(&app.name)?;
            let note = earlier.notes.note(line)?;
            let is_wanted = note.basedir == app.basedir.as_str()
                && note.wanted == wanted(app, &Inputs::of(app, launched(app)?, &note.entries()));
            let is_known = is_wanted && self.is_so(known, earlier, line);
            line.is_known.store(is_known, Relaxed);
            Some(is_known)
        };
        let is_known = is_known().unwrap_or(false);
        if !is_known {
            known.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(app.clone());
        }
        is_known
    }

    /// Notes of those among `converged` that were not known by what they are next time, and of which intent that is all.
    pub(crate) fn remember(&self, converged: &BTreeSet<AppName>, all_of: Option<&Fingerprint>) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        let mut unknown = std::mem::take(&mut *known.unknown.lock().unwrap_or_else(PoisonError::into_inner));
        unknown.retain(|app| converged.contains(&app.name));
        let Some(links) = self.stamp_of_links() else { return Ok(()) };
        let run = unknown.iter().filter(|app| launched(app).is_some()).count();
        let noted = |app: Arc<App>| self.note(known, &links, &app).map(|note| (app, note));
        let noted = unknown.into_iter().filter_map(noted).collect::<Vec<_>>();
        let earlier = &self.earlier(known).notes;
        let all_of = all_of.map(|intent| known.all_of(intent));
        if noted.is_empty() && all_of.as_deref() == earlier.all_of() {
            return Ok(());
        }
        let mut new = BTreeMap::new();
        if !noted.is_empty() {
            // What is changed from here on shows in its stamp, and what was changed before is looked at.
            thread::sleep(TICK);
            if self.stamp_of_links() != Some(links) {
                return Ok(());
            }
            let is_settled = |app: &Arc<App>| self.is_settled(&app.name, &Wanted::App(app.clone())).unwrap_or(false);
            let is_same = |(app, before): &(Arc<App>, String)| self.note(known, &links, app).as_ref() == Some(before);
            let same = noted.into_iter().filter(|noted| is_same(noted) && is_settled(&noted.0));
            new.extend(same.map(|(app, note)| (app.name.clone(), note)));
        }
        // What was noted of another intent, and of which this pass found out nothing, says nothing of this one.
        let known_before =
            earlier.lines.iter().filter(|line| line.is_known.load(Relaxed)).map(|line| earlier.app(line));
        let known_now = known_before.chain(new.keys().map(AppName::as_str)).collect::<BTreeSet<_>>();
        let present = self.records.apps()?;
        let is_all = new.len() == run && present.iter().map(AppName::as_str).eq(known_now);
        let all_of = all_of.filter(|_| is_all);
        let mut notes = earlier.all();
        notes.append(&mut new);
        notes.retain(|app, _| present.contains(app));
        let text = Notes::written(all_of.as_deref(), &notes);
        if text == earlier.text() {
            return Ok(());
        }
        files::write("word of what is known", &known.path, text.as_bytes(), 0o600).map(drop)
    }

    /// Links are only ever replaced, and that changes the directory that they are in.
    fn stamp_of_links(&self) -> Option<Stamp> {
        settled_stamp(&stat(&self.places.runit).ok()?)
    }

    /// Whether the apps that are noted are those that there are.
    fn is_complete(&self, notes: &Notes) -> bool {
        let is_same = |apps: BTreeSet<AppName>| apps.iter().map(AppName::as_str).eq(notes.apps());
        !notes.lines.is_empty() && self.records.apps().is_ok_and(is_same)
    }

    /// Whether the app is as its note says, and runs.
    fn is_so(&self, known: &Known, earlier: &Earlier, line: &Line) -> bool {
        let look = || {
            let note = earlier.notes.note(line)?;
            let app = earlier.notes.app(line).parse().ok()?;
            let found = self.found(known, earlier.links.as_ref()?, &app, &note)?;
            // What each service does, its runsv has in a file that the note knows.
            let is_looked_after = |service| runit::has_runsv(&self.places.staged(service)).unwrap_or(false);
            Some(found == note.found && note.services().all(is_looked_after))
        };
        *line.is_so.get_or_init(|| look().unwrap_or(false))
    }

    /// `None` when there is nothing to know the app by.
    fn note(&self, known: &Known, links: &Stamp, app: &App) -> Option<String> {
        let version = launched(app)?;
        let entries = definition::entries(&app.name, &definition::install(&app.basedir, &app.name, version)).ok()?;
        let inputs = Inputs::of(app, version, &entries);
        let (digest, wanted) = (inputs.digest(), wanted(app, &inputs));
        let services = entries.keys().map(String::as_str).collect::<Vec<_>>().join(",");
        let note = Note::new(digest.as_str(), &wanted, &services, app.basedir.as_str())?;
        let found = self.found(known, links, &app.name, &note)?;
        Some(note.text(&found))
    }

    /// A hash of who looks, of what the note says, and of the stamps of the app's record, of what it launches by way of the link
    /// to its install, of all files that it owns, and of what runsv says of its services.
    fn found(&self, known: &Known, links: &Stamp, app: &AppName, note: &Note<'_>) -> Option<String> {
        let mut hashed = Bytes([&known.who[..], links].concat());
        (app, note.text("")).hash(&mut hashed);
        let basedir = Path::new(note.basedir);
        let current = service::current(basedir);
        let scripts = note.services().filter(|service| service.contains('@')).map(definition::entry);
        for launched in ["bin/launch".to_owned()].into_iter().chain(scripts) {
            hashed.write(&settled_stamp(&stat(below(&current, &[&launched])).ok()?)?);
        }
        let mut owned = self.places.owned(basedir, note.digest, note.services());
        owned.push(self.records.path(app));
        owned.extend(note.services().map(|service| runit::status_of(&self.places.staged(service))));
        for path in &owned {
            hashed.write(&settled_stamp(&lstat(path).ok()?)?);
        }
        Some(short(Sha256::new_with_prefix(hashed.0)))
    }
}

/// The version that shall run.
fn launched(app: &App) -> Option<&Version> {
    app.active.as_ref().filter(|_| !app.drain)
}

/// A hash of all that is wanted of an app here.
fn wanted(app: &App, inputs: &Inputs<'_>) -> String {
    let mut hashed = Bytes(Vec::new());
    (&app.name, inputs, &app.health, &app.timeouts).hash(&mut hashed);
    short(Sha256::new_with_prefix(hashed.0))
}

/// Half of it: nobody but us writes what is compared with it.
fn short(hash: Sha256) -> String {
    let mut text = format!("{:x}", hash.finalize());
    text.truncate(32);
    text
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
