//! What an app has logged: the last lines that a definition wrote, to keep with its failure.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::definition::Definition;

/// Enough to see why, little enough to keep in a record.
const MOST_LINES: usize = 10;
const MOST_BYTES: u64 = 4096;

/// A definition's logs, from some moment on.
#[derive(Debug)]
pub(crate) struct Logs {
    /// Each with its length at that moment.
    files: Vec<(PathBuf, u64)>,
}

impl Logs {
    /// From their beginning.
    pub(crate) fn of(definition: &Definition) -> Self {
        let file = |service| (definition.log_dir(service).join("current"), 0);
        Self { files: definition.services().map(file).collect() }
    }

    /// From now on: what was logged before is another definition's.
    pub(crate) fn from_now(definition: &Definition) -> Self {
        let mut logs = Self::of(definition);
        for (path, length) in &mut logs.files {
            *length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        }
        logs
    }

    /// The last lines of each; none, of what cannot be read.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.files.iter().flat_map(|(path, from)| tail(path, *from).unwrap_or_default()).collect()
    }
}

fn tail(path: &Path, from: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A shorter one than before is a new one: svlogd has begun it meanwhile.
    let from = if length < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().collect::<Vec<_>>();
    Ok(lines[lines.len().saturating_sub(MOST_LINES)..].iter().map(|&line| line.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_of_the_new_definition_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current");
        fs::write(&path, "old\n").unwrap();
        assert_eq!(tail(&path, 4).unwrap(), Vec::<String>::new());
        let new = (0..30).map(|n| format!("line {n}\n")).collect::<String>();
        fs::write(&path, format!("old\n{new}")).unwrap();
        let lines = tail(&path, 4).unwrap();
        assert_eq!((lines.len(), lines[9].as_str()), (10, "line 29"));
        fs::write(&path, "rotated\n").unwrap();
        assert_eq!(tail(&path, 1000).unwrap(), ["rotated"]);
        fs::write(&path, "x".repeat(10_000)).unwrap();
        assert_eq!(tail(&path, 0).unwrap()[0].len(), 4096);
    }
}
