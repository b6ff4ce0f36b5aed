//! Everything by which agents change a host or a store, each a [`step`].
//!
//! Ensures: nothing else does, in code that passes clippy: `clippy.toml` has it refuse such calls anywhere else in the
//! agents. So the list of the steps is the list of all effects, and each of them is a place where a test has had an agent
//! die. What is found done already is no step: a pass over a converged host has none.
//!
//! `what` is changed, in a word or two; with the verb it is the step's name.

#![expect(clippy::disallowed_methods, reason = "here each is a step")]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::SystemTime;

use anyhow::Result;
use rustix::fs::{
    AtFlags, Mode, OFlags, Timestamps, fchmod, futimens, linkat, mkdirat, openat, renameat, symlinkat, unlinkat,
};
use rustix::path::Arg;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use store::lease::Leases;
use store::{Alive, AppName, ClusterName, Expected, Instance, Key, NodeName, Store};
use tokio::process::{Child, Command};

use crate::step;

/// Makes a new file.
pub fn create(what: &str, path: &Path, mode: u32) -> io::Result<File> {
    let mut new = OpenOptions::new();
    new.write(true).create_new(true).mode(mode);
    step(format_args!("create {what}"), || new.open(path))
}

/// Opens a file to write to it; where there is none, makes one.
pub fn open_or_create(what: &str, path: &Path, mode: u32, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(mode).custom_flags(flags);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            step(format_args!("create {what}"), || options.create(true).truncate(false).open(path))
        }
        opened => opened,
    }
}

/// Opens a named pipe, if somebody has it open to read from it. Nothing is written.
pub fn open_to_write(pipe: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(pipe)
}

/// Opens a named pipe at whatever end it is. Nothing is written.
pub fn open_both_ends(pipe: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(pipe)
}

pub fn write(what: &str, mut to: &File, bytes: &[u8]) -> io::Result<()> {
    step(format_args!("write {what}"), || to.write_all(bytes))
}

/// Writes a command into a pipe.
pub fn tell(whom: &str, mut pipe: &File, command: u8) -> io::Result<()> {
    step(format_args!("tell {whom} {}", char::from(command)), || pipe.write_all(&[command]))
}

pub fn set_length(what: &str, of: &File, length: u64) -> io::Result<()> {
    step(format_args!("cut {what}"), || of.set_len(length))
}

pub fn set_mode(what: &str, of: &File, mode: u32) -> io::Result<()> {
    step(format_args!("chmod {what}"), || of.set_permissions(Permissions::from_mode(mode)))
}

pub fn set_owner(what: &str, of: &File, uid: u32, gid: u32) -> io::Result<()> {
    step(format_args!("chown {what}"), || fchown(of, Some(uid), Some(gid)))
}

pub fn set_modified(what: &str, of: &File, at: SystemTime) -> io::Result<()> {
    step(format_args!("date {what}"), || of.set_modified(at))
}

pub fn rename(what: &str, from: &Path, to: &Path) -> io::Result<()> {
    step(format_args!("rename {what}"), || fs::rename(from, to))
}

/// Makes a symbolic link.
pub fn link(what: &str, target: &Path, link: &Path) -> io::Result<()> {
    step(format_args!("link {what}"), || symlink(target, link))
}

/// Removes a file or link, if it is there. Tells whether it was.
pub fn remove(what: &str, path: &Path) -> io::Result<bool> {
    if is_absent(path) {
        return Ok(false);
    }
    match step(format_args!("remove {what}"), || fs::remove_file(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a new directory.
pub fn make_directory(what: &str, path: &Path, mode: u32) -> io::Result<()> {
    step(format_args!("make {what}"), || DirBuilder::new().mode(mode).create(path))
}

/// Makes a directory and those above it, where they are missing.
pub fn make_directories(what: &str, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    step(format_args!("make {what}"), || fs::create_dir_all(path))
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove_directory(what: &str, path: &Path) -> io::Result<()> {
    if is_absent(path) {
        return Ok(());
    }
    match step(format_args!("remove {what}"), || fs::remove_dir_all(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

pub(crate) fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Makes a new file in a directory.
pub fn create_at(what: &str, dir: impl AsFd, name: impl Arg, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    step(format_args!("create {what}"), || openat(dir, name, flags, mode))
}

pub fn make_directory_at(what: &str, dir: impl AsFd, name: impl Arg, mode: Mode) -> rustix::io::Result<()> {
    step(format_args!("make {what}"), || mkdirat(dir, name, mode))
}

/// Makes a symbolic link in a directory.
pub fn link_at(what: &str, target: impl Arg, dir: impl AsFd, name: impl Arg) -> rustix::io::Result<()> {
    step(format_args!("link {what}"), || symlinkat(target, dir, name))
}

pub fn hard_link_at(
    what: &str,
    (from, old): (impl AsFd, impl Arg),
    (to, new): (impl AsFd, impl Arg),
) -> rustix::io::Result<()> {
    step(format_args!("hard-link {what}"), || linkat(from, old, to, new, AtFlags::empty()))
}

pub fn rename_at(
    what: &str,
    (from, old): (impl AsFd, impl Arg),
    (to, new): (impl AsFd, impl Arg),
) -> rustix::io::Result<()> {
    step(format_args!("rename {what}"), || renameat(from, old, to, new))
}

/// Removes a file or link, or with [`AtFlags::REMOVEDIR`] an empty directory.
pub fn remove_at(what: &str, dir: impl AsFd, name: impl Arg, flags: AtFlags) -> rustix::io::Result<()> {
    step(format_args!("remove {what}"), || unlinkat(dir, name, flags))
}

pub fn set_mode_of(what: &str, of: impl AsFd, mode: Mode) -> rustix::io::Result<()> {
    step(format_args!("chmod {what}"), || fchmod(of, mode))
}

pub fn set_times_of(what: &str, of: impl AsFd, times: &Timestamps) -> rustix::io::Result<()> {
    step(format_args!("date {what}"), || futimens(of, times))
}

/// Kills one process.
pub fn kill(what: &str, process: Pid) -> rustix::io::Result<()> {
    step(format_args!("kill {what}"), || kill_process(process, Signal::KILL))
}

/// Kills a process group, if anything is left of it.
pub fn kill_group(what: &str, group: Pid) -> rustix::io::Result<()> {
    test_kill_process_group(group)?;
    step(format_args!("kill {what}"), || kill_process_group(group, Signal::KILL))
}

/// Starts a program that changes something.
pub fn start(what: &str, program: &mut Command) -> io::Result<Child> {
    step(format_args!("run {what}"), || program.spawn())
}

/// Starts a program that only looks.
pub fn start_to_ask(program: &mut Command) -> io::Result<Child> {
    program.spawn()
}

/// Runs a program that changes something.
pub async fn run(what: &str, program: &mut Command) -> io::Result<ExitStatus> {
    step(format_args!("run {what}"), || program.status()).await
}

/// As [`run`], where a thread may wait for it.
pub fn run_blocking(what: &str, program: &mut std::process::Command) -> io::Result<Output> {
    step(format_args!("run {what}"), || program.output())
}

/// Runs a program that only looks.
pub async fn ask(program: &mut Command) -> io::Result<Output> {
    program.output().await
}

/// As [`ask`], where a thread may wait for it.
pub fn ask_blocking(program: &mut std::process::Command) -> io::Result<Output> {
    program.output()
}

/// See [`Store::register`].
pub async fn register(name: &str, store: &Store, instance: &Instance) -> Result<()> {
    step(name, || store.register(instance)).await
}

/// See [`Store::deregister`].
pub async fn deregister(name: &str, store: &Store, node: &NodeName, app: &AppName) -> Result<()> {
    step(name, || store.deregister(node, app)).await
}

/// See [`Store::drain`].
pub async fn drain(name: &str, store: &Store, node: &NodeName, app: &AppName, why: &str) -> Result<()> {
    step(name, || store.drain(node, app, why)).await
}

/// See [`Store::undrain`].
pub async fn undrain(name: &str, store: &Store, node: &NodeName, app: &AppName) -> Result<()> {
    step(name, || store.undrain(node, app)).await
}

/// See [`Store::report`].
pub async fn report(
    name: &str,
    store: &Store,
    node: &NodeName,
    app: &AppName,
    (passes, says): (bool, &str),
) -> Result<()> {
    step(name, || store.report(node, app, passes, says)).await
}

/// See [`Store::put`].
pub async fn put(name: &str, store: &Store, key: &Key, bytes: &[u8]) -> Result<()> {
    step(name, || store.put(key, bytes)).await
}

/// See [`Store::stay_alive`].
pub async fn stay_alive(name: &str, store: &Store, node: &NodeName, agent: &str) -> Result<Alive> {
    step(name, || store.stay_alive(node, agent)).await
}

/// See [`Store::say_alive`].
pub async fn say_alive(name: &str, store: &Store, node: &NodeName, agent: &str, is_new: bool) -> Result<()> {
    step(name, || store.say_alive(node, agent, is_new)).await
}

/// See [`Store::say_gone`].
pub async fn say_gone(name: &str, store: &Store, node: &NodeName, agent: &str) -> Result<()> {
    step(name, || store.say_gone(node, agent)).await
}

/// See [`Store::change_leases`].
pub async fn change_leases<T>(
    name: &str,
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    decide: impl AsyncFnMut(&Leases) -> Result<(Option<Leases>, T)>,
) -> Result<Option<T>> {
    step(name, || store.change_leases(app, cluster, decide)).await
}

/// See [`Store::set_leases`].
pub async fn set_leases(
    name: &str,
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    (leases, expected): (&Leases, &Expected),
) -> Result<bool> {
    step(name, || store.set_leases(app, cluster, leases, expected)).await
}
