//! Reading the tree of files: which documents are there, and what is in them.
//!
//! Ensures: a document is absent only when nothing is at its path below a root that is there. What is there but cannot
//! be read, down to a link that leads nowhere, is an error of its own, and everything else is read all the same. Hidden
//! files, and files that do not end in `.json` (an editor's), are no documents. Links are followed; loops of them end.
//!
//! Assumes that one directory's entries do not change while the kernel lists them. They cannot up to some 800 entries,
//! which fit into one call; beyond that a document replaced meanwhile may be missed on some file systems. That is one of
//! the reasons why an app that a listing lacks is not simply *gone*.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::single;
use crate::document::MOST_BYTES;
use crate::{Document, Documents, Key, Prefix, Revision};

/// The deepest key that is looked for.
const MOST_NAMES: usize = 32;

/// Reads every document under `prefixes`, telling `listing` of each directory before it is listed.
///
/// # Errors
/// When there is no such root: then nothing is known about any document.
pub(super) fn read(root: &Path, prefixes: &[Prefix], listing: &mut dyn FnMut(&Path)) -> Result<Documents> {
    if root.is_file() {
        return single::read(root, prefixes);
    }
    ensure_root(root)?;
    let mut walk = Walk { root, documents: Documents::new(), above: Vec::new(), listing };
    for prefix in prefixes {
        walk.directory(&directory(root, prefix), prefix.as_str());
    }
    let mut documents = walk.documents;
    // What was not found may have gone with the whole root.
    ensure_root(root)?;
    match documents.remove("") {
        Some(Err(reason)) => Err(anyhow!(reason)),
        Some(Ok(_)) | None => Ok(documents),
    }
}

/// Reads one document; `None` when it is not there, below a root that is.
pub(super) fn get(root: &Path, key: &Key) -> Result<Option<Document>> {
    if root.is_file() {
        return single::get(root, key);
    }
    ensure_root(root)?;
    let document = document_at(root, &path(root, key)).map_err(|reason| anyhow!("{key}: {reason}"))?;
    ensure_root(root)?;
    Ok(document)
}

/// Where the documents under `prefix` are. Without a slash at the end, which would make the kernel follow a link where we
/// ask about the link itself.
fn directory(root: &Path, prefix: &Prefix) -> PathBuf {
    match prefix.as_str().strip_suffix('/') {
        Some(path) => root.join(path),
        None => root.to_owned(),
    }
}

/// Where the document under `key` is.
pub(super) fn path(root: &Path, key: &Key) -> PathBuf {
    root.join(format!("{key}.json"))
}

/// An error unless there is a directory.
pub(super) fn ensure_root(root: &Path) -> Result<()> {
    let metadata = fs::metadata(root).with_context(|| format!("the directory of documents {}", root.display()))?;
    ensure!(metadata.is_dir(), "{} is neither a directory of documents nor a file with all", root.display());
    Ok(())
}

/// The state of a document that holds `bytes`.
pub(super) fn revision(bytes: &[u8]) -> Revision {
    let hash = Sha256::digest(bytes);
    Revision(hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// One listing under way.
struct Walk<'a> {
    root: &'a Path,
    documents: Documents,
    /// Device and inode of the directories between the prefix and here: to meet one again is to go round in a circle.
    above: Vec<(u64, u64)>,
    listing: &'a mut dyn FnMut(&Path),
}

impl Walk<'_> {
    /// Collects what is in the directory `path`, whose documents' keys start with `key`.
    fn directory(&mut self, path: &Path, key: &str) {
        if let Err(reason) = self.entries(path, key) {
            self.documents.insert(key.to_owned(), Err(reason));
        }
    }

    fn entries(&mut self, path: &Path, key: &str) -> Result<(), String> {
        let unreadable = |error| unreadable(path, &error);
        (self.listing)(path);
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Ok(()),
            Err(error) if is_absence(&error) => return ensure_absent(self.root, path),
            Err(error) => return Err(unreadable(error)),
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.above.contains(&identity) {
            return Err(format!("{} is a link to a directory above it", path.display()));
        }
        if self.above.len() == MOST_NAMES {
            return Err(format!("{} is too deep: a key has at most {MOST_NAMES} names", path.display()));
        }
        self.above.push(identity);
        let listed = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in listed.iter().flatten() {
            self.entry(entry, key);
        }
        self.above.pop();
        listed.map(drop).map_err(unreadable)
    }

    fn entry(&mut self, entry: &fs::DirEntry, directory: &str) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            return;
        }
        let is_directory = is_directory(entry);
        if is_directory {
            self.directory(&path, &format!("{directory}{name}/"));
        }
        if let Some(stem) = name.strip_suffix(".json") {
            // `None`: deleted since it was listed.
            if let Some(document) = document_at(self.root, &path).transpose() {
                self.documents.insert(format!("{directory}{stem}"), document);
            }
        } else if !is_directory && let Err(reason) = ensure_leads_somewhere(&path) {
            // Most likely a directory of documents that is somewhere else, and that somewhere is gone.
            self.documents.insert(format!("{directory}{name}/"), Err(reason));
        }
    }
}

/// Whether `entry` is a directory, or a link to one.
fn is_directory(entry: &fs::DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if !kind.is_symlink() => kind.is_dir(),
        Ok(_) | Err(_) => fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()),
    }
}

/// The document in the file `path`; `None` when nothing is there.
pub(super) fn document_at(root: &Path, path: &Path) -> Result<Option<Document>, String> {
    match contents(path) {
        Ok(bytes) => Ok(Some(Document { revision: revision(&bytes), bytes })),
        Err(error) if is_absence(&error) => ensure_absent(root, path).map(|()| None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    // Without O_NONBLOCK, to open a fifo of that name would take for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(MOST_BYTES) as usize);
    if file.take(MOST_BYTES + 1).read_to_end(&mut bytes)? as u64 > MOST_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MOST_BYTES} bytes")));
    }
    Ok(bytes)
}

/// An error unless nothing is at `path`. A link that leads nowhere, at the path or on the way to it, is something: its
/// target may be on a disk that is not mounted.
fn ensure_absent(root: &Path, path: &Path) -> Result<(), String> {
    for part in path.ancestors().take_while(|part| *part != root) {
        match fs::symlink_metadata(part) {
            Ok(_) => return ensure_leads_somewhere(part),
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(unreadable(part, &error)),
        }
    }
    Ok(())
}

/// An error if `path` is a link that leads nowhere.
fn ensure_leads_somewhere(path: &Path) -> Result<(), String> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    match fs::metadata(path) {
        Err(error) if is_link => Err(format!("{} is a link whose target cannot be read: {error}", path.display())),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_while_a_directory_is_armed_is_in_the_listing() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let mut told = Vec::new();
        let documents = read(root.path(), &[Prefix::parse("a/").unwrap()], &mut |directory| {
            fs::write(directory.join("new.json"), "{}").unwrap();
            told.push(directory.strip_prefix(root.path()).unwrap().to_owned());
        });
        assert_eq!(documents.unwrap().into_keys().collect::<Vec<_>>(), ["a/b/new", "a/new"]);
        assert_eq!(told, [Path::new("a"), Path::new("a/b")]);
    }
}
