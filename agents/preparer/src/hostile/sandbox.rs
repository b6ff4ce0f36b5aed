//! A place to unpack hostile archives in, which notices whatever one does beside its directory.
//!
//! Ensures: what was created, changed, moved, linked or read outside is told, as is what got in that must not be there.
//! Assumes that nobody else is at work in it, and for reads that the file system keeps times of access.

use std::fs::{self, DirEntry, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

const SECRET: &str = "what nobody outside may read";

pub(super) struct Sandbox {
    _root: TempDir,
    /// So deep that two directories above it are the sandbox's, too.
    dir: PathBuf,
    /// All that is outside, but for the directory that the stage comes and goes in.
    before: Vec<(PathBuf, Stamp)>,
}

/// All that the kernel keeps of a file, in as far as it changes when the file does, or when it is read.
#[derive(PartialEq, Eq, Debug)]
struct Stamp {
    inode: (u64, u64),
    mode: u32,
    links: u64,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    read: (i64, i64),
}

impl Sandbox {
    /// In memory, where there is such a file system.
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let dir = root.path().join("deep/deeper");
        for made in ["outside/dir", "installs/other"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        for file in ["outside/secret", "outside/run", "outside/dir/inner", "installs/other/file"] {
            fs::write(dir.join(file), SECRET).unwrap();
        }
        fs::set_permissions(dir.join("outside/run"), Permissions::from_mode(0o4755)).unwrap();
        symlink("secret", dir.join("outside/link")).unwrap();
        symlink("outside", dir.join("link")).unwrap();
        let paths = [
            "link",
            "outside",
            "outside/secret",
            "outside/run",
            "outside/link",
            "outside/dir",
            "outside/dir/inner",
            "installs/other",
            "installs/other/file",
        ];
        let above = dir.ancestors().take(3).map(Path::to_owned);
        let paths = above.chain(paths.map(|path| dir.join(path))).collect::<Vec<_>>();
        paths.iter().for_each(|path| age(path));
        let before = paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
        Self { _root: root, dir, before }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where to unpack.
    pub(super) fn stage(&self) -> PathBuf {
        self.dir.join("installs/stage")
    }

    /// Makes it anew, and empty.
    pub(super) fn fresh(&self) -> PathBuf {
        let stage = self.stage();
        crate::remove::tree(&stage).unwrap();
        fs::create_dir(&stage).unwrap();
        stage
    }

    /// What an archive has done that it must not.
    pub(super) fn harm(&self) -> Vec<String> {
        let changed = self.before.iter().filter(|(path, before)| stamp(path) != *before);
        let mut harm = changed.map(|(path, _)| format!("{} was touched", path.display())).collect::<Vec<_>>();
        let names = fs::read_dir(self.dir.join("installs")).unwrap().count();
        if names != 2 {
            harm.push(format!("there are {names} names beside the stage"));
        }
        self.look_inside(&mut harm);
        harm
    }

    fn look_inside(&self, harm: &mut Vec<String>) {
        let mut left = vec![self.stage()];
        while let Some(dir) = left.pop() {
            let entries = match fs::read_dir(&dir) {
                // Links can take a tree deeper than any path. What is there is seen from outside: by its links.
                Err(error) if error.kind() == ErrorKind::InvalidFilename => continue,
                entries => entries.unwrap(),
            };
            for entry in entries.map(Result::unwrap) {
                match self.look_at(&entry) {
                    Err(error) if error.kind() == ErrorKind::InvalidFilename => {}
                    Err(error) => panic!("{}: {error}", entry.path().display()),
                    Ok(None) if entry.file_type().unwrap().is_dir() => left.push(entry.path()),
                    Ok(None) => {}
                    Ok(Some(wrong)) => harm.push(format!("{} {wrong}", entry.path().display())),
                }
            }
        }
    }

    fn look_at(&self, entry: &DirEntry) -> io::Result<Option<&'static str>> {
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        Ok(match () {
            () if self.before.iter().any(|(_, stamp)| stamp.inode == inode(&metadata)) => Some("is from outside"),
            () if kind.is_symlink() => None,
            () if !kind.is_file() && !kind.is_dir() => Some("is no file, directory or link"),
            () if metadata.mode() & 0o7000 != 0 => Some("lends its owner's rights"),
            () if kind.is_file() && has_a_secret(&entry.path())? => Some("has a secret from outside"),
            () => None,
        })
    }
}

/// Makes it old: whatever is done to it from now on gives it another time, however coarse the clock is that files have.
fn age(path: &Path) {
    let long_ago = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: long_ago, last_modification: long_ago };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn has_a_secret(file: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(file)?.take(1024).read_to_end(&mut start)?;
    Ok(start.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()))
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::symlink_metadata(path).unwrap();
    Stamp {
        inode: inode(&metadata),
        mode: metadata.mode(),
        links: metadata.nlink(),
        owner: (metadata.uid(), metadata.gid()),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        read: (metadata.atime(), metadata.atime_nsec()),
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_done_outside_or_gets_in_from_there_is_noticed() {
        type Harm = fn(&Path) -> io::Result<()>;
        let table: [(&str, Harm); 14] = [
            ("deeper was touched", |dir| fs::write(dir.join("new"), "")),
            ("deep was touched", |dir| fs::write(dir.join("../new"), "")),
            ("outside/dir was touched", |dir| fs::create_dir(dir.join("outside/dir/new"))),
            ("outside/secret was touched", |dir| fs::write(dir.join("link/secret"), SECRET)),
            ("inner was touched", |dir| {
                fs::set_permissions(dir.join("outside/dir/inner"), Permissions::from_mode(0o666))
            }),
            ("outside was touched", |dir| {
                fs::rename(dir.join("outside/secret"), dir.join("outside/dir/secret"))
                    .and_then(|()| fs::rename(dir.join("outside/dir/secret"), dir.join("outside/secret")))
            }),
            ("run was touched", |dir| {
                File::open(dir.join("outside/run"))?.set_modified(std::time::SystemTime::UNIX_EPOCH)
            }),
            ("outside/link was touched", |dir| fs::read_link(dir.join("outside/link")).map(|_| ())),
            ("beside the stage", |dir| fs::write(dir.join("installs/new"), "")),
            ("other/file was touched", |dir| fs::read(dir.join("installs/other/file")).map(|_| ())),
            ("is from outside", |dir| fs::hard_link(dir.join("outside/secret"), dir.join("installs/stage/a"))),
            ("has a secret", |dir| fs::write(dir.join("installs/stage/a"), format!("xx{SECRET}"))),
            ("lends its owner's rights", |dir| {
                fs::write(dir.join("installs/stage/a"), "")?;
                fs::set_permissions(dir.join("installs/stage/a"), Permissions::from_mode(0o2755))
            }),
            ("is no file", |dir| std::os::unix::net::UnixListener::bind(dir.join("installs/stage/a")).map(|_| ())),
        ];
        for (noticed, harm) in table {
            let sandbox = Sandbox::new();
            fs::create_dir_all(sandbox.fresh().join("d/e")).unwrap();
            assert_eq!(sandbox.harm(), [""; 0], "before {noticed}");
            harm(sandbox.dir()).unwrap();
            let found = sandbox.harm().join(", ");
            assert!(found.contains(noticed), "{found:?} is not {noticed}");
        }
    }
}
