//! `pp-store put`.

use std::io::{self, Read};

use anyhow::{Context, Result};
use serde_json::json;
use store::schema::IntentKey;
use store::{Expected, Key, Store};

use super::{Outcome, note, print_json};

pub(super) async fn run(
    store: &Store,
    intent: &IntentKey,
    argument: &str,
    cas: Option<&Expected>,
    in_json: bool,
) -> Result<Outcome> {
    let key = intent.key();
    let bytes = document(argument)?;
    let unknown = intent.check(&bytes).with_context(|| format!("nothing was written, since this is no {key}"))?;
    for field in unknown {
        note(&format!("warning: no agent knows the field {field:?} of {key}; is it misspelt?"));
    }
    let written = match cas {
        None => store.put(&key, &bytes).await.map(|()| true)?,
        Some(expected) => store.compare_and_set(&key, &bytes, expected).await?,
    };
    if in_json {
        print_json(&json!({"key": key.as_str(), "written": written}))?;
    }
    if written {
        return Ok(Outcome::Done);
    }
    note(&format!("nothing was written: {key} is not as --cas expects, {}", present(store, &key).await));
    Ok(Outcome::Lost)
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
