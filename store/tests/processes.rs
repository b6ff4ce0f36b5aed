//! Several processes change one document at once, and are killed at it: no acknowledged change is lost, on either store.

mod place;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use place::{Place, get, put, text};
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

const DOCUMENT: &str = "locks/slug/dev/shutdown";
const WORKERS: usize = 4;
const KILLS: usize = 40;

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Counts {
    total: u64,
    by: BTreeMap<String, u64>,
}

#[tokio::test]
async fn no_acknowledged_change_is_lost_in_a_directory() {
    no_acknowledged_change_is_lost(Place::directory()).await;
}

#[tokio::test]
async fn no_acknowledged_change_is_lost_in_consul() {
    no_acknowledged_change_is_lost(Place::consul()).await;
}

async fn no_acknowledged_change_is_lost(place: Place) {
    let store = place.store();
    put(&store, DOCUMENT, &serde_json::to_string(&Counts::default()).unwrap()).await;
    let watched = tokio::spawn(watch(place.store()));
    let acknowledged = tokio::time::timeout(Duration::from_secs(120), work(&place)).await.expect("it takes too long");
    watched.abort();
    assert!(watched.await.is_err_and(|error| error.is_cancelled()), "a torn or an old document was read");

    let counts = read(&store).await;
    println!("{} acknowledged, {} written, {KILLS} kills", acknowledged.values().sum::<u64>(), counts.total);
    assert_eq!(counts.total, counts.by.values().sum::<u64>());
    for (worker, acknowledged) in &acknowledged {
        let written = counts.by.get(worker).copied().unwrap_or(0);
        // One more, if it was killed between the write and its word about it.
        assert!((*acknowledged..=acknowledged + 1).contains(&written), "{worker}: {acknowledged}, {written}");
    }
    put(&store, DOCUMENT, "{}").await;
    assert_eq!(text(&store, DOCUMENT).await.unwrap(), "{}");
}

/// Has workers work, kills them at random; how many changes each said that it had made.
async fn work(place: &Place) -> BTreeMap<String, u64> {
    let (sender, mut said) = mpsc::unbounded_channel();
    let mut started = 0..;
    let mut start = |sender: mpsc::UnboundedSender<String>| {
        let name = format!("worker{}", started.next().unwrap());
        let (child, mut lines) = spawn(place, &name);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "written" {
                    let _ = sender.send(name.clone());
                }
            }
        });
        child
    };
    let mut workers = (0..WORKERS).map(|_| start(sender.clone())).collect::<Vec<_>>();
    let mut acknowledged = BTreeMap::<String, u64>::new();
    for _ in 0..KILLS {
        for _ in 0..fastrand::usize(1..40) {
            let worker = said.recv().await.unwrap();
            *acknowledged.entry(worker).or_default() += 1;
        }
        let victim = &mut workers[fastrand::usize(..WORKERS)];
        victim.kill().await.unwrap();
        *victim = start(sender.clone());
    }
    for mut worker in workers {
        worker.kill().await.unwrap();
    }
    drop(sender);
    while let Some(worker) = said.recv().await {
        *acknowledged.entry(worker).or_default() += 1;
    }
    acknowledged
}

/// Reads for ever, and never anything but a whole document that is no older than the last.
async fn watch(store: Store) {
    let mut last = 0;
    loop {
        let counts = read(&store).await;
        assert_eq!(counts.total, counts.by.values().sum::<u64>());
        assert!(counts.total >= last, "{} after {last}", counts.total);
        last = counts.total;
    }
}

async fn read(store: &Store) -> Counts {
    serde_json::from_slice(&get(store, DOCUMENT).await.expect("it is always there").bytes).expect("it is always whole")
}

/// Starts the example that counts, which is built with the tests.
fn spawn(place: &Place, name: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let tests = std::env::current_exe().unwrap();
    let count = tests.parent().unwrap().with_file_name("examples").join("count");
    assert!(count.is_file(), "there is no {}: run cargo build --workspace --examples", count.display());
    let mut child = Command::new(count)
        .args([place.url.as_str(), DOCUMENT, name])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}
