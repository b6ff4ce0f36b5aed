//! Unpacks an artifact, a tar archive as [`decompress`] reads it, into an empty directory. The one place where bytes that
//! came from elsewhere become files, often written by root.
//!
//! Ensures: nothing outside the directory is created, changed or read through; an artifact that is not whole, or holds
//! an entry that is no file, directory or link inside, or more than its limits, is an error that names the entry; files can
//! be read by everybody and written by their owner alone, set-id bits are dropped unless they are allowed; memory and
//! descriptors do not grow with the number or the size of entries. What is left in the directory after an error is the
//! caller's to remove.
//!
//! Assumes that nobody else may write in the directory meanwhile.
//!
//! Three threads: one reads (and whoever gave the reader may hash there), one decompresses, one writes. On two cores the
//! decompressing one is what all wait for; to write files by more than one thread made nothing faster.

mod ahead;
mod archive;
mod beneath;
#[cfg(test)]
pub(crate) mod build;
mod decompress;
mod name;
mod pax;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use converge::{effect, step};
use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT};
use store::schema::Limits;

use ahead::{Ahead, Taken};
use archive::{Archive, File, Kind};
use beneath::Beneath;
use decompress::decompressed;
use name::{inside, shown};

/// Up to here it does not matter how many times an artifact grows: what is small may well be all zeros.
const SMALL: u64 = 8 << 20;

/// What an artifact may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    pub limits: Limits,
    /// Files keep their set-user-ID and set-group-ID bits.
    pub setuid: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// Unpacks `artifact` into the directory that is open as `root`.
pub fn unpack(artifact: impl Read + Send, root: OwnedFd, allowed: &Allowed) -> Result<Unpacked> {
    thread::scope(|scope| {
        let compressed = Ahead::of(scope, artifact);
        let taken = compressed.taken();
        let tar = Bounded { of: decompressed(compressed)?, taken, read: 0, ratio: allowed.limits.ratio.get() };
        write(Archive::new(Ahead::of(scope, tar)), Beneath::new(root), allowed)
    })
}

fn write(mut archive: Archive<impl BufRead>, mut beneath: Beneath, allowed: &Allowed) -> Result<Unpacked> {
    let mut unpacked = Unpacked::default();
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        let named = || format!("entry {}", shown(&entry.name));
        entries += 1;
        if let Kind::File(file) = &entry.kind {
            unpacked.files += 1;
            unpacked.bytes = unpacked.bytes.saturating_add(file.size);
        }
        within(&allowed.limits, entries, &entry.kind, unpacked.bytes).with_context(named)?;
        let path = inside(&entry.name).with_context(named)?;
        match &entry.kind {
            Kind::Directory => beneath.directory(&path),
            Kind::File(file) => {
                let mode = readable(file.mode, allowed.setuid);
                let made = beneath.file(&path, mode);
                made.and_then(|(to, has_mode)| fill(&to, file, (!has_mode).then_some(mode), &mut archive))
            }
            Kind::Symlink(target) => symlink(&mut beneath, &path, target),
            Kind::HardLink(target) => hard_link(&mut beneath, &path, target),
        }
        .with_context(named)?;
    }
    Ok(unpacked)
}

/// Before anything of an entry is written.
fn within(limits: &Limits, entries: u64, kind: &Kind, total: u64) -> Result<()> {
    let Limits { entries: most, total_bytes, file_bytes, ratio: _ } = limits;
    ensure!(entries <= most.get(), "more than {most} entries: see deploy_config's limits.entries");
    let Kind::File(file) = kind else { return Ok(()) };
    let size = file.size;
    ensure!(size <= file_bytes.get(), "{size} bytes, where one file may have {file_bytes}: see deploy_config's limits");
    ensure!(total <= total_bytes.get(), "more than {total_bytes} bytes in all: see deploy_config's limits.total_bytes");
    Ok(())
}

/// What is decompressed, up to as many times of what it came from as it may be.
struct Bounded<R> {
    of: R,
    taken: Taken,
    read: u64,
    ratio: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.of.read(to)?;
        self.read += read as u64;
        let most = self.taken.bytes().saturating_mul(self.ratio).max(SMALL);
        if self.read > most {
            let ratio = self.ratio;
            let what = format!("it grows to more than {ratio} times its size: see deploy_config's limits.ratio");
            return Err(io::Error::other(what));
        }
        Ok(read)
    }
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
fn fill(mut to: &fs::File, file: &File, mode: Option<u32>, archive: &mut Archive<impl BufRead>) -> Result<()> {
    match &file.extents {
        None => step("write unpacked file", || archive.copy(file.size, &mut to))?,
        Some(extents) => {
            for extent in extents {
                to.seek(SeekFrom::Start(extent.offset)).context("writing it")?;
                step("write unpacked file", || archive.copy(extent.length, &mut to))?;
            }
            effect::set_length("unpacked file", to, file.size).context("setting its size")?;
        }
    }
    if let Some(mode) = mode {
        effect::set_mode_of("unpacked file", to, Mode::from_raw_mode(mode)).context("setting its mode")?;
    }
    if let Some((seconds, nanoseconds)) = file.modified {
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access, last_modification };
        effect::set_times_of("unpacked file", to, &times).context("setting its time")?;
    }
    Ok(())
}

/// The mode that a file of this mode gets: whatever user runs the app can read it, and run it if its owner can; nobody
/// but its owner can write it; it lends nobody its owner's rights, unless that is allowed.
fn readable(mode: u32, setuid: bool) -> u32 {
    let executable = if mode & 0o100 == 0 { 0 } else { 0o111 };
    let lent = if setuid { mode & 0o6000 } else { 0 };
    mode & 0o755 | 0o444 | executable | lent
}
