//! A host without a store, and how it passes to one.

use std::fs;

use fixtures::{Behaviour, Host, SOON, differences, eventually, http_get, pass};
use serde_json::{Value, json};

/// A host with versions 1 and 2 of `slug` in its repository, and nothing prepared.
fn host() -> Host {
    let host = Host::new();
    for version in ["1", "2"] {
        host.repo.slug(version, Behaviour::Good);
    }
    host
}

/// Moves what the host's store says into the file: then nobody has written anything into the store.
fn move_into_file(host: &Host) {
    let mut documents = json!({});
    for key in ["nodes/web1/slug", "clusters/slug/dev/config", "clusters/slug/dev/deploy_config"] {
        let path = host.path("store").join(format!("{key}.json"));
        if path.exists() {
            documents[key] = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            fs::remove_file(path).unwrap();
        }
    }
    write_file(host, &documents.to_string());
}

fn write_file(host: &Host, text: &str) {
    fs::write(host.path("next"), text).unwrap();
    fs::rename(host.path("next"), host.path("intent.json")).unwrap();
}

fn file(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.path("intent.json")).unwrap()).unwrap()
}

/// With version 1 live, by `pt-direct` alone.
fn live() -> Host {
    let host = host();
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    move_into_file(&host);
    let once = pass(host.direct().arg("--once"));
    assert!(once.ok, "{}", once.log);
    host.serves("1");
    host
}

#[test]
fn one_pass_over_one_file_brings_an_app_up_and_a_second_changes_nothing() {
    let host = live();
    assert_eq!(host.record()["source"], "direct");
    let (before, pid) = (host.everything(), host.pid());
    let again = pass(host.direct().arg("--once"));
    assert_eq!((again.ok, again.log.as_str()), (true, ""));
    assert_eq!(differences(&before, &host.everything()), Vec::<String>::new());
    assert_eq!(host.pid(), pid);
}

#[test]
fn what_an_app_listens_on_is_opened_unless_the_packet_filter_is_to_be_left_alone() {
    let host = Host::without_runit();
    let documents = json!({
        "nodes/web1/slug": {"cluster": "dev"},
        "clusters/slug/dev/config": {"versions": {}},
        "clusters/slug/dev/deploy_config": {"basedir": host.path("srv/slug"), "ports": [80]},
    });
    write_file(&host, &documents.to_string());
    let rules = host.path("test_data/iptables/rules");
    let without = pass(host.direct().args(["--once", "--no-iptables"]));
    assert!(without.ok && !rules.exists(), "{}", without.log);
    let planned = pass(host.direct().arg("--plan"));
    let is_planned = planned.status == Some(2) && planned.out.contains("slug: Opening 80/tcp");
    assert!(is_planned && !rules.exists(), "{}", planned.out);
    let with = pass(host.direct().arg("--once"));
    assert!(with.ok && with.log.contains("slug: Opening 80/tcp"), "{}", with.log);
    let text = fs::read_to_string(rules).unwrap();
    assert!(text.contains("--dport 80") && text.contains("slug/dev (direct)"), "{text}");
    let nothing = pass(host.direct().arg("--plan"));
    assert_eq!((nothing.status, nothing.out.as_str()), (Some(0), ""));
}

#[test]
fn a_directory_of_documents_is_as_good_as_a_file() {
    let host = host();
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    fs::rename(host.path("store"), host.path("intent.json")).unwrap();
    let once = pass(host.direct().arg("--once"));
    assert!(once.ok, "{}", once.log);
    host.serves("1");
}

#[test]
fn without_once_it_follows_the_file_and_a_torn_empty_or_misspelt_one_stops_nothing() {
    let host = live();
    let mut direct = host.direct();
    direct.args(["--interval", "0.2"]);
    let agent = host.watch(direct);
    let mut documents = file(&host);
    documents["clusters/slug/dev/config"]["versions"] = json!({"2": "active"});
    write_file(&host, &documents.to_string());
    let pid = host.serves("2")["pid"].clone();
    agent.says("slug: 2 is live");
    write_file(&host, &documents.to_string()[..40]);
    agent.says("everything stays as it is");
    write_file(&host, "{}");
    agent.says("lost its keys");
    let node = documents.as_object_mut().unwrap().remove("nodes/web1/slug").unwrap();
    let mut misspelt = documents.clone();
    misspelt["node/web1/slug"] = node;
    write_file(&host, &misspelt.to_string());
    agent.says("node/web1/slug is there, which is no key of intent");
    assert_eq!(host.health().unwrap()["pid"], pid);

    write_file(&host, &documents.to_string());
    eventually("it is gone", SOON, || {
        (http_get(host.port, "/").is_none() && !host.path("stage/slug").exists()).then_some(())
    });
    agent.stop();
}

#[test]
fn the_store_leaves_alone_what_it_does_not_name_and_takes_over_what_it_says_the_same_of() {
    let host = live();
    let (pid, documents) = (host.pid(), file(&host));
    let nothing = host.once();
    assert!(nothing.ok && !nothing.log.contains("slug"), "{}", nothing.log);

    // The store names the app, and wants something else.
    host.deploy_config(json!({}));
    host.activate("2", json!({}));
    let refused = host.once();
    assert!(!refused.ok && refused.log.contains("pt-direct runs this app here"), "{}", refused.log);
    host.put("clusters/slug/dev/config", &json!({"versions": {}}));
    assert!(!host.once().ok, "nor does no active version stop it");
    assert_eq!(host.pid(), pid);

    host.activate("1", json!({}));
    let taken = host.converge();
    assert!(taken.log.contains("slug: Taking it over as it runs"), "{}", taken.log);
    assert_eq!((host.pid(), host.record()["source"].as_str()), (pid, Some("store")));

    // From now on the file says nothing here: neither the same, nor something else, nor that it is gone.
    let before = host.everything();
    let again = pass(host.direct().arg("--once"));
    assert_eq!((again.ok, again.log.as_str()), (true, ""));
    assert_eq!(differences(&before, &host.everything()), Vec::<String>::new());
    let mut other = documents.clone();
    other["clusters/slug/dev/config"]["versions"] = json!({"2": "active"});
    write_file(&host, &other.to_string());
    let refused = pass(host.direct().arg("--once"));
    assert!(!refused.ok && refused.log.contains("the intent in a store runs this app"), "{}", refused.log);
    other.as_object_mut().unwrap().remove("nodes/web1/slug");
    write_file(&host, &other.to_string());
    assert!(pass(host.direct().arg("--once")).ok);
    assert_eq!(host.pid(), pid);
}

#[test]
fn adopting_takes_over_what_is_to_be_something_else_in_either_direction() {
    let host = live();
    host.deploy_config(json!({}));
    host.activate("2", json!({}));
    assert!(pass(host.preparer().arg("--once")).ok);
    let adopted = pass(host.setlive().args(["--once", "--adopt"]));
    assert!(adopted.ok, "{}", adopted.log);
    host.serves("2");
    assert_eq!(host.record()["source"], "store");
    host.converge();

    let adopted = pass(host.direct().args(["--once", "--adopt"]));
    assert!(adopted.ok, "{}", adopted.log);
    host.serves("1");
    assert_eq!(host.record()["source"], "direct");
}

#[test]
fn intent_that_is_not_there_is_an_error_that_says_what_to_give() {
    let host = Host::without_runit();
    let once = pass(host.direct().arg("--once"));
    assert!(!once.ok && once.log.contains("intent.json: give a directory"), "{}", once.log);
}
