//! A whole store in one file, for a host without any other: a JSON object of documents by their keys.
//!
//!     {"nodes/web1/slug": {"cluster": "dev"}, "clusters/slug/dev/config": {"versions": {"0.1": "active"}}, …}
//!
//! Ensures: a document is what is written there, byte for byte; when the file is torn or is no such object, nothing is
//! known about any document. Such a store is watched as a directory is, but never written to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::tree;
use crate::schema::map_without_duplicates;
use crate::{Document, Documents, Gather, Key, Prefix};

/// Reads every document under `prefixes`.
pub(super) fn read(file: &Path, prefixes: &[Prefix]) -> Result<Documents> {
    let mut documents = load(file)?;
    documents.retain(|key, _| prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())));
    Ok(documents)
}

/// Reads one document; `None` when the file has none of this key.
pub(super) fn get(file: &Path, key: &Key) -> Result<Option<Document>> {
    load(file)?.remove(key.as_str()).transpose().map_err(anyhow::Error::msg)
}

fn load(file: &Path) -> Result<Documents> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    parse(&bytes).with_context(|| {
        format!("{}: this is to be a JSON object of documents by their keys, as nodes/web1/slug", file.display())
    })
}

fn parse(bytes: &[u8]) -> serde_json::Result<Documents> {
    struct Single(BTreeMap<String, Box<RawValue>>);
    impl<'de> Deserialize<'de> for Single {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            map_without_duplicates(deserializer, "an object").map(Self)
        }
    }
    let Single(documents) = serde_json::from_slice(bytes)?;
    let document = |text: Box<RawValue>| {
        let bytes = text.get().as_bytes().to_vec();
        Document { revision: tree::revision(&bytes), bytes }
    };
    Ok(documents.into_iter().map(|(key, text)| (key, Ok(document(text)))).gather())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_the_file_says_byte_for_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"nodes/web1/a": { "cluster" : "dev" }, "nodes/web10/a": 1, "nodes/web1/b/": []}"#)
            .unwrap();
        let documents = read(file.path(), &[Prefix::parse("nodes/web1").unwrap()]).unwrap();
        assert_eq!(documents.keys().collect::<Vec<_>>(), ["nodes/web1/a", "nodes/web1/b/"]);
        assert_eq!(documents["nodes/web1/a"].as_ref().unwrap().bytes, br#"{ "cluster" : "dev" }"#);
        let found = get(file.path(), &Key::parse("nodes/web1/a").unwrap()).unwrap();
        assert_eq!(found.as_ref(), documents["nodes/web1/a"].as_ref().ok());
        assert_eq!(get(file.path(), &Key::parse("nodes/web1/c").unwrap()).unwrap(), None);
    }

    #[test]
    fn in_a_file_that_is_torn_or_says_things_twice_nothing_is_known() {
        for (text, says) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            (r#"{"nodes/web1/a": {}"#, "EOF while parsing an object"),
            ("[]", "expected an object"),
            (r#"{"a/b": 1, "a/b": 2}"#, "a/b is there twice"),
            ("{}\n}", "trailing characters at line 2"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let error = format!("{:#}", get(file.path(), &Key::parse("a/b").unwrap()).unwrap_err());
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
