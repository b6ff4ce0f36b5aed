//! Writing documents: one writer at a time, and whole or not at all.
//!
//! Every writer takes the one flock, writes the one temporary file, renames it over the document and syncs the
//! directory, in that order. A writer killed on the way leaves the document as it was or as it shall be, a temporary
//! file that the next writer replaces, and no lock, since the kernel releases it. The lock file is never removed: whoever
//! locked a removed one would not keep out those who lock its successor.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::time::Instant;

use super::{blocking, tree};
use crate::document::MOST_BYTES;
use crate::{Expected, Key, Revision};

/// How long a writer waits for the others. A write takes under a millisecond, so that whoever makes us wait for this
/// long is stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to write, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    root: PathBuf,
    /// Holds the flock for as long as it is open.
    _file: File,
}

impl Lock {
    /// Waits, without keeping a thread, until no other process writes.
    pub(super) async fn take(root: &Path) -> Result<Self> {
        let path = root.join(".store/lock");
        let file = {
            let root = root.to_owned();
            blocking(move || open_lock(&root)).await?
        };
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(500);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { root: root.to_owned(), _file: file }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause = (pause * 2).min(Duration::from_millis(16));
                }
                Err(Errno::WOULDBLOCK) => bail!(
                    "another process holds {} since {PATIENCE:?} or longer; is it stopped? `fuser -v {0}` names it",
                    path.display()
                ),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
            }
        }
    }

    pub(super) fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() as u64 <= MOST_BYTES, "{} bytes are too many, {MOST_BYTES} is the most", bytes.len());
        let path = tree::path(&self.root, key);
        let directory = path.parent().expect("a document is below the root");
        make_directories(&self.root, directory)?;
        // Writing what is there already would wake everybody who watches.
        if !matches!(tree::document_at(&self.root, &path), Ok(Some(document)) if document.bytes == bytes) {
            let next = self.write_next(bytes)?;
            fs::rename(&next, &path).with_context(|| format!("renaming {} to {}", next.display(), path.display()))?;
        }
        sync(directory)
    }

    pub(super) fn compare_and_set(&self, key: &Key, bytes: &[u8], expected: &Expected) -> Result<bool> {
        let found = tree::get(&self.root, key)?;
        let as_expected = match (expected, &found) {
            (Expected::Absent, None) => true,
            (Expected::At(revision), Some(document)) => document.revision == *revision,
            (Expected::Absent, Some(_)) | (Expected::At(_), None) => false,
        };
        if as_expected {
            self.put(key, bytes)?;
        }
        Ok(as_expected)
    }

    pub(super) fn compare_and_delete(&self, key: &Key, expected: &Revision) -> Result<bool> {
        let as_expected = tree::get(&self.root, key)?.is_none_or(|document| document.revision == *expected);
        if as_expected {
            self.delete(key)?;
        }
        Ok(as_expected)
    }

    pub(super) fn delete(&self, key: &Key) -> Result<()> {
        let path = tree::path(&self.root, key);
        match fs::remove_file(&path) {
            Ok(()) => sync(path.parent().expect("a document is below the root")),
            Err(error) => match tree::document_at(&self.root, &path) {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(error).with_context(|| format!("removing {}", path.display())),
            },
        }
    }

    /// Writes the temporary file, down to the disk.
    fn write_next(&self, bytes: &[u8]) -> Result<PathBuf> {
        let next = self.root.join(".store/next");
        // A killed writer's, perhaps another user's.
        let _ = fs::remove_file(&next);
        let write = || {
            let mut file = File::create_new(&next)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().with_context(|| format!("writing {}", next.display()))?;
        Ok(next)
    }
}

/// Opens the lock file, creating it below a root that is there.
fn open_lock(root: &Path) -> Result<File> {
    ensure!(!root.is_file(), "it is one file with all documents, which nothing but an editor writes");
    tree::ensure_root(root)?;
    let directory = root.join(".store");
    make_directories(root, &directory)?;
    let path = directory.join("lock");
    // Opened for reading only: a second user can lock a file that the first one created.
    // Whoever shares the directory must not have us make a file elsewhere, or wait for the end of a fifo.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o666));
    let file = file.map(File::from).with_context(|| format!("opening {}", path.display()))?;
    ensure!(file.metadata()?.is_file(), "{} is not a file: move it away", path.display());
    Ok(file)
}

/// Makes `directory`, and what is missing between it and `root`, down to the disk.
fn make_directories(root: &Path, directory: &Path) -> Result<()> {
    if directory == root || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().expect("a directory is below the root");
    make_directories(root, parent)?;
    match fs::create_dir(directory) {
        Err(_) if directory.is_dir() => Ok(()),
        made => made.with_context(|| format!("making the directory {}", directory.display())),
    }?;
    sync(parent)
}

/// Brings a directory's entries to the disk.
fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("syncing the directory {}", directory.display()))
}
