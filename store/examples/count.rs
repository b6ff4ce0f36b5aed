//! Counts in a document, for ever, together with as many others as there are: how a document is changed by
//! compare-and-set. The store's tests kill several of these at it.
//!
//! usage: count STORE KEY NAME

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use store::{Expected, Key, Store};

#[derive(Serialize, Deserialize)]
struct Counts {
    total: u64,
    by: BTreeMap<String, u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [store, key, name] = &arguments[..] else { anyhow::bail!("usage: count STORE KEY NAME") };
    let (store, key) = (Store::open(Some(store))?, Key::parse(key)?);
    loop {
        let document = store.get(&key).await?.with_context(|| format!("{key} is absent"))?;
        let mut counts = serde_json::from_slice::<Counts>(&document.bytes)?;
        counts.total += 1;
        *counts.by.entry(name.clone()).or_default() += 1;
        let bytes = serde_json::to_vec(&counts)?;
        // Whoever loses reads again.
        if store.compare_and_set(&key, &bytes, &Expected::At(document.revision)).await? {
            println!("written");
        }
    }
}
