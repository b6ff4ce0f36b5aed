//! What well-formed archives become, those that only few archivers make among them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use rustix::io::Errno;
use store::schema::Limits;
use tar::{EntryType, GnuExtSparseHeader};
use tempfile::TempDir;

use super::beneath::Beneath;
use super::build::{
    Bytes, about_next, artifact, directory, entry, file, gzip, hard_link, header, pax, record, symlink,
};
use super::{Allowed, Unpacked, readable, unpack};

/// As much as any test needs.
fn anything() -> Allowed {
    let most = NonZeroU64::MAX;
    Allowed { limits: Limits { entries: most, total_bytes: most, file_bytes: most, ratio: most }, setuid: false }
}

fn unpacked_as(artifact: &[u8], allowed: &Allowed) -> (TempDir, Result<Unpacked>) {
    // As an agent has it, whoever runs the tests.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().unwrap();
    let root = OwnedFd::from(File::open(dir.path()).unwrap());
    (dir, unpack(artifact, root, allowed))
}

fn unpacked_artifact(artifact: &[u8]) -> (TempDir, Unpacked) {
    let (dir, unpacked) = unpacked_as(artifact, &anything());
    (dir, unpacked.unwrap_or_else(|error| panic!("{error:#}")))
}

fn unpacked(entries: &[Bytes]) -> TempDir {
    unpacked_artifact(&artifact(entries)).0
}

fn text(dir: &TempDir, path: &str) -> String {
    fs::read_to_string(dir.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn link_of(dir: &TempDir, path: &str) -> String {
    fs::read_link(dir.path().join(path)).unwrap().to_str().unwrap().to_owned()
}

fn metadata(dir: &TempDir, path: &str) -> fs::Metadata {
    fs::symlink_metadata(dir.path().join(path)).unwrap()
}

#[test]
fn files_and_bytes_are_counted() {
    let entries = [directory("./"), file("./a", b"12345"), file("./b/c", b""), symlink("l", "a"), hard_link("h", "a")];
    let (dir, unpacked) = unpacked_artifact(&artifact(&entries));
    assert_eq!(unpacked, Unpacked { files: 2, bytes: 5 });
    assert_eq!(text(&dir, "h"), "12345");
}

#[test]
fn directories_that_no_entry_made_are_made() {
    let dir = unpacked(&[file("a/b/c", b"1"), file("a/d", b"2"), symlink("e/f/l", "x"), hard_link("g/h", "a/d")]);
    assert_eq!((text(&dir, "a/b/c"), text(&dir, "a/d"), text(&dir, "g/h")), ("1".into(), "2".into(), "2".into()));
    assert_eq!(metadata(&dir, "e/f").mode() & 0o7777, 0o755);
}

#[test]
fn a_link_that_stays_inside_is_written_through() {
    let dir = unpacked(&[
        directory("real/deep"),
        symlink("link", "real"),
        symlink("real/deep/up", "../../other"),
        directory("other"),
        file("link/one", b"1"),
        file("link/deep/up/two", b"2"),
        file("link/new/three", b"3"),
        hard_link("four", "link/one"),
    ]);
    assert_eq!(link_of(&dir, "link"), "real");
    assert_eq!((text(&dir, "real/one"), text(&dir, "other/two")), ("1".into(), "2".into()));
    assert_eq!((text(&dir, "real/new/three"), text(&dir, "four")), ("3".into(), "1".into()));
}

#[test]
fn links_are_kept_as_they_are_wherever_they_lead() {
    let targets = ["/etc/passwd", "../../..", "dangling", "a//b/./c/../", " "];
    let entries = targets.iter().enumerate().map(|(i, target)| symlink(&format!("l{i}"), target)).collect::<Vec<_>>();
    let dir = unpacked(&entries);
    for (i, target) in targets.iter().enumerate() {
        assert_eq!(link_of(&dir, &format!("l{i}")), *target);
    }
}

#[test]
fn a_later_entry_of_the_same_name_replaces_an_earlier_one_and_nothing_else() {
    let dir = unpacked(&[
        file("a", b"one"),
        hard_link("b", "a"),
        file("a", b"two"),
        symlink("l", "b"),
        file("l", b"three"),
        symlink("m", "b"),
        symlink("m", "a"),
        file("n", b"four"),
        symlink("n", "a"),
        file("o", b"five"),
        hard_link("o", "a"),
        directory("d"),
        directory("d/"),
        symlink("e", "d"),
        directory("e"),
        file("e/f", b"six"),
    ]);
    assert_eq!((text(&dir, "a"), text(&dir, "b"), text(&dir, "l")), ("two".into(), "one".into(), "three".into()));
    assert_eq!((link_of(&dir, "m"), link_of(&dir, "n")), ("a".into(), "a".into()));
    assert_eq!(metadata(&dir, "o").ino(), metadata(&dir, "a").ino());
    assert!(metadata(&dir, "e").is_dir() && !dir.path().join("d/f").exists());
}

#[test]
fn a_hard_link_to_itself_is_the_file() {
    let dir = unpacked(&[
        file("a", b"one"),
        hard_link("a", "a"),
        hard_link("./a", "a"),
        hard_link("b", "./a"),
        hard_link("b", "a"),
    ]);
    assert_eq!((text(&dir, "a"), text(&dir, "b")), ("one".into(), "one".into()));
    assert_eq!(metadata(&dir, "a").nlink(), 2);
}

#[test]
fn modes_are_readable_by_all_writable_by_the_owner_and_lend_no_rights() {
    let table = [
        (0o644, 0o644),
        (0o755, 0o755),
        (0o600, 0o644),
        (0o700, 0o755),
        (0o400, 0o444),
        (0o500, 0o555),
        (0o777, 0o755),
        (0o666, 0o644),
        (0o4755, 0o755),
        (0o2775, 0o755),
        (0o1644, 0o644),
        (0o000, 0o444),
        (0o100_644, 0o644),
    ];
    for (mode, expected) in table {
        assert_eq!(readable(mode, false), expected, "{mode:o}");
        let mut header = header(EntryType::Regular, "a", "", 1);
        header.set_mode(mode);
        assert_eq!(metadata(&unpacked(&[entry(header, b"x")]), "a").mode() & 0o7777, expected, "{mode:o}");
    }
}

#[test]
fn set_id_bits_are_kept_where_that_is_allowed() {
    for (mode, expected) in [(0o4755, 0o4755), (0o2711, 0o2755), (0o6700, 0o6755), (0o1755, 0o755), (0o4644, 0o4644)] {
        assert_eq!(readable(mode, true), expected, "{mode:o}");
        let mut header = header(EntryType::Regular, "a", "", 1);
        header.set_mode(mode);
        let (dir, unpacked) = unpacked_as(&artifact(&[entry(header, b"x")]), &Allowed { setuid: true, ..anything() });
        unpacked.unwrap();
        assert_eq!(metadata(&dir, "a").mode() & 0o7777, expected, "{mode:o}");
    }
}

#[test]
fn whatever_is_beyond_its_limits_is_refused_by_name_before_it_is_written() {
    let limit = |number| NonZeroU64::new(number).unwrap();
    let limits = Limits { entries: limit(3), total_bytes: limit(2000), file_bytes: limit(1500), ratio: limit(5) };
    let allowed = Allowed { limits, setuid: false };
    let zeros = |size| file("zeros", &vec![0; size]);
    for (entries, says) in [
        (vec![directory("d"), file("d/a", &[b'x'; 1500]), file("b", &[b'x'; 500])], None),
        (vec![file("a", b""), file("b", b""), file("c", b""), symlink("d", "a")], Some("entry \"d\": more than 3")),
        (vec![file("a", &[b'x'; 1501])], Some("entry \"a\": 1501 bytes, where one file may have 1500")),
        (vec![file("a", &[b'x'; 1500]), file("b", &[b'x'; 501])], Some("entry \"b\": more than 2000 bytes in all")),
        // Small, so that it does not matter how often it grows.
        (vec![zeros(1400)], None),
    ] {
        let (_dir, unpacked) = unpacked_as(&artifact(&entries), &allowed);
        match (unpacked, says) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => assert!(format!("{error:#}").starts_with(says), "{error:#}"),
            (unpacked, says) => panic!("{unpacked:?}, not {says:?}"),
        }
    }
    let bomb = artifact(&[file("zeros", &vec![0; 20 << 20])]);
    let (dir, unpacked) =
        unpacked_as(&bomb, &Allowed { limits: Limits { ratio: limit(100), ..anything().limits }, setuid: false });
    let error = format!("{:#}", unpacked.unwrap_err());
    assert!(error.contains("entry \"zeros\"") && error.contains("more than 100 times"), "{error}");
    assert!(metadata(&dir, "zeros").len() < 10 << 20);
    unpacked_artifact(&bomb);
}

#[test]
fn a_sparse_file_in_any_pax_format_is_as_in_the_old_one() {
    let number = |number: u64| number.to_string().into_bytes();
    let content = [[b'a'; 512], [b'b'; 512]].concat();
    let named = |name: &'static str| entry(header(EntryType::Regular, name, "", 1024), &content);
    let map = [b"2\n1048576\n512\n3145728\n512\n".to_vec(), vec![0; 512 - 26]].concat();
    let within = [map, content.clone()].concat();
    let dir = unpacked(&[
        pax(&[
            ("GNU.sparse.size", b"4194304"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", &number(1 << 20)),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", &number(3 << 20)),
            ("GNU.sparse.numbytes", b"512"),
        ]),
        named("v0.0"),
        pax(&[
            ("GNU.sparse.size", b"4194304"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.name", b"v0.1"),
            ("GNU.sparse.map", b"1048576,512,3145728,512"),
        ]),
        named("GNUSparseFile.7/v0.1"),
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"v1.0"),
            ("GNU.sparse.realsize", b"4194304"),
        ]),
        entry(header(EntryType::Regular, "GNUSparseFile.7/v1.0", "", 1536), &within),
        file("next", b"n"),
    ]);
    for name in ["v0.0", "v0.1", "v1.0"] {
        let sparse = fs::read(dir.path().join(name)).unwrap();
        assert_eq!(sparse.len(), 4 << 20);
        for (from, byte) in [(0, 0), (1 << 20, b'a'), (2 << 20, 0), (3 << 20, b'b')] {
            assert!(sparse[from..from + 512].iter().all(|is| *is == byte), "{name} at {from}");
        }
        assert!(metadata(&dir, name).blocks() < 100);
    }
    assert_eq!(text(&dir, "next"), "n");
}

#[test]
fn without_openat2_directories_are_found_step_by_step_and_links_are_none() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
    let beneath = Beneath::new(File::open(dir.path()).unwrap().into());
    let open = |path: &str| beneath.open_step_by_step(Path::new(path));
    assert!(open(".").is_ok() && open("a/b").is_ok());
    for (path, error) in [("l", Errno::NOTDIR), ("l/b", Errno::NOTDIR), ("a/..", Errno::XDEV), ("a/c", Errno::NOENT)] {
        assert_eq!(open(path).unwrap_err(), error, "{path}");
    }
}

#[test]
fn times_of_files_are_kept() {
    let mut timeless = header(EntryType::Regular, "c", "", 0);
    timeless.as_old_mut().mtime.fill(0);
    let dir = unpacked(&[file("a", b""), pax(&[("mtime", b"-1.25")]), file("b", b""), entry(timeless, b"")]);
    assert_eq!((metadata(&dir, "a").mtime(), metadata(&dir, "a").mtime_nsec()), (1_400_000_000, 0));
    assert_eq!((metadata(&dir, "b").mtime(), metadata(&dir, "b").mtime_nsec()), (-2, 750_000_000));
    assert_eq!((metadata(&dir, "c").mtime(), metadata(&dir, "c").mtime_nsec()), (0, 0));
}

#[test]
fn names_and_targets_may_be_long_and_need_not_be_text() {
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(200));
    let raw = OsStr::from_bytes(b"\xff\n\x80");
    let dir = unpacked(&[
        about_next(b'L', format!("{long}-gnu\0").as_bytes()),
        file("short", b"1"),
        about_next(b'K', format!("{long}-gnu\0").as_bytes()),
        about_next(b'L', b"l-gnu\0"),
        symlink("short", "short"),
        pax(&[("path", format!("{long}-pax").as_bytes()), ("linkpath", format!("{long}-gnu").as_bytes())]),
        hard_link("short", "short"),
        pax(&[("path", raw.as_bytes())]),
        file("short", b"2"),
    ]);
    assert_eq!((text(&dir, &format!("{long}-gnu")), text(&dir, &format!("{long}-pax"))), ("1".into(), "1".into()));
    assert_eq!(link_of(&dir, "l-gnu"), format!("{long}-gnu"));
    assert_eq!(fs::read_to_string(dir.path().join(raw)).unwrap(), "2");
    assert!(!dir.path().join("short").exists());
}

#[test]
fn what_a_pax_header_says_besides_does_not_hide_the_name() {
    let dir = unpacked(&[
        about_next(b'g', &record("comment", b"2a5c92e")),
        pax(&[("SCHILY.xattr.com.apple.provenance", b"\x01\n\n\x00=\n"), ("path", b"real"), ("size", b"3")]),
        entry(header(EntryType::Regular, "cut", "", 0), b"abc"),
        pax(&[("path", b""), ("linkpath", b""), ("mtime", b"")]),
        file("plain", b""),
    ]);
    assert_eq!(text(&dir, "real"), "abc");
    assert!(dir.path().join("plain").exists() && !dir.path().join("cut").exists());
}

#[test]
fn old_and_odd_ways_to_say_the_same_are_understood() {
    let mut v7 = tar::Header::new_old();
    v7.as_old_mut().name[..4].copy_from_slice(b"v7/f");
    v7.set_mode(0o644);
    v7.set_size(1);
    let mut ustar = tar::Header::new_ustar();
    ustar.as_ustar_mut().unwrap().prefix[..6].copy_from_slice(b"prefix");
    ustar.as_ustar_mut().unwrap().name[..4].copy_from_slice(b"name");
    ustar.set_entry_type(EntryType::Regular);
    ustar.set_mode(0o644);
    ustar.set_size(0);
    let with_size = entry(header(EntryType::Link, "linked", "v7/f", 1), b"");
    let dir = unpacked(&[
        entry(v7, b"x"),
        entry(ustar, b""),
        entry(header(EntryType::Regular, "by-its-name/", "", 0), b""),
        entry(header(EntryType::Continuous, "continuous", "", 1), b"y"),
        with_size,
        entry(header(EntryType::Directory, "with-content", "", 600), &[b'z'; 600]),
        file("last", b""),
    ]);
    assert!(metadata(&dir, "by-its-name").is_dir() && metadata(&dir, "with-content").is_dir());
    assert_eq!(
        (text(&dir, "v7/f"), text(&dir, "continuous"), text(&dir, "linked")),
        ("x".into(), "y".into(), "x".into())
    );
    assert!(dir.path().join("prefix/name").exists() && dir.path().join("last").exists());
}

#[test]
fn an_end_may_be_short_or_long_and_gzip_may_have_several_members() {
    let plain = [file("a", &[b'x'; 3000]), directory("d")].concat();
    for end in [512, 1024, 20 * 512, 1_000_000] {
        unpacked_artifact(&gzip(&[&plain[..], &vec![0; end]].concat()));
    }
    let whole = [&plain[..], &[0; 1024]].concat();
    let (dir, _) = unpacked_artifact(&[gzip(&whole[..700]), gzip(b""), gzip(&whole[700..])].concat());
    assert_eq!(text(&dir, "a"), "x".repeat(3000));
}

#[test]
fn a_sparse_file_has_its_content_where_its_map_says_and_holes_between() {
    let pieces = (0..30u64).map(|i| (i * 1_000_000, 512)).collect::<Vec<_>>();
    let size = 1 << 40;
    let mut header = header(EntryType::GNUSparse, "sparse", "", 30 * 512);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    gnu.set_is_extended(true);
    for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(&pieces) {
        slot.set_offset(*offset);
        slot.set_length(*length);
    }
    let mut blocks = Vec::new();
    for rest in pieces[4..].chunks(21) {
        let mut block = GnuExtSparseHeader::new();
        for (slot, (offset, length)) in block.sparse_mut().iter_mut().zip(rest) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        block.set_is_extended(rest.len() == 21);
        blocks.extend(block.as_bytes());
    }
    let content = (0..30u8).flat_map(|i| [b'a' + i; 512]).collect::<Bytes>();
    let dir = unpacked(&[entry(header, b""), blocks, content, file("next", b"n")]);
    let sparse = File::open(dir.path().join("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), size);
    assert!(sparse.metadata().unwrap().blocks() * 512 < 1 << 20);
    for i in 0..30u8 {
        let mut found = [0; 513];
        std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut found, u64::from(i) * 1_000_000).unwrap();
        assert!(found[..512] == [b'a' + i; 512] && found[512] == 0, "piece {i}");
    }
    assert_eq!(text(&dir, "next"), "n");
}

#[test]
fn the_root_has_no_entry_of_its_own() {
    let dir = unpacked(&[directory("."), file("a", b"")]);
    assert!(Path::new(dir.path()).join("a").exists());
}
