//! The room that is left on a file system.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::progress::size;

/// Fails where it can be known that so many bytes do not fit into the directory `dir`.
pub(crate) fn ensure_room(dir: &Path, bytes: u64) -> Result<()> {
    let free = free(dir).with_context(|| format!("asking how much is free at {}", dir.display()))?;
    ensure!(
        bytes <= free,
        "not enough room on the file system at {}: {} free, and this takes {} ({bytes} bytes) at the least",
        mount_point(dir).display(),
        size(free),
        size(bytes),
    );
    Ok(())
}

/// Says which file system is full, where that is what went wrong.
pub(crate) fn explain(error: Error, dir: &Path) -> Error {
    if !error.chain().any(is_full) {
        return error;
    }
    let free = free(dir).map_or_else(|_| "an unknown part of it".to_owned(), size);
    let at = mount_point(dir);
    error.context(format!(
        "the file system at {} is full, with {free} free after what was unpacked is removed",
        at.display()
    ))
}

fn is_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    let code = cause.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
    let code = code.or_else(|| cause.downcast_ref::<Errno>().copied());
    matches!(code, Some(Errno::NOSPC | Errno::DQUOT))
}

/// What those may use who are not root.
fn free(dir: &Path) -> io::Result<u64> {
    let room = statvfs(dir)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// The uppermost directory on the same file system.
fn mount_point(dir: &Path) -> &Path {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let here = device(dir);
    dir.ancestors().take_while(|path| device(path) == here).last().unwrap_or(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_by_the_name_of_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        ensure_room(dir.path(), 1).unwrap();
        let error = ensure_room(dir.path(), 1 << 60).unwrap_err().to_string();
        let at = mount_point(dir.path());
        assert!(dir.path().starts_with(at) && error.contains(&format!("file system at {}:", at.display())), "{error}");
        assert!(error.contains("(1152921504606846976 bytes)"), "{error}");
    }

    #[test]
    fn only_a_full_file_system_is_said_to_be_full() {
        let dir = tempfile::tempdir().unwrap();
        let said = |error: Error| format!("{:#}", explain(error.context("writing it"), dir.path()));
        for full in [Errno::NOSPC, Errno::DQUOT] {
            for error in [full.into(), Error::from(io::Error::from(full))] {
                assert!(said(error).starts_with("the file system at /"), "{full}");
            }
        }
        assert!(said(Errno::ACCESS.into()).starts_with("writing it: "));
    }
}
