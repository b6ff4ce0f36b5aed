//! The files of a directory that is written: beneath it, whole or not at all, and never through a link.
//!
//! One process at a time exports into a directory, by a lock on the directory itself, so that no lock file is left in it.
//! Where the directory is a store in use, the store's own lock is taken for each write, too.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fsync, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use store::Key;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Hidden, so that no reader takes it for a document. What a killed export leaves is replaced by the next.
const NEXT: &str = ".pp-store-export";

/// How long an export waits, all in all, for those who write into the store that its directory may be. A write takes under
/// a millisecond, so that whoever makes us wait for this long is stopped.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

pub(super) struct Files {
    root: OwnedFd,
    /// The lock file of the store that this is, if it is one.
    store: Option<OwnedFd>,
    /// What is left of our patience.
    patience: Cell<Duration>,
}

impl Files {
    /// The directory `dir`, which is made if it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
        let root = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
        match flock(&root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => bail!("another pp-store exports into {} just now", dir.display()),
            locked => locked.with_context(|| format!("locking {}", dir.display()))?,
        }
        // Not waiting for the end of a fifo.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let store = openat(&root, ".store/lock", flags, Mode::empty()).ok();
        Ok(Self { root: root.into(), store, patience: Cell::new(PATIENCE) })
    }

    /// Writes a document's file if it still holds `expected`; false, and nothing changed, if it does not.
    pub(super) fn write(&self, key: &Key, expected: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        let (names, file) = names(key);
        let parents = self.parents(&names, true)?;
        let parent = parents.last().map_or(self.root.as_fd(), AsFd::as_fd);
        self.locked(|| {
            if current(parent, &file)?.as_deref() != expected {
                return Ok(false);
            }
            self.write_next(bytes).context("writing a temporary file")?;
            renameat(&self.root, NEXT, parent, file.as_str()).with_context(|| format!("renaming a file to {file}"))?;
            fsync(parent).with_context(|| format!("syncing the directory of {file}"))?;
            Ok(true)
        })
    }

    /// Removes a document's file, and the directories that are empty then, if it still holds `expected`.
    pub(super) fn remove(&self, key: &Key, expected: &[u8]) -> Result<bool> {
        let (names, file) = names(key);
        let parents = self.parents(&names, false)?;
        let parent = parents.last().map_or(self.root.as_fd(), AsFd::as_fd);
        self.locked(|| {
            if current(parent, &file)?.is_none_or(|found| found != expected) {
                return Ok(false);
            }
            unlinkat(parent, file.as_str(), AtFlags::empty()).with_context(|| format!("removing {file}"))?;
            fsync(parent).with_context(|| format!("syncing the directory of {file}"))?;
            // Up to, but without, `nodes` and `clusters`. One that holds something stays.
            for (parent, name) in parents.iter().zip(&names[1..]).rev() {
                if unlinkat(parent, *name, AtFlags::REMOVEDIR).is_err() {
                    break;
                }
            }
            Ok(true)
        })
    }

    /// The directories of these names, one in the other.
    fn parents(&self, names: &[&str], make: bool) -> Result<Vec<OwnedFd>> {
        let mut parents = Vec::<OwnedFd>::new();
        for name in names {
            let at = parents.last().map_or(self.root.as_fd(), AsFd::as_fd);
            let open = || openat(at, *name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) if make => {
                    make_directory(at, name)?;
                    open()
                }
                opened => opened,
            };
            parents.push(opened.map_err(|error| explained(at, name, error))?);
        }
        Ok(parents)
    }

    fn write_next(&self, bytes: &[u8]) -> Result<()> {
        let _ = unlinkat(&self.root, NEXT, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.root, NEXT, flags, Mode::from_raw_mode(0o666))?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = unlinkat(&self.root, NEXT, AtFlags::empty());
        }
        Ok(written?)
    }

    /// Runs `act` while no other process writes into the store that this may be.
    fn locked<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(store) = &self.store else { return act() };
        while let Err(error) = flock(store, FlockOperation::NonBlockingLockExclusive) {
            ensure!(error == Errno::WOULDBLOCK, "locking the store in this directory: {error}");
            let held = "another process holds .store/lock of this directory; is it stopped? `fuser -v` names it";
            ensure!(!self.patience.get().is_zero(), held);
            thread::sleep(PAUSE);
            self.patience.set(self.patience.get().saturating_sub(PAUSE));
        }
        let done = act();
        flock(store, FlockOperation::Unlock).context("unlocking the store in this directory")?;
        done
    }
}

/// Makes a directory that was not there, down to the disk.
fn make_directory(at: BorrowedFd, name: &str) -> Result<()> {
    match mkdirat(at, name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => fsync(at).with_context(|| format!("syncing the directory of {name}")),
        Err(error) => Err(error).with_context(|| format!("making the directory {name}")),
    }
}

/// Whether no other document can be written either: the disk is full, or may only be read.
pub(super) fn is_of_the_disk(error: &anyhow::Error) -> bool {
    let code = error.chain().find_map(|cause| {
        let of_io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        cause.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()).or(of_io)
    });
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// The directories and the file of a document. No name in a key can lead elsewhere.
fn names(key: &Key) -> (Vec<&str>, String) {
    let mut names = key.as_str().split('/').collect::<Vec<_>>();
    let last = names.pop().unwrap_or_default();
    (names, format!("{last}.json"))
}

/// What the file holds; `None` if there is none.
fn current(parent: BorrowedFd, file: &str) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut found = match openat(parent, file, flags, Mode::empty()) {
        Ok(found) => File::from(found),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(explained(parent, file, error)),
    };
    ensure!(found.metadata()?.is_file(), "{file} is there and is not a file");
    let mut bytes = Vec::new();
    found.read_to_end(&mut bytes).with_context(|| format!("reading {file}"))?;
    Ok(Some(bytes))
}

/// Why a name could not be opened.
fn explained(at: BorrowedFd, name: &str, error: Errno) -> anyhow::Error {
    if rustix::fs::readlinkat(at, name, Vec::new()).is_ok() {
        return anyhow!("{name} is a link, and nothing is written through one: remove it, or export elsewhere");
    }
    anyhow::Error::new(error).context(format!("opening {name}"))
}
