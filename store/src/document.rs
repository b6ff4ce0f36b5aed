//! What a store holds: bytes under path-like keys, and the tokens that tell one state from another.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::Gather;
use crate::name::is_name;

/// A key a store can hold: names joined by `/`, at least two of them, as in `nodes/web1/slug`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key that `text` spells, or an error that says what a key looks like.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let names = text.split('/').collect::<Vec<_>>();
        anyhow::ensure!(
            names.len() >= 2 && names.iter().all(|name| is_name(name)),
            "{text:?} is not a key: names joined by '/', such as nodes/web1/slug"
        );
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn from_names(names: &[&str]) -> Self {
        Self(names.join("/"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of the tree of keys: everything, or all keys under a path. Always ends in `/` (or is empty), since
/// `nodes/web1` without the slash would also name `nodes/web10/…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix that `text` spells, with or without its last slash; `""` is the whole store.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let path = text.strip_suffix('/').unwrap_or(text);
        anyhow::ensure!(
            path.is_empty() || path.split('/').all(is_name),
            "{text:?} is not a prefix of keys: names joined by '/', such as clusters/slug/"
        );
        Ok(if path.is_empty() { Self::everything() } else { Self(format!("{path}/")) })
    }

    /// The whole store.
    pub fn everything() -> Self {
        Self(String::new())
    }

    pub(crate) fn from_names(names: &[&str]) -> Self {
        Self(format!("{}/", names.join("/")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a document, as one line no longer than somebody reads: whoever refuses a value quotes it, and that
/// may be all of the document, with whatever its author wants a log to say.
pub(crate) fn in_a_line(reason: &str) -> String {
    shortened(reason, 403)
}

/// As one line of at most so many characters. Keeps both ends, since what is wrong and where may be at either.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    const BETWEEN: &str = " … ";
    let legible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let text = text.chars().map(legible).collect::<String>();
    let length = text.chars().count();
    if length <= most {
        return text;
    }
    let kept = most.saturating_sub(BETWEEN.chars().count());
    let beginning = text.chars().take(kept - kept / 4).collect::<String>();
    let end = text.chars().skip(length - kept / 4).collect::<String>();
    format!("{beginning}{BETWEEN}{end}")
}

/// One state of one document, for compare-and-set: on Consul its `ModifyIndex`, in a directory a hash of the bytes.
/// Opaque, and the same in every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most bytes that a document can have: Consul takes no more.
pub(crate) const MOST_BYTES: u64 = 512 * 1024;

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub bytes: Vec<u8>,
    pub revision: Revision,
}

/// Documents by key, exactly as the store spells the keys: somebody else may have written a key that is not a [`Key`].
/// An `Err` is a document that is there but cannot be read (a file without read permission), with the reason; under a
/// key that ends in `/`, a whole directory.
pub type Documents = BTreeMap<String, Result<Document, String>>;

/// The document under `key`, or the reason why nothing can be known about it: a directory on the way is unreadable.
/// `None` when it was not found where all was read.
pub fn look_up<'a>(documents: &'a Documents, key: &str) -> Option<&'a Result<Document, String>> {
    let above = key.rmatch_indices('/').map(|(slash, _)| &key[..=slash]);
    documents.get(key).or_else(|| above.filter_map(|key| documents.get(key)).find(|document| document.is_err()))
}

/// What was seen under some prefixes: enough to tell whether anything there differs now. Lives as long as the process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token {
    pub(crate) seen: BTreeMap<Prefix, Seen>,
}

/// What was seen under one prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    fingerprint: [u8; 32],
    /// Consul's index of the state in which it was, or of one before; 0 where that is not known.
    index: u64,
}

/// The index says how to wait, not what was seen.
impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Seen {}

impl Token {
    /// The token of `documents`, which were read under `prefixes`.
    pub(crate) fn of(prefixes: &[Prefix], documents: &Documents) -> Self {
        let seen = |prefix| Seen { fingerprint: fingerprint(prefix, documents), index: 0 };
        Self { seen: prefixes.iter().map(|prefix| (prefix.clone(), seen(prefix))).gather() }
    }

    /// The same, as of Consul's `index`.
    pub(crate) fn at(mut self, index: u64) -> Self {
        self.seen.values_mut().for_each(|seen| seen.index = index);
        self
    }

    /// Nothing under any of the prefixes has changed between what was seen and Consul's state of this index; 0 if none is
    /// known.
    pub(crate) fn index(&self) -> u64 {
        self.seen.values().map(|seen| seen.index).min().unwrap_or(0)
    }

    /// Watch for what `other` watches for, too; of what both do, as `other` has it.
    pub fn extend(&mut self, other: Token) {
        self.seen.extend(other.seen);
    }

    /// The part of this token that is about `prefixes`.
    pub(crate) fn only(&self, prefixes: &[Prefix]) -> Self {
        Self {
            seen: prefixes
                .iter()
                .filter_map(|prefix| self.seen.get_key_value(prefix))
                .map(|(p, f)| (p.clone(), *f))
                .gather(),
        }
    }

    /// Whether what was seen under `prefix` is not what `documents` say.
    pub(crate) fn differs(&self, prefix: &Prefix, documents: &Documents) -> bool {
        self.seen.get(prefix).is_none_or(|seen| seen.fingerprint != fingerprint(prefix, documents))
    }

    pub fn prefixes(&self) -> impl ExactSizeIterator<Item = &Prefix> {
        self.seen.keys()
    }
}

/// What is there instead of what was seen, of those prefixes of a token that a store has told of.
#[derive(Debug)]
pub struct News {
    /// All that is under these prefixes.
    pub documents: Documents,
    /// To go on with: [`Token::extend`].
    pub token: Token,
}

/// Of the documents under `prefix`.
pub(crate) fn fingerprint(prefix: &Prefix, documents: &Documents) -> [u8; 32] {
    let mut hash = Sha256::new();
    let under = documents.range(prefix.as_str().to_owned()..).take_while(|(key, _)| key.starts_with(prefix.as_str()));
    for (key, document) in under {
        let (kind, bytes) = match document {
            Ok(document) => (0u8, document.bytes.as_slice()),
            Err(reason) => (1u8, reason.as_bytes()),
        };
        for part in [key.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update([kind]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_always_ends_in_a_slash() {
        assert_eq!(Prefix::parse("nodes/web1").unwrap().as_str(), "nodes/web1/");
        assert_eq!(Prefix::parse("nodes/web1/").unwrap().as_str(), "nodes/web1/");
        assert_eq!(Prefix::parse("").unwrap().as_str(), "");
        assert!(Prefix::parse("a//b").is_err());
        assert!(Prefix::parse("../etc").is_err());
    }

    #[test]
    fn a_key_has_at_least_two_names_and_no_empty_one() {
        assert!(Key::parse("nodes/web1/slug").is_ok());
        for bad in ["nodes", "nodes/", "/nodes/a", "nodes//a", "nodes/../a", "nodes/a/"] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_changes_with_any_byte_any_key_and_nothing_else() {
        let document = |bytes: &str| Ok(Document { bytes: bytes.into(), revision: Revision("1".into()) });
        let prefixes = [Prefix::parse("a/").unwrap()];
        let token = |entries: &[(&str, &str)]| {
            Token::of(&prefixes, &entries.iter().map(|(k, v)| ((*k).to_owned(), document(v))).collect())
        };
        let base = token(&[("a/x", "1")]);
        assert_eq!(base, token(&[("a/x", "1"), ("b/x", "2")]));
        for other in [token(&[]), token(&[("a/x", "2")]), token(&[("a/y", "1")]), token(&[("a/x", "1"), ("a/y", "")])] {
            assert_ne!(base, other);
        }
    }
}
