//! A directory that is not as our own writers leave it, and writers that stop half-way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use store::{Expected, Store, intent};

use crate::place::{Place, QUIET, SOON, error, get, key, listing, prefix, put, soon, text};

#[tokio::test]
async fn a_root_that_is_missing_is_an_error_and_is_not_made() {
    let place = Place::directory();
    fs::remove_dir(place.root()).unwrap();
    let (store, name) = (place.store(), key("nodes/web1/slug"));
    let seen = Place::directory().store().read(&[prefix("nodes/")]).await.unwrap().1;
    for error in [
        error(store.read(&[prefix("nodes/web1/")]).await),
        error(store.read(&[]).await),
        error(store.get(&name).await),
        error(store.put(&name, b"{}").await),
        error(store.compare_and_set(&name, b"{}", &Expected::Absent).await),
        error(store.delete(&name).await),
        error(store.wait(&seen).await),
    ] {
        assert!(error.contains(&place.root().display().to_string()) && error.contains("No such file"), "{error}");
    }
    assert!(!place.root().exists());
    fs::write(place.root(), "").unwrap();
    assert!(
        error(store.get(&name).await).contains("EOF while parsing"),
        "an empty file is no store in one file either"
    );
}

#[tokio::test]
async fn a_store_in_one_file_is_watched_and_never_written() {
    let place = Place::directory();
    fs::remove_dir(place.root()).unwrap();
    let next = place.scratch.path().join("next");
    let edit = |text: &str| {
        fs::write(&next, text).unwrap();
        fs::rename(&next, place.root()).unwrap();
    };
    edit(r#"{"nodes/web1/slug": {"cluster": "dev"}}"#);
    let (store, name) = (place.store(), key("nodes/web1/slug"));
    let (documents, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
    assert_eq!(documents["nodes/web1/slug"].as_ref().unwrap().bytes, br#"{"cluster": "dev"}"#);
    let mut wait = pin!(store.wait(&seen));
    edit(r#"{"nodes/web1/slug": {"cluster": "dev"}, "nodes/web2/slug": 1}"#);
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err(), "another node's");
    edit(r#"{"nodes/web1/slug": {"cluster": "live"}}"#);
    soon(wait).await.unwrap();
    let before = fs::read(place.root()).unwrap();
    for error in [error(store.put(&name, b"{}").await), error(store.delete(&name).await)] {
        assert!(error.contains("it is one file with all documents"), "{error}");
    }
    assert_eq!(fs::read(place.root()).unwrap(), before);
}

#[tokio::test]
async fn a_root_that_goes_while_it_is_watched_is_an_error_and_is_watched_again_when_it_is_back() {
    let place = Place::directory();
    let (store, away) = (place.store(), place.scratch.path().join("away"));
    let (_, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
    let mut wait = pin!(store.wait(&seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    fs::rename(place.root(), &away).unwrap();
    // Well before the next sweep.
    let gone = error(tokio::time::timeout(Duration::from_secs(2), wait).await.unwrap());
    assert!(gone.contains("No such file"), "{gone}");
    fs::rename(&away, place.root()).unwrap();
    let mut wait = pin!(store.wait(&seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    put(&store, "nodes/web1/slug", "new").await;
    soon(wait).await.unwrap();
}

#[tokio::test]
async fn a_root_that_is_a_link_may_be_turned_to_another_tree() {
    let place = Place::directory();
    let [one, two] = ["one", "two"].map(|name| place.scratch.path().join(name));
    fs::rename(place.root(), &one).unwrap();
    fs::create_dir_all(two.join("nodes/web1")).unwrap();
    fs::write(two.join("nodes/web1/slug.json"), "two").unwrap();
    symlink(&one, place.root()).unwrap();
    let store = place.store();
    let (_, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
    let mut wait = pin!(store.wait(&seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    symlink(&two, place.scratch.path().join("next")).unwrap();
    fs::rename(place.scratch.path().join("next"), place.root()).unwrap();
    // Well before the next sweep.
    tokio::time::timeout(Duration::from_secs(2), wait).await.unwrap().unwrap();
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "two");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_of_its_own_and_the_rest_is_read() {
    let place = Place::directory();
    place.write("nodes/web1/good", b"{}");
    let node = place.root().join("nodes/web1");
    symlink("/no/such/target", node.join("dangling.json")).unwrap();
    fs::create_dir(node.join("directory.json")).unwrap();
    Command::new("mkfifo").arg(node.join("fifo.json")).status().unwrap();
    symlink("/dev/zero", node.join("device.json")).unwrap();
    fs::write(node.join("large.json"), vec![b' '; 600 * 1024]).unwrap();
    symlink("/no/such/disk", node.join("elsewhere")).unwrap();
    let store = place.store();
    let (documents, _) = soon(store.read(&[prefix("nodes/web1/")])).await.unwrap();
    for (name, why) in [
        ("dangling", "is a link whose target cannot be read: No such file"),
        ("directory", "not a file"),
        ("fifo", "not a file"),
        ("device", "not a file"),
        ("large", "more than 524288 bytes"),
        ("elsewhere/", "is a link whose target cannot be read"),
    ] {
        let listed = documents[&format!("nodes/web1/{name}")].as_ref().unwrap_err();
        assert!(listed.contains(why), "{name}: {listed}");
        let name = name.replace('/', "/slug");
        let got = error(soon(store.get(&key(&format!("nodes/web1/{name}")))).await);
        assert!(got.contains(why), "{name}: {got}");
    }
    assert!(documents["nodes/web1/good"].is_ok());
    assert_eq!(documents.len(), 7);
}

#[tokio::test]
async fn a_directory_that_is_a_link_to_nowhere_makes_nothing_absent() {
    let place = Place::directory();
    fs::create_dir(place.root().join("nodes")).unwrap();
    symlink("/no/such/disk", place.root().join("nodes/web1")).unwrap();
    let store = place.store();
    let (documents, _) = store.read(&[prefix("nodes/web1/"), prefix("nodes/web2/")]).await.unwrap();
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["nodes/web1/"]);
    assert!(error(store.get(&key("nodes/web1/slug")).await).contains("/nodes/web1 is a link whose target"));
    assert!(store.get(&key("nodes/web2/slug")).await.unwrap().is_none());
    assert!(error(store.put(&key("nodes/web1/slug"), b"{}").await).contains("making the directory"));
}

#[tokio::test]
async fn a_torn_or_empty_file_is_invalid_and_the_other_apps_go_on() {
    let place = Place::directory();
    for app in ["good", "empty", "torn"] {
        place.write(&format!("nodes/web1/{app}"), br#"{"cluster": "dev"}"#);
        place.write(&format!("clusters/{app}/dev/config"), br#"{"versions": {"1": "active"}}"#);
        let basedir = format!(r#"{{"basedir": "/srv/{app}"}}"#);
        place.write(&format!("clusters/{app}/dev/deploy_config"), basedir.as_bytes());
    }
    place.write("clusters/empty/dev/config", b"");
    place.write("clusters/torn/dev/config", br#"{"versions": {"1": "act"#);
    let intent = intent::read(&place.store(), &"web1".parse().unwrap()).await.unwrap();
    assert!(intent.apps["good"].is_ok());
    assert_eq!(intent.apps["empty"].as_ref().unwrap_err().reason, "the document is empty");
    assert!(intent.apps["torn"].as_ref().unwrap_err().reason.contains("EOF"));
}

#[tokio::test]
async fn an_editors_files_hidden_ones_and_our_own_are_no_documents() {
    let place = Place::directory();
    place.write("nodes/web1/slug", b"{}");
    put(&place.store(), "nodes/web1/other", "{}").await;
    let node = place.root().join("nodes/web1");
    for name in ["slug.json~", ".slug.json.swp", "#slug.json#", "4913", "README.md", ".hidden.json", ".json"] {
        fs::write(node.join(name), "{}").unwrap();
    }
    fs::create_dir_all(place.root().join(".git/nodes")).unwrap();
    fs::write(place.root().join(".git/nodes/x.json"), "{}").unwrap();
    let keys = listing(&place.store(), &[""]).await.into_iter().map(|(key, _)| key);
    assert_eq!(keys.collect::<Vec<_>>(), ["nodes/web1/other", "nodes/web1/slug"]);
}

#[tokio::test]
async fn links_are_followed_and_loops_of_them_end() {
    let place = Place::directory();
    place.write("nodes/web1/slug", b"{}");
    let nodes = place.root().join("nodes");
    symlink("web1", nodes.join("web2")).unwrap();
    symlink("slug.json", nodes.join("web1/same.json")).unwrap();
    symlink("..", nodes.join("web1/up")).unwrap();
    symlink("itself", nodes.join("web1/itself")).unwrap();
    let store = place.store();
    assert_eq!(text(&store, "nodes/web2/same").await.unwrap(), "{}");
    let (documents, _) = soon(store.read(&[prefix("")])).await.unwrap();
    assert!(documents["nodes/web2/slug"].is_ok());
    assert!(documents["nodes/web1/up/"].as_ref().unwrap_err().contains("above it"));
    assert!(documents["nodes/web1/itself/"].as_ref().unwrap_err().contains("target cannot be read"));
}

#[tokio::test]
async fn a_directory_named_like_a_document_holds_documents_too() {
    let place = Place::directory();
    let store = place.store();
    put(&store, "clusters/site.json/dev/config", "{}").await;
    assert_eq!(text(&store, "clusters/site.json/dev/config").await.unwrap(), "{}");
    let site = listing(&store, &["clusters/site.json/dev/"]).await;
    assert_eq!(site, [("clusters/site.json/dev/config".to_owned(), "{}".to_owned())]);
    assert!(error(store.put(&key("clusters/site"), b"{}").await).contains("renaming"));
}

#[tokio::test]
async fn reading_and_waiting_write_nothing() {
    let place = Place::directory();
    let store = place.store();
    let (_, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
    assert_eq!(get(&store, "nodes/web1/slug").await, None);
    assert!(tokio::time::timeout(QUIET, store.wait(&seen)).await.is_err());
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_put_of_the_same_bytes_touches_no_file() {
    let place = Place::directory();
    let store = place.store();
    put(&store, "nodes/web1/slug", "{}").await;
    let file = place.root().join("nodes/web1/slug.json");
    let before = fs::metadata(&file).unwrap();
    put(&store, "nodes/web1/slug", "{}").await;
    let after = fs::metadata(&file).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

#[tokio::test]
async fn what_a_killed_writer_left_is_in_nobodys_way() {
    let place = Place::directory();
    let store = place.store();
    put(&store, "nodes/web1/slug", "old").await;
    fs::write(place.root().join(".store/next"), "half of a docu").unwrap();
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "old");
    put(&store, "nodes/web1/slug", "new").await;
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "new");
    assert_eq!(fs::read_dir(place.root().join(".store")).unwrap().count(), 1, "only the lock");
}

/// A writer that got as far as the lock, and stopped.
struct Stopped(Child);

impl Stopped {
    fn holding_the_lock_of(root: &Path) -> Self {
        fs::create_dir_all(root.join(".store")).unwrap();
        let lock = root.join(".store/lock");
        let child = Command::new("flock").arg("--no-fork").arg(&lock).args(["sleep", "1000"]).spawn().unwrap();
        let is_free = || Command::new("flock").arg("--nonblock").arg(&lock).arg("true").status().unwrap().success();
        fixtures::eventually("the lock is held", SOON, || (!is_free()).then_some(()));
        Self(child)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_lock_that_a_stopped_process_holds_stops_neither_readers_nor_the_program() {
    let place = Place::directory();
    let store = place.store();
    place.write("nodes/web1/slug", b"old");
    let stopped = Stopped::holding_the_lock_of(&place.root());
    let name = key("nodes/web1/slug");
    let mut write = pin!(store.put(&name, b"new"));
    assert!(tokio::time::timeout(QUIET, &mut write).await.is_err());
    // This very thread goes on, others can be given up.
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "old");
    assert!(tokio::time::timeout(QUIET, store.delete(&name)).await.is_err());
    drop(stopped);
    soon(write).await.unwrap();
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "new");
}

#[tokio::test]
async fn a_writer_that_waits_too_long_for_the_lock_says_who_is_to_blame() {
    let place = Place::directory();
    let _stopped = Stopped::holding_the_lock_of(&place.root());
    let began = Instant::now();
    let error = error(place.store().put(&key("nodes/web1/slug"), b"{}").await);
    assert!((9..20).contains(&began.elapsed().as_secs()));
    assert!(error.contains("writing nodes/web1/slug") && error.contains(".store/lock since 10s"), "{error}");
}

#[test]
fn a_program_ends_promptly_while_it_waits_for_the_lock() {
    let place = Place::directory();
    let _stopped = Stopped::holding_the_lock_of(&place.root());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let store: Store = place.store();
    let name = key("nodes/web1/slug");
    runtime.block_on(async { assert!(tokio::time::timeout(QUIET, store.put(&name, b"{}")).await.is_err()) });
    drop(runtime);
    assert!(began.elapsed() < Duration::from_secs(5));
}
