//! What the store is told of what runs here, also where intent, nodes, clusters or operators change on the way.

use std::fs;
use std::process::Command;

use fixtures::{Behaviour, Host, SOON, Slug, bin, eventually, pass, script};
use serde_json::{Value, json};

fn live() -> Host {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::Good));
    host
}

fn document(host: &Host, key: &str) -> Option<Value> {
    let text = fs::read_to_string(host.path("store").join(format!("{key}.json"))).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// A check that an operator of the host can have pass or fail.
fn check_script(host: &Host, version: &str, says: &str) {
    let check = host.path(&format!("srv/slug/installs/slug_{version}/bin/check"));
    script(&check, says);
}

fn instance(host: &Host) -> Value {
    document(host, &format!("instances/slug/dev/{}", host.node)).expect("it is registered")
}

fn down(host: &Host, cluster: &str) -> Value {
    document(host, &format!("locks/slug/{cluster}/shutdown")).expect("leave was asked for")["down"].clone()
}

#[test]
fn a_new_port_and_a_new_check_are_registered_although_nothing_restarts_for_them() {
    let host = live();
    let (pid, before) = (host.pid(), instance(&host));
    assert_eq!(before["port"], host.port);
    host.deploy_config(json!({"ports": [{"port": 53, "protocol": "udp"}, 99]}));
    host.converge();
    assert_eq!((&instance(&host)["port"], &instance(&host)["check"]), (&json!(99), &before["check"]));
    host.activate("1", json!({"health": {"tcp": {"port": host.port}}}));
    host.converge();
    // The new check is noted by one pass, and registered by the same or by the next.
    host.converge();
    assert_ne!(instance(&host)["check"], before["check"]);
    assert_eq!((&instance(&host)["passes"], host.pid()), (&json!(true), pid));
}

#[test]
fn a_new_check_that_does_not_pass_takes_nothing_out_of_service() {
    let host = live();
    let (pid, before) = (host.pid(), instance(&host));
    host.activate("1", json!({"health": {"tcp": {"port": 1}}}));
    for _ in 0..2 {
        let pass = host.once();
        let says = "clusters/slug/dev/config: its health does not pass here";
        assert!(!pass.ok && pass.log.contains(says), "{}", pass.log);
        assert_eq!((instance(&host), host.pid()), (before.clone(), pid));
    }
    let plan = pass(host.setlive().arg("--plan"));
    assert!(plan.out.contains("its health does not pass here"), "{}", plan.out);
    host.activate("1", json!({"health": {"tcp": {"port": host.port}}}));
    host.converge();
    host.converge();
    assert_eq!((&instance(&host)["passes"], host.pid()), (&json!(true), pid));
    assert_ne!(instance(&host)["check"], before["check"]);
}

#[test]
fn where_nothing_passes_any_more_a_version_that_does_is_not_barred_by_the_minimum() {
    let host = live();
    let config = json!({"min_nodes": 1, "health": {"script": "bin/check"}});
    check_script(&host, "1", "");
    check_script(&host, "2", "");
    host.activate("1", config.clone());
    host.converge();
    host.converge();
    host.activate("2", config);
    let pass = host.once();
    assert!(pass.log.contains("waiting: 1 of 1 healthy, min 1"), "{}", pass.log);
    host.serves("1");
    // As will be said of it within a minute.
    check_script(&host, "1", "exit 1");
    let mut ours = instance(&host);
    ours["passes"] = json!(false);
    host.put("instances/slug/dev/web1", &ours);
    host.converge();
    host.serves("2");
    assert_eq!((&instance(&host)["passes"], down(&host, "dev")), (&json!(true), json!({})));
}

#[test]
fn where_intent_becomes_unknown_on_the_way_the_registered_port_stays() {
    let host = live();
    host.install(&Slug::new("3", Behaviour::SlowStart(1000)));
    host.deploy_config(json!({"ports": [99]}));
    host.converge();
    host.activate("3", json!({}));
    let agent = host.watch(host.setlive());
    agent.says("Starting 3");
    host.put_text("clusters/slug/dev/deploy_config", "{");
    agent.says("held as it is");
    agent.says("3 is live");
    eventually("it is registered", SOON, || (instance(&host)["version"] == "3").then_some(()));
    assert_eq!(instance(&host)["port"], 99);
}

#[test]
fn what_intent_does_not_name_is_reported_on_as_long_as_it_runs() {
    let host = live();
    host.activate("1", json!({"health": {"script": "bin/check"}}));
    check_script(&host, "1", "");
    host.converge();
    host.converge();
    assert_eq!(instance(&host)["passes"], true);
    // A store that lost its keys: nobody confirms that the app is gone.
    host.delete("nodes/web1/slug");
    host.delete("clusters/slug/dev/config");
    check_script(&host, "1", "exit 1");
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("held as it is"), "{}", pass.log);
    assert_eq!(instance(&host)["passes"], false);
    check_script(&host, "1", "");
    host.once();
    assert_eq!(instance(&host)["passes"], true);
}

#[test]
fn an_app_that_is_taken_over_from_another_node_name_counts_once_and_is_down_under_none() {
    let mut host = live();
    // Killed with leave to go down.
    let mut record = host.record();
    record["asked"] = json!(["dev"]);
    fs::write(host.path("stage/.platypus/slug.json"), record.to_string()).unwrap();
    let entry = json!({"to": "9f2c", "since": "2026-11-22T03:14:08Z", "why": "", "host": "web1"});
    host.put("locks/slug/dev/shutdown", &json!({"rev": 1, "down": {"web1": entry}, "failed": {}}));
    let pid = host.pid();
    host.node = "web2";
    host.put("nodes/web2/slug", &json!({"cluster": "dev"}));
    let adopted = pass(host.setlive().args(["--once", "--adopt"]));
    assert!(adopted.ok, "{}", adopted.log);
    assert_eq!((document(&host, "instances/slug/dev/web1"), down(&host, "dev")), (None, json!({})));
    assert_eq!((&instance(&host)["passes"], host.pid()), (&json!(true), pid));
}

#[test]
fn what_failed_in_another_cluster_is_held_and_tried_again_by_that_clusters_leases() {
    let host = live();
    host.install(&Slug::new("3", Behaviour::NeverHealthy));
    host.put("clusters/slug/live/deploy_config", &json!({"basedir": host.path("srv/slug")}));
    let mut config = document(&host, "clusters/slug/dev/config").unwrap();
    config["versions"] = json!({"3": "active"});
    host.put("clusters/slug/live/config", &config);
    host.put("nodes/web1/slug", &json!({"cluster": "live"}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("is active in clusters/slug/live/config"), "{}", pass.log);
    host.serves("1");
    let failed = |cluster: &str| document(&host, &format!("locks/slug/{cluster}/shutdown")).unwrap()["failed"].clone();
    assert_eq!((failed("dev"), failed("live").as_object().unwrap().len()), (json!({}), 1));
    assert_eq!((down(&host, "dev"), down(&host, "live")), (json!({}), json!({})));

    let store = host.store_url();
    let retry = Command::new(bin("pp-store")).args(["--store", &store, "retry", "slug", "live"]).output().unwrap();
    assert!(retry.status.success());
    let pass = host.once();
    assert!(pass.log.contains("Starting 3"), "{}", pass.log);
}

#[test]
fn nobody_waits_for_the_end_of_an_operators_maintenance() {
    let host = live();
    let mut ours = instance(&host);
    ours["maintenance"] = json!("a new disk");
    host.put("instances/slug/dev/web1", &ours);
    host.activate("2", json!({}));
    let pass = host.converge();
    assert_eq!(pass.log.matches("waiting").count(), 0, "{}", pass.log);
    host.serves("2");
    let ours = instance(&host);
    assert_eq!(
        (&ours["maintenance"], &ours["version"], down(&host, "dev")),
        (&json!("a new disk"), &json!("2"), json!({}))
    );
}

#[test]
fn a_node_that_consul_knows_by_two_hosts_counts_once() {
    let host = Host::on_consul();
    for version in ["1", "2"] {
        host.install(&Slug::new(version, Behaviour::Good));
    }
    host.deploy_config(json!({}));
    host.activate("1", json!({"min_nodes": 2}));
    host.converge();
    let consul = host.consul.as_ref().unwrap();
    let meta = json!({"platypus": "1", "node": "web2", "cluster": "dev", "version": "1", "digest": "d1"});
    for name in ["old", "new"] {
        let service = json!({"ID": "web2:slug", "Service": "slug", "Tags": ["dev"], "Meta": meta, "Port": 80});
        let check = json!({"Node": name, "CheckID": "web2:slug:abc", "Status": "passing", "ServiceID": "web2:slug"});
        let other = json!({"Node": name, "Address": "192.0.2.1", "Service": service, "Checks": [check]});
        assert_eq!(consul.http("PUT", "/v1/catalog/register", other.to_string().as_bytes()).0, 200);
    }
    host.activate("2", json!({"min_nodes": 2}));
    let pass = host.converge();
    assert!(pass.log.contains("waiting: 3 of 3 healthy, min 2"), "{}", pass.log);
    host.serves("1");
}
