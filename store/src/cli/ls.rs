//! `pp-store ls`.

use anyhow::Result;
use serde_json::{Value, json};
use store::{Documents, Prefix, Store};

use super::{Outcome, legible, note, print, print_json};

pub(super) async fn run(store: &Store, prefix: &Prefix, in_json: bool) -> Result<Outcome> {
    let (mut documents, _) = store.read(std::slice::from_ref(prefix)).await?;
    if *prefix == Prefix::everything() {
        // Of every change there is one.
        documents.retain(|key, _| !key.starts_with("history/"));
    }
    if documents.is_empty() && matches!(store, Store::Consul(_)) {
        note("nothing is there, or nothing that this token may read: to Consul that is the same");
    }
    if in_json {
        print_json(&list(&documents))?;
        return Ok(Outcome::Done);
    }
    print(documents.keys().map(|key| legible(key) + "\n").collect::<String>().as_bytes())?;
    let mut unreadable = 0;
    for (key, document) in &documents {
        if let Err(reason) = document {
            note(&format!("{key}: {reason}"));
            unreadable += 1;
        }
    }
    anyhow::ensure!(unreadable == 0, "{unreadable} of these cannot be read");
    Ok(Outcome::Done)
}

fn list(documents: &Documents) -> Value {
    let entry = |(key, document): (&String, &Result<store::Document, String>)| match document {
        Ok(document) => json!({"key": key, "revision": document.revision.0}),
        Err(reason) => json!({"key": key, "error": reason}),
    };
    documents.iter().map(entry).collect()
}
