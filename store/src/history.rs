//! What was written into intent by `pp-store`: `history/<app>/<cluster>/<number>`, one document for each change, of which
//! [`record`] writes one before the change itself.
//!
//! Ensures: what an entry says of a document is the document, byte for byte, so that it can be put back; whether a change
//! was made is never taken from its entry, but from what came after it ([`judge`]). An entry says who made the change as
//! they said it themselves: who may, Consul's access control says.

mod record;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::document::{MOST_BYTES, in_a_line};
use crate::schema::IntentKey;
use crate::{AppName, ClusterName, Document, Key, Prefix};
pub use record::Recorder;

/// One change, as it was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of the document that it changes.
    pub key: String,
    /// `user@host`.
    pub who: String,
    /// In UTC: `2026-11-22T03:14:08Z`.
    pub at: String,
    pub message: Option<String>,
    /// The digest of what it replaces; none where nothing was there.
    pub was: Option<String>,
    /// The digest of what it becomes; none of a removal.
    pub is: Option<String>,
    /// What it becomes. None of a removal, and of what is too large to be kept a second time.
    pub document: Option<Vec<u8>>,
}

/// An entry under its number. Of two changes of one cluster the later one has the larger number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    pub number: u64,
    pub entry: Entry,
}

/// Stands in place of a digest where what was there could not be read.
pub const UNREADABLE: &str = "unreadable";

/// Names a document by what it holds.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))[..32].to_owned()
}

/// `history/<app>/<cluster>/`.
pub fn history_prefix(app: &AppName, cluster: &ClusterName) -> Prefix {
    Prefix::from_names(&["history", app.as_str(), cluster.as_str()])
}

/// `history/<app>/<cluster>/<number>`; the numbers have as many digits as lists of keys need to be in order.
pub fn entry_key(app: &AppName, cluster: &ClusterName, number: u64) -> Key {
    Key::from_names(&["history", app.as_str(), cluster.as_str(), &format!("{number:08}")])
}

/// The number of the entry under `key`, if it is one.
pub fn number(key: &str) -> Option<u64> {
    let digits = key.rsplit('/').next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The clusters of which a change of `key` is one, given what the document was and is to be. A node's document belongs to
/// the cluster that it names; one that moves, to both; one that names none, to none, and no host runs anything by it.
pub fn clusters(key: &Key, was: Option<&[u8]>, is: Option<&[u8]>) -> BTreeSet<(AppName, ClusterName)> {
    match IntentKey::parse(key.as_str()) {
        Ok(IntentKey::Config(app, cluster) | IntentKey::DeployConfig(app, cluster)) => [(app, cluster)].into(),
        Ok(IntentKey::Node(_, app)) => {
            let named = [was, is].into_iter().flatten().filter_map(named_cluster);
            named.map(|cluster| (app.clone(), cluster)).collect()
        }
        Err(_) => BTreeSet::new(),
    }
}

/// Also of a document that agents refuse for something else in it.
fn named_cluster(node: &[u8]) -> Option<ClusterName> {
    #[derive(Deserialize)]
    struct Named {
        cluster: ClusterName,
    }
    serde_json::from_slice::<Named>(node).ok().map(|named| named.cluster)
}

/// An entry as it is written. Who reads it with `jq` finds the document as JSON.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
struct Written {
    key: String,
    who: String,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    was: Option<String>,
    is: Option<String>,
    /// An object as it is; in a string, any other text.
    document: Option<Box<RawValue>>,
    /// The white space behind an object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    end: String,
    /// What is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Entry {
    /// As it is written. Without the document where that would leave no room for the rest.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut written = Written {
            key: self.key.clone(),
            who: self.who.clone(),
            at: self.at.clone(),
            message: self.message.clone(),
            was: self.was.clone(),
            is: self.is.clone(),
            document: None,
            end: String::new(),
            base64: None,
        };
        match self.document.as_deref().map(|bytes| (str::from_utf8(bytes), bytes)) {
            None => {}
            Some((Ok(text), _)) => (written.document, written.end) = as_json(text)?,
            Some((Err(_), bytes)) => written.base64 = Some(BASE64_STANDARD.encode(bytes)),
        }
        let whole = serde_json::to_vec(&written).context("writing an entry of the history as JSON")?;
        if whole.len() as u64 <= MOST_BYTES {
            return Ok(whole);
        }
        let rest = Written { document: None, end: String::new(), base64: None, ..written };
        serde_json::to_vec(&rest).context("writing an entry of the history as JSON")
    }

    /// The entry that a document is, or why it is none.
    pub fn parse(document: &Document) -> Result<Self, String> {
        let no_entry = |reason: &dyn std::fmt::Display| in_a_line(&format!("this is no entry of a history: {reason}"));
        let written = serde_json::from_slice::<Written>(&document.bytes).map_err(|error| no_entry(&error))?;
        let bytes = match (&written.document, &written.base64) {
            (None, None) => None,
            (None, Some(base64)) => Some(BASE64_STANDARD.decode(base64).map_err(|error| no_entry(&error))?),
            (Some(json), _) if json.get().starts_with('"') => {
                let text = serde_json::from_str::<String>(json.get()).map_err(|error| no_entry(&error))?;
                Some(text.into_bytes())
            }
            (Some(json), _) => Some([json.get(), &written.end].concat().into_bytes()),
        };
        // Whoever can write there can write anything; what is put back is what was recorded, or nothing.
        if bytes.as_deref().is_some_and(|bytes| Some(digest(bytes)) != written.is) {
            return Err(no_entry(&"its document has another digest than \"is\" says"));
        }
        let Written { key, who, at, message, was, is, .. } = written;
        Ok(Self { key, who, at, message, was, is, document: bytes })
    }
}

/// A text as JSON, and what follows it.
fn as_json(text: &str) -> Result<(Option<Box<RawValue>>, String)> {
    let object = text.trim_end_matches([' ', '\t', '\n', '\r']);
    if object.starts_with('{')
        && let Ok(json) = serde_json::from_str::<Box<RawValue>>(object)
    {
        return Ok((Some(json), text[object.len()..].to_owned()));
    }
    Ok((Some(serde_json::value::to_raw_value(text).context("writing a text as JSON")?), String::new()))
}

/// What became of an entry's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The document is what it says.
    Current,
    /// It was made, and a later entry replaced it.
    Applied,
    /// The document went on from what it was to replace: whoever wrote the entry was killed before the change, or refused.
    NotApplied,
    /// Something else than `pp-store` has written the document since, an editor or the `consul` command.
    ChangedOutside,
    /// What the document is cannot be read.
    Unknown,
}

/// What is there now, of a document that entries are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// By its digest; none where nothing is there.
    Is(Option<String>),
    Unknown,
}

/// What became of each of `entries`, which are all that there are, in their order; `now` tells of a key what is there.
pub fn judge(entries: &[Numbered], now: impl Fn(&str) -> Now) -> Vec<State> {
    let judge_one = |(at, Numbered { entry, .. }): (usize, &Numbered)| {
        let of_key = |other: &&Numbered| other.entry.key == entry.key;
        let later = entries[at + 1..].iter().filter(of_key).collect::<Vec<_>>();
        let now = now(&entry.key);
        if now == Now::Is(entry.is.clone()) && later.iter().all(|later| later.entry.is != entry.is) {
            return State::Current;
        }
        // What others saw there afterwards, one after the other.
        let seen = later.iter().map(|later| &later.entry.was);
        let seen = seen.chain(if let Now::Is(now) = &now { Some(now) } else { None }).collect::<Vec<_>>();
        let is_known = |digest: &Option<String>| {
            *digest == entry.was || entries.iter().filter(of_key).any(|other| other.entry.is == *digest)
        };
        match seen.first() {
            _ if seen.contains(&&entry.is) => State::Applied,
            None => State::Unknown,
            Some(digest) if is_known(digest) => State::NotApplied,
            Some(_) => State::ChangedOutside,
        }
    };
    entries.iter().enumerate().map(judge_one).collect()
}

/// Whether what is there under `key` is nothing that `entries` know of.
pub fn is_from_outside(entries: &[Numbered], key: &str, now: &Option<String>) -> bool {
    let knows = |it: &Numbered| it.entry.key == key && (it.entry.is == *now || it.entry.was == *now);
    !entries.iter().any(knows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    fn entry(document: Option<&[u8]>) -> Entry {
        Entry {
            key: "clusters/slug/dev/config".to_owned(),
            who: "ann@desk".to_owned(),
            at: "2026-11-22T03:14:08Z".to_owned(),
            message: Some("roll \"it\" out".to_owned()),
            was: Some(digest(b"{}")),
            is: document.map(digest),
            document: document.map(Vec::from),
        }
    }

    fn read(bytes: Vec<u8>) -> Result<Entry, String> {
        Entry::parse(&Document { bytes, revision: Revision("1".to_owned()) })
    }

    #[test]
    fn whatever_a_document_holds_an_entry_keeps_it_to_the_byte() {
        for document in [
            None,
            Some(&b"{\"a\":  1.50,\n \"b\": 12345678901234567890123}"[..]),
            Some(b"{}\r\n\n"),
            Some(b" {}"),
            Some(b"\"a string\""),
            Some(b"{\"torn"),
            Some(b""),
            Some(b"[1]"),
            Some("{\"\u{2028}\u{1b}é\": 1}\u{a0}".as_bytes()),
            Some(b"\xff\x00"),
        ] {
            let entry = entry(document);
            assert_eq!(read(entry.to_bytes().unwrap()).unwrap(), entry);
        }
        let json = String::from_utf8(entry(Some(b"{\"a\":  1}\n")).to_bytes().unwrap()).unwrap();
        assert!(json.contains(r#""document":{"a":  1},"end":"\n""#), "{json}");
    }

    #[test]
    fn what_does_not_fit_beside_the_rest_is_left_out_and_that_can_be_told() {
        let large = format!("{{\"a\": \"{}\"}}", "a".repeat(512 * 1024 - 20));
        let found = read(entry(Some(large.as_bytes())).to_bytes().unwrap()).unwrap();
        assert_eq!((found.document, found.is), (None, Some(digest(large.as_bytes()))));
    }

    #[test]
    fn what_is_no_entry_or_says_another_document_than_it_names_is_refused() {
        let forged = String::from_utf8(entry(Some(b"{\"a\": 1}")).to_bytes().unwrap()).unwrap().replace(": 1}", ": 2}");
        for bytes in [b"".to_vec(), b"[]".to_vec(), b"{\"key\": \"a/b\"}".to_vec(), forged.into_bytes()] {
            assert!(read(bytes).unwrap_err().starts_with("this is no entry of a history: "));
        }
    }

    #[test]
    fn a_change_is_of_the_clusters_that_its_document_names() {
        let of = |key: &str, was: Option<&str>, is: Option<&str>| {
            let clusters = clusters(&Key::parse(key).unwrap(), was.map(str::as_bytes), is.map(str::as_bytes));
            clusters.iter().map(|(app, cluster)| format!("{app} {cluster}")).collect::<Vec<_>>()
        };
        let (dev, live) = (Some(r#"{"cluster": "dev"}"#), Some(r#"{"cluster": "live", "hold": 3}"#));
        assert_eq!(of("clusters/slug/dev/config", None, Some("{")), ["slug dev"]);
        assert_eq!(of("clusters/slug/dev/deploy_config", None, None), ["slug dev"]);
        assert_eq!(of("nodes/web1/slug", None, dev), ["slug dev"]);
        assert_eq!(of("nodes/web1/slug", dev, live), ["slug dev", "slug live"]);
        assert_eq!(of("nodes/web1/slug", dev, None), ["slug dev"]);
        assert_eq!(of("nodes/web1/slug", Some("{"), None), [""; 0]);
        assert_eq!(of("locks/slug/dev/shutdown", None, None), [""; 0]);
    }

    #[test]
    fn numbers_are_digits_alone() {
        let (app, cluster) = ("slug".parse().unwrap(), "dev".parse().unwrap());
        assert_eq!(entry_key(&app, &cluster, 17).as_str(), "history/slug/dev/00000017");
        for number_of in [1, 17, u64::MAX] {
            assert_eq!(number(entry_key(&app, &cluster, number_of).as_str()), Some(number_of));
        }
        for none in ["history/slug/dev/+7", "history/slug/dev/x", "history/a/b/99999999999999999999"] {
            assert_eq!(number(none), None);
        }
    }

    /// Entries of one key: what each replaces, and what it becomes.
    fn entries(changes: &[(Option<&str>, Option<&str>)]) -> Vec<Numbered> {
        let owned = |digest: Option<&str>| digest.map(str::to_owned);
        let entry = |(number, (was, is)): (usize, &(Option<&str>, Option<&str>))| Numbered {
            number: number as u64,
            entry: Entry { was: owned(*was), is: owned(*is), ..entry(None) },
        };
        changes.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn what_became_of_a_change_is_told_by_what_came_after_it() {
        use State::{Applied, ChangedOutside, Current, NotApplied, Unknown};
        type Case<'a> = (&'a [(Option<&'a str>, Option<&'a str>)], Option<&'a str>, &'a [State]);
        let (a, b, c, x) = (Some("a"), Some("b"), Some("c"), Some("x"));
        let table: [Case; 11] = [
            (&[(None, a), (a, b)], b, &[Applied, Current]),
            // Killed between the entry and the change.
            (&[(None, a), (a, b)], a, &[Current, NotApplied]),
            (&[(None, a)], None, &[NotApplied]),
            (&[(None, a), (a, b), (a, c)], c, &[Applied, NotApplied, Current]),
            // Two at once: the second was killed before it could see that it had lost.
            (&[(None, a), (a, b), (a, c)], b, &[Applied, Current, NotApplied]),
            // There and back.
            (&[(None, a), (a, b), (b, a)], a, &[Applied, Applied, Current]),
            (&[(None, a), (a, b), (b, a)], b, &[Applied, Current, NotApplied]),
            // Removed, and put again.
            (&[(None, a), (a, None), (None, b)], b, &[Applied, Applied, Current]),
            // By an editor, in the end and on the way.
            (&[(None, a), (a, b)], x, &[Applied, ChangedOutside]),
            (&[(None, a), (x, b)], b, &[ChangedOutside, Current]),
            (&[(None, a), (Some(UNREADABLE), b)], b, &[ChangedOutside, Current]),
        ];
        for (changes, now, expected) in table {
            let entries = entries(changes);
            let now = now.map(str::to_owned);
            assert_eq!(judge(&entries, |_| Now::Is(now.clone())), expected, "{changes:?} {now:?}");
            assert_eq!(is_from_outside(&entries, &entries[0].entry.key, &now), now.as_deref() == x);
        }
        assert_eq!(judge(&entries(&[(None, a), (a, b)]), |_| Now::Unknown), [Applied, Unknown]);
    }
}
