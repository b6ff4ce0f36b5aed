//! Files and links that an agent owns: changed as a whole or not at all, and only when they differ.
//!
//! Ensures: whoever reads sees the old content or the new, also after a power failure; what already is as wanted is not
//! written, so its times stay. Assumes that only one process writes a given path at a time: hold a [`Lock`]. `what` names
//! the steps, as in [`effect`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::effect;

/// Makes `path` a file with these bytes and this mode. Tells whether it had to.
pub fn write(what: &'static str, path: &Path, bytes: &[u8], mode: u32) -> Result<bool> {
    stage(what, path, bytes, mode)?.map_or(Ok(false), Staged::finish)
}

/// Makes `link` a symbolic link to `target`, without a moment at which there is none. Tells whether it had to.
pub fn link(what: &'static str, link: &Path, target: &Path) -> Result<bool> {
    stage_link(what, link, target)?.map_or(Ok(false), Staged::finish)
}

/// The next content of a path, complete and on disk, beside the path.
#[derive(Debug)]
#[must_use]
pub struct Staged {
    what: &'static str,
    path: PathBuf,
}

impl Staged {
    /// Puts it in its place. Needs no space on the disk.
    pub fn put(&self) -> Result<()> {
        let put = effect::rename(self.what, &beside(&self.path), &self.path);
        put.with_context(|| format!("replacing {}", self.path.display()))
    }

    /// Makes that it is in its place last.
    pub fn sync(&self) -> Result<()> {
        sync_parent(&self.path).with_context(|| format!("syncing the directory of {}", self.path.display()))
    }

    fn finish(self) -> Result<bool> {
        self.put()?;
        self.sync()?;
        Ok(true)
    }
}

/// Writes what `path` is to hold beside it; nothing, when it holds that already: then what a crash left there goes.
pub fn stage(what: &'static str, path: &Path, bytes: &[u8], mode: u32) -> Result<Option<Staged>> {
    if holds(path, bytes, mode) {
        return clear(path).map(|()| None);
    }
    replaceable(path)?;
    let write = || {
        let next = beside(path);
        effect::remove(LEFT, &next)?;
        let file = effect::create(what, &next, mode)?;
        effect::write(what, &file, bytes)?;
        // The mode that was asked for, whatever the umask.
        effect::set_mode(what, &file, mode)?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(Some(Staged { what, path: path.to_owned() }))
}

/// Makes the link that `path` is to be beside it; nothing, when it is that already: then what a crash left there goes.
pub fn stage_link(what: &'static str, path: &Path, target: &Path) -> Result<Option<Staged>> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return clear(path).map(|()| None);
    }
    replaceable(path)?;
    let make = || {
        let next = beside(path);
        effect::remove(LEFT, &next)?;
        effect::link(what, target, &next)
    };
    make().with_context(|| format!("linking {} to {}", path.display(), target.display()))?;
    Ok(Some(Staged { what, path: path.to_owned() }))
}

/// Fails where a rename would: better before anything depends on it.
fn replaceable(path: &Path) -> Result<()> {
    let directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    anyhow::ensure!(!directory, "{} is a directory where a file or link of ours belongs: move it away", path.display());
    Ok(())
}

/// True when `path` is a file with these bytes and this mode.
pub fn holds(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let found = || -> io::Result<bool> {
        // Neither through a link, nor waiting for whoever writes to a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.permissions().mode() & 0o7777 != mode || found.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let mut content = vec![0; bytes.len()];
        file.read_exact(&mut content)?;
        Ok(content == bytes)
    };
    found().unwrap_or(false)
}

/// Removes a file or link, durably, with what a crash left beside it; one that is not there is fine.
pub fn remove(what: &str, path: &Path) -> Result<()> {
    clear(path)?;
    let remove = || if effect::remove(what, path)? { sync_parent(path) } else { Ok(()) };
    remove().with_context(|| format!("removing {}", path.display()))
}

/// Removes what a crash left beside `path`, of a content that is not wanted any more.
pub fn clear(path: &Path) -> Result<()> {
    let next = beside(path);
    let removed = effect::remove(LEFT, &next).with_context(|| format!("removing {}", next.display()));
    removed.map(drop)
}

/// Whether no crash left anything beside `path`.
pub fn is_clear(path: &Path) -> bool {
    effect::is_absent(&beside(path))
}

/// The name of the path beside which this name is that of the next content, if it is one.
pub fn is_beside(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(NEXT)
}

/// Creates a directory and those above it, readable by all.
pub fn directory(what: &str, path: &Path) -> Result<()> {
    effect::make_directories(what, path).with_context(|| format!("creating the directory {}", path.display()))
}

/// Removes a directory with all that is in it; one that is not there is fine.
pub fn remove_directory(what: &str, path: &Path) -> Result<()> {
    effect::remove_directory(what, path).with_context(|| format!("removing the directory {}", path.display()))
}

/// Makes what was renamed, linked or removed beside `path` last.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        // Of a name alone.
        Some(parent) if parent == Path::new("") => Path::new("."),
        parent => parent.unwrap_or(Path::new("/")),
    };
    File::open(parent)?.sync_all()
}

/// What is in a file. Anything else of that name is an error, at once: to open a fifo could take for ever.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(at_once(OFlags::empty())).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Flags with which opening waits for nobody.
fn at_once(flags: OFlags) -> i32 {
    (flags | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed()
}

/// What a crash left of the next content of a path.
const LEFT: &str = "what a crash left";

const NEXT: &str = ".next";

/// Where the next content of `path` is written: the same directory, so that a rename is enough. The name is always the
/// same, so that what a crash left is overwritten, or found.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{NEXT}"))
}

/// An exclusive lock on a file, until it is dropped or the process ends, however it ends. The file is never removed:
/// whoever did would let two in.
#[derive(Debug)]
pub struct Lock {
    file: File,
    is_shared: AtomicBool,
}

impl Lock {
    /// `None` when somebody else holds the lock.
    pub fn try_hold(what: &str, path: &Path) -> Result<Option<Self>> {
        // Whoever may write to the directory must not have us make a file elsewhere, or wait for the end of a fifo.
        let flags = at_once(OFlags::NOFOLLOW);
        // To lock a file it is enough to read it, so nobody else may: they could keep us from our work for ever.
        let file = effect::open_or_create(what, path, 0o600, flags);
        // On a disk that became read-only what is there can still be locked.
        let read = || OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.or_else(|error| read().map_err(|_| error));
        let file = file.with_context(|| format!("opening the lock {}", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("looking at the lock {}", path.display()))?;
        anyhow::ensure!(metadata.is_file(), "the lock {} is not a file: move it away", path.display());
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file, is_shared: AtomicBool::new(false) })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// The same lock once more: it is held until both are closed. A child that has it, as its standard output say, goes on
    /// holding the lock when this process is killed.
    pub fn share(&self) -> Result<File> {
        let shared = self.file.try_clone().context("sharing a lock")?;
        self.is_shared.store(true, Relaxed);
        Ok(shared)
    }
}

impl Drop for Lock {
    /// To close the file is not enough: a child that was begun on another thread has it, too, until it is another program.
    fn drop(&mut self) {
        if !*self.is_shared.get_mut() {
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_as_wanted_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        assert!(write("file", &path, b"one", 0o755).unwrap());
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!write("file", &path, b"one", 0o755).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(write("file", &path, b"one", 0o644).unwrap(), "another mode");
        assert!(write("file", &path, b"two", 0o644).unwrap(), "other bytes");
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn what_a_crash_left_behind_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, current) = (dir.path().join("run"), dir.path().join("current"));
        fs::write(beside(&path), "torn").unwrap();
        symlink("elsewhere", beside(&current)).unwrap();
        write("file", &path, b"whole", 0o644).unwrap();
        link("link", &current, Path::new("installs/a")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_can_be_flipped_also_when_it_dangles() {
        let dir = tempfile::tempdir().unwrap();
        let current = dir.path().join("current");
        assert!(link("link", &current, Path::new("nowhere")).unwrap());
        assert!(link("link", &current, Path::new("installs/b")).unwrap());
        assert!(!link("link", &current, Path::new("installs/b")).unwrap());
        assert_eq!(fs::read_link(&current).unwrap(), Path::new("installs/b"));
    }

    #[test]
    fn a_directory_in_the_way_is_found_before_anything_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current");
        fs::create_dir(&path).unwrap();
        assert!(stage("file", &path, b"x", 0o644).unwrap_err().to_string().contains("move it away"));
        assert!(stage_link("link", &path, Path::new("x")).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_hold("lock", &path).unwrap();
        assert!(held.is_some());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "no other user can take it");
        assert!(Lock::try_hold("lock", &path).unwrap().is_none());
        let in_child = held.as_ref().unwrap().file.try_clone().unwrap();
        drop(held);
        let held = Lock::try_hold("lock", &path).unwrap();
        assert!(held.is_some(), "what a child has that is about to be another program holds nothing");
        drop(in_child);
        let shared = held.as_ref().unwrap().share().unwrap();
        drop(held);
        assert!(Lock::try_hold("lock", &path).unwrap().is_none(), "who shares it still holds it");
        drop(shared);
        assert!(Lock::try_hold("lock", &path).unwrap().is_some());
    }

    #[test]
    fn what_is_planted_where_a_lock_or_a_text_belongs_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (link, fifo, elsewhere) = (dir.path().join("link"), dir.path().join("fifo"), dir.path().join("elsewhere"));
        symlink(&elsewhere, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
        assert!(Lock::try_hold("lock", &link).is_err());
        assert!(!elsewhere.exists(), "nothing is made through a link");
        assert!(Lock::try_hold("lock", &fifo).unwrap_err().to_string().contains("is not a file"));
        assert_eq!(read_text(&fifo).unwrap_err().to_string(), "it is not a file");
        // Also when somebody holds its other end open.
        let _reader = OpenOptions::new().read(true).custom_flags(at_once(OFlags::empty())).open(&fifo).unwrap();
        assert!(Lock::try_hold("lock", &fifo).unwrap_err().to_string().contains("is not a file"));
    }

    #[test]
    fn a_name_alone_is_in_the_directory_that_one_is_in() {
        sync_parent(Path::new("name")).unwrap();
        sync_parent(Path::new("/")).unwrap();
        assert_eq!(sync_parent(Path::new("no-such/name")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
