//! Who is alive: each agent of a node holds the flock of `.store/alive/<node>.<agent>` as long as it is.
//!
//! Ensures: the kernel says that an agent died, however it did, since it releases the flock. The files are never removed,
//! as the writers' lock is not. Whoever asks takes a shared lock for an instant, so that two who ask do not take each
//! other for an agent; an agent that meets one tries again. Nothing is opened through a link, and no fifo waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::task::AbortHandle;

use super::{Directory, blocking};
use crate::NodeName;
use crate::alive::{Life, ensure_agent};

/// How often an agent tries before it goes on trying beside its work: whoever asks holds the lock for microseconds.
const TRIES: u32 = 10;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two tries once another process is known to say the same, as a daemon does beside a `--once`.
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// Says that an agent is alive, until it is dropped or the process ends.
#[derive(Debug, Default)]
pub struct Alive {
    /// Nothing where nobody asks.
    _held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    file: Arc<File>,
    /// Goes on trying while another process of this name is alive.
    trying: Option<AbortHandle>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(trying) = &self.trying {
            trying.abort();
        }
        // The task that tries may still have the file open for a while.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl Directory {
    pub(crate) async fn stay_alive(&self, node: &NodeName, agent: &str) -> Result<Alive> {
        ensure_agent(agent)?;
        if !self.keeps_instances() {
            return Ok(Alive::default());
        }
        let (root, name) = (self.root.clone(), format!("{node}.{agent}"));
        let says = format!("saying in {} that {agent} of {node} is alive", root.display());
        let file = Arc::new(blocking(move || open(&root, &name)).await.context(says)?);
        for _ in 0..TRIES {
            if take(&file) {
                return Ok(Alive { _held: Some(Held { file, trying: None }) });
            }
            tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
        let trying = tokio::spawn({
            let file = file.clone();
            async move {
                while !take(&file) {
                    tokio::time::sleep(LONG_PAUSE.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
            }
        });
        Ok(Alive { _held: Some(Held { file, trying: Some(trying.abort_handle()) }) })
    }

    pub(crate) async fn alive_agents(&self, nodes: &BTreeSet<NodeName>) -> Result<BTreeMap<(NodeName, String), Life>> {
        if !self.keeps_instances() {
            return Ok(BTreeMap::new());
        }
        let (root, nodes) = (self.root.clone(), nodes.clone());
        blocking(move || {
            let mut agents = BTreeMap::new();
            each(&root, |node, agent, is_alive| {
                if let Some(node) = node.parse().ok().filter(|node| nodes.contains(node)) {
                    agents.insert((node, agent.to_owned()), if is_alive()? { Life::Alive } else { Life::Dead });
                }
                Ok(())
            })?;
            Ok(agents)
        })
        .await
    }

    pub(crate) async fn alive(&self, nodes: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let (root, nodes) = (self.root.clone(), nodes.clone());
        blocking(move || alive(&root, &nodes)).await
    }
}

/// Those of `nodes` of which an agent is alive.
pub(super) fn alive(root: &Path, nodes: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut alive = BTreeSet::new();
    each(root, |node, _, is_alive| {
        if nodes.contains(node) && !alive.contains(node) && is_alive()? {
            alive.insert(node.to_owned());
        }
        Ok(())
    })?;
    Ok(alive)
}

/// Tells of each agent that ever was: the node's name, its own, and what asks whether it is alive.
fn each(root: &Path, mut tell: impl FnMut(&str, &str, &dyn Fn() -> Result<bool>) -> Result<()>) -> Result<()> {
    let says = || format!("asking in {} who is alive", root.join(".store/alive").display());
    let Some(directory) = directory(root, false).with_context(says)? else { return Ok(()) };
    for entry in Dir::read_from(&directory).with_context(says)? {
        let entry = entry.with_context(says)?;
        // No agent's name has a dot, and a node's may.
        if let Some((node, agent)) = entry.file_name().to_str().ok().and_then(|name| name.rsplit_once('.')) {
            tell(node, agent, &|| is_held(&directory, entry.file_name())).with_context(says)?;
        }
    }
    Ok(())
}

fn is_held(directory: &OwnedFd, name: &CStr) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A link, or gone: no agent's.
        Err(Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("opening {}", name.to_string_lossy())),
    };
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    loop {
        return match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error).with_context(|| format!("locking {}", name.to_string_lossy())),
        };
    }
}

fn take(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Opens an agent's file, which it makes if need be.
fn open(root: &Path, name: &str) -> Result<File> {
    let directory = directory(root, true)?.context("it was made and is gone")?;
    // Opened for reading only: a second user can lock a file that the first one made.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o666));
    let file = file.map(File::from).with_context(|| format!("opening .store/alive/{name}"))?;
    ensure!(file.metadata()?.is_file(), ".store/alive/{name} is not a file: move it away");
    Ok(file)
}

/// `.store/alive`, if it is there or is to be made.
fn directory(root: &Path, make: bool) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory =
        rustix::fs::openat(CWD, root, flags, Mode::empty()).context("opening the directory of documents")?;
    for name in [".store", "alive"] {
        if make {
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).with_context(|| format!("making the directory {name}")),
            }
        }
        directory = match rustix::fs::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) if !make => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                anyhow::bail!("{name} is no directory but a link or a file: move it away")
            }
            Err(error) => return Err(error).with_context(|| format!("opening the directory {name}")),
        };
    }
    Ok(Some(directory))
}
