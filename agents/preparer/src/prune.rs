//! Removing installs that intent names no more, so that a host does not fill up with them.
//!
//! Who else may need an install? Whoever runs it, and whoever would go back to it. We know neither, and they not of us: what
//! we go by is that both keep links in the basedir, `current` and `last`, to what runs and to what was healthy last, at every
//! moment of a replacement. What any link there leads to stays. What is *about* to be run has no link yet, but intent named it
//! a moment ago; therefore an install that intent names no more is only noted at first, in a file beside it, and stays for
//! [`UNWANTED_FOR`]. The file's time is since when; so it outlives an agent, and counts for one pass with `--once` after
//! another, too. It holds how many bytes the install takes, so that this is counted once.
//!
//! There is still the one that intent names again at the moment at which we look: whoever runs it may have seen it there.
//! So what is to go is set aside by another name first, and [`SETTLE`] later looked for in links and intent once more; if it
//! is there, it is put back, and so it is by the next pass if this one is interrupted. Nothing is deleted under a name that
//! an install can have, nor under the one by which it is put back.
//!
//! Ensures: what intent names and what a link leads to stays; a crash leaves no half install. Two agents that follow different
//! intents over one basedir begin each other's notes anew, and prune nothing. Assumes the lock for all that changes anything.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use converge::{Task, Wanted, blocking, effect, files};
use store::intent::App;
use tracing::{debug, info};

use crate::agent::look;
use crate::attempt::{Guard, all};
use crate::decide::{Names, Plan, Unwanted, aside_name, doomed_name, note_name, prune, unwanted};
use crate::install::Installs;
use crate::progress::size;

/// Longer than somebody who knew of an install by intent takes to run it, or to learn that it is not to be run.
pub(crate) const UNWANTED_FOR: Duration = Duration::from_secs(600);
/// Longer than it takes from seeing an install to linking it, and for news of intent to come.
const SETTLE: Duration = Duration::from_secs(1);

/// Which installs are kept that intent names no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Keep {
    /// Of each app, keep as many installs that intent names no more, those that it named last first; those that a link in
    /// the app's basedir leads to, as `current` and `last`, stay anyway
    #[arg(long = "keep", value_name = "N", default_value = "3")]
    pub(crate) count: usize,

    /// Keep fewer than --keep where they take more room together; 500M, 20G: K, M and G are 1024, 1024² and 1024³
    #[arg(long = "keep-bytes", value_name = "BYTES", value_parser = bytes)]
    pub(crate) bytes: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: 3, bytes: None }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        Some(_) | None => (text, 1),
    };
    let number = number.parse::<u64>().map_err(|_| "a whole number, perhaps with K, M or G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is more than there can be".to_owned())
}

/// The installs of `app` that are to be removed, in that order. Most often it is clear from their names that there are none.
pub(crate) fn doomed(app: &App, names: &Names, keep: &Keep) -> Result<Vec<Unwanted>> {
    let may_stay = |count| count <= keep.count && keep.bytes.is_none();
    if may_stay(names.len()) {
        return Ok(Vec::new());
    }
    let names = unwanted(app, names);
    if may_stay(names.len()) {
        return Ok(Vec::new());
    }
    let (installs, now) = (Installs::of(app), SystemTime::now());
    let mut found = Vec::new();
    for name in names {
        found.extend(observe(installs.dir(), name, now)?);
    }
    // With links there are not more.
    if prune(&found, keep).is_empty() {
        return Ok(Vec::new());
    }
    let linked = linked(app.basedir.path(), installs.dir())?;
    for one in &mut found {
        one.is_linked = linked.contains(&one.name);
    }
    Ok(prune(&found, keep).into_iter().cloned().collect())
}

/// `None` of what is no directory: somebody else put it there.
fn observe(installs: &Path, name: &str, now: SystemTime) -> Result<Option<Unwanted>> {
    let path = installs.join(name);
    let install = match fs::symlink_metadata(&path) {
        Ok(install) => install,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
    };
    if !install.is_dir() {
        return Ok(None);
    }
    let note = installs.join(note_name(name));
    let noted = fs::symlink_metadata(&note).and_then(|note| note.modified());
    let unwanted_for = noted.map_or(Duration::ZERO, |since| now.duration_since(since).unwrap_or_default());
    let counted = fs::read_to_string(&note).ok().and_then(|text| text.trim_end().parse().ok());
    Ok(Some(Unwanted {
        name: name.to_owned(),
        unwanted_for,
        // When it was put there, by the kernel's word: its other times may be an archive's.
        made: (install.ctime(), install.ctime_nsec()),
        bytes: counted.unwrap_or_else(|| disk_usage(&path)),
        is_linked: false,
    }))
}

/// What the links in `basedir` lead to among what is in `installs`, and every name that they are made of: one that leads
/// nowhere may do so only for now.
fn linked(basedir: &Path, installs: &Path) -> Result<BTreeSet<String>> {
    let find = || -> io::Result<BTreeSet<String>> {
        let (installs, mut found) = (fs::canonicalize(installs)?, BTreeSet::new());
        for entry in fs::read_dir(basedir)? {
            let entry = entry?;
            if !entry.file_type()?.is_symlink() {
                continue;
            }
            let target = match fs::read_link(entry.path()) {
                Ok(target) => target,
                // It was replaced meanwhile, and is looked for once more before anything is deleted.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut add = |path: &Path| found.extend(path.components().filter_map(normal));
            add(&target);
            if let Ok(real) = fs::canonicalize(entry.path()) {
                real.strip_prefix(&installs).into_iter().for_each(&mut add);
            }
        }
        Ok(found)
    };
    find().with_context(|| format!("reading the links in {}", basedir.display()))
}

fn normal(component: Component<'_>) -> Option<String> {
    match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    }
}

/// What a tree takes on its disk, as du(1) has it; of what cannot be seen, as much as can.
fn disk_usage(root: &Path) -> u64 {
    let (mut bytes, mut seen, mut left) = (0, BTreeSet::new(), vec![PathBuf::from(root)]);
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if found.nlink() > 1 && !seen.insert((found.dev(), found.ino())) {
            continue;
        }
        // In units of 512 bytes, whatever the disk's are: stat(2).
        bytes += found.blocks() * 512;
    }
    bytes
}

/// Tidying up after an attempt at one app, under the same lock.
pub(crate) struct Prune {
    pub(crate) installs: Installs,
    pub(crate) guard: Arc<Guard>,
    pub(crate) keep: Keep,
}

impl Prune {
    /// Removes what is to go, oldest first; then notes what intent names no more, or again.
    pub(crate) async fn run(self, mut task: Task) -> Result<()> {
        let Some(app) = self.app(task.wanted()) else { return Ok(()) };
        let (keep, seen) = (self.keep, app.clone());
        let (plan, doomed) = self.blocking(move |_| look(&seen, &keep)).await?;
        let removed = match doomed {
            Ok(doomed) => self.remove(&app, doomed, &mut task).await,
            Err(error) => Err(error),
        };
        let mut errors = Vec::from_iter(removed.err());
        let Plan { retire, recall, .. } = plan;
        if !retire.is_empty() || !recall.is_empty() {
            debug!(app = %app.name, "no longer named by intent: {retire:?}; named again, or gone: {recall:?}");
            errors.extend(self.blocking(move |installs| note(installs.dir(), &retire, &recall)).await.err());
        }
        all(errors)
    }

    /// What is wanted, as long as that is for us to heed: not while the app is held, nor when it lives elsewhere.
    fn app(&self, wanted: Wanted) -> Option<Arc<App>> {
        match wanted {
            Wanted::App(app) if Installs::of(&app) == self.installs => Some(app),
            Wanted::App(_) | Wanted::Unnamed | Wanted::Unknown | Wanted::Held => None,
        }
    }

    async fn remove(&self, app: &App, doomed: Vec<Unwanted>, task: &mut Task) -> Result<()> {
        let (aside, mut errors) = self.blocking(move |installs| Ok(set_aside(installs, doomed))).await?;
        if aside.is_empty() {
            return all(errors);
        }
        tokio::time::sleep(SETTLE).await;
        let wanted = self.app(task.wanted());
        for left in self.blocking(move |installs| Ok(put_back(installs, wanted.as_deref(), aside))).await? {
            let deleted = match left {
                Ok(one) => self.delete(app, one).await,
                Err(error) => Err(error),
            };
            errors.extend(deleted.err());
        }
        all(errors)
    }

    async fn delete(&self, app: &App, Unwanted { name, bytes, .. }: Unwanted) -> Result<()> {
        let deleted = name.clone();
        self.blocking(move |installs| {
            let (aside, doomed) = (aside_name(&deleted), doomed_name(&deleted));
            // By another name from here on: this is the one that a pass after a crash goes on deleting.
            effect::rename("doomed install", &installs.dir().join(&aside), &installs.dir().join(&doomed))
                .with_context(|| format!("renaming {aside}"))?;
            installs.remove(&doomed)?;
            remove_note(installs.dir(), &deleted)
        })
        .await?;
        info!(app = %app.name, "Removed {name}, which intent names no more: {} freed", size(bytes));
        Ok(())
    }

    /// On a thread of its own, which holds the lock until it is done whatever becomes of us.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Installs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (installs, guard) = (self.installs.clone(), self.guard.clone());
        blocking(move || {
            let _guard = guard;
            work(&installs)
        })
        .await
    }
}

/// Gives each a name that no install can have. Tells which it has done, and what went wrong with the others.
fn set_aside(installs: &Installs, doomed: Vec<Unwanted>) -> (Vec<Unwanted>, Vec<anyhow::Error>) {
    let (mut aside, mut errors) = (Vec::new(), Vec::new());
    for one in doomed {
        let path = installs.dir().join(&one.name);
        match effect::rename("unwanted install", &path, &installs.dir().join(aside_name(&one.name))) {
            Ok(()) => aside.push(one),
            Err(error) => errors.push(anyhow::Error::new(error).context(format!("renaming {}", path.display()))),
        }
    }
    (aside, errors)
}

/// Puts back what turned out to be needed; without knowing that, all. What is left is to be deleted, or went wrong.
fn put_back(installs: &Installs, wanted: Option<&App>, aside: Vec<Unwanted>) -> Vec<Result<Unwanted>> {
    let mut left = Vec::new();
    let linked = match wanted.map(|app| linked(app.basedir.path(), installs.dir())) {
        Some(Ok(linked)) => Some(linked),
        Some(Err(error)) => {
            left.push(Err(error));
            None
        }
        None => None,
    };
    for one in aside {
        let is_named = wanted.is_some_and(|app| unwanted(app, &[one.name.clone()].into()).is_empty());
        let is_linked = linked.as_ref().is_none_or(|linked| linked.contains(&one.name));
        if is_named || is_linked {
            left.extend(installs.put_back(&one.name).err().map(Err));
        } else {
            left.push(Ok(one));
        }
    }
    left
}

const NOTE: &str = "note of an unwanted install";

/// All that is noted at once has one time: which of them is older their own times tell.
fn note(installs: &Path, retire: &[String], recall: &[String]) -> Result<()> {
    recall.iter().try_for_each(|name| remove_note(installs, name))?;
    let now = SystemTime::now();
    for name in retire {
        let path = installs.join(note_name(name));
        let bytes = disk_usage(&installs.join(name));
        files::write(NOTE, &path, format!("{bytes}\n").as_bytes(), 0o644)?;
        let date = || effect::set_modified(NOTE, &File::open(&path)?, now);
        date().with_context(|| format!("dating {}", path.display()))?;
    }
    Ok(())
}

fn remove_note(installs: &Path, name: &str) -> Result<()> {
    let path = installs.join(note_name(name));
    effect::remove(NOTE, &path).map(drop).with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::decide::tests::app;

    #[test]
    fn bytes_may_have_a_unit() {
        for (text, expected) in
            [("0", 0), ("17", 17), ("2K", 2048), ("3M", 3 << 20), ("20G", 20 << 30), ("1g", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "G", "-1", "1.5G", "1T", "10 M", "99999999999G", "é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whatever_a_link_in_the_basedir_leads_to_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        let (basedir, installs) = (dir.path().join("slug"), dir.path().join("slug/installs"));
        for version in 1..=7 {
            fs::create_dir_all(installs.join(format!("slug_{version}/bin"))).unwrap();
        }
        // A basedir may itself be reached by a link.
        symlink("slug", dir.path().join("alias")).unwrap();
        for (link, target) in [
            ("current", "installs/slug_1".to_owned()),
            ("last", installs.join("slug_2").display().to_string()),
            ("tool", "installs/slug_3/bin".to_owned()),
            ("stable", "elsewhere".to_owned()),
            ("broken", "installs/slug_5/no-such".to_owned()),
            ("loop", "loop".to_owned()),
            ("out", "/".to_owned()),
        ] {
            symlink(target, basedir.join(link)).unwrap();
        }
        symlink(dir.path().join("alias/installs/slug_4"), basedir.join("elsewhere")).unwrap();
        fs::write(basedir.join("notes.txt"), "installs/slug_6").unwrap();
        for basedir in [basedir, dir.path().join("alias")] {
            let found = linked(&basedir, &basedir.join("installs")).unwrap();
            let found = found.iter().filter(|name| name.starts_with("slug_")).collect::<Vec<_>>();
            assert_eq!(found, ["slug_1", "slug_2", "slug_3", "slug_4", "slug_5"]);
        }
    }

    #[test]
    fn what_is_wanted_or_linked_meanwhile_is_put_back_and_all_when_that_cannot_be_known() {
        let dir = tempfile::tempdir().unwrap();
        let now = app(dir.path().to_str().unwrap(), &[("1", "active")]);
        let (of, installs) = (Installs::of(&now), dir.path().join("installs"));
        let one = |name: &str| Unwanted { name: name.to_owned(), ..Unwanted::default() };
        let aside = || {
            for name in ["slug_1", "slug_2", "slug_3"] {
                let _ = fs::remove_dir(installs.join(aside_name(name)));
                fs::create_dir_all(installs.join(name)).unwrap();
            }
            let (aside, errors) = set_aside(&of, ["slug_1", "slug_2", "slug_3"].map(one).into());
            assert!(errors.is_empty() && !installs.join("slug_1").exists());
            aside
        };
        let left = |wanted| put_back(&of, wanted, aside()).into_iter().map(|one| one.unwrap().name);
        symlink("installs/slug_2", dir.path().join("current")).unwrap();
        assert_eq!(left(Some(&now)).collect::<Vec<_>>(), ["slug_3"]);
        assert!(installs.join("slug_1").is_dir() && installs.join("slug_2").is_dir());
        assert_eq!(left(None).collect::<Vec<_>>(), [""; 0], "as of an app that is held by now");
        assert!(installs.join("slug_3").is_dir());
    }

    #[test]
    fn a_tree_takes_what_du_says_it_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), vec![b'x'; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a/b/file"), dir.path().join("same")).unwrap();
        symlink("/usr", dir.path().join("link")).unwrap();
        File::open(dir.path().join("a/b/file")).unwrap().sync_all().unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(dir.path()).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        assert_eq!(disk_usage(dir.path()).to_string(), du.split_once('\t').unwrap().0);
    }
}
