//! Instances and agents in a directory that is not as we leave it, and agents that are killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use store::{Instance, Store, intent};

use crate::app::{App, instance, name};
use crate::place::{Place, QUIET, error, key, prefix, soon};

/// An agent in a process of its own.
struct Agent(Child);

impl Agent {
    fn start(place: &Place, node: &str, agent: &str) -> Self {
        let tests = std::env::current_exe().unwrap();
        let alive = tests.parent().unwrap().with_file_name("examples").join("alive");
        assert!(alive.is_file(), "there is no {}: run cargo build --workspace --examples", alive.display());
        let mut child = Command::new(alive).args([&place.url, node, agent]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "alive\n");
        Self(child)
    }

    /// With -9.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn is_alive(store: &Store, node: &str) -> bool {
    !store.alive(&BTreeSet::from([node.to_owned()])).await.unwrap().is_empty()
}

#[tokio::test]
async fn a_node_is_alive_until_the_last_of_its_agents_is_killed_and_a_wait_ends_then() {
    let place = Place::directory();
    let mut app = App::passing(&place, "web1.example").await;
    let agents = ["pp-setlive", "pp-preparer"].map(|agent| Agent::start(&place, "web1.example", agent));
    let _another = Agent::start(&place, "web1", "pp-setlive");
    app.die();
    let seen = app.all().await;
    let mut wait = pin!(app.store.wait_instances(&app.instance.app, &app.instance.cluster, &seen));
    for agent in agents {
        assert!(tokio::time::timeout(Duration::from_millis(1500), &mut wait).await.is_err());
        assert!(app.only().await.passing && is_alive(&app.store, "web1.example").await);
        agent.kill();
    }
    let began = Instant::now();
    soon(wait).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let found = app.only().await;
    assert!(!found.passing && found.check_passes, "{found:?}");
    assert!(!is_alive(&app.store, "web1.example").await && is_alive(&app.store, "web1").await);
    assert!(!is_alive(&app.store, "example").await);
    _another.kill();
    // Nothing is removed: who locks a file that is gone keeps nobody out.
    assert_eq!(fs::read_dir(place.root().join(".store/alive")).unwrap().count(), 3);
}

#[tokio::test]
async fn who_comes_second_under_one_name_is_alive_when_the_first_is_gone() {
    let place = Place::directory();
    let store = place.store();
    let first = Agent::start(&place, "web1", "pp-setlive");
    let second = soon(store.stay_alive(&name("web1"), "pp-setlive")).await.unwrap();
    first.kill();
    comes_alive(&store, "web1").await;
    drop(second);
    assert!(!is_alive(&store, "web1").await);
}

#[tokio::test]
async fn who_asks_is_not_taken_for_an_agent_and_keeps_none_out() {
    let place = Place::directory();
    let store = place.store();
    drop(store.stay_alive(&name("web1"), "pp-setlive").await.unwrap());
    // As somebody who asks, and takes very long.
    let asked = fs::File::open(place.root().join(".store/alive/web1.pp-setlive")).unwrap();
    flock(&asked, FlockOperation::NonBlockingLockShared).unwrap();
    assert!(!is_alive(&store, "web1").await);
    let _alive = soon(store.stay_alive(&name("web1"), "pp-setlive")).await.unwrap();
    drop(asked);
    comes_alive(&store, "web1").await;

    let asking = tokio::spawn(async move {
        loop {
            is_alive(&store, "web2").await;
        }
    });
    for _ in 0..100 {
        let alive = soon(place.store().stay_alive(&name("web2"), "pp-setlive")).await.unwrap();
        assert!(is_alive(&place.store(), "web2").await);
        drop(alive);
    }
    asking.abort();
}

/// Returns once it is.
async fn comes_alive(store: &Store, node: &str) {
    let comes = async {
        while !is_alive(store, node).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(comes).await;
}

#[tokio::test]
async fn nothing_is_opened_through_a_link_and_no_fifo_is_waited_for() {
    let place = Place::directory();
    let elsewhere = place.scratch.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    let stay = async |agent: &str| soon(place.store().stay_alive(&name("web1"), agent)).await;
    let store = place.root().join(".store");
    let is_untouched = || fs::read_dir(&elsewhere).unwrap().count() == 0;

    symlink(&elsewhere, &store).unwrap();
    assert!(error(stay("pp-setlive").await).contains(".store is no directory but a link"));
    fs::remove_file(&store).unwrap();
    fs::create_dir(&store).unwrap();
    symlink(&elsewhere, store.join("alive")).unwrap();
    assert!(error(stay("pp-setlive").await).contains("alive is no directory but a link"));
    assert!(place.store().alive(&BTreeSet::from(["web1".to_owned()])).await.is_err());
    fs::remove_file(store.join("alive")).unwrap();
    fs::create_dir(store.join("alive")).unwrap();
    symlink(elsewhere.join("file"), store.join("alive/web1.link")).unwrap();
    assert!(error(stay("link").await).contains("opening .store/alive/web1.link"));
    fifo(&store.join("alive/web1.fifo"));
    assert!(error(stay("fifo").await).contains("is not a file: move it away"));
    fs::create_dir(store.join("alive/web1.directory")).unwrap();
    assert!(stay("directory").await.is_err());
    assert!(!soon(is_alive(&place.store(), "web1")).await);
    let _alive = stay("pp-setlive").await.unwrap();
    assert!(soon(is_alive(&place.store(), "web1")).await);
    assert!(stay("no.agent").await.is_err() && stay("../x").await.is_err() && is_untouched());
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn what_is_no_instance_is_nobodys_and_named_or_overwritten_where_it_is_our_own() {
    let place = Place::directory();
    let app = App::new(&place, "web1").await;
    let Instance { node, app: slug, .. } = &app.instance;
    let own = "instances/slug/dev/web1";
    for bytes in [&b""[..], b"{", b"[]", br#"{"version": "a b"}"#, &[0xff; 10]] {
        place.write(own, bytes);
        place.write("instances/slug/dev/web2", bytes);
        place.write("instances/slug/dev/not a name", b"{}");
        place.write("instances/slug/dev/too/deep", b"{}");
        assert_eq!(app.all().await, []);
        assert!(app.store.registered(node).await.unwrap().is_empty());
        for named in [
            error(app.store.drain(node, slug, "to 0.2").await),
            error(app.store.undrain(node, slug).await),
            error(app.store.report(node, slug, true, "runs").await),
        ] {
            assert!(named.contains(&format!("{own}: this is no instance")), "{named}");
        }
        app.store.register(&app.instance).await.unwrap();
        assert!(app.only().await.is(&app.instance));
    }
    place.write(own, b"{");
    app.store.deregister(node, slug).await.unwrap();
    assert!(!place.root().join(own).with_extension("json").exists());
}

#[tokio::test]
async fn what_a_crash_left_in_another_cluster_is_seen_and_removed() {
    let place = Place::directory();
    let app = App::passing(&place, "web1").await;
    let file = |cluster: &str| place.root().join(format!("instances/slug/{cluster}/web1.json"));
    for cluster in ["before", "live"] {
        let left = fs::read(file("dev")).unwrap();
        place.write(&format!("instances/slug/{cluster}/web1"), &left);
        let found = app.store.registered(&app.instance.node).await.unwrap();
        assert!(!found["slug"].is(&app.instance), "{found:?}");
        app.store.register(&app.instance).await.unwrap();
        assert!(app.only().await.passing && !file(cluster).exists());
        assert!(app.store.registered(&app.instance.node).await.unwrap()["slug"].is(&app.instance));
    }
}

#[tokio::test]
async fn a_store_in_one_file_keeps_no_instances() {
    let place = Place::directory();
    assert!(place.store().keeps_instances() && Place::consul().store().keeps_instances());
    fs::remove_dir(place.root()).unwrap();
    fs::write(place.root(), r#"{"nodes/web1/slug": {"cluster": "dev"}}"#).unwrap();
    let (store, instance) = (place.store(), instance("web1", 80));
    assert!(!store.keeps_instances());
    let _alive = store.stay_alive(&instance.node, "pp-setlive").await.unwrap();
    for refused in [
        error(store.register(&instance).await),
        error(store.drain(&instance.node, &instance.app, "to 0.2").await),
        error(store.deregister(&instance.node, &instance.app).await),
    ] {
        assert!(refused.contains("it is one file with all documents"), "{refused}");
    }
}

#[tokio::test]
async fn a_root_that_is_missing_is_an_error_and_is_not_made() {
    let place = Place::directory();
    fs::remove_dir(place.root()).unwrap();
    let (store, instance) = (place.store(), instance("web1", 80));
    let Instance { app, node, cluster, .. } = &instance;
    for error in [
        error(store.instances(app, cluster).await),
        error(store.registered(node).await),
        error(store.register(&instance).await),
        error(store.wait_instances(app, cluster, &[]).await),
        error(store.alive(&BTreeSet::from(["web1".to_owned()])).await),
        error(store.stay_alive(node, "pp-setlive").await),
    ] {
        assert!(error.contains(&place.root().display().to_string()) && error.contains("No such file"), "{error}");
    }
    assert!(!place.root().exists());
}

#[tokio::test]
async fn what_agents_write_is_not_taken_for_intent_that_was_misspelt() {
    let place = Place::directory();
    let store = place.store();
    place.write("clusters/slug/dev/config", br#"{"versions": {}}"#);
    store.register(&Instance { node: name("slug"), ..instance("web1", 80) }).await.unwrap();
    for written in ["reality/web1/slug", "locks/dev/slug", "history/slug"] {
        store.put(&key(written), b"{}").await.unwrap();
    }
    let gone = async || intent::looks_gone(&store, &name("web1"), &name("slug"), &name("dev")).await;
    gone().await.unwrap();
    place.write("instance/dev/slug", b"{}");
    assert!(error(gone().await).contains("instance/dev/slug"));
}

#[tokio::test]
async fn who_waits_for_intent_is_not_woken_by_instances_and_agents() {
    let place = Place::directory();
    let store = place.store();
    let (_, seen) = store.read(&[prefix("nodes/web1/"), prefix("clusters/slug/dev/")]).await.unwrap();
    let mut wait = pin!(store.wait(&seen));
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
    let _app = App::passing(&place, "web1").await;
    assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
}
