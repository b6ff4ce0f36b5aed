//! `pp-store put`.

use std::io::{self, Read};

use anyhow::{Context, Result};
use serde_json::json;
use store::schema::IntentKey;
use store::{Document, Expected, Key, Store};

use super::change::{Action, Change};
use super::write::{Message, Writer};
use super::{Outcome, note, print_json};

pub(super) async fn run(
    store: &Store,
    intent: &IntentKey,
    argument: &str,
    cas: Option<&Expected>,
    message: &Message,
    in_json: bool,
) -> Result<Outcome> {
    let key = intent.key();
    let bytes = document(argument)?;
    let unknown = intent.check(&bytes).with_context(|| format!("nothing was written, since this is no {key}"))?;
    for field in unknown {
        note(&format!("warning: no agent knows the field {field:?} of {key}; is it misspelt?"));
    }
    let writer = Writer::new(store, message);
    let written = match cas {
        None => put(writer, store, &key, bytes).await?,
        Some(expected) => compare_and_set(writer, store, &key, bytes, expected).await?,
    };
    if in_json {
        print_json(&json!({"key": key.as_str(), "written": written}))?;
    }
    if written {
        return Ok(Outcome::Done);
    }
    match cas {
        None => note(&format!("nothing was written: others changed {key} each time; try again")),
        Some(_) => {
            note(&format!("nothing was written: {key} is not as --cas expects, {}", present(store, &key).await));
        }
    }
    Ok(Outcome::Lost)
}

/// Writes the document, whatever is there.
async fn put(mut writer: Writer<'_>, store: &Store, key: &Key, bytes: Vec<u8>) -> Result<bool> {
    // What cannot be read is a link that leads nowhere, or a file that is not ours: an editor would write it anew, too.
    if matches!(store, Store::Directory(_)) && store.get(key).await.is_err() {
        return writer.overwrite(key, Some(&bytes)).await.map(|()| true);
    }
    let written = writer.change(key, async |_| Ok((Some(bytes.clone()), ())));
    Ok(written.await?.is_some())
}

/// Writes the document, if what is there is what was expected.
async fn compare_and_set(
    mut writer: Writer<'_>,
    store: &Store,
    key: &Key,
    to: Vec<u8>,
    expected: &Expected,
) -> Result<bool> {
    let is_expected = |found: &Document| *expected == Expected::At(found.revision.clone());
    let action = match store.get(key).await? {
        Some(found) if is_expected(&found) && found.bytes == to => return Ok(true),
        Some(from) if is_expected(&from) => Action::Replace { from, to },
        None if *expected == Expected::Absent => Action::Create { to },
        Some(_) | None => return Ok(false),
    };
    writer.make(&Change { key: key.clone(), action }).await
}

/// The document that the argument gives or names.
fn document(argument: &str) -> Result<Vec<u8>> {
    if argument == "-" {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).context("reading standard input")?;
        return Ok(bytes);
    }
    match argument.strip_prefix('@') {
        Some(file) => std::fs::read(file).with_context(|| format!("reading {file}")),
        None if std::path::Path::new(argument).is_file() => {
            anyhow::bail!("{argument} is a file's name, not a document; to read the file: @{argument}")
        }
        None => Ok(argument.as_bytes().to_vec()),
    }
}

/// What is there in place of what was expected.
async fn present(store: &Store, key: &Key) -> String {
    match store.get(key).await {
        Ok(Some(document)) => format!("but at revision {}; get it, and try again", document.revision),
        Ok(None) => "but absent".to_owned(),
        Err(error) => format!("and cannot be read now: {error:#}"),
    }
}
