//! Three artifacts like those that people have: many small files, one large one, and something of each.
//!
//! Ensures: the same for the same seed, as `gzip -6` compresses.

use std::collections::BTreeSet;
use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use fastrand::Rng;
use fixtures::Repo;
use tar::{Builder, EntryType, Header};

use crate::content::{Language, binary};

const SEED: u64 = 5;
const MB: usize = 1_000_000;

/// In one version, `1`, of an app.
pub(crate) struct Tarball {
    pub(crate) app: &'static str,
    pub(crate) artifact: PathBuf,
    /// The same, not compressed.
    pub(crate) plain: PathBuf,
    pub(crate) sha256: String,
    files: usize,
    bytes: usize,
}

impl Tarball {
    /// What it is, for people.
    pub(crate) fn described(&self) -> String {
        let packed = fs::metadata(&self.artifact).expect("it was built").len() as f64 / MB as f64;
        let (files, bytes) = (self.files, self.bytes as f64 / MB as f64);
        format!("{} files, {bytes:.0} MB, packed {packed:.0} MB ({:.1}:1)", files, bytes / packed)
    }
}

type Make = fn(&mut Contents);

/// Builds all of them, the artifacts in `repo`, and what they are made of in `dir`.
pub(crate) fn build(repo: &Repo, dir: &Path) -> [Tarball; 3] {
    let makers: [(_, Make); 3] = [("small", small), ("large", large), ("mix", mix)];
    thread::scope(|scope| {
        makers.map(|(app, make)| scope.spawn(move || tarball(app, make, repo, dir))).map(|made| made.join().unwrap())
    })
}

/// What a repository of sources with its dependencies holds.
fn small(contents: &mut Contents) {
    contents.texts(10_000, 200, 70 * MB);
}

fn large(contents: &mut Contents) {
    contents.binary("bin/app", 200 * MB);
}

/// What a service in an interpreted language comes with.
fn mix(contents: &mut Contents) {
    contents.binary("bin/runtime", 18 * MB);
    for n in 0..40 {
        contents.binary(&format!("lib/native{n}.so"), MB / 2);
    }
    contents.texts(1_800, 60, 12 * MB);
}

fn tarball(app: &'static str, make: Make, repo: &Repo, dir: &Path) -> Tarball {
    let plain = dir.join(format!("{app}.tar"));
    let mut random = Rng::with_seed(SEED);
    let language = Language::new(&mut random);
    let archive = Builder::new(BufWriter::new(File::create(&plain).expect("it can be made")));
    let mut contents = Contents { archive, random, language, files: 0, bytes: 0 };
    make(&mut contents);
    contents.archive.into_inner().and_then(|mut file| file.flush()).expect("it can be written");
    let artifact = repo.path(app, "1");
    fs::create_dir_all(artifact.parent().expect("it is in the app's directory")).expect("it can be made");
    let gzip =
        Command::new("gzip").args(["-6", "-n", "-c"]).arg(&plain).stdout(File::create(&artifact).unwrap()).status();
    assert!(gzip.expect("gzip starts").success());
    let sha256 = sha256(&artifact);
    Tarball { app, artifact, plain, sha256, files: contents.files, bytes: contents.bytes }
}

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().expect("sha256sum starts");
    let said = String::from_utf8(output.stdout).expect("it is text");
    said.split(' ').next().filter(|digest| digest.len() == 64).expect("sha256sum says it").to_owned()
}

struct Contents {
    archive: Builder<BufWriter<File>>,
    random: Rng,
    language: Language,
    files: usize,
    bytes: usize,
}

impl Contents {
    /// So many files of text in so many directories, of this size in all.
    fn texts(&mut self, files: usize, directories: usize, bytes: usize) {
        let mut dirs = vec!["src".to_owned()];
        while dirs.len() < directories {
            let parent = &dirs[self.random.usize(..dirs.len())];
            // As deep as people go.
            if parent.matches('/').count() < 7 {
                dirs.push(format!("{parent}/module{}", dirs.len()));
            }
        }
        // Each directory's own entry, and what is in it after that, as tar finds them.
        let mut paths = dirs.iter().map(|dir| format!("{dir}/")).collect::<BTreeSet<_>>();
        for n in 0..files {
            paths.insert(format!("{}/file{n}.rs", dirs[self.random.usize(..directories)]));
        }
        let sizes = (0..files).map(|_| size(&mut self.random)).collect::<Vec<_>>();
        let scale = bytes as f64 / sizes.iter().sum::<f64>();
        let mut sizes = sizes.into_iter();
        for path in &paths {
            if path.ends_with('/') {
                self.entry(EntryType::Directory, path, 0o755, b"");
                continue;
            }
            let size = sizes.next().expect("there is one for each file");
            let text = self.language.text((size * scale) as usize, &mut self.random);
            let mode = if self.random.u8(..50) == 0 { 0o755 } else { 0o644 };
            self.entry(EntryType::Regular, path, mode, &text);
        }
    }

    fn binary(&mut self, path: &str, bytes: usize) {
        let content = binary(bytes, &mut self.random);
        self.entry(EntryType::Regular, path, 0o755, &content);
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_400_000_000);
        self.archive.append_data(&mut header, path, content).expect("an archive can be appended to");
        self.files += usize::from(kind == EntryType::Regular);
        self.bytes += content.len();
    }
}

/// How large a source file is, in some unit: most are small and few are very large, by a log-normal distribution.
fn size(random: &mut Rng) -> f64 {
    let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (TAU * random.f64()).cos();
    (1.2 * normal).exp().clamp(0.01, 60.0)
}
