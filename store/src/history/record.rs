//! Writing entries, before the changes that they are of.
//!
//! Ensures: no two writers take the same number, since each entry is written against absent; what was recorded and then
//! not done is taken back by whoever knows that; a history stays within bounds, and its newest entries stay. Assumes that
//! the bounds leave room for what one command writes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Entry, entry_key, history_prefix, number};
use crate::{AppName, ClusterName, Expected, Key, Store};

/// How many entries are kept of a cluster's own documents, and how many of its nodes': to put an app on a hundred hosts
/// must not push out the configuration to roll back to.
const MOST_ENTRIES: usize = 100;
/// How many bytes all of a cluster's entries may have: that much is read for the next one, too.
const MOST_BYTES: usize = 4 << 20;
/// How often a number is looked for that nobody else takes meanwhile.
const TRIES: usize = 100;
/// Between two tries, at the most.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes one command's entries.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    /// What is there, of the clusters that were asked for, as far as nobody else has changed it.
    known: BTreeMap<(AppName, ClusterName), Vec<Kept>>,
}

/// What matters of an entry that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    number: u64,
    of_node: bool,
    bytes: usize,
}

impl Recorder {
    pub fn new(store: Store) -> Self {
        Self { store, known: BTreeMap::new() }
    }

    /// Writes an entry into the history of a cluster, under the next number.
    pub async fn record(&mut self, app: &AppName, cluster: &ClusterName, entry: &Entry) -> Result<Key> {
        let bytes = entry.to_bytes()?;
        let of_node = is_of_node(&entry.key);
        for _ in 0..TRIES {
            let kept = self.kept(app, cluster).await?;
            let last = kept.iter().map(|kept| kept.number).max().unwrap_or_default();
            let Some(number) = last.checked_add(1) else {
                bail!("there is no number after that of {}: remove it", entry_key(app, cluster, last))
            };
            let key = entry_key(app, cluster, number);
            if self.store.compare_and_set(&key, &bytes, &Expected::Absent).await? {
                let kept = self.known.entry((app.clone(), cluster.clone())).or_default();
                kept.push(Kept { number, of_node, bytes: bytes.len() });
                return Ok(key);
            }
            self.known.remove(&(app.clone(), cluster.clone()));
            // Where a listing shows nothing although something is there, this says why.
            self.store.get(&key).await?;
            tokio::time::sleep(PAUSE.mul_f64(fastrand::f64())).await;
        }
        bail!("{TRIES} times somebody else took the next number in {}", history_prefix(app, cluster))
    }

    /// Takes an entry back, of a change that was not made.
    pub async fn take_back(&mut self, key: &Key) -> Result<()> {
        self.known.clear();
        self.store.delete(key).await
    }

    /// Removes the oldest entries of a cluster, as many as there are too many.
    pub async fn tidy(&mut self, app: &AppName, cluster: &ClusterName) -> Result<()> {
        let surplus = surplus(&self.kept(app, cluster).await?);
        for number in &surplus {
            let key = entry_key(app, cluster, *number);
            self.store.delete(&key).await.with_context(|| format!("removing the old entry {key}"))?;
        }
        if let Some(kept) = self.known.get_mut(&(app.clone(), cluster.clone())) {
            kept.retain(|kept| !surplus.contains(&kept.number));
        }
        Ok(())
    }

    async fn kept(&mut self, app: &AppName, cluster: &ClusterName) -> Result<Vec<Kept>> {
        let of = (app.clone(), cluster.clone());
        if let Some(kept) = self.known.get(&of) {
            return Ok(kept.clone());
        }
        let documents = self.store.documents(&[history_prefix(app, cluster)]).await?;
        let kept = documents.iter().filter_map(|(key, document)| {
            let number = number(key)?;
            let (of_node, bytes) = match document {
                Ok(document) => {
                    (Entry::parse(document).is_ok_and(|entry| is_of_node(&entry.key)), document.bytes.len())
                }
                Err(_) => (false, 0),
            };
            Some(Kept { number, of_node, bytes })
        });
        let kept = kept.collect::<Vec<_>>();
        self.known.insert(of, kept.clone());
        Ok(kept)
    }
}

fn is_of_node(key: &str) -> bool {
    key.starts_with("nodes/")
}

/// The numbers of those that are too many. Never the newest one.
fn surplus(kept: &[Kept]) -> Vec<u64> {
    let mut newest_first = kept.to_vec();
    newest_first.sort_by_key(|kept| std::cmp::Reverse(kept.number));
    let (mut counts, mut bytes, mut surplus) = ([0, 0], 0, Vec::new());
    for (nth, kept) in newest_first.iter().enumerate() {
        let count = &mut counts[usize::from(kept.of_node)];
        *count += 1;
        bytes += kept.bytes;
        if nth > 0 && (*count > MOST_ENTRIES || bytes > MOST_BYTES) {
            surplus.push(kept.number);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_those_of_nodes_do_not_push_out_the_others() {
        let kept = |numbers: std::ops::Range<u64>, of_node, bytes| {
            numbers.map(move |number| Kept { number, of_node, bytes }).collect::<Vec<_>>()
        };
        assert_eq!(surplus(&kept(1..101, false, 10)), [0u64; 0]);
        assert_eq!(surplus(&kept(1..103, false, 10)), [2, 1]);
        assert_eq!(surplus(&[kept(1..3, false, 10), kept(3..203, true, 10)].concat()).len(), 100);
        assert!(surplus(&[kept(1..3, false, 10), kept(3..203, true, 10)].concat()).iter().all(|number| *number > 2));
        assert_eq!(surplus(&kept(1..11, false, 500 << 10)), [2, 1]);
        assert_eq!(surplus(&kept(7..8, false, MOST_BYTES + 1)), [0u64; 0]);
    }
}
