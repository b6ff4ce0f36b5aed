//! Unpacks an artifact, a `.tar.gz`, into an empty directory. The one place where bytes that came from elsewhere become
//! files, often written by root.
//!
//! Ensures: nothing outside the directory is created, changed or read through; an artifact that is not whole, or holds
//! an entry that is no file, directory or link inside, is an error that names the entry; files can be read by everybody
//! and written by their owner alone, set-id bits are dropped; memory and descriptors do not grow with the number of
//! entries. What is left in the directory after an error is the caller's to remove.
//!
//! Assumes that nobody else may write in the directory meanwhile. Says nothing of size: an artifact can fill the disk.

mod archive;
mod beneath;
#[cfg(test)]
pub(crate) mod build;
mod name;
mod pax;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::bufread::MultiGzDecoder;
use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens};

use archive::{Archive, File, Kind};
use beneath::Beneath;
use name::{inside, shown};

/// What is read and written at a time.
const CHUNK: usize = 128 * 1024;

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// Unpacks `artifact` into the directory that is open as `root`.
pub fn unpack(artifact: impl Read, root: OwnedFd) -> Result<Unpacked> {
    let unzipped = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, artifact));
    let mut archive = Archive::new(BufReader::with_capacity(CHUNK, unzipped));
    let mut beneath = Beneath::new(root);
    let mut unpacked = Unpacked::default();
    while let Some(entry) = archive.next()? {
        let named = || format!("entry {}", shown(&entry.name));
        let path = inside(&entry.name).with_context(named)?;
        match &entry.kind {
            Kind::Directory => beneath.directory(&path),
            Kind::File(file) => beneath.file(&path).and_then(|to| fill(&to, file, &mut archive)),
            Kind::Symlink(target) => symlink(&mut beneath, &path, target),
            Kind::HardLink(target) => hard_link(&mut beneath, &path, target),
        }
        .with_context(named)?;
        if let Kind::File(file) = &entry.kind {
            unpacked.files += 1;
            unpacked.bytes += file.size;
        }
    }
    Ok(unpacked)
}

fn symlink(beneath: &mut Beneath, path: &Path, target: &[u8]) -> Result<()> {
    ensure!(!target.contains(&0), "the link's target holds a NUL");
    beneath.symlink(path, Path::new(OsStr::from_bytes(target)))
}

fn hard_link(beneath: &mut Beneath, path: &Path, target: &[u8]) -> Result<()> {
    let linking = || format!("a hard link to {}", shown(target));
    inside(target).and_then(|target| beneath.hard_link(path, &target)).with_context(linking)
}

/// Gives a new file its content, and then all that its header says of it.
fn fill(mut to: &fs::File, file: &File, archive: &mut Archive<impl BufRead>) -> Result<()> {
    match &file.extents {
        None => archive.copy(file.size, &mut to)?,
        Some(extents) => {
            for extent in extents {
                to.seek(SeekFrom::Start(extent.offset)).context("writing it")?;
                archive.copy(extent.length, &mut to)?;
            }
            to.set_len(file.size).context("setting its size")?;
        }
    }
    fchmod(to, Mode::from_raw_mode(readable(file.mode))).context("setting its mode")?;
    if let Some((seconds, nanoseconds)) = file.modified {
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        futimens(to, &Timestamps { last_access, last_modification }).context("setting its time")?;
    }
    Ok(())
}

/// The mode that a file of this mode gets: whatever user runs the app can read it, and run it if its owner can; nobody
/// but its owner can write it; it lends nobody its owner's rights.
fn readable(mode: u32) -> u32 {
    let executable = if mode & 0o100 == 0 { 0 } else { 0o111 };
    mode & 0o755 | 0o444 | executable
}
