//! A repository of artifacts, as `--repo` takes it: `<repo>/<app>/<app>_<version>.tar.gz`.
//!
//! Ensures: an artifact appears whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::bin;

/// The sample app's scripts, the same that `test_data/make-artifacts` packs.
const LAUNCH: &str = include_str!("../slug/bin/launch");
const CHECK: &str = include_str!("../slug/bin/check");

/// An artifact in the making.
pub type Archive = Builder<GzEncoder<File>>;

/// How a version of the sample app behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// Runs, and its health path answers 500.
    NeverHealthy,
    ExitsAtOnce,
    /// Only KILL ends it.
    IgnoresTerm,
    /// Has a child in its process group that survives TERM.
    ForksChild,
    /// `bin/launch` is a directory: `web` is as [`Behaviour::Good`], `worker` listens on any free port.
    TwoServices,
    /// Listens only after so many milliseconds.
    SlowStart(u32),
}

impl Behaviour {
    fn options(self) -> String {
        match self {
            Self::Good | Self::TwoServices => String::new(),
            Self::NeverHealthy => "--unhealthy".to_owned(),
            Self::ExitsAtOnce => "--exit 3".to_owned(),
            Self::IgnoresTerm => "--ignore-term".to_owned(),
            Self::ForksChild => "--fork-child".to_owned(),
            Self::SlowStart(milliseconds) => format!("--slow-start {milliseconds}"),
        }
    }
}

/// One version of the sample app.
#[derive(Debug, Clone, Copy)]
pub struct Slug<'a> {
    version: &'a str,
    behaviour: Behaviour,
    enable: Option<&'a str>,
    disable: Option<&'a str>,
}

impl<'a> Slug<'a> {
    pub fn new(version: &'a str, behaviour: Behaviour) -> Self {
        Self { version, behaviour, enable: None, disable: None }
    }

    /// The text of `bin/enable`, a shell script; its first line is put before it.
    #[must_use]
    pub fn enable(self, script: &'a str) -> Self {
        Self { enable: Some(script), ..self }
    }

    /// The text of `bin/disable`, likewise.
    #[must_use]
    pub fn disable(self, script: &'a str) -> Self {
        Self { disable: Some(script), ..self }
    }
}

/// A directory of artifacts.
#[derive(Debug, Clone)]
pub struct Repo {
    dir: PathBuf,
}

impl Repo {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        fs::create_dir_all(&dir).expect("the repository can be made");
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As `--repo` takes it.
    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Where an artifact is, or would be.
    pub fn path(&self, app: &str, version: &str) -> PathBuf {
        self.dir.join(app).join(format!("{app}_{version}.tar.gz"))
    }

    /// The sample app in one version, as the app `slug`.
    pub fn slug(&self, version: &str, behaviour: Behaviour) -> PathBuf {
        self.add(&Slug::new(version, behaviour))
    }

    /// The same with hooks.
    pub fn add(&self, slug: &Slug<'_>) -> PathBuf {
        self.add_as("slug", slug)
    }

    /// The sample app under another name.
    pub fn add_as(&self, app: &str, slug: &Slug<'_>) -> PathBuf {
        self.artifact(app, slug.version, |archive| {
            file(archive, "VERSION", 0o644, format!("{}\n", slug.version).as_bytes());
            file(archive, "OPTIONS", 0o644, format!("{}\n", slug.behaviour.options()).as_bytes());
            launch(archive, slug.behaviour);
            file(archive, "bin/check", 0o755, CHECK.as_bytes());
            file(archive, "bin/slug", 0o755, program());
            for (name, script) in [("bin/enable", slug.enable), ("bin/disable", slug.disable)] {
                if let Some(script) = script {
                    file(archive, name, 0o755, format!("#!/bin/sh\n{script}\n").as_bytes());
                }
            }
        })
    }

    /// Any artifact: `fill` is given the archive.
    pub fn artifact(&self, app: &str, version: &str, fill: impl FnOnce(&mut Archive)) -> PathBuf {
        let path = self.path(app, version);
        let next = path.with_extension("next");
        fs::create_dir_all(path.parent().expect("it is in the app's directory")).expect("it can be made");
        // Tests read what they write: compressing would only cost them time.
        let gzip = GzEncoder::new(File::create(&next).expect("the artifact can be made"), Compression::none());
        let mut archive = Builder::new(gzip);
        fill(&mut archive);
        archive.into_inner().and_then(GzEncoder::finish).expect("the artifact can be written");
        fs::rename(&next, &path).expect("the artifact can be renamed");
        path
    }
}

fn launch(archive: &mut Archive, behaviour: Behaviour) {
    if behaviour != Behaviour::TwoServices {
        file(archive, "bin/launch", 0o755, LAUNCH.as_bytes());
        return;
    }
    // A directory deeper than the script that is alone.
    let web = LAUNCH.replace("/..\n", "/../..\n");
    let worker = web.replace("$options", "--port 0");
    assert!(web != LAUNCH && worker != web, "test_data/slug/bin/launch is not what this edits");
    file(archive, "bin/launch/web", 0o755, web.as_bytes());
    file(archive, "bin/launch/worker", 0o755, worker.as_bytes());
}

fn file(archive: &mut Archive, path: &str, mode: u32, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    // Not the epoch's beginning, which some tools take for no time at all.
    header.set_mtime(1_400_000_000);
    archive.append_data(&mut header, path, content).expect("an archive can be appended to");
}

fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| fs::read(bin("slug")).expect("the slug can be read"))
}
