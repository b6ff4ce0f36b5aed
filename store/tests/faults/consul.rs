//! A Consul, or a network before it, that fails.

use std::pin::pin;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fixtures::{Fault, Proxy, eventually};
use store::{Expected, Store, intent};

use crate::place::{Place, QUIET, SOON, error, follow, get, key, listing, prefix, put, says, soon, text};

/// An agent in a process, nearly, of its own, that ends when it has read what it shall.
struct Agent {
    thread: JoinHandle<()>,
}

impl Agent {
    /// Starts one behind `proxy`, and returns when it waits for a change.
    fn waiting(proxy: &Proxy, prefixes: &'static [&'static str], key: &'static str, expected: &'static str) -> Self {
        let store = impatient(proxy);
        let thread = std::thread::spawn(move || {
            block_on(follow(&store, prefixes, |documents| says(documents, key, expected)));
        });
        eventually("the agent waits", SOON, || {
            let waits = |line: &String| line.contains("&wait=") && !line.contains("index=0&");
            proxy.request_lines().iter().any(waits).then_some(())
        });
        Self { thread }
    }

    fn ends(self) {
        eventually("the agent reads what it shall", SOON, || self.thread.is_finished().then_some(()));
        self.thread.join().unwrap();
    }
}

/// A store whose waits notice a dead connection soon enough for a test.
fn impatient(proxy: &Proxy) -> Store {
    match Store::open(Some(&proxy.url())).unwrap() {
        Store::Consul(consul) => Store::Consul(consul.waiting(Duration::from_secs(1))),
        Store::Directory(_) => unreachable!("a proxy's URL is a Consul's"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn with_proxy() -> (Place, Proxy) {
    let place = Place::consul();
    let proxy = Proxy::start(place.consul.as_ref().unwrap().addr());
    (place, proxy)
}

#[test]
fn a_server_that_comes_back_empty_and_with_lower_indexes_makes_nobody_deaf() {
    let (place, proxy) = with_proxy();
    let consul = place.consul.as_ref().unwrap();
    (0..100).for_each(|n| consul.put("nodes/web1/slug", &n.to_string()));
    let index = consul.index("nodes/web1/");
    let agent = Agent::waiting(&proxy, &["nodes/web1/"], "nodes/web1/slug", "new");
    consul.restart();
    consul.put("nodes/web1/slug", "newer than nothing");
    consul.put("nodes/web1/slug", "new");
    assert!(consul.index("nodes/web1/") < index);
    agent.ends();
}

#[test]
fn a_server_that_was_replaced_while_nobody_waited_is_watched_from_its_own_beginning() {
    let place = Place::consul();
    let (consul, store) = (place.consul.as_ref().unwrap(), place.store());
    let read = async || store.read(&[prefix("nodes/web1/")]).await.unwrap().1;
    (0..100).for_each(|n| consul.put("nodes/web1/slug", &n.to_string()));
    block_on(async {
        let seen = read().await;
        let mut wait = pin!(store.wait(&seen));
        assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
        consul.put("nodes/web1/slug", "kept");
        wait.await.unwrap();
        consul.restart();
        consul.put("nodes/web1/slug", "kept");
        // The first try may meet a connection to the old server.
        soon(follow(&store, &["nodes/web1/"], |documents| says(documents, "nodes/web1/slug", "kept"))).await;
        let seen = read().await;
        let mut wait = pin!(store.wait(&seen));
        assert!(tokio::time::timeout(QUIET, &mut wait).await.is_err());
        consul.put("nodes/web1/slug", "new");
        soon(wait).await.unwrap();
    });
}

/// More than are watched by a query each.
const MANY: &[&str] = &[
    "clusters/a/dev/",
    "clusters/b/dev/",
    "clusters/c/dev/",
    "clusters/d/dev/",
    "clusters/e/dev/",
    "clusters/f/dev/",
    "clusters/g/dev/",
    "clusters/h/dev/",
    "clusters/i/dev/",
    "clusters/j/dev/",
    "clusters/k/dev/",
    "clusters/l/dev/",
    "clusters/m/dev/",
    "clusters/n/dev/",
    "clusters/o/dev/",
    "clusters/p/dev/",
    "clusters/q/dev/",
];

#[test]
fn a_restored_snapshot_is_noticed_although_no_connection_breaks() {
    for (prefixes, key) in
        [(&["nodes/web1/", "clusters/slug/dev/"][..], "nodes/web1/slug"), (MANY, "clusters/a/dev/config")]
    {
        let (place, proxy) = with_proxy();
        let consul = place.consul.as_ref().unwrap();
        let snapshot = place.scratch.path().join("snapshot");
        let snapshot = |action: &str| {
            let command = Command::new("consul")
                .args(["snapshot", action, &format!("-http-addr={}", consul.addr())])
                .arg(&snapshot)
                .output()
                .unwrap();
            assert!(command.status.success(), "{command:?}");
        };
        consul.put(key, "old");
        snapshot("save");
        (0..100).for_each(|n| consul.put(key, &n.to_string()));
        let agent = Agent::waiting(&proxy, prefixes, key, "old");
        snapshot("restore");
        agent.ends();
    }
}

#[test]
fn whatever_befalls_the_network_while_it_waits_an_agent_sees_the_next_change() {
    for fault in [Fault::Refuse, Fault::Reset, Fault::Hang, Fault::Status(500), Fault::Status(404)] {
        let (place, proxy) = with_proxy();
        let consul = place.consul.as_ref().unwrap();
        let agent = Agent::waiting(&proxy, &["nodes/web1/", "clusters/a/b/"], "clusters/a/b/config", "{}");
        let before = proxy.requests();
        proxy.set(fault);
        consul.put("clusters/a/b/config", "{}");
        if matches!(fault, Fault::Status(_)) {
            eventually("the agent tries again", SOON, || (proxy.requests() > before + 2).then_some(()));
        }
        assert!(!agent.thread.is_finished(), "{fault:?}");
        proxy.set(Fault::None);
        agent.ends();
    }
}

#[test]
fn a_failing_store_is_an_error_that_says_how_and_the_next_call_works() {
    let (place, proxy) = with_proxy();
    let store = impatient(&proxy);
    let address = proxy.addr();
    block_on(async {
        put(&store, "nodes/web1/slug", "{}").await;
        let (_, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
        for (fault, why) in [
            (Fault::Refuse, "the connection failed"),
            (Fault::Reset, "the connection failed: Connection reset by peer"),
            (Fault::Status(500), "500: the proxy says 500"),
            (Fault::Status(404), "404: the proxy says 404; this is not Consul's HTTP API"),
        ] {
            proxy.set(fault);
            let name = key("nodes/web1/slug");
            let two = [prefix("nodes/web1/"), prefix("nodes/web2/")];
            for (what, error) in [
                ("GET nodes/web1/slug", error(store.get(&name).await)),
                ("PUT nodes/web1/slug", error(store.put(&name, b"[]").await)),
                ("PUT nodes/web1/slug", error(store.compare_and_set(&name, b"[]", &Expected::Absent).await)),
                ("DELETE nodes/web1/slug", error(store.delete(&name).await)),
                ("GET nodes/web1/", error(store.read(&two[..1]).await)),
                ("PUT nodes/web1/ … nodes/web2/ (a transaction of 2 reads)", error(store.read(&two).await)),
                ("GET nodes/web1/", error(store.wait(&seen).await)),
            ] {
                let says = format!("{what} at http://{address}: {why}");
                assert!(error.starts_with(&says), "{fault:?}: {error}\nis not {says}");
                assert!(!error.contains('\n'), "{error}");
            }
            proxy.set(Fault::None);
            assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "{}");
            assert!(tokio::time::timeout(QUIET, store.wait(&seen)).await.is_err());
        }
        drop(place);
        let gone = error(store.get(&key("nodes/web1/slug")).await);
        assert!(gone.contains("the connection failed"), "{gone}");
        let nobody = Store::open(Some(&format!("consul://127.0.0.1:{}", fixtures::free_port()))).unwrap();
        let gone = error(nobody.get(&key("nodes/web1/slug")).await);
        assert!(gone.ends_with("cannot connect: Connection refused (os error 111)"), "{gone}");
    });
}

#[test]
fn a_fault_that_came_and_went_while_nobody_waited_is_no_news() {
    let (_place, proxy) = with_proxy();
    let store = Store::open(Some(&proxy.url())).unwrap();
    let prefixes = (0..10).map(|n| prefix(&format!("clusters/app{n}/dev/"))).collect::<Vec<_>>();
    block_on(async {
        let (_, seen) = store.read(&prefixes).await.unwrap();
        // Given up, but its queries go on, and meet the fault.
        assert!(tokio::time::timeout(QUIET, store.wait(&seen)).await.is_err());
        proxy.set(Fault::Reset);
        assert!(tokio::time::timeout(QUIET, std::future::pending::<()>()).await.is_err());
        proxy.set(Fault::None);
        let again = tokio::time::timeout(QUIET, store.wait(&seen)).await;
        assert!(again.is_err(), "it did not wait: {again:?}");
    });
}

#[test]
fn a_server_that_stands_still_is_an_error_in_ten_seconds_and_serves_again_when_it_goes_on() {
    let (place, proxy) = with_proxy();
    let (consul, store) = (place.consul.as_ref().unwrap(), impatient(&proxy));
    let agent = Agent::waiting(&proxy, &["nodes/web1/"], "nodes/web1/slug", "{}");
    block_on(async {
        consul.pause();
        let began = Instant::now();
        let hung = error(store.get(&key("nodes/web1/slug")).await);
        assert!(hung.contains("no answer within 10s"), "{hung}");
        assert!((9..15).contains(&began.elapsed().as_secs()));
        consul.resume();
        put(&store, "nodes/web1/slug", "{}").await;
    });
    agent.ends();
}

#[test]
fn to_a_token_without_rights_nothing_is_said_to_be_absent() {
    let place = Place::consul_with_access_control();
    let consul = place.consul.as_ref().unwrap();
    consul.put("nodes/web1/slug", r#"{"cluster": "dev"}"#);
    consul.put("clusters/slug/dev/config", r#"{"versions": {}}"#);
    let proxy = Proxy::start(consul.addr());
    let store = impatient(&proxy);
    block_on(async {
        // This is how it looks: empty.
        assert_eq!(listing(&store, &["nodes/web1/"]).await, []);
        assert_eq!(listing(&store, &["nodes/web1/", "clusters/slug/dev/"]).await, []);
        // And this is how it is.
        for name in ["nodes/web1/slug", "clusters/slug/dev/config", "no/such/key"] {
            let denied = error(store.get(&key(name)).await);
            assert!(denied.contains("403: Permission denied"), "{denied}");
            assert!(denied.contains(&format!(r#"needs key "{name}" {{ policy = "read" }}"#)), "{denied}");
            assert!(error(store.put(&key(name), b"{}").await).contains(r#"policy = "write""#));
            assert!(error(store.delete(&key(name)).await).contains("403"));
        }
        let (node, app, cluster) = ("web1".parse().unwrap(), "slug".parse().unwrap(), "dev".parse().unwrap());
        let gone = intent::looks_gone(&store, &node, &app, &cluster).await;
        assert!(error(gone).contains("Permission denied"));
        // Nor does it make an agent busy.
        let (_, seen) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
        let before = proxy.requests();
        assert!(tokio::time::timeout(QUIET, store.wait(&seen)).await.is_err());
        assert!(proxy.requests() - before <= 2);
    });
}

#[test]
fn folders_and_null_values_are_what_they_are_in_consul() {
    let place = Place::consul();
    let consul = place.consul.as_ref().unwrap();
    for folder in ["nodes/", "nodes/web1/"] {
        consul.put(folder, "");
    }
    consul.put("nodes/web1/slug", "");
    let store = place.store();
    block_on(async {
        for prefixes in [&["nodes/web1/"][..], &["nodes/web1/", "clusters/"]] {
            assert_eq!(listing(&store, prefixes).await, [("nodes/web1/slug".to_owned(), String::new())]);
        }
        assert_eq!(get(&store, "nodes/web1/slug").await.unwrap().bytes, b"");
    });
}
