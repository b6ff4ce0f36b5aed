//! What differs between two sets of documents, and how that is shown. Pure.

use std::time::Duration;

use serde_json::{Value, json};
use similar::TextDiff;
use store::{Document, Documents, Key, look_up};

/// What makes one document as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Create { to: Vec<u8> },
    Replace { from: Document, to: Vec<u8> },
    Remove { from: Document },
}

/// Where documents come from and go to, for people: how each names a key's.
pub(super) struct Sides<'a> {
    pub(super) from: &'a dyn Fn(&Key) -> String,
    pub(super) to: &'a dyn Fn(&Key) -> String,
}

/// What makes `from` hold what `to` holds, in the order of the keys, and how many documents are the same already.
/// Documents that cannot be read, and keys that are none, are left alone, as is what `is_removed` does not accept.
pub(super) fn changes(from: &Documents, to: &Documents, is_removed: impl Fn(&Key) -> bool) -> (Vec<Change>, usize) {
    let (mut changes, mut identical) = (Vec::new(), 0);
    for (key, document) in to {
        let (Ok(key), Ok(document)) = (Key::parse(key), document) else { continue };
        let to = document.bytes.clone();
        match look_up(from, key.as_str()) {
            None => changes.push(Change { key, action: Action::Create { to } }),
            Some(Ok(found)) if found.bytes == to => identical += 1,
            Some(Ok(found)) => changes.push(Change { key, action: Action::Replace { from: found.clone(), to } }),
            Some(Err(_)) => {}
        }
    }
    for (key, document) in from.iter().filter(|(key, _)| !to.contains_key(*key)) {
        if let (Ok(key), Ok(document)) = (Key::parse(key), document)
            && is_removed(&key)
        {
            changes.push(Change { key, action: Action::Remove { from: document.clone() } });
        }
    }
    (changes, identical)
}

impl Change {
    /// What it does, and once it is done.
    pub(super) fn verb(&self) -> (&'static str, &'static str) {
        match self.action {
            Action::Create { .. } => ("create", "created"),
            Action::Replace { .. } => ("change", "changed"),
            Action::Remove { .. } => ("remove", "removed"),
        }
    }

    /// As `diff -u` shows it.
    pub(super) fn diff(&self, sides: &Sides) -> String {
        let (from, to) = match &self.action {
            Action::Create { to } => (None, Some(to)),
            Action::Replace { from, to } => (Some(&from.bytes), Some(to)),
            Action::Remove { from } => (Some(&from.bytes), None),
        };
        let name = |side: &dyn Fn(&Key) -> String, bytes: Option<&Vec<u8>>| {
            bytes.map_or_else(|| "/dev/null".to_owned(), |_| side(&self.key))
        };
        let (old, new) = (name(sides.from, from), name(sides.to, to));
        let (from, to) = (from.map_or(&[][..], Vec::as_slice), to.map_or(&[][..], Vec::as_slice));
        let (Ok(before), Ok(after)) = (str::from_utf8(from), str::from_utf8(to)) else {
            return format!("--- {old}\n+++ {new}\n({} and {} bytes that are not text)\n", from.len(), to.len());
        };
        let (before, after) = (visible(before), visible(after));
        let diff = TextDiff::configure().timeout(Duration::from_secs(1)).diff_lines(&before, &after);
        let diff = diff.unified_diff().header(&old, &new).to_string();
        // Of an empty document there is nothing to show.
        if diff.is_empty() { format!("--- {old}\n+++ {new}\n") } else { diff }
    }

    /// As `--help` describes it, with the difference where nothing is done.
    pub(super) fn json(&self, done: bool, sides: Option<&Sides>) -> Value {
        let mut value = json!({"key": self.key.as_str(), "change": self.verb().0, "done": done});
        if let Some(sides) = sides {
            value["diff"] = self.diff(sides).into();
        }
        value
    }
}

/// Text in which nothing moves a terminal's cursor, and in which another kind of line end is seen.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => visible.push(c),
            c if c.is_control() => visible.extend(c.escape_default()),
            c => visible.push(c),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use store::Revision;

    use super::*;

    fn documents(entries: &[(&str, &[u8])]) -> Documents {
        let document = |bytes: &[u8]| Ok(Document { bytes: bytes.into(), revision: Revision("1".to_owned()) });
        entries.iter().map(|(key, bytes)| ((*key).to_owned(), document(bytes))).collect()
    }

    #[test]
    fn only_what_differs_changes_and_only_what_may_go_is_removed() {
        let mut from =
            documents(&[("a/same", b"1"), ("a/other", b"1"), ("a/gone", b""), ("b/gone", b""), ("a/no key", b"")]);
        for key in ["a/unreadable", "a/below/"] {
            from.insert(key.to_owned(), Err("no permission".to_owned()));
        }
        let to = documents(&[
            ("a/same", b"1"),
            ("a/other", b"2"),
            ("a/new", b""),
            ("a/unreadable", b""),
            ("a/no name", b""),
            ("a/below/x", b""),
        ]);
        let (changes, identical) = changes(&from, &to, |key| key.as_str().starts_with("a/"));
        let seen = changes.iter().map(|change| (change.key.as_str(), change.verb().0)).collect::<Vec<_>>();
        assert_eq!(seen, [("a/new", "create"), ("a/other", "change"), ("a/gone", "remove")]);
        assert_eq!(identical, 1);
    }

    #[test]
    fn a_difference_is_legible_whatever_the_bytes() {
        let diff = |from: Option<&[u8]>, to: Option<&[u8]>| {
            let side = |bytes: Option<&[u8]>| bytes.map(|bytes| documents(&[("a/b", bytes)])).unwrap_or_default();
            let (changes, _) = changes(&side(from), &side(to), |_| true);
            let sides = Sides { from: &|key| format!("store: {key}"), to: &|key| format!("dir/{key}.json") };
            changes[0].diff(&sides)
        };
        assert_eq!(
            diff(Some(b"{\n  \"a\": 1\n}\n"), Some(b"{\n  \"a\": 2\n}\n")),
            "--- store: a/b\n+++ dir/a/b.json\n@@ -1,3 +1,3 @@\n {\n-  \"a\": 1\n+  \"a\": 2\n }\n"
        );
        assert_eq!(diff(None, Some(b"")), "--- /dev/null\n+++ dir/a/b.json\n");
        assert!(diff(Some(b"{}"), None).ends_with("+++ /dev/null\n@@ -1 +0,0 @@\n-{}\n\\ No newline at end of file\n"));
        assert!(diff(Some(b"\x1b[2J\n"), Some(b"\r\n")).ends_with("-\\u{1b}[2J\n+\\r\n"));
        assert!(diff(Some(b"\xff"), Some(b"")).contains("(1 and 0 bytes that are not text)"));
    }
}
