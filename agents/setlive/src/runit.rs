//! Services under runit: what they do, and telling them to do otherwise.
//!
//! Talks to runsv through `supervise/` directly, since `sv` polls only each 420 ms. Ensures: a service that is said to be
//! stopped has no process left, neither its own nor one of its process group. Assumes run scripts that make a process
//! group of their own (`chpst -P`); a group that is not the service's own is never signalled.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use converge::effect;
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::Pid;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::decide::Service;
use crate::{below, processes};

/// How services are asked and told.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    /// Through `supervise/`.
    Supervise,
    /// By a command with the interface of `sv`, for machines without runit.
    Sv(PathBuf),
}

/// runsvdir looks for new services each 5 s at the most.
const RUNSVDIR_LOOKS: Duration = Duration::from_secs(10);
/// For what takes runsv no time at all, or a second when it sleeps.
const RUNSV_ANSWERS: Duration = Duration::from_secs(10);

impl Control {
    /// What the service in `dir` does. Never waits.
    pub(crate) fn observe(&self, dir: &Path) -> Result<Service> {
        match self {
            Self::Supervise => Ok(match supervised(dir)? {
                None => Service::Unsupervised,
                Some(Status { wanted_up: false, .. }) => Service::Stopped,
                // runsv may take its time to notice that a process has died.
                Some(Status { pid: Some(pid), .. }) if processes::is_alive(pid) => Service::Running { pid },
                // Whatever it was told since: it has to be replaced, as `start` does.
                Some(Status { .. }) if has_ended_log(dir)? => Service::Stopped,
                Some(Status { .. }) => Service::Failing,
            }),
            Self::Sv(sv) => sv_status(sv, dir),
        }
    }

    /// Tells the service to run, now and whenever it ends; first waits until runsv is there. False when no runsv comes.
    pub(crate) async fn start(&self, dir: &Path) -> Result<bool> {
        match self {
            Self::Supervise => {
                if !self.is_supervised(dir).await? {
                    return Ok(false);
                }
                match tell(dir, b'u').await {
                    // Asked only after it was told: runsvdir may have told it to end at any moment before.
                    Ok(()) if has_ended_log(dir)? => {
                        let (app, service) = names(dir);
                        info!(%app, "The runsv of the service {service} was told to end: replacing it");
                        end_runsv(dir).await?;
                    }
                    Ok(()) => return Ok(true),
                    Err(_) if supervised(dir)?.is_none() => {}
                    Err(error) => return Err(error),
                }
                // The one that comes starts the service by itself.
                self.is_supervised(dir).await
            }
            Self::Sv(sv) => run_sv(sv, "start", dir).await.map(|()| true),
        }
    }

    /// Stops the service and all of its process group: TERM, and KILL to what is left after `patience`.
    ///
    /// # Errors
    /// When something of it is still there, or when no runsv is there to tell: nothing may be started then.
    pub(crate) async fn stop(&self, dir: &Path, patience: Duration) -> Result<()> {
        match self {
            Self::Supervise => stop(dir, patience).await,
            Self::Sv(sv) => run_sv(sv, "stop", dir).await,
        }
    }

    /// Ends the process `pid` of the service, as [`Control::stop`] does, but leaves it to runsv to start another at once: there
    /// is no moment at which nothing would bring it back.
    pub(crate) async fn renew(&self, dir: &Path, pid: i32, patience: Duration) -> Result<()> {
        match self {
            Self::Supervise => {
                let is_gone = || Ok(supervised(dir)?.is_none_or(|status| status.pid != Some(pid)));
                end(dir, Some(pid), [b't', b'k'], patience, is_gone).await
            }
            Self::Sv(sv) => run_sv(sv, "restart", dir).await,
        }
    }

    /// Whether somebody looks after the service in `dir`, now or within the time in which runsvdir looks for new ones.
    pub(crate) async fn is_supervised(&self, dir: &Path) -> Result<bool> {
        until(RUNSVDIR_LOOKS, || Ok(self.observe(dir)? != Service::Unsupervised)).await
    }

    /// Ends the runsv of a stopped service that runsvdir no longer sees.
    pub(crate) async fn release(&self, dir: &Path) -> Result<()> {
        match self {
            Self::Supervise => {
                if until(RUNSVDIR_LOOKS, || Ok(supervised(dir)?.is_none())).await? {
                    return Ok(());
                }
                // No runsvdir is there to tell it to; before it was unlinked this would have been a restart.
                end_runsv(dir).await
            }
            Self::Sv(sv) => run_sv(sv, "exit", dir).await,
        }
    }
}

/// The part of `supervise/status` that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    pid: Option<i32>,
    wanted_up: bool,
}

/// Whether a runsv looks after `dir`.
pub(crate) fn has_runsv(dir: &Path) -> Result<bool> {
    match effect::open_to_write(&below(dir, &["supervise/ok"])) {
        Ok(_) => Ok(true),
        // The pipe has no reader, or was never made.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("asking for the runsv of {}", dir.display())),
    }
}

/// `None` when no runsv looks after `dir`.
fn supervised(dir: &Path) -> Result<Option<Status>> {
    if !has_runsv(dir)? {
        return Ok(None);
    }
    // runsv makes `ok` before its first status.
    read_status(dir)
}

/// What runsv wrote last of the service in `dir`, or of its log.
fn read_status(dir: &Path) -> Result<Option<Status>> {
    let path = status_of(dir);
    // A byte more than there is to read, to see that there is no more.
    let mut bytes = [0; STATUS_BYTES + 1];
    match File::open(&path).and_then(|mut file| file.read(&mut bytes)) {
        Ok(length) => parse_status(&bytes[..length]).map(Some).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Whether the runsv of `dir` has ended its log, as it does first when runsvdir tells it to end. Whatever it is told before it
/// has ended itself, by an agent that finds it again, makes it stay: without the pipe to its log, so that it can start nothing
/// any more.
fn has_ended_log(dir: &Path) -> Result<bool> {
    Ok(read_status(&below(dir, &["log"]))?.is_some_and(|log| !log.wanted_up))
}

/// Where runsv says what the service does: in another file each time that it is something else.
pub(crate) fn status_of(dir: &Path) -> PathBuf {
    below(dir, &["supervise/status"])
}

const STATUS_BYTES: usize = 20;

/// 20 bytes: since when (12), pid (4, little endian), paused, wanted ('u' or 'd'), got TERM, state (0 is down, 1 is up,
/// 2 is finishing). From runsv.c of runit 2.1.2.
fn parse_status(bytes: &[u8]) -> Result<Status> {
    let [.., p0, p1, p2, p3, _paused, wanted, _term, state] = bytes else { bail!("it has {} bytes", bytes.len()) };
    anyhow::ensure!(bytes.len() == STATUS_BYTES, "it has {} bytes", bytes.len());
    let pid = i32::from_le_bytes([*p0, *p1, *p2, *p3]);
    Ok(Status { pid: (*state == 1 && pid > 0).then_some(pid), wanted_up: *wanted == b'u' })
}

/// Gives runsv one command and returns once it was taken.
///
/// While runsv sleeps, as it does for a second after a process that lived less than one, commands queue up, and it takes
/// one each time it wakes: of agents that died and came back, each with its `d` and `u`, it would stop and start the
/// service for minutes. So nothing is written while something waits, and nothing else is done before it was taken.
async fn tell(dir: &Path, command: u8) -> Result<()> {
    let path = dir.join("supervise/control");
    let io = || format!("writing to {}", path.display());
    // Open for reading too, so that the number of bytes that wait can be asked for; none is ever read here.
    let pipe = effect::open_both_ends(&path).with_context(io)?;
    let taken = || Ok::<_, anyhow::Error>(ioctl_fionread(&pipe).with_context(io)? == 0);
    // One that has ended takes none any more.
    let answered = || Ok(taken()? || supervised(dir)?.is_none());
    let stuck = || format!("runsv of {} takes no commands", dir.display());
    anyhow::ensure!(until(RUNSV_ANSWERS, answered).await? && taken()?, stuck());
    effect::tell("runsv", &pipe, command).with_context(io)?;
    anyhow::ensure!(until(RUNSV_ANSWERS, answered).await? && taken()?, stuck());
    Ok(())
}

/// Ends the runsv of a service, with the service. Where that is linked, runsvdir starts another.
async fn end_runsv(dir: &Path) -> Result<()> {
    tell(dir, b'x').await?;
    let gone = until(RUNSV_ANSWERS, || Ok(supervised(dir)?.is_none())).await?;
    anyhow::ensure!(gone, "runsv of {} does not end", dir.display());
    Ok(())
}

async fn stop(dir: &Path, patience: Duration) -> Result<()> {
    let Some(status) = supervised(dir)? else { bail!("no runsv looks after {}: is runsvdir running?", dir.display()) };
    let is_down = || match supervised(dir)? {
        Some(status) => Ok(status.pid.is_none() && !status.wanted_up),
        // runsvdir has let it go meanwhile: runsv ends after its service.
        None => Ok(status.pid.is_none_or(|pid| !processes::is_alive(pid))),
    };
    end(dir, status.pid, [b'd', b'k'], patience, is_down).await
}

/// Ends a service's process, first politely, and what is left of its group.
async fn end(
    dir: &Path,
    pid: Option<i32>,
    [politely, at_last]: [u8; 2],
    patience: Duration,
    is_over: impl Fn() -> Result<bool>,
) -> Result<()> {
    let group = pid.and_then(own_group);
    if let Err(error) = tell(dir, politely).await
        && !is_over()?
    {
        return Err(error);
    }
    if !until(patience, &is_over).await? {
        let (app, service) = names(dir);
        warn!(%app, "the service {service} ignores TERM for {patience:?}: killing it");
        tell(dir, at_last).await?;
        let over = until(RUNSV_ANSWERS, &is_over).await?;
        anyhow::ensure!(over, "{} does not stop, not even when killed", dir.display());
    }
    // What the main process left behind would go on beside the next version, on its ports and files.
    let Some(group) = group else { return Ok(()) };
    let is_empty = || match effect::kill_group("what is left of a service", group) {
        Err(Errno::SRCH) => Ok(true),
        // The dead that nobody has waited for yet can be signalled too.
        Ok(()) | Err(Errno::PERM) => Ok(!processes::any(|process| process.group == Some(group) && !process.is_dead)),
        Err(error) => Err(error).with_context(|| format!("killing what {} left behind", dir.display())),
    };
    let empty = until(RUNSV_ANSWERS, is_empty).await?;
    anyhow::ensure!(empty, "processes of {} (group {group:?}) are left and cannot be killed", dir.display());
    Ok(())
}

/// The app and the service in `dir`, as messages name them.
fn names(dir: &Path) -> (String, String) {
    let service = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let app = service.split('@').next().unwrap_or_default().to_owned();
    (app, service)
}

/// The process group that `pid` leads, if it leads one: only then is the group the service's own.
fn own_group(pid: i32) -> Option<Pid> {
    let process = processes::Process::of(pid)?;
    process.group.filter(|group| *group == process.pid)
}

/// Asks until the answer is yes, ever less often; false when `patience` ends first.
pub(crate) async fn until(patience: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        if ask()? {
            return Ok(true);
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(pause.min(deadline - now)).await;
        pause = pause.mul_f64(1.3).min(Duration::from_millis(50));
    }
}

/// `run: DIR: (pid 42) 3s` or `down: DIR: 3s, normally up`.
fn sv_status(sv: &Path, dir: &Path) -> Result<Service> {
    let output = effect::ask_blocking(std::process::Command::new(sv).arg("status").arg(dir));
    let output = output.with_context(|| format!("running {}", sv.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let pid = || text.split_once("(pid ")?.1.split_once(')')?.0.parse().ok();
    Ok(match text.split(':').next() {
        Some("run") => pid().map_or(Service::Failing, |pid| Service::Running { pid }),
        Some("down" | "finish") if text.contains("want up") => Service::Failing,
        Some("down" | "finish") => Service::Stopped,
        _ => Service::Unsupervised,
    })
}

async fn run_sv(sv: &Path, command: &str, dir: &Path) -> Result<()> {
    let mut program = tokio::process::Command::new(sv);
    let status = effect::run("sv", program.args(["-w", "10", command]).arg(dir).kill_on_drop(true));
    let status = status.await.with_context(|| format!("running {}", sv.display()))?;
    anyhow::ensure!(status.success(), "{} {command} {} failed: {status}", sv.display(), dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_status_is_read_as_runsv_writes_it() {
        let status = |pid: i32, wanted: u8, state: u8| {
            let mut bytes = vec![0; 12];
            bytes.extend(pid.to_le_bytes());
            bytes.extend([0, wanted, 0, state]);
            parse_status(&bytes).unwrap()
        };
        assert_eq!(status(42, b'u', 1), Status { pid: Some(42), wanted_up: true });
        assert_eq!(status(0, b'u', 0), Status { pid: None, wanted_up: true });
        assert_eq!(status(42, b'd', 2), Status { pid: None, wanted_up: false });
        assert!(parse_status(&[0; 19]).is_err() && parse_status(&[0; 21]).is_err());
    }

    #[test]
    fn a_service_whose_log_was_ended_is_stopped_whatever_it_was_told_since() {
        let dir = tempfile::tempdir().unwrap();
        let ok = dir.path().join("supervise/ok");
        let write = |of: &str, pid: u32, wanted: u8, state: u8| {
            let path = status_of(&dir.path().join(of));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, [&[0; 12][..], &pid.to_le_bytes(), &[0, wanted, 0, state]].concat()).unwrap();
        };
        let observe = || Control::Supervise.observe(dir.path()).unwrap();
        write("", 0, b'u', 0);
        assert!(Command::new("mkfifo").arg(&ok).status().unwrap().success());
        assert_eq!(observe(), Service::Unsupervised);
        let _runsv = effect::open_both_ends(&ok).unwrap();
        assert_eq!(observe(), Service::Failing, "there need not be a log");
        write("log", 42, b'u', 1);
        assert_eq!(observe(), Service::Failing);
        write("log", 0, b'd', 0);
        assert_eq!(observe(), Service::Stopped);
        write("", std::process::id(), b'u', 1);
        assert_eq!(
            observe(),
            Service::Running { pid: std::process::id() as i32 },
            "an operator may have ended its log"
        );
    }

    #[test]
    fn only_a_group_that_a_process_leads_is_its_own() {
        // The test's own process is led by whoever started the tests, or leads; a thread of init's is never ours.
        let me = std::process::id() as i32;
        let leads = rustix::process::getpgrp().as_raw_nonzero().get() == me;
        assert_eq!(own_group(me).is_some(), leads);
    }
}
