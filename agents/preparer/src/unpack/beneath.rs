//! Making files, directories and links beneath one directory, whatever the names and the links in it say.
//!
//! Ensures: nothing outside the directory is created, changed or read through. The kernel resolves every parent with
//! `RESOLVE_BENEATH`: links that stay inside are followed, one that leads out is an error. The last component is never
//! followed. A handful of descriptors are open at a time, however deep the tree. Assumes Linux 5.6, and that nobody else may write in the
//! directory.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, chmodat, linkat, mkdirat, openat, openat2, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

pub(super) struct Beneath {
    root: OwnedFd,
    /// The directory in which something was made last: often the next goes there too. Forgotten whenever a name comes
    /// to mean something else.
    last: Option<(PathBuf, OwnedFd)>,
}

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
        let replaced = match place.kind()? {
            None => place.make_directory().map(|()| false)?,
            Some(FileType::Directory) => false,
            Some(FileType::Symlink) => {
                place.unlink()?;
                place.make_directory().map(|()| true)?
            }
            Some(_) => bail!("a file is where a directory is needed"),
        };
        self.forget_if(replaced);
        Ok(())
    }

    /// Makes an empty file to write to, in place of a file or link of that name.
    pub(super) fn file(&mut self, path: &Path) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = self.place(path)?;
        let (file, replaced) = place.make(|place| openat(place.parent, place.name, flags, Mode::RUSR | Mode::WUSR))?;
        self.forget_if(replaced);
        Ok(file.into())
    }

    /// Makes a symbolic link, in place of a file or link of that name. Where it leads is not looked at.
    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> Result<()> {
        let place = self.place(path)?;
        let ((), replaced) = place.make(|place| symlinkat(target, place.parent, place.name))?;
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
        let link = |place: &Place| linkat(&from, name, place.parent, place.name, AtFlags::empty());
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
            Place { parent: at.as_fd(), name }.make_directory()?;
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
                opened => return opened,
            }
        }
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
        unlinkat(self.parent, self.name, AtFlags::empty()).map_err(explained)
    }

    fn make_directory(&self) -> Result<()> {
        match mkdirat(self.parent, self.name, Mode::from_raw_mode(0o755)) {
            // Looked up before, and not found: so a link has this name.
            Err(Errno::EXIST) => bail!("a link to nothing is where a directory is needed"),
            made => made.map_err(explained)?,
        }
        // Whatever the umask.
        chmodat(self.parent, self.name, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(explained)
    }

    fn kind(&self) -> Result<Option<FileType>> {
        Ok(self.stat()?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
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
