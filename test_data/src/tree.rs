//! A directory tree as a value: what a host looked like before, to compare with after.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Paths relative to the root, which itself is the empty path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Contents up to this length are kept as they are, so that a failed comparison shows them.
const SHOWN: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Permissions, with the set-user-ID bit and its like.
    pub mode: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// A file that was replaced by one that looks the same is another file.
    pub inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Content),
    Link(PathBuf),
    Socket,
    Fifo,
    Device,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Text(String),
    Hash { length: u64, hash: u64 },
}

impl Entry {
    /// Without what differs between two copies of the same tree.
    pub fn copied(self) -> Self {
        Self { mtime: (0, 0), inode: 0, ..self }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:04o} at {}.{:09} in {}", self.kind, self.mode, self.mtime.0, self.mtime.1, self.inode)
    }
}

/// Everything under `root`. What disappears while we look is not there.
pub fn tree(root: &Path) -> Tree {
    tree_where(root, |_| true)
}

/// Everything under `root` whose path, relative to it, `keep` accepts; what is under a directory that it does not
/// accept is not looked at.
pub fn tree_where(root: &Path, keep: impl Fn(&Path) -> bool) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        // Joined with nothing, it would be that of a directory.
        let at = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let Some(entry) = entry(&at) else { continue };
        if entry.kind == Kind::Directory {
            let children = fs::read_dir(at).into_iter().flatten().flatten();
            left.extend(children.map(|child| path.join(child.file_name())).filter(|child| keep(child)));
        }
        tree.insert(path, entry);
    }
    tree
}

/// Each path at which two trees differ, with both sides.
pub fn differences(before: &Tree, after: &Tree) -> Vec<String> {
    let show = |entry: Option<&Entry>| entry.map_or("nothing".to_owned(), Entry::to_string);
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    paths
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{}: {} → {}", path.display(), show(before.get(path)), show(after.get(path))))
        .collect()
}

/// The same without what runit writes of its own accord: `supervise` directories, and the files of svlogd, which are
/// in a directory with its `lock` and `current`.
pub fn without_runits(tree: &Tree) -> Tree {
    let is_file = |path: PathBuf| matches!(tree.get(&path), Some(Entry { kind: Kind::File(_), .. }));
    let of_svlogd = |path: &Path| {
        let dir = path.parent().unwrap_or(path);
        is_file(dir.join("lock")) && is_file(dir.join("current")) && !path.ends_with("config")
    };
    let kept = |path: &Path| !path.iter().any(|name| name == "supervise") && !of_svlogd(path);
    tree.iter().filter(|(path, _)| kept(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
}

fn entry(path: &Path) -> Option<Entry> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_dir() => Kind::Directory,
        () if kind.is_symlink() => Kind::Link(fs::read_link(path).ok()?),
        () if kind.is_file() => Kind::File(content(path, metadata.len())?),
        () if kind.is_socket() => Kind::Socket,
        () if kind.is_fifo() => Kind::Fifo,
        () => Kind::Device,
    };
    let mtime = (metadata.mtime(), metadata.mtime_nsec());
    Some(Entry { kind, mode: metadata.mode() & 0o7777, mtime, inode: metadata.ino() })
}

fn content(path: &Path, length: u64) -> Option<Content> {
    let bytes = fs::read(path).ok()?;
    Some(match str::from_utf8(&bytes) {
        Ok(text) if length <= SHOWN => Content::Text(text.to_owned()),
        _ => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Content::Hash { length, hash: hasher.finish() }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::Scratch;

    fn sample() -> Scratch {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path().join("a/empty")).unwrap();
        fs::write(scratch.path().join("a/text"), "text").unwrap();
        fs::write(scratch.path().join("a/large"), [b'x'; 5000]).unwrap();
        symlink("text", scratch.path().join("a/link")).unwrap();
        scratch
    }

    #[test]
    fn a_tree_that_nobody_touched_is_the_same() {
        let scratch = sample();
        let before = tree(scratch.path());
        assert_eq!(before.len(), 6);
        assert_eq!(differences(&before, &tree(scratch.path())), [""; 0]);
    }

    #[test]
    fn every_change_is_a_difference_at_its_path() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("a/text", |root| fs::write(root.join("a/text"), "test").unwrap()),
            ("a/large", |root| fs::write(root.join("a/large"), [b'y'; 5000]).unwrap()),
            ("a/text", |root| fs::set_permissions(root.join("a/text"), Permissions::from_mode(0o600)).unwrap()),
            ("a/empty", |root| fs::remove_dir(root.join("a/empty")).unwrap()),
            ("a/new", |root| fs::write(root.join("a/new"), "").unwrap()),
            ("a/link", |root| {
                fs::remove_file(root.join("a/link")).unwrap();
                symlink("large", root.join("a/link")).unwrap();
            }),
        ];
        for (path, change) in changes {
            let scratch = sample();
            let before = tree(scratch.path());
            change(scratch.path());
            let found = differences(&before, &tree(scratch.path()));
            assert!(found.iter().any(|line| line.starts_with(&format!("{path}: "))), "{path}: {found:?}");
        }
    }

    #[test]
    fn a_file_replaced_by_its_like_is_a_difference_and_a_copy_is_none() {
        let (one, other) = (sample(), sample());
        let before = tree(one.path());
        fs::copy(one.path().join("a/text"), one.path().join("a/next")).unwrap();
        fs::rename(one.path().join("a/next"), one.path().join("a/text")).unwrap();
        assert!(!differences(&before, &tree(one.path())).is_empty());
        let copied = |scratch: &Scratch| -> Tree {
            tree(scratch.path()).into_iter().map(|(path, entry)| (path, entry.copied())).collect()
        };
        assert_eq!(differences(&copied(&one), &copied(&other)), [""; 0]);
    }

    #[test]
    fn what_runit_writes_can_be_left_out_and_a_current_link_is_not_runits() {
        let scratch = Scratch::new();
        for dir in ["service/app/supervise", "base/log", "base/installs"] {
            fs::create_dir_all(scratch.path().join(dir)).unwrap();
        }
        for file in ["service/app/supervise/status", "base/log/lock", "base/log/current", "base/log/config"] {
            fs::write(scratch.path().join(file), "").unwrap();
        }
        symlink("installs", scratch.path().join("base/current")).unwrap();
        let left = without_runits(&tree_where(scratch.path(), |path| !path.ends_with("installs")));
        let left = left.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(left, ["", "base", "base/current", "base/log", "base/log/config", "service", "service/app"]);
    }
}
