//! What agents may do by their policy, and what becomes of them with less.

use std::fs;
use std::process::Command;

use fixtures::{Agent, Behaviour, Host, Pass, SOON, eventually, pass};
use serde_json::{Value, json};

use crate::place::{consul, rules, token, writes};

/// One pass of each agent: pp-preparer, pp-setlive, pp-iptables.
fn round(host: &Host, token: &str) -> [Pass; 3] {
    let mut iptables = host.iptables();
    iptables.arg("--rules").arg(host.path("rules"));
    [host.preparer(), host.setlive(), iptables].map(|mut agent| pass(with(&mut agent, token).arg("--once")))
}

fn with<'a>(agent: &'a mut Command, token: &str) -> &'a mut Command {
    agent.env("CONSUL_HTTP_TOKEN", token)
}

/// A host on which version 1 of three runs, and a token of its agents.
fn host() -> (Host, String) {
    let host = Host::new().with_consul(consul);
    for version in ["1", "2", "3"] {
        host.repo.slug(version, Behaviour::Good);
    }
    host.deploy_config(json!({"ports": [1212]}));
    host.activate("1", json!({"versions": {"1": "active", "2": "prep"}}));
    let token = token(host.consul.as_ref().unwrap(), &[&rules("agent")]);
    for pass in round(&host, &token) {
        assert!(pass.ok, "{}", pass.log);
    }
    assert_eq!(host.serves("1")["version"], "1");
    (host, token)
}

fn lock(host: &Host) -> Value {
    serde_json::from_str(&host.consul.as_ref().unwrap().get("locks/slug/dev/shutdown").unwrap()).unwrap()
}

#[test]
fn agents_deploy_and_replace_with_their_policy_alone_and_cannot_write_intent() {
    let (host, token) = host();
    let consul = host.consul.as_ref().unwrap();
    assert!(fs::read_to_string(host.path("rules")).unwrap().contains("--dport 1212"));
    let before = lock(&host)["rev"].as_i64().unwrap();
    host.activate("2", json!({}));
    for pass in round(&host, &token) {
        assert!(pass.ok && !pass.log.contains("403: "), "{}", pass.log);
    }
    assert_eq!(host.serves("2")["version"], "2");
    let after = lock(&host);
    assert!(after["rev"].as_i64().unwrap() >= before + 2 && after["down"] == json!({}), "down and back: {after}");
    let (_, found) = consul.http("GET", "/v1/health/service/slug?passing", b"");
    let found = serde_json::from_str::<Value>(&found).unwrap();
    assert_eq!(found[0]["Service"]["Meta"]["version"], "2", "{found}");
    for pass in round(&host, &token) {
        assert_eq!((pass.ok, pass.log.as_str()), (true, ""));
    }

    for key in [
        "nodes/web1/slug",
        "nodes/web1/another",
        "clusters/slug/dev/config",
        "clusters/slug/dev/deploy_config",
        "clusters/platypus/main/config",
        "clusters/platypus/main/deploy_config",
        "history/slug/dev/00000001",
        "other/key",
    ] {
        assert!(!writes(consul, &token, key), "{key}");
    }
    for key in ["locks/other/dev/shutdown", "reality/web1/pp-setlive"] {
        assert!(writes(consul, &token, key), "{key}");
    }
    assert_eq!(consul.http_as(&token, "GET", "/v1/acl/tokens", b"").0, 403);
}

/// The agents' policy without one of its rules, or with another right in its place.
fn without(resource: &str, instead: Option<&str>) -> String {
    let rules = rules("agent");
    let (before, rest) = rules.split_once(&format!("\n{resource} {{\n")).expect("it has the rule");
    let (_, after) = rest.split_once("}\n").unwrap();
    let instead = instead.map(|policy| format!("\n{resource} {{ policy = \"{policy}\" }}\n")).unwrap_or_default();
    format!("{before}\n{instead}{after}")
}

#[test]
fn an_agent_that_lacks_a_right_holds_everything_and_names_the_right() {
    let (host, full) = host();
    let consul = host.consul.as_ref().unwrap();
    let everything = || (host.pid(), host.current(), fs::read_to_string(host.path("rules")).unwrap());
    let before = everything();
    host.activate("2", json!({"versions": {"2": "active", "3": "prep"}}));
    let every = [true; 3];
    let setlive = [false, true, false];
    // A rule of the policy, what is there in its place, which agents fail, and what they say.
    for (resource, instead, fail, says) in [
        (r#"key_prefix "nodes/""#, None, every, r#"key_prefix "nodes/web1/" { policy = "read" }"#),
        (
            r#"key_prefix "clusters/""#,
            None,
            every,
            r#"needs key "clusters/slug/dev/deploy_config" { policy = "read" }"#,
        ),
        (r#"key_prefix "locks/""#, None, setlive, r#"needs key "locks/slug/dev/shutdown" { policy = "read" }"#),
        (
            r#"key_prefix "locks/""#,
            Some("read"),
            setlive,
            r#"needs key "locks/slug/dev/shutdown" { policy = "write" }"#,
        ),
        (r#"service_prefix """#, None, setlive, r#"needs service "slug" { policy = "write" }"#),
        (r#"agent_prefix """#, None, setlive, r#"needs agent_prefix "" { policy = "read" }"#),
        (r#"node_prefix """#, None, setlive, r#"needs node_prefix "" { policy = "read" }"#),
        // Last, since by then it has leave to go down.
        (r#"service_prefix """#, Some("read"), setlive, r#"needs service "slug" { policy = "write" }"#),
    ] {
        let token = token(consul, &[&without(resource, instead)]);
        for (pass, fails) in round(&host, &token).into_iter().zip(fail) {
            assert_eq!(pass.ok, !fails, "{resource} {instead:?}: {}", pass.log);
            assert!(!fails || pass.log.contains(says), "{resource} {instead:?}: {}", pass.log);
            assert!(!pass.log.contains("no app is meant") && !pass.log.contains("Stopping"), "{}", pass.log);
        }
        assert_eq!(everything(), before, "{resource} {instead:?}");
    }
    for pass in round(&host, &full) {
        assert!(pass.ok, "{}", pass.log);
    }
    host.serves("2");
}

fn watching(host: &Host, token: &str) -> Agent {
    let mut setlive = host.setlive();
    with(&mut setlive, token);
    host.watch(setlive)
}

#[test]
fn an_agent_says_how_it_is_and_one_that_may_not_says_what_that_takes_once_and_converges_all_the_same() {
    let (host, full) = host();
    let consul = host.consul.as_ref().unwrap();
    let report = || consul.get("reality/web1/pp-setlive");
    let is_alive = || {
        let check = consul.http("GET", "/v1/health/checks/platypus-agent?passing", b"").1;
        serde_json::from_str::<Value>(&check).unwrap()[0]["ServiceID"] == "pp-setlive@web1"
    };
    let agent = watching(&host, &full);
    eventually("it says how it is", SOON, || (report().is_some() && is_alive()).then_some(()));
    assert!(!agent.log().contains("403"), "{}", agent.log());
    agent.stop();

    let nobody = r#"service "platypus-agent" { policy = "read" }"#;
    let less = token(consul, &[&(without(r#"key_prefix "reality/""#, Some("read")) + nobody)]);
    let before = report();
    let agent = watching(&host, &less);
    let missing = [
        r#"needs key "reality/web1/pp-setlive" { policy = "write" }; what this agent reports is kept for later"#,
        r#"needs service "platypus-agent" { policy = "write" }; others may take this agent for dead"#,
    ];
    agent.says(missing[1]);
    host.activate("2", json!({}));
    agent.says(missing[0]);
    host.serves("2");
    agent.says("slug: 2 is live");
    for once in missing {
        assert_eq!(agent.log().matches(once).count(), 1, "{}", agent.log());
    }
    assert!(report() == before && !is_alive());
    agent.stop();
}

#[test]
fn an_agent_that_watches_says_what_it_lacks_and_goes_on_once_it_has_it() {
    let (host, _) = host();
    let consul = host.consul.as_ref().unwrap();
    let pid = host.pid();
    let token = token(consul, &[""]);
    let agent = watching(&host, &token);
    agent.says(r#"key_prefix "nodes/web1/" { policy = "read" }"#);
    agent.says("everything stays as it is");
    host.activate("2", json!({}));
    let policies = serde_json::from_str::<Value>(&consul.http_as(&token, "GET", "/v1/acl/token/self", b"").1).unwrap();
    let policy = &policies["Policies"][0];
    let better = json!({"ID": policy["ID"], "Name": policy["Name"], "Rules": rules("agent")});
    let path = format!("/v1/acl/policy/{}", policy["ID"].as_str().unwrap());
    assert_eq!(host.pid(), pid);
    assert_eq!(consul.http("PUT", &path, better.to_string().as_bytes()).0, 200);
    host.serves("2");
    agent.stop();
}
