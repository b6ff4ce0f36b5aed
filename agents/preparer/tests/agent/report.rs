//! What the agent says in the store of what it prepares.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use fixtures::{Agent, Behaviour, Host, SOON, eventually, free_port};
use serde_json::{Value, json};

use crate::support::{converge, intend, preparer};

/// Its report of an app, once it is so.
fn report(host: &Host, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let read = || fs::read(host.path("store/reality/web1/pp-preparer.json")).ok();
    let app = || Some(serde_json::from_slice::<Value>(&read()?).unwrap()["apps"]["slug"].clone());
    eventually(&format!("the report says that {what}"), SOON, || app().filter(&is))
}

fn watch(host: &Host) -> Agent {
    host.watch(host.preparer())
}

#[test]
fn what_is_not_there_and_why_is_in_the_store_until_it_is() {
    let host = Host::without_runit();
    host.repo.slug("1", Behaviour::Good);
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    assert!(!crate::support::once(&host).ok);
    assert!(!host.path("store/reality").exists(), "whoever runs a single pass sees what it says");
    // Whoever is killed at it, the next says it.
    let died = host.preparer().env("PLATYPUS_DIE_AT", "write report:1").output().unwrap();
    assert_eq!(died.status.signal(), Some(9));
    assert!(!host.path("store/reality").exists());
    let agent = watch(&host);
    let failing = report(&host, "2 is missing", |app| app["state"] == "failing");
    assert_eq!((&failing["wanted"], &failing["there"]), (&json!(["1", "2"]), &json!(["1"])));
    assert!(failing["reason"].as_str().unwrap().contains("slug_2.tar.gz"), "{failing}");

    host.repo.slug("2", Behaviour::Good);
    let converged = report(&host, "all is there", |app| app["state"] == "converged");
    assert_eq!((&converged["there"], &converged["reason"]), (&json!(["1", "2"]), &Value::Null));
    intend(&host, "slug", &json!({"2": "active", "3": "none of the two"}));
    let held = report(&host, "it is held", |app| app["state"] == "held");
    assert!(held["reason"].as_str().unwrap().contains("clusters/slug/dev/config"), "{held}");
    host.delete("nodes/web1/slug");
    report(&host, "it is not meant for this node", Value::is_null);
    agent.stop();
}

#[test]
fn what_opens_a_repository_is_in_no_report() {
    let host = Host::without_runit();
    intend(&host, "slug", &json!({"1": "active"}));
    let repo = format!("http://somebody:hunter2@127.0.0.1:{}/", free_port());
    let agent = host.watch(preparer(&host, &repo));
    let failing = report(&host, "nobody answers", |app| app["state"] == "failing");
    agent.kill();
    assert!(failing["reason"].as_str().unwrap().contains("127.0.0.1"), "{failing}");
    assert!(!failing.to_string().contains("hunter2") && !failing.to_string().contains("somebody"), "{failing}");
    // A single pass leaves the report as it is.
    host.repo.slug("1", Behaviour::Good);
    converge(&host);
    assert_eq!(report(&host, "it is as it was", |_| true), failing);
}
