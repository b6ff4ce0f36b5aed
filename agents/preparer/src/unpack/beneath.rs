//! Making files, directories and links beneath one directory, whatever the names and the links in it say.
//!
//! Ensures: nothing outside the directory is created, changed or read through. The kernel resolves every parent with
//! `RESOLVE_BENEATH`: links that stay inside are followed, one that leads out is an error. The last component is never
//! followed. A handful of descriptors are open at a time, however deep the tree. Assumes that nobody else may write in the
//! directory, and that the umask takes away nothing but that others may write, as every agent's does. A kernel before Linux
//! 5.6, or a sandbox that hides `openat2`, has every parent opened a component at a time, and follows no link at all.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use converge::effect;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

pub(super) struct Beneath {
    root: OwnedFd,
    /// The directory in which something was made last: often the next goes there too. Forgotten whenever a name comes
    /// to mean something else.
    last: Option<(PathBuf, OwnedFd)>,
}

/// The mode of every directory.
const DIRECTORY_MODE: u32 = 0o755;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A name in a directory that is open.
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a Path,
}

impl Beneath {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// Makes a directory, unless it is there; a link of that name gives way, like in GNU tar.
    pub(super) fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let place = self.place(path)?;
        // Most often it is new.
        let replaced = match place.make_directory() {
            Ok(()) => false,
            Err(Errno::EXIST) => match place.kind()? {
                FileType::Directory => false,
                FileType::Symlink => {
                    place.unlink()?;
                    place.make_directory().map_err(explained)?;
                    true
                }
                _ => bail!("a file is where a directory is needed"),
            },
            Err(error) => return Err(explained(error)),
        };
        self.forget_if(replaced);
        Ok(())
    }

    /// Makes an empty file to write to, in place of a file or link of that name. Tells whether it has this mode already, or
    /// has to be given it once it is written.
    pub(super) fn file(&mut self, path: &Path, mode: u32) -> Result<(File, bool)> {
        // A set-id bit is lost by a write, and shall not be there before the content is.
        let has_mode = mode & 0o7000 == 0;
        let at_first = Mode::from_raw_mode(if has_mode { mode } else { 0o600 });
        let place = self.place(path)?;
        let (file, replaced) =
            place.make(|place| effect::create_at("unpacked file", place.parent, place.name, at_first))?;
        self.forget_if(replaced);
        Ok((file.into(), has_mode))
    }

    /// Makes a symbolic link, in place of a file or link of that name. Where it leads is not looked at.
    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> Result<()> {
        let place = self.place(path)?;
        let ((), replaced) = place.make(|place| effect::link_at("unpacked link", target, place.parent, place.name))?;
        self.forget_if(replaced);
        Ok(())
    }

    /// Makes `path` another name of the file that is at `target`, in place of a file or link of that name.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let (from, name) = split(target)?;
        let from = self.open(from).map_err(explained)?;
        let linked = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(explained)?;
        ensure!(FileType::from_raw_mode(linked.st_mode) == FileType::RegularFile, "it is not a file");
        let place = self.place(path)?;
        if place.stat()?.is_some_and(|there| (there.st_dev, there.st_ino) == (linked.st_dev, linked.st_ino)) {
            return Ok(());
        }
        let link = |place: &Place| effect::hard_link_at("unpacked file", (&from, name), (place.parent, place.name));
        let ((), replaced) = place.make(link)?;
        self.forget_if(replaced);
        Ok(())
    }

    fn place<'a>(&'a mut self, path: &'a Path) -> Result<Place<'a>> {
        let (parent, name) = split(path)?;
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            // First, so that no more than needed are open at a time.
            self.last = None;
            let opened = self.open_or_make(parent)?;
            self.last = Some((parent.to_owned(), opened));
        }
        let (_, parent) = self.last.as_ref().expect("it was just set");
        Ok(Place { parent: parent.as_fd(), name })
    }

    fn forget_if(&mut self, replaced: bool) {
        if replaced {
            self.last = None;
        }
    }

    /// Opens a directory; it and those above it are made as needed.
    fn open_or_make(&self, path: &Path) -> Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(explained),
        }
        let upwards = path.ancestors().collect::<Vec<_>>();
        // By halves: a name can have two thousand directories that are all missing.
        let missing = upwards.partition_point(|above| self.open(above).is_err_and(|error| error == Errno::NOENT));
        let mut at = self.open(upwards[missing]).map_err(explained)?;
        for path in upwards[..missing].iter().rev() {
            let (_, name) = split(path)?;
            Place { parent: at.as_fd(), name }.make_directory().map_err(|error| match error {
                // Looked up before, and not found: so a link has this name.
                Errno::EXIST => anyhow!("a link to nothing is where a directory is needed"),
                error => explained(error),
            })?;
            at = openat(&at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(explained)?;
        }
        Ok(at)
    }

    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve) {
                // Something was renamed somewhere on this host while the kernel followed a '..' in a link, so that it
                // could not be sure; or a signal came.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => return self.open_step_by_step(path),
                opened => return opened,
            }
        }
    }

    /// As [`Beneath::open`], but for links: to one of those it is [`Errno::NOTDIR`].
    pub(super) fn open_step_by_step(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let mut at = openat(&self.root, ".", flags, Mode::empty())?;
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) => at = openat(&at, name, flags, Mode::empty())?,
                Component::Prefix(_) | Component::RootDir | Component::ParentDir => return Err(Errno::XDEV),
            }
        }
        Ok(at)
    }
}

impl Place<'_> {
    /// Makes something new here; what is in the way is unlinked first. Tells whether something was.
    fn make<T>(&self, make: impl Fn(&Self) -> rustix::io::Result<T>) -> Result<(T, bool)> {
        match make(self) {
            Err(Errno::EXIST) => {
                self.unlink()?;
                Ok((make(self).map_err(explained)?, true))
            }
            made => Ok((made.map_err(explained)?, false)),
        }
    }

    fn unlink(&self) -> Result<()> {
        effect::remove_at("what an entry replaces", self.parent, self.name, AtFlags::empty()).map_err(explained)
    }

    fn make_directory(&self) -> rustix::io::Result<()> {
        effect::make_directory_at("unpacked directory", self.parent, self.name, Mode::from_raw_mode(DIRECTORY_MODE))
    }

    fn kind(&self) -> Result<FileType> {
        let there = self.stat()?.context("something that comes and goes has its name")?;
        Ok(FileType::from_raw_mode(there.st_mode))
    }

    fn stat(&self) -> Result<Option<rustix::fs::Stat>> {
        match statat(self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => stat.map(Some).map_err(explained),
        }
    }
}

fn split(path: &Path) -> Result<(&Path, &Path)> {
    let name = path.file_name().context("the install itself can only be a directory")?;
    Ok((path.parent().expect("what has a name is in something"), Path::new(name)))
}

/// What an error of the kernel means here.
fn explained(error: Errno) -> anyhow::Error {
    anyhow!(match error {
        Errno::XDEV => "a link on its way leads out of the install",
        Errno::LOOP => "links on its way lead in a circle",
        Errno::NOTDIR => "a file is where a directory is needed",
        Errno::ISDIR => "a directory has its name",
        error => return error.into(),
    })
}
