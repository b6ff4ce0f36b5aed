//! The keys that a host trusts: a directory of minisign's `*.pub`.
//!
//! Ensures: who else can write there has none of them believed.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use minisign_verify::PublicKey;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;

/// Longer than any key with its comment.
const MOST: u64 = 16 << 10;

/// Read each time they are needed: a key that was taken away is not trusted any more.
pub(crate) fn trusted(dir: &Path) -> Result<Vec<PublicKey>> {
    let keys = || -> Result<Vec<PublicKey>> {
        let metadata = fs::metadata(dir)?;
        ensure!(metadata.is_dir(), "it is not a directory");
        ours_alone(&metadata)?;
        let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
        paths.sort();
        ensure!(!paths.is_empty(), "there is no *.pub in it");
        paths.iter().map(|path| key(path).with_context(|| path.display().to_string())).collect()
    };
    keys().with_context(|| format!("--trusted-keys {}", dir.display()))
}

fn key(path: &Path) -> Result<PublicKey> {
    // A link would lead to a directory that nobody has looked at; a pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is not a file");
    ours_alone(&metadata)?;
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    PublicKey::decode(&text).context("it is not a public key of minisign")
}

fn ours_alone(metadata: &Metadata) -> Result<()> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != geteuid().as_raw() {
        bail!("it belongs to another user, {owner}");
    }
    ensure!(mode & 0o022 == 0, "others than its owner can write there: its mode is {mode:04o}");
    Ok(())
}
