//! Removes a tree, however deep.
//!
//! Ensures: links are removed, not followed; neither descriptors nor stack grow with the depth, which an archive can
//! drive far beyond what `std::fs::remove_dir_all` (a descriptor a level) can take. Assumes that nobody else writes
//! there.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use converge::effect;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat};
use rustix::io::{Errno, Result as Done};

const WHAT: &str = "directory among installs";
const PART: &str = "part of a directory";

/// Removes what is at `path`, if anything is.
pub(crate) fn tree(path: &Path) -> Result<()> {
    let remove = || match effect::remove_at(WHAT, CWD, path, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            clear(&open(CWD, path)?)?;
            effect::remove_at(WHAT, CWD, path, AtFlags::REMOVEDIR)
        }
        removed => removed,
    };
    remove().with_context(|| format!("removing {}", path.display()))
}

/// Removes all that is in `root`. A directory that is not empty has its own directories moved up into `root`, where
/// their turn comes.
fn clear(root: &OwnedFd) -> Done<()> {
    let mut lifted = 0;
    // Again, because what was moved up may not have been listed.
    while for_each(root, |name| remove(root, name, |name| lift_out_of(root, name, &mut lifted)))? {}
    Ok(())
}

fn lift_out_of(root: &OwnedFd, name: &CStr, lifted: &mut u64) -> Done<()> {
    let dir = open(root, name)?;
    for_each(&dir, |child| remove(&dir, child, |child| lift(root, &dir, child, lifted)))?;
    effect::remove_at(PART, root, name, AtFlags::REMOVEDIR)
}

fn lift(root: &OwnedFd, dir: &OwnedFd, child: &CStr, lifted: &mut u64) -> Done<()> {
    loop {
        *lifted += 1;
        match effect::rename_at(PART, (dir, child), (root, format!(".lifted-{lifted}"))) {
            // That name is taken, by something in the tree.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            done => return done,
        }
    }
}

/// Removes a file, a link or an empty directory; leaves a full one to `full`.
fn remove(dir: &OwnedFd, name: &CStr, full: impl FnOnce(&CStr) -> Done<()>) -> Done<()> {
    match effect::remove_at(PART, dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => match effect::remove_at(PART, dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => full(name),
            done => done,
        },
        done => done,
    }
}

/// Tells whether there was anything.
fn for_each(dir: &OwnedFd, mut act: impl FnMut(&CStr) -> Done<()>) -> Done<bool> {
    let mut any = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            any = true;
            act(entry.file_name())?;
        }
    }
    Ok(any)
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Done<OwnedFd> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn what_a_link_points_at_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        fs::create_dir_all(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other/file"), "").unwrap();
        symlink("../other", dir.path().join("tree/link")).unwrap();
        symlink(dir.path().join("other"), dir.path().join("tree/a/b/link")).unwrap();
        symlink("other", dir.path().join("link")).unwrap();
        tree(&dir.path().join("link")).unwrap();
        tree(&dir.path().join("tree")).unwrap();
        tree(&dir.path().join("nothing")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(dir.path().join("other/file").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_can_say_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(".lifted-3"), "").unwrap();
        fs::create_dir_all(path.join(".lifted-5/full")).unwrap();
        let mut at = open(CWD, &path).unwrap();
        for _ in 0..5000 {
            for name in ["d", "e", "f"] {
                mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = open(&at, "d").unwrap();
        }
        tree(&path).unwrap();
        assert!(!path.exists());
    }
}
