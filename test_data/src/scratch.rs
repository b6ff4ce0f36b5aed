//! A directory for one test, and the end of everything that was started in it.
//!
//! Ensures: when a [`Scratch`] is dropped, also by a panic, no process that mentions its path is left, and neither is the
//! directory; a reaper sees to that when the test itself is killed. So no fixture has to know how to end what its server
//! started: runsvdir's runsvs, their apps, the apps' stray children. Assumes that whoever starts something gives it a
//! path under here, in its arguments, its working directory or its environment.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::bin;
use crate::process::{mentioning, signal};

const DEADLINE: Duration = Duration::from_secs(20);
/// What `statfs` calls a tmpfs. From linux/magic.h.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// A unique temporary directory that all else of a test lives under.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    dir: Option<TempDir>,
    reaper: Child,
}

impl Scratch {
    #[expect(clippy::new_without_default, reason = "it makes a directory and, dropped, kills: that is no default")]
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// In memory, where the disk's noise does not drown what is measured; where there is no tmpfs, it says so and is as
    /// any other.
    pub fn in_memory() -> Self {
        let usual = std::env::temp_dir();
        // Where the usual place is one, nobody needs another: it may be another scratch directory, which goes with all in it.
        for tmpfs in [&usual, Path::new("/dev/shm")] {
            if rustix::fs::statfs(tmpfs).is_ok_and(|found| found.f_type == TMPFS) {
                return Self::under(tmpfs);
            }
        }
        println!("/dev/shm is no tmpfs: what is measured includes the disk");
        Self::under(&usual)
    }

    /// In a directory that is there.
    pub fn under(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("platypus-").tempdir_in(parent).expect("a temporary directory");
        // Apps may run as another user, who has to come through here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        // As /proc will show it.
        let path = dir.path().canonicalize().expect("it is there");
        let reaper = start_reaper(&path);
        Self { path, dir: Some(dir), reaper }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = end_all(&self.path);
        // When something goes on writing there is no use in reporting that too.
        let removed = self.dir.take().map_or(Ok(()), TempDir::close);
        // Its standard input ends, and it finds nothing to do.
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
        if !thread::panicking() {
            assert!(left.is_empty(), "still running under {}: {left:?}", self.path.display());
            removed.expect("the scratch directory can be removed");
        }
    }
}

/// Starts the program that does what [`Scratch`]'s drop does once this process is no more.
fn start_reaper(path: &Path) -> Child {
    let mut reaper = Command::new(bin("reaper"));
    // In a group of its own, which Ctrl-C does not reach. It must not mention the path itself.
    reaper.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut reaper = reaper.spawn().expect("the reaper starts");
    let stdin = reaper.stdin.as_mut().expect("it is piped");
    stdin.write_all(path.as_os_str().as_bytes()).expect("the reaper listens");
    reaper
}

/// What the `reaper` does: reads a scratch directory's path from standard input, and when that ends, as it does with the
/// process that holds its other end, ends all that is left there.
pub fn reap() {
    let mut path = Vec::new();
    std::io::stdin().read_to_end(&mut path).expect("standard input can be read");
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    if path.is_dir() {
        end_all(&path);
        fs::remove_dir_all(&path).expect("the scratch directory can be removed");
    }
}

/// Kills every process that mentions `path`, until a whole round finds nothing: what is killed may just have started
/// something else. What is left then, after a while.
pub fn end_all(path: &Path) -> Vec<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = mentioning(path);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        left.iter().for_each(|pid| signal(*pid, Signal::KILL));
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::Command;

    use super::*;
    use crate::{Runsvdir, eventually, script};

    /// An app that ignores TERM, with a child that does too and, for good measure, one that left its directory.
    const STUBBORN: &str = "trap '' TERM\nsleep 1000 &\n(cd / && FROM=$OLDPWD exec sleep 1000) &\nsleep 1000\n";

    fn with_a_stubborn_service(scratch: &Scratch) {
        let services = scratch.path().join("service");
        fs::create_dir_all(services.join("stubborn")).unwrap();
        script(&services.join("stubborn/run"), STUBBORN);
        Runsvdir::start(scratch, &services);
        eventually("runsvdir, runsv, the app and its three children run", DEADLINE, || {
            (mentioning(scratch.path()).len() == 6).then_some(())
        });
    }

    #[test]
    fn nothing_remains_of_a_service_that_ignores_term_and_has_stray_children() {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        with_a_stubborn_service(&scratch);
        drop(scratch);
        assert_eq!(mentioning(&path), [0; 0]);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_remains_of_a_test_that_panics() {
        let scratch = Scratch::new();
        let path = scratch.path().to_owned();
        let failed = catch_unwind(AssertUnwindSafe(move || {
            with_a_stubborn_service(&scratch);
            panic!("as a failing test does");
        }));
        assert!(failed.is_err());
        assert_eq!(mentioning(&path), [0; 0]);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_remains_of_a_test_that_is_killed() {
        let path = tempfile::Builder::new().prefix("platypus-").tempdir().unwrap().keep().canonicalize().unwrap();
        let mut reaper = start_reaper(&path);
        let mut sleeper = Command::new("sleep").arg("1000").current_dir(&path).spawn().unwrap();
        assert!(sleeper.try_wait().unwrap().is_none() && reaper.try_wait().unwrap().is_none());
        // As the kernel does it for a process that is no more.
        drop(reaper.stdin.take());
        assert!(reaper.wait().unwrap().success());
        assert!(!sleeper.wait().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn what_another_scratch_started_goes_on() {
        let (one, other) = (Scratch::new(), Scratch::new());
        let mut sleeper = Command::new("sleep").arg("1000").current_dir(other.path()).spawn().unwrap();
        drop(one);
        assert!(sleeper.try_wait().unwrap().is_none());
        drop(other);
        assert!(sleeper.wait().unwrap().code().is_none(), "it was killed");
    }
}
