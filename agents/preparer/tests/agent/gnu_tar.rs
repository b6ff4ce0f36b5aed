//! What GNU tar makes of an archive, we make of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::{Kind, Scratch, Tree, differences, tree};

use crate::support::copied;

/// Something of everything that fits into the oldest format.
fn sample(root: &Path) {
    for dir in ["bin", "empty", "a/b/c", "a/b/empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let modes = [0o644, 0o755, 0o600, 0o700, 0o444, 0o400, 0o555, 0o500, 0o777, 0o666, 0o4755, 0o2755, 0o1644, 0o640];
    for mode in modes {
        let path = root.join(format!("bin/{mode:o}"));
        fs::write(&path, format!("{mode:o}\n").repeat(1000)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("a/b/c/ none"), "").unwrap();
    for length in [1, 511, 512, 513, 100_000, 1_000_000] {
        fs::write(root.join(format!("a/{length}")), vec![b'x'; length]).unwrap();
    }
    for (link, target) in
        [("current", "bin"), ("a/up", "../bin/644"), ("dangling", "no/where"), ("out", "/etc/hostname")]
    {
        symlink(target, root.join(link)).unwrap();
    }
    fs::hard_link(root.join("a/513"), root.join("a/b/same")).unwrap();
    fs::hard_link(root.join("a/513"), root.join("a/b/same too")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"a/\xff\xfe not text")), "x").unwrap();
    fs::write(root.join("a/with\nnewline and é"), "x").unwrap();
}

/// What takes extensions of the format.
fn long(root: &Path) {
    let dir = root.join("d".repeat(150)).join("e".repeat(150));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f".repeat(150)), "long").unwrap();
    fs::hard_link(dir.join("f".repeat(150)), root.join("hard to long")).unwrap();
    symlink("t".repeat(300), root.join("to long")).unwrap();
}

fn sparse(root: &Path) {
    for (name, pieces) in [("few", 3), ("many", 60)] {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(4 << 20).unwrap();
        for piece in 0..pieces {
            file.write_all_at(&[b'x'; 5000], piece * 60_000).unwrap();
        }
    }
    fs::write(root.join("after"), "after").unwrap();
}

fn tar(arguments: &[&str], archive: &Path, dir: &Path) {
    let status = Command::new("tar").args(arguments).arg("-f").arg(archive).arg("-C").arg(dir).arg(".").status();
    assert!(status.unwrap().success(), "tar {arguments:?}");
}

type Make = fn(&Path);

#[test]
fn trees_are_the_same_in_every_format_but_for_what_modes_allow() {
    let scratch = Scratch::new();
    let formats: [(&str, &[Make]); 5] = [
        ("--format=v7", &[sample]),
        ("--format=ustar", &[sample]),
        ("--format=oldgnu", &[sample, long, sparse]),
        ("--format=gnu", &[sample, long, sparse]),
        ("--format=pax", &[sample, long]),
    ];
    for (n, (format, makers)) in formats.into_iter().enumerate() {
        let dir = |name: &str| {
            let dir = scratch.path().join(format!("{name}{n}"));
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (from, theirs, ours) = (dir("from"), dir("theirs"), dir("ours"));
        makers.iter().for_each(|make| make(&from));
        let archive = scratch.path().join(format!("{n}.tar.gz"));
        let sparse = if makers.contains(&(sparse as Make)) { "--sparse" } else { "--gzip" };
        tar(&["-c", "-z", format, sparse], &archive, &from);
        tar(&["-x", "-z", "--same-permissions"], &archive, &theirs);
        let root = OwnedFd::from(File::open(&ours).unwrap());
        let unpacked = preparer::unpack(File::open(&archive).unwrap(), root, &preparer::Allowed::default());
        unpacked.unwrap_or_else(|error| panic!("{format}: {error:#}"));
        assert!(tree(&theirs).len() > 30, "{format}");
        assert_eq!(differences(&allowed(copied(&theirs)), &copied(&ours)), [""; 0], "{format}");
        assert_eq!(same_files(&theirs), same_files(&ours), "{format}");
    }
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
    tree.get_mut(Path::new("")).unwrap().mode = 0o755;
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
