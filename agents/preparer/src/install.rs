//! The directory of an app's installs, `<basedir>/installs`: what is in it, and how something new gets there.
//!
//! Ensures: an install is there whole or not at all, also after a power failure; whatever fails leaves nothing of it
//! behind, and so does what is not the right artifact; what is there already is never touched. Assumes that what writes here holds the lock.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use converge::effect;
use converge::files::{self, Lock};
use rustix::fs::{Mode, OFlags, open, syncfs};
use store::Gather;
use store::intent::App;

use crate::decide::{Names, aside_name, stage_name};
use crate::remove;
use crate::unpack::{Allowed, Unpacked, unpack};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installs {
    dir: PathBuf,
}

impl Installs {
    pub(crate) fn of(app: &App) -> Self {
        Self { dir: app.basedir.path().join("installs") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all that is here; none, when there is no such directory yet.
    pub(crate) fn names(&self) -> Result<Names> {
        let names = || match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::new()),
            Err(error) => Err(error.into()),
            // A name that is not UTF-8 is none of ours, and stays none of ours.
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).try_gather(),
        };
        names().with_context(|| format!("listing {}", self.dir.display()))
    }

    /// `None` when another process holds the lock: it is at work here.
    pub(crate) fn lock(&self) -> Result<Option<Lock>> {
        files::directory("directory of installs", &self.dir)?;
        Lock::try_hold("lock of installs", &self.dir.join(".lock"))
    }

    /// Removes what is here by no install's name.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        // Else a power failure could give what is half deleted the name back that it had before.
        files::sync_parent(&path).with_context(|| format!("syncing {}", self.dir.display()))?;
        remove::tree(&path)
    }

    /// Gives an install that was set aside its name again.
    pub(crate) fn put_back(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        effect::rename("install back", &self.dir.join(aside_name(name)), &path)
            .with_context(|| format!("putting {} back", path.display()))
    }

    /// Makes the install `name` out of an artifact, of which `verify` tells, once it is read, whether it is the right one.
    pub(crate) fn install(
        &self,
        name: &str,
        artifact: impl Read + Send,
        allowed: &Allowed,
        verify: impl FnOnce() -> Result<()>,
    ) -> Result<Unpacked> {
        let (stage, place) = (self.dir.join(stage_name(name)), self.dir.join(name));
        let filled = fill(&stage, artifact, allowed, verify);
        let installed = filled.and_then(|unpacked| put(&stage, &place).map(|()| unpacked));
        installed.map_err(|error| match remove::tree(&stage) {
            Ok(()) => error,
            Err(left) => anyhow!("{error:#}; and what was unpacked is still there: {left:#}"),
        })
    }
}

/// Unpacks into a new directory, and has all of it on disk.
fn fill(
    stage: &Path,
    artifact: impl Read + Send,
    allowed: &Allowed,
    verify: impl FnOnce() -> Result<()>,
) -> Result<Unpacked> {
    // Nobody else's until it is whole.
    effect::make_directory("stage of an install", stage, 0o700)
        .with_context(|| format!("creating {}", stage.display()))?;
    let root = open_directory(stage).with_context(|| format!("opening {}", stage.display()))?;
    let unpacked = unpack(artifact, root.try_clone().context("opening it again")?, allowed)?;
    verify()?;
    // Once for all files: an fsync of each takes many times as long.
    let sync =
        || effect::set_mode_of("stage of an install", &root, Mode::from_raw_mode(0o755)).and_then(|()| syncfs(&root));
    sync().with_context(|| format!("syncing {}", stage.display()))?;
    Ok(unpacked)
}

fn put(stage: &Path, place: &Path) -> Result<()> {
    // A rename could replace nothing but an empty directory; that is somebody's too.
    ensure!(fs::symlink_metadata(place).is_err(), "{} appeared meanwhile", place.display());
    let put = || {
        effect::rename("install", stage, place)?;
        files::sync_parent(place)
    };
    put().with_context(|| format!("putting it at {}", place.display()))
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
