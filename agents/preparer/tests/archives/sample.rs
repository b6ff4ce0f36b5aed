//! Trees to make archives of.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// Something of everything that fits into the oldest format.
pub(crate) fn plain(root: &Path) {
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

/// Names that ustar splits in two.
pub(crate) fn halves(root: &Path) {
    let dir = root.join("h".repeat(90));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f".repeat(95)), "half").unwrap();
}

/// What takes extensions of the format.
pub(crate) fn long(root: &Path) {
    let dir = root.join("d".repeat(150)).join("e".repeat(150));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f".repeat(150)), "long").unwrap();
    fs::write(dir.join(OsStr::from_bytes(&[0xff; 120])), "not text").unwrap();
    fs::hard_link(dir.join("f".repeat(150)), root.join("hard to long")).unwrap();
    symlink("t".repeat(300), root.join("to long")).unwrap();
}

/// Files with holes: with few pieces of content, with many, with none, and with one at the end.
pub(crate) fn sparse(root: &Path) {
    for (name, pieces) in [("few", 3), ("many", 60), ("none", 0)] {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(4 << 20).unwrap();
        for piece in 0..pieces {
            file.write_all_at(&[b'x'; 5000], piece * 60_000).unwrap();
        }
    }
    File::create(root.join("end")).unwrap().write_all_at(b"end", 3 << 20).unwrap();
    fs::write(root.join("after"), "after").unwrap();
}
