//! Archives by those who write them: GNU tar, bsdtar, Python and npm, in each format that they know.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::Scratch;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::same::{assert_same, run};
use crate::sample;

type Make = fn(&Path);

const OLDEST: &[Make] = &[sample::plain];
const USTAR: &[Make] = &[sample::plain, sample::halves];
const EXTENDED: &[Make] = &[sample::plain, sample::halves, sample::long];
const SPARSE: &[Make] = &[sample::plain, sample::halves, sample::long, sample::sparse];

/// A directory `tree` of all of it, in a scratch directory.
fn made(makers: &[Make]) -> Scratch {
    let scratch = Scratch::new();
    let root = scratch.path().join("tree");
    fs::create_dir(&root).unwrap();
    makers.iter().for_each(|make| make(&root));
    scratch
}

/// Has a program make an archive of a tree, the path of which is its last argument.
fn assert_same_by(makers: &[Make], program: &str, arguments: &[&str]) {
    let scratch = made(makers);
    let archive = scratch.path().join("archive.tar.gz");
    run(&scratch.path().join("tree"), program, &[arguments, &[archive.to_str().unwrap()]].concat());
    let names = assert_same(&archive);
    assert!(names > 30, "{program} {arguments:?} has made an archive of {names} names");
}

#[test]
fn what_gnu_tar_makes_of_files_with_holes_in_posix_format() {
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        assert_same_by(SPARSE, "tar", &["--create", "--gzip", "--format=posix", "--sparse", &version, ".", "--file"]);
    }
}

#[test]
fn what_gnu_tar_makes_in_each_of_its_formats() {
    for (format, makers) in [("v7", OLDEST), ("ustar", USTAR), ("oldgnu", SPARSE), ("gnu", SPARSE), ("posix", EXTENDED)]
    {
        let format = format!("--format={format}");
        let holes = if makers == SPARSE { "--sparse" } else { "--gzip" };
        assert_same_by(makers, "tar", &["--create", "--gzip", &format, holes, ".", "--file"]);
        // Without entries of directories.
        let leaves =
            format!("find * ! -type d -print0 | tar --create --gzip {format} --null --files-from=- --file \"$0\"");
        assert_same_by(makers, "sh", &["-c", &leaves]);
        // Each file's directory after it.
        let last =
            format!("find . -depth -print0 | tar --create --gzip {format} --no-recursion --null -T - --file \"$0\"");
        assert_same_by(makers, "sh", &["-c", &last]);
    }
}

#[test]
fn what_gnu_tar_appends_and_splits_into_members() {
    let twice =
        "tar -cf ../t . && chmod 600 bin/644 && echo new >a/1 && tar -rf ../t bin/644 a/1 && gzip -c ../t >\"$0\"";
    assert_same_by(EXTENDED, "sh", &["-c", twice]);
    let members = "tar -cf ../t . && split -b 100000 ../t ../t. && gzip ../t.* && cat ../t.*.gz >\"$0\"";
    assert_same_by(EXTENDED, "sh", &["-c", members]);
}

#[test]
fn what_bsdtar_makes_in_each_of_its_formats() {
    run(Path::new("."), "bsdtar", &["--version"]);
    for (format, makers) in
        [("v7tar", OLDEST), ("ustar", USTAR), ("gnutar", EXTENDED), ("pax", EXTENDED), ("paxr", EXTENDED)]
    {
        // Options after a name would be names to it.
        let create = format!("exec bsdtar --create --gzip --format {format} --file \"$0\" .");
        assert_same_by(makers, "sh", &["-c", &create]);
    }
}

#[test]
fn what_python_makes_in_each_of_its_formats() {
    let script = "import sys, tarfile\n\
        with tarfile.open(sys.argv[2], 'w:gz', format=getattr(tarfile, sys.argv[1]), encoding='utf-8') as archive:\n\
        \x20   archive.add('.')\n";
    for (format, makers) in [("USTAR_FORMAT", USTAR), ("GNU_FORMAT", EXTENDED), ("PAX_FORMAT", EXTENDED)] {
        assert_same_by(makers, "python3", &["-c", script, format]);
    }
}

/// Everything is in `package`, directories have no entries, and times are all the same one of 1985.
#[test]
fn what_npm_makes() {
    let scratch = Scratch::new();
    let by_hand = scratch.path().join("by-hand.tgz");
    let mut archive = Builder::new(GzEncoder::new(File::create(&by_hand).unwrap(), Compression::best()));
    for (path, content) in PACKAGE {
        let mut header = Header::new_ustar();
        header.set_mode(if path.starts_with("bin/") { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        header.set_mtime(499_162_500);
        archive.append_data(&mut header, format!("package/{path}"), content.as_bytes()).unwrap();
    }
    archive.into_inner().and_then(GzEncoder::finish).unwrap();
    assert_eq!(assert_same(&by_hand), 8);
    if let Some(packed) = packed_by_npm(scratch.path()) {
        assert_eq!(assert_same(&packed), 8);
    }
}

const PACKAGE: [(&str, &str); 4] = [
    ("package.json", r#"{"name": "slug", "version": "1.0.0", "bin": {"slug": "bin/slug"}}"#),
    ("bin/slug", "#!/usr/bin/env node\nrequire('../lib/deep/main.js')\n"),
    ("lib/deep/main.js", "console.log('slug')\n"),
    ("README.md", "# slug\n"),
];

/// `None` where there is no npm: nothing else needs it, so that `kickstart/setup` does not install it.
fn packed_by_npm(scratch: &Path) -> Option<PathBuf> {
    let from = scratch.join("from");
    for (path, content) in PACKAGE {
        let path = from.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut npm = Command::new("npm");
    npm.args(["pack", "--offline", "--ignore-scripts"]).current_dir(&from).env("HOME", scratch);
    match npm.output() {
        Err(error) => println!("npm: {error}: only by hand then"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return Some(from.join("slug-1.0.0.tgz"));
        }
    }
    None
}
