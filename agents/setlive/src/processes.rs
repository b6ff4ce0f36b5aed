//! The processes of this host, as far as `/proc` tells.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use converge::effect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use store::AppName;

use crate::runit::until;

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    /// `None` where it is none of ours: outside of these namespaces, or of what is about to be gone.
    pub(crate) group: Option<Pid>,
    /// It has ended, and nobody has waited for it.
    pub(crate) is_dead: bool,
}

impl Process {
    /// `None` when there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, in parentheses, may hold anything; what follows it does not: state, parent, group.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse::<i32>().ok()?;
        Some(Self {
            pid: Pid::from_raw(pid)?,
            parent,
            group: (group > 0).then(|| Pid::from_raw(group)).flatten(),
            is_dead: matches!(state, "Z" | "X"),
        })
    }
}

/// Whether there is such a process, and it has not ended.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Some(id) = Pid::from_raw(pid) else { return false };
    match pidfd_open(id, PidfdFlags::empty()) {
        // It can be read from once the process has ended, also when nobody has waited for it yet.
        Ok(process) => poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) != Ok(1),
        Err(Errno::SRCH) => false,
        // The kernel does not know how.
        Err(_) => Process::of(pid).is_some_and(|process| !process.is_dead),
    }
}

/// Whether there is such a process.
pub(crate) fn any(mut is_one: impl FnMut(&Process) -> bool) -> bool {
    all().any(|process| is_one(&process))
}

/// Ends what an app left behind that nobody looks after any more: its children that outlived it, or itself, when its
/// runsv was killed. What descends from one of `running`, the processes that its services run now, is looked after.
///
/// Such a process is known by the `CONFIG_PATH` that it was started with, and by running in or out of an install of the
/// app. What an app starts for good, say another service of the host, runs elsewhere, and is not touched.
pub(crate) async fn end_strays(app: &AppName, basedir: &Path, running: &BTreeSet<i32>) -> Result<()> {
    let none_left = || {
        let mut left = false;
        for process in strays(basedir, running) {
            left = true;
            tracing::warn!(%app, "killing process {}, which it left behind", process.pid);
            // That it is gone by now is fine, and what cannot be killed is found again.
            let _ = effect::kill("stray process", process.pid);
        }
        Ok(!left)
    };
    let gone = until(Duration::from_secs(5), none_left).await?;
    ensure!(gone, "processes of {} are left and cannot be killed", basedir.display());
    Ok(())
}

/// What [`end_strays`] ends.
pub(crate) fn strays(basedir: &Path, running: &BTreeSet<i32>) -> Vec<Process> {
    let is_stray = |process: &Process| {
        !process.is_dead && is_of(process.pid, basedir) && !descends(process.pid.as_raw_nonzero().get(), running)
    };
    all().filter(is_stray).collect()
}

/// Whether `pid` is one of `ancestors` or a descendant of one.
fn descends(mut pid: i32, ancestors: &BTreeSet<i32>) -> bool {
    // Nothing is deeper, unless processes come and go while we look.
    for _ in 0..1000 {
        if ancestors.contains(&pid) {
            return true;
        }
        match Process::of(pid) {
            Some(process) if process.parent > 1 => pid = process.parent,
            Some(_) | None => return false,
        }
    }
    false
}

fn is_of(pid: Pid, basedir: &Path) -> bool {
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let installs = basedir.join("installs");
    let runs_there = |name: &str| fs::read_link(of(name)).is_ok_and(|path| path.starts_with(&installs));
    // The cheaper question first: there is one environment to read for each process of the host.
    (runs_there("cwd") || runs_there("exe")) && has_config_of(&of("environ"), basedir)
}

fn has_config_of(environ: &str, basedir: &Path) -> bool {
    config_in(environ).is_some_and(|config| config.starts_with(basedir.join("config")))
}

/// The `CONFIG_PATH` that a process was started with.
pub(crate) fn config(pid: i32) -> Option<PathBuf> {
    config_in(&format!("/proc/{pid}/environ"))
}

fn config_in(environ: &str) -> Option<PathBuf> {
    let text = fs::read(environ).ok()?;
    let config = text.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"CONFIG_PATH="))?;
    Some(OsStr::from_bytes(config).into())
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}
