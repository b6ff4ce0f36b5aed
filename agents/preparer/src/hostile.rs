//! What an artifact must not be able to do, tried: by hand here, each with what is said of it, and by the ten thousand in
//! [`generated`].

mod archive;
mod generated;
mod sandbox;

use std::fs;
use std::os::unix::fs::symlink as link;
use std::path::Path;

use fixtures::{differences, tree};
use tar::EntryType;

use crate::decide::tests::app;
use crate::install::Installs;
use crate::unpack::Allowed;
use crate::unpack::build::{
    about_next, artifact, directory, entry, file, gzip, hard_link, header, of_type, pax, record, symlink,
};

struct Case {
    artifact: Vec<u8>,
    /// Each in the error.
    says: &'static [&'static str],
}

fn case(entries: &[Vec<u8>], says: &'static [&'static str]) -> Case {
    Case { artifact: artifact(entries), says }
}

/// Names that lead out, by themselves.
fn names() -> Vec<Case> {
    let bad = |name, says| case(&[file("good", b"x"), file(name, b"evil")], says);
    vec![
        bad("/etc/evil", &["entry \"/etc/evil\"", "absolute"]),
        bad("../evil", &["entry \"../evil\"", "'..'"]),
        bad("a/../../evil", &["entry \"a/../../evil\"", "'..'"]),
        bad("..", &["entry \"..\"", "'..'"]),
        bad("", &["entry \"\"", "no name"]),
        bad("./", &["entry \"./\"", "a file with a directory's name"]),
        bad(".", &["entry \".\"", "only be a directory"]),
        case(&[directory("../evil")], &["entry \"../evil\""]),
        case(&[symlink("/evil", "x")], &["entry \"/evil\""]),
        case(&[about_next(b'L', b"../evil\0"), file("a", b"x")], &["entry \"../evil\"", "'..'"]),
        case(&[about_next(b'L', b"a\0b\0"), file("a", b"x")], &["entry \"a\\0b\"", "NUL"]),
        case(&[pax(&[("path", b"/evil")]), file("a", b"x")], &["entry \"/evil\"", "absolute"]),
        case(&[pax(&[("path", b"a\0b")]), file("a", b"x")], &["entry \"a\\0b\"", "NUL"]),
        case(&[pax(&[("path", &[b'a'; 5000])]), file("a", b"x")], &["entry \"aaaa", "longer than 4096"]),
        case(&[pax(&[("path", &[b'a'; 300])]), file("a", b"x")], &["entry \"aaaa", "name too long"]),
    ]
}

/// Links that lead out, and what is tried through them.
fn links(outside: &str) -> Vec<Case> {
    vec![
        case(&[symlink("l", outside), file("l/evil", b"x")], &["entry \"l/evil\"", "leads out"]),
        case(&[symlink("l", outside), directory("l/evil")], &["entry \"l/evil\"", "leads out"]),
        case(&[symlink("l", outside), symlink("l/evil", "x")], &["entry \"l/evil\"", "leads out"]),
        case(&[symlink("l", ".."), file("l/evil", b"x")], &["entry \"l/evil\"", "leads out"]),
        case(&[symlink("l", "../../outside"), file("l/evil", b"x")], &["entry \"l/evil\"", "leads out"]),
        case(&[directory("d"), symlink("d/l", "../.."), file("d/l/evil", b"x")], &["entry \"d/l/evil\"", "leads out"]),
        case(
            &[directory("d"), symlink("l", "d"), file("l/good", b""), symlink("d/m", outside), file("l/m/evil", b"x")],
            &["entry \"l/m/evil\"", "leads out"],
        ),
        // The same name first inside, then out: what was found for it before must not be used.
        case(
            &[directory("d"), symlink("l", "d"), file("l/good", b""), symlink("l", outside), file("l/evil", b"x")],
            &["entry \"l/evil\"", "leads out"],
        ),
        case(&[symlink("l", "/proc/self/cwd"), file("l/evil", b"x")], &["entry \"l/evil\"", "leads out"]),
        case(&[symlink("a", "b"), symlink("b", "a"), file("a/evil", b"x")], &["entry \"a/evil\"", "circle"]),
        case(&[symlink("l", "nowhere"), file("l/evil", b"x")], &["entry \"l/evil\"", "link to nothing"]),
        case(&[symlink("l", outside), hard_link("h", "l/secret")], &["entry \"h\"", "leads out"]),
        case(&[symlink("l", outside), hard_link("h", "l")], &["entry \"h\"", "not a file"]),
        case(&[symlink("l", &format!("{outside}/secret")), hard_link("h", "l")], &["entry \"h\"", "not a file"]),
        case(&[hard_link("h", "../../../outside/secret")], &["entry \"h\"", "'..'"]),
        case(&[hard_link("h", &format!("{outside}/secret"))], &["entry \"h\"", "absolute"]),
        case(&[hard_link("h", "h")], &["entry \"h\"", "No such file"]),
        case(&[file("f", b""), hard_link("h", "missing")], &["entry \"h\"", "\"missing\"", "No such file"]),
        case(&[directory("d"), hard_link("h", "d")], &["entry \"h\"", "not a file"]),
        case(&[symlink("l", "")], &["entry \"l\"", "link to nothing"]),
        case(&[about_next(b'K', b"a\0b\0"), symlink("l", "x")], &["entry \"l\"", "NUL"]),
        case(&[hard_link("h", "")], &["entry \"h\"", "link to nothing"]),
    ]
}

/// Entries that are nothing we unpack, or are not where they can be.
fn kinds() -> Vec<Case> {
    vec![
        case(&[of_type(b'3', "null")], &["entry \"null\"", "device"]),
        case(&[of_type(b'4', "disk")], &["entry \"disk\"", "device"]),
        case(&[of_type(b'6', "pipe")], &["entry \"pipe\"", "named pipe"]),
        case(&[of_type(b'V', "label")], &["entry \"label\"", "unknown type, 'V'"]),
        case(&[of_type(b'M', "rest")], &["entry \"rest\"", "unknown type"]),
        case(&[of_type(0xff, "x")], &["entry \"x\"", "unknown type"]),
        case(&[file("a", b""), file("a/b", b"")], &["entry \"a/b\"", "where a directory is needed"]),
        case(&[file("a", b""), directory("a")], &["entry \"a\"", "where a directory is needed"]),
        case(&[file("a", b""), directory("a/b/c")], &["entry \"a/b/c\"", "where a directory is needed"]),
        case(&[file("a", b""), symlink("l", "a"), file("l/b", b"")], &["entry \"l/b\"", "where a directory is needed"]),
        case(&[directory("a"), file("a", b"")], &["entry \"a\"", "a directory has its name"]),
        case(&[directory("a"), symlink("a", "b")], &["entry \"a\"", "a directory has its name"]),
        case(&[file("f", b""), directory("a"), hard_link("a", "f")], &["entry \"a\"", "a directory has its name"]),
        case(&[entry(header(EntryType::Regular, "a/", "", 1), b"x")], &["entry \"a/\"", "directory's name"]),
    ]
}

/// Headers that lie or are broken.
fn headers() -> Vec<Case> {
    let mut checksum = file("bad", b"x");
    checksum[0] = b'c';
    let with = |change: fn(&mut tar::Header)| {
        let mut header = header(EntryType::Regular, "bad", "", 0);
        change(&mut header);
        vec![file("good", b""), entry(header, b"")]
    };
    let mut many = record("comment", &vec![b'x'; 1 << 20]);
    many.extend(record("path", b"a"));
    vec![
        case(&[file("good", b"x"), checksum], &["after entry \"good\"", "checksum"]),
        case(&[vec![b'x'; 512]], &["at its start", "checksum"]),
        case(&with(|header| header.as_old_mut().mode = *b"99999999"), &["entry \"bad\"", "malformed mode"]),
        case(&with(|header| header.as_old_mut().size = *b"zzzzzzzzzzzz"), &["entry \"bad\"", "malformed size"]),
        case(&with(|header| header.as_old_mut().size = [0xff; 12]), &["entry \"bad\"", "impossible size"]),
        case(&with(|header| header.set_size(1 << 32)), &["entry \"bad\"", "unexpected end"]),
        case(&[pax(&[("size", b"-1")]), file("a", b"")], &["at its start", "malformed size"]),
        case(&[pax(&[("size", b"18446744073709551615")]), file("a", b"")], &["entry \"a\"", "impossible size"]),
        case(&[pax(&[("mtime", b"soon")]), file("a", b"")], &["malformed time"]),
        case(&[about_next(b'x', b"8 path=a\n"), file("a", b"")], &["malformed pax header"]),
        case(&[pax(&[("path", b"a"), ("path", b"b")]), file("a", b"")], &["more than one name"]),
        case(&[pax(&[("path", b"a")]), about_next(b'L', b"b"), file("a", b"")], &["more than one name"]),
        case(&[about_next(b'K', b"a"), about_next(b'K', b"b"), symlink("a", "x")], &["more than one link"]),
        case(&[about_next(b'x', &many), file("a", b"")], &["longer than 1048576 bytes"]),
        case(&[about_next(b'L', &[b'a'; 5000]), file("a", b"")], &["longer than 4097 bytes"]),
        case(&[about_next(b'g', &record("path", b"a")), file("b", b"")], &["global pax header with path"]),
        case(&[pax(&[("GNU.sparse.major", b"2")]), file("a", b"")], &["of an unknown version"]),
        case(&[pax(&[("GNU.sparse.offset", b"0"), ("GNU.sparse.offset", b"0")])], &["an offset without a length"]),
        case(&[pax(&[("GNU.sparse.map", b"1,x")])], &["not a number"]),
        case(&[pax(&[("path", b"a")])], &["between the two halves"]),
    ]
}

/// Sparse files whose map does not fit.
fn sparse() -> Vec<Case> {
    let map = |pieces: &[(u64, u64)], real: u64, content: &[u8]| {
        let mut header = header(EntryType::GNUSparse, "sparse", "", content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(real);
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        case(&[entry(header, content)], &["entry \"sparse\"", "malformed map"])
    };
    let pax_map = |records: &[(&str, &[u8])], content: &[u8]| {
        case(&[pax(records), file("sparse", content)], &["entry \"sparse\"", "malformed map"])
    };
    let in_content: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")];
    vec![
        pax_map(&[("GNU.sparse.map", b"0,1")], b"x"),
        pax_map(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0")], b"x"),
        pax_map(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"8,2")], b"xx"),
        pax_map(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1")], b"xx"),
        pax_map(in_content, b""),
        pax_map(in_content, b"99999999999999999999999999"),
        pax_map(in_content, b"1\n0\n"),
        pax_map(in_content, b"1\n0\n1\nx"),
        pax_map(in_content, &[b"18446744073709551615\n", &[b'0', b'\n'].repeat(600)[..]].concat()),
        map(&[(0, 512), (256, 512)], 2048, &[b'x'; 1024]),
        map(&[(0, 100), (512, 100)], 2048, &[b'x'; 200]),
        map(&[(0, 512)], 2048, &[b'x'; 1024]),
        map(&[(0, 1024)], 2048, &[b'x'; 512]),
        map(&[(1024, 512)], 1024, &[b'x'; 512]),
        map(&[(u64::MAX - 5, 512)], u64::MAX, &[b'x'; 512]),
    ]
}

/// Archives that are not whole, or more than whole.
fn wholes() -> Vec<Case> {
    let plain = [file("a", &[b'x'; 5000]), vec![0; 1024]].concat();
    let whole = gzip(&plain);
    let of = |artifact: Vec<u8>, says| Case { artifact, says };
    let mut crc = whole.clone();
    let at = crc.len() - 8;
    crc[at] ^= 1;
    let mut length = whole.clone();
    *length.last_mut().unwrap() ^= 1;
    vec![
        of(Vec::new(), &["at its start", "without the mark of an archive's end"]),
        of(b"neither".to_vec(), &["at its start, where a tar archive is expected, or one in gzip or zstd"]),
        of(b"<html>404</html>".repeat(100), &["at its start", "checksum is wrong"]),
        of(plain[..700].to_vec(), &["entry \"a\"", "unexpected end"]),
        of([0x28, 0xb5, 0x2f, 0xfd].to_vec(), &["at its start", "as zstd"]),
        of(crc, &["after entry \"a\"", "checksum"]),
        of(length, &["after entry \"a\"", "checksum"]),
        of(whole[..whole.len() - 1].to_vec(), &["after entry \"a\"", "reading the artifact"]),
        of(whole[..whole.len() / 2].to_vec(), &["reading the artifact"]),
        of([whole.clone(), b"some garbage".to_vec()].concat(), &["after entry \"a\"", "invalid gzip header"]),
        of([whole.clone(), gzip(b"more")].concat(), &["after entry \"a\"", "behind the archive's end"]),
        of(gzip(b""), &["at its start", "without the mark of an archive's end"]),
        of(gzip(&[0; 1024]), &["at its start", "nothing in it"]),
        of(gzip(&[0; 100]), &["at its start", "reading the artifact"]),
        of(gzip(&plain[..5632]), &["after entry \"a\"", "without the mark of an archive's end"]),
        of(gzip(&plain[..5600]), &["after entry \"a\"", "unexpected end"]),
        of(gzip(&plain[..3000]), &["entry \"a\"", "unexpected end"]),
        of(gzip(&plain[..300]), &["at its start"]),
        of(gzip(&[&plain[..], b"x"].concat()), &["after entry \"a\"", "behind the archive's end"]),
        of(gzip(&[&plain[..5632], &[0; 512], &file("b", b"")].concat()), &["behind the archive's end"]),
    ]
}

#[test]
fn an_artifact_that_is_not_what_it_should_be_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let basedir = dir.path().join("base");
    fs::create_dir_all(basedir.join("installs/slug_0/d")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    link(dir.path().join("outside"), basedir.join("installs/link")).unwrap();
    let outside = dir.path().join("outside");
    let installs = Installs::of(&app(basedir.to_str().unwrap(), &[]));
    let before = tree(dir.path());
    let table = [names(), links(outside.to_str().unwrap()), kinds(), headers(), sparse(), wholes()];
    for Case { artifact, says } in table.into_iter().flatten() {
        let refused = installs.install("slug_1", artifact.as_slice(), &Allowed::default(), || Ok(()));
        let error = refused.expect_err(&format!("{says:?}"));
        let text = format!("{error:#}");
        assert!(says.iter().all(|part| text.contains(part)), "{text} does not say {says:?}");
        assert!(text.len() < 1000 && !text.contains('\n'), "{text}");
        // The directory in which it was tried has seen a name come and go.
        let changed = |path: &Path| path == Path::new("base/installs");
        let (mut before, mut after) = (before.clone(), tree(dir.path()));
        before.retain(|path, _| !changed(path));
        after.retain(|path, _| !changed(path));
        assert_eq!(differences(&before, &after), [""; 0], "{says:?}");
    }
}

#[test]
fn a_tree_too_deep_for_any_path_leaves_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let installs = Installs::of(&app(dir.path().join("base").to_str().unwrap(), &[]));
    fs::create_dir_all(installs.dir()).unwrap();
    let mut entries = Vec::new();
    let deep = "d/".repeat(1000);
    for level in 0..3 {
        let below = if level == 0 { deep.clone() } else { format!("l{}/{deep}", level - 1) };
        entries.extend([pax(&[("path", below.as_bytes())]), directory("d")]);
        entries.extend([pax(&[("linkpath", below.as_bytes())]), symlink(&format!("l{level}"), "x")]);
    }
    entries.push(of_type(b'6', "pipe"));
    let error = installs.install("slug_1", artifact(&entries).as_slice(), &Allowed::default(), || Ok(())).unwrap_err();
    assert!(format!("{error:#}").contains("entry \"pipe\""), "{error:#}");
    assert_eq!(fs::read_dir(installs.dir()).unwrap().count(), 0);
}
