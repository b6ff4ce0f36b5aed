//! Reading all of intent, for the commands that compare or judge it as a whole.

use anyhow::{Context, Result};
use store::{Documents, Key, Prefix, Store};

/// Where intent is. What agents and `pp-store` write elsewhere is none.
pub(super) const TREES: [&str; 2] = ["nodes/", "clusters/"];

/// Every document under [`TREES`].
///
/// # Errors
/// Also when nothing is seen under one of them, and Consul does not let us see whether that is so: to a token without
/// rights every listing is empty.
pub(super) async fn read(store: &Store) -> Result<Documents> {
    let prefixes = TREES.into_iter().map(Prefix::parse).collect::<Result<Vec<_>>>()?;
    let (documents, _) = store.read(&prefixes).await?;
    if matches!(store, Store::Consul(_)) {
        for tree in TREES.into_iter().filter(|tree| !has(&documents, tree)) {
            // No document of ours; only a read of a single key is refused.
            let probe = Key::parse(&format!("{tree}any/any"))?;
            store.get(&probe).await.with_context(|| {
                format!("whether there is anything under {tree} cannot be known without key_prefix \"{tree}\" {{ policy = \"read\" }}")
            })?;
        }
    }
    Ok(documents)
}

/// Whether anything is there under `tree`.
pub(super) fn has(documents: &Documents, tree: &str) -> bool {
    documents.keys().any(|key| key.starts_with(tree))
}
