//! The agents together on one host, as operators use them: keys in a store, a repository, a runsvdir.

use std::fs;
use std::process::{Command, Stdio};

use fixtures::{Behaviour, Host, Pass, SOON, bin, differences, eventually, pass};
use serde_json::json;

fn hosts() -> [Host; 2] {
    [Host::new(), Host::on_consul()]
}

/// One pass of each agent, in an order that depends on `round`.
fn round(host: &Host, round: usize) -> [Pass; 3] {
    let mut iptables = host.iptables();
    iptables.arg("--rules").arg(host.path("rules"));
    let mut agents = [host.preparer(), iptables, host.setlive()];
    if round.is_multiple_of(2) {
        agents.reverse();
    }
    agents.map(|mut agent| pass(agent.arg("--once")))
}

#[test]
fn keys_written_by_hand_converge_in_three_rounds_in_any_order_and_a_further_round_changes_nothing() {
    let host = Host::on_consul();
    let consul = host.consul.as_ref().unwrap();
    host.repo.slug("0.1", Behaviour::Good);
    host.repo.slug("0.2", Behaviour::Good);
    let put = |key: &str, document: String| {
        let (status, _) = consul.http("PUT", &format!("/v1/kv/{key}"), document.as_bytes());
        assert_eq!(status, 200);
    };
    put("nodes/web1/slug", r#"{"cluster": "development"}"#.to_owned());
    put(
        "clusters/slug/development/deploy_config",
        json!({"basedir": host.path("srv/slug"), "ports": [1212]}).to_string(),
    );
    for (round_of, version) in ["0.1", "0.2"].into_iter().enumerate() {
        let other = if version == "0.1" { "0.2" } else { "0.1" };
        let user_config = json!({"port": host.port, "greeting": version});
        let config =
            json!({"versions": {version: "active", other: "prep"}, "min_nodes": 0, "user_config": user_config});
        put("clusters/slug/development/config", config.to_string());
        for n in 0..3 {
            for pass in round(&host, n + round_of) {
                assert!(pass.ok, "{}", pass.log);
            }
        }
        let health = host.serves(version);
        assert_eq!(health["user_config"]["greeting"], version);
        assert!(fs::read_to_string(host.path("rules")).unwrap().contains("--dport 1212"));

        let (before, index) = (host.everything(), consul.index(""));
        for pass in round(&host, 0) {
            assert_eq!((pass.ok, pass.log.as_str()), (true, ""));
        }
        assert_eq!(differences(&before, &host.everything()), Vec::<String>::new());
        assert_eq!((consul.index(""), host.pid()), (index, health["pid"].as_i64().unwrap()));
    }
}

#[test]
fn agents_that_watch_follow_every_change_of_intent_on_both_stores() {
    for host in hosts() {
        for version in ["1", "2", "3"] {
            host.repo.slug(version, Behaviour::Good);
        }
        let agents = [host.watch(host.setlive()), host.watch(host.preparer())];
        host.deploy_config(json!({}));
        for version in ["1", "2", "3"] {
            host.activate(version, json!({}));
            host.serves(version);
        }
        host.delete("nodes/web1/slug");
        eventually("it is gone", SOON, || (host.health().is_none() && !host.path("stage/slug").exists()).then_some(()));
        for agent in agents {
            agent.stop();
        }
    }
}

#[test]
fn a_token_without_rights_a_dead_store_and_a_blank_one_stop_nothing() {
    let host = Host::on_consul();
    let consul = host.consul.as_ref().unwrap();
    host.repo.slug("1", Behaviour::Good);
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let mut setlive = host.setlive();
    setlive.args(["--interval", "0.2"]);
    let agents = [host.watch(setlive), host.watch(host.preparer())];
    let pid = host.serves("1")["pid"].as_i64().unwrap();
    agents[0].says("slug: 1 is live");
    let untouched = |when: &str| assert_eq!(host.pid(), pid, "{when}: {}", agents[0].log());

    consul.kill();
    agents[0].says("everything stays as it is");
    agents[1].says("everything stays as it is");
    untouched("a dead store");
    // It comes back empty, and its index goes backwards.
    consul.restart();
    agents[0].says("held as it is");
    agents[0].says("lost its keys");
    untouched("a blank store");
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    agents[0].says("slug: converged");
    untouched("the same intent again");
    assert_eq!(agents[0].log().matches("held as it is: nodes/web1/slug is absent").count(), 1, "{}", agents[0].log());

    host.repo.slug("2", Behaviour::Good);
    host.activate("2", json!({}));
    host.serves("2");
    for agent in agents {
        agent.stop();
    }
}

#[test]
fn a_token_that_lost_its_rights_sees_an_empty_store_and_stops_nothing() {
    let config = r#"{"primary_datacenter": "dc1", "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}}"#;
    let mut host = Host::new();
    let consul = fixtures::Consul::start_with(&host.scratch, config);
    host.install(&fixtures::Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    host.converge();
    let pid = host.pid();
    for key in ["nodes/web1/slug", "clusters/slug/dev/config", "clusters/slug/dev/deploy_config"] {
        let document = fs::read(host.path("store").join(format!("{key}.json"))).unwrap();
        assert_eq!(consul.http_as("root", "PUT", &format!("/v1/kv/{key}"), &document).0, 200);
    }
    host.consul = Some(consul);
    let with_token = pass(host.setlive().arg("--once").env("CONSUL_HTTP_TOKEN", "root"));
    assert!(with_token.ok, "{}", with_token.log);
    let without = host.once();
    assert!(!without.ok && without.log.contains("slug: held as it is"), "{}", without.log);
    assert!(without.log.contains("403"), "{}", without.log);
    assert_eq!(host.pid(), pid);
}

/// A copy of `test_data`, as a fresh checkout has it, with its app below the scratch directory.
#[test]
fn with_no_flags_each_agent_runs_from_a_checkout() {
    let host = Host::without_runit();
    let checkout = host.path("checkout");
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for name in ["intent", "slug", "bin"] {
        let (from, to) = (format!("{ours}{name}"), checkout.join("test_data").join(name));
        fs::create_dir_all(&to).unwrap();
        let copied = Command::new("cp").arg("-r").arg(format!("{from}/.")).arg(&to).status().unwrap();
        assert!(copied.success());
    }
    let deploy_config = checkout.join("test_data/intent/clusters/slug/development/deploy_config.json");
    fs::write(deploy_config, json!({"basedir": host.path("srv/slug")}).to_string()).unwrap();
    let repo = fixtures::Repo::new(checkout.join("test_data/repo"));
    for version in ["0.1", "0.2"] {
        repo.slug(version, Behaviour::Good);
    }
    for name in ["pp-preparer", "pp-setlive", "pp-iptables", "pt-direct"] {
        let output = Command::new(bin(name))
            .arg("--once")
            .env_remove("CONSUL_HTTP_ADDR")
            .current_dir(&checkout)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(host.path("srv/slug/installs/slug_0.2/bin/launch").exists());
    assert!(checkout.join("test_data/runit/service/slug/run").exists(), "only a runsvdir is missing");
    assert!(checkout.join("test_data/iptables/rules").exists());
}
