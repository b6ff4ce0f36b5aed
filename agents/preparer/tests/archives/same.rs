//! Whether we make the same of an archive as GNU tar does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::{Entry, Kind, Scratch, Tree, differences, tree};
use preparer::Allowed;

/// Runs a program that has to be there and to succeed, in `dir`.
pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: see kickstart/setup"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unpack(archive: &Path, into: &Path) {
    let unpacked =
        preparer::unpack(File::open(archive).unwrap(), File::open(into).unwrap().into(), &Allowed::default());
    unpacked.unwrap_or_else(|error| panic!("{}: {error:#}", archive.display()));
}

/// Unpacks an archive by GNU tar and by us, and compares. How many names it has made.
pub(crate) fn assert_same(archive: &Path) -> usize {
    let scratch = Scratch::new();
    let [theirs, ours] = ["theirs", "ours"].map(|name| scratch.path().join(name));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&ours).unwrap();
    let gnu_tar = ["--extract", "--gzip", "--same-permissions", "--warning=no-unknown-keyword", "--file"];
    run(&theirs, "tar", &[&gnu_tar[..], &[archive.to_str().unwrap()]].concat());
    unpack(archive, &ours);
    let name = archive.display();
    assert_eq!(differences(&allowed(copied(&theirs)), &copied(&ours)), [""; 0], "{name}");
    assert_eq!(same_files(&theirs), same_files(&ours), "{name}");
    copied(&ours).len() - 1
}

/// A tree without what two copies of it do not share, but with the times of its files.
fn copied(root: &Path) -> Tree {
    let mut tree = tree(root);
    for entry in tree.values_mut() {
        let mtime = if matches!(entry.kind, Kind::File(_)) { entry.mtime } else { (0, 0) };
        *entry = Entry { mtime, inode: 0, ..entry.clone() };
    }
    tree.get_mut(Path::new("")).unwrap().mode = 0o755;
    tree
}

/// The modes that an install has in place of an archive's.
fn allowed(mut tree: Tree) -> Tree {
    for entry in tree.values_mut() {
        entry.mode = match entry.kind {
            Kind::Directory => 0o755,
            Kind::File(_) if entry.mode & 0o100 != 0 => entry.mode & 0o755 | 0o555,
            Kind::File(_) => entry.mode & 0o755 | 0o444,
            _ => entry.mode,
        };
    }
    tree
}

/// Which names are of one file.
fn same_files(root: &Path) -> Vec<Vec<PathBuf>> {
    let mut by_inode = BTreeMap::<u64, Vec<PathBuf>>::new();
    for path in tree(root).into_keys() {
        let metadata = fs::symlink_metadata(root.join(&path)).unwrap();
        if metadata.is_file() && metadata.nlink() > 1 {
            by_inode.entry(metadata.ino()).or_default().push(path);
        }
    }
    let mut same = by_inode.into_values().collect::<Vec<_>>();
    same.sort();
    same
}
