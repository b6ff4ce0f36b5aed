//! `pp-store get`.

use std::io::{self, IsTerminal};

use anyhow::Result;
use serde_json::{Value, json};
use store::{Document, Key, Store};

use super::{Outcome, note, print, print_json};

pub(super) async fn run(store: &Store, key: &Key, in_json: bool) -> Result<Outcome> {
    let Some(document) = store.get(key).await? else {
        note(&format!("there is no {key}"));
        return Ok(Outcome::Absent);
    };
    if in_json {
        print_json(&describe(key, &document))?;
    } else {
        print(&document.bytes)?;
        // To the byte for a file, legible for people.
        if io::stdout().is_terminal() && !document.bytes.ends_with(b"\n") {
            print(b"\n")?;
        }
    }
    Ok(Outcome::Done)
}

fn describe(key: &Key, document: &Document) -> Value {
    let (field, content) = match (serde_json::from_slice::<Value>(&document.bytes), str::from_utf8(&document.bytes)) {
        (Ok(value), _) => ("value", value),
        (Err(_), Ok(text)) => ("text", text.into()),
        (Err(_), Err(error)) => ("error", error.to_string().into()),
    };
    json!({"key": key.as_str(), "revision": document.revision.0, field: content})
}

#[cfg(test)]
mod tests {
    use store::Revision;

    use super::*;

    #[test]
    fn whatever_a_document_holds_can_be_described() {
        let describe = |bytes: &[u8]| {
            let document = Document { bytes: bytes.to_vec(), revision: Revision("7".to_owned()) };
            describe(&Key::parse("a/b").unwrap(), &document)
        };
        assert_eq!(describe(b"{\"a\": 1}"), json!({"key": "a/b", "revision": "7", "value": {"a": 1}}));
        assert_eq!(describe(b"{"), json!({"key": "a/b", "revision": "7", "text": "{"}));
        assert!(describe(&[0xff])["error"].as_str().unwrap().contains("invalid utf-8"));
    }
}
