//! What an agent says of itself and of its apps in the store, and when it says nothing.

use std::fs;

use fixtures::{Agent, Behaviour, Host, Proxy, SOON, Slug, eventually};
use serde_json::{Value, json};

/// Half a second apart, so that all of them take long against the 300 ms within which a change is written.
const LOOKS: usize = 4;

/// The report of pp-setlive, once it is so.
fn report(host: &Host, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let says = format!("the report says that {what}");
    let read = || serde_json::from_str::<Value>(&host.consul.as_ref().unwrap().get("reality/web1/pp-setlive")?).ok();
    eventually(&says, SOON, || read().map(|report| report["apps"]["slug"].clone()).filter(&is))
}

/// Starts the agent, which keeps going; it has made its first pass.
fn start(host: &Host) -> Agent {
    let mark = host.path("passed/pp-setlive");
    let _ = fs::remove_file(&mark);
    let mut setlive = host.setlive();
    setlive.arg("--mark").arg(&mark).args(["--interval", "0.5"]);
    let agent = host.watch(setlive);
    eventually("it has made its first pass", SOON, || mark.exists().then_some(()));
    agent
}

/// What it asks of the store from here on, until it has looked so often at what is registered: once each --interval.
fn asked(host: &Host) -> Vec<String> {
    let proxy = host.proxy.as_ref().unwrap();
    let before = proxy.request_lines().len();
    let since = || proxy.request_lines().split_off(before);
    let has_looked =
        |lines: &[String]| lines.iter().filter(|line| line.contains("/v1/agent/services ")).count() >= LOOKS;
    eventually("it has looked a few times", SOON, || Some(since()).filter(|lines| has_looked(lines)))
}

#[test]
fn how_an_app_is_and_why_is_in_the_store_and_an_agent_that_starts_again_has_nothing_to_add() {
    let mut host = Host::on_consul();
    host.proxy = Some(Proxy::start(host.consul.as_ref().unwrap().addr()));
    host.install(&Slug::new("1", Behaviour::Good));
    host.install(&Slug::new("2", Behaviour::NeverHealthy));
    host.deploy_config(json!({}));
    let config = || {
        let health =
            json!({"http": {"port": host.port, "path": "/health"}, "interval_seconds": 0.1, "deadline_seconds": 1});
        json!({"health": health, "user_config": {"port": host.port, "password": "hunter2"}})
    };
    host.activate("1", config());
    let agent = start(&host);
    let first = report(&host, "it is converged", |app| app["state"] == "converged");
    assert_eq!((&first["wanted"], &first["there"], &first["cluster"]), (&json!(["1"]), &json!(["1"]), &json!("dev")));

    host.activate("2", config());
    let failing = report(&host, "it fails", |app| app["state"] == "failing" && !app["log"].is_null());
    assert_eq!((&failing["wanted"], &failing["there"]), (&json!(["2"]), &json!(["1"])));
    let (reason, log) = (failing["reason"].as_str().unwrap(), failing["log"].as_array().unwrap());
    assert!(
        reason.starts_with("2 failed here (not healthy within 1s") && reason.contains("1 runs instead"),
        "{reason}"
    );
    assert!(!failing.to_string().contains("hunter2"), "{failing}");
    assert!(!log.is_empty() && failing["since"].as_str() > first["since"].as_str(), "{failing}");

    host.activate("1", config());
    let again = report(&host, "it is converged again", |app| app["state"] == "converged");
    assert!(again["since"].as_str() >= failing["since"].as_str() && again["log"].is_null(), "{again}");

    agent.kill();
    let proxy = host.proxy.as_ref().unwrap();
    let before = proxy.request_lines().len();
    let agent = start(&host);
    // What others say of themselves wakes nobody.
    host.put("reality/web2/pp-setlive", &json!({"version": "0", "apps": {}}));
    let idle = asked(&host);
    let written = |lines: &[String]| lines.iter().filter(|line| line.starts_with("PUT /v1/kv/")).count();
    assert_eq!(written(&proxy.request_lines()[before..]), 0, "{:#?}", &proxy.request_lines()[before..]);
    assert_eq!(report(&host, "it is converged", |app| app["state"] == "converged"), again);
    // What looks at what is registered reads only, each --interval; all else waits.
    let reads = ["/v1/agent/services ", "/v1/agent/checks "];
    let is_look = |line: &&String| line.starts_with("GET ") && reads.iter().any(|read| line.contains(read));
    assert_eq!(idle.iter().filter(|line| !is_look(line)).collect::<Vec<_>>(), [""; 0]);

    // Told to end, it takes back that it is alive; killed, it does not.
    let checks = || host.consul.as_ref().unwrap().http("GET", "/v1/agent/checks", b"").1;
    assert!(checks().contains("pp-setlive@web1"), "{}", checks());
    agent.stop();
    assert!(!checks().contains("pp-setlive@web1"), "{}", checks());
    let agent = start(&host);
    agent.kill();
    assert!(checks().contains("pp-setlive@web1"), "{}", checks());
}
