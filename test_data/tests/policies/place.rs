//! A Consul that denies what no policy allows, and tokens with the policies that operators give.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixtures::{Consul, Scratch, bin};
use serde_json::{Value, json};

/// Consul's agent has a token of its own, as on a real host: without one nobody would see its host.
pub(crate) const DENIES: &str = r#"{"primary_datacenter": "dc1", "acl":
    {"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "agent": "root"}}}"#;

pub(crate) fn consul(scratch: &Scratch) -> Consul {
    Consul::start_with(scratch, DENIES)
}

/// Where a policy of ours is.
fn file(role: &str) -> String {
    format!("{}/../kickstart/consul/{role}.hcl", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn rules(role: &str) -> String {
    fs::read_to_string(file(role)).unwrap()
}

/// The developers' policy for one cluster, made as its file says.
pub(crate) fn developers(app: &str, cluster: &str) -> String {
    assert!(rules("developer").contains("sed 's/APP/slug/; s/CLUSTER/development/' kickstart/consul/developer.hcl"));
    let expression = format!("s/APP/{app}/; s/CLUSTER/{cluster}/");
    let output = Command::new("sed").arg(expression).arg(file("developer")).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A new token with these policies.
pub(crate) fn token(consul: &Consul, policies: &[&str]) -> String {
    token_that_is(consul, policies, None)
}

/// One whose secret is given.
pub(crate) fn token_that_is(consul: &Consul, policies: &[&str], secret: Option<&str>) -> String {
    static POLICIES: AtomicUsize = AtomicUsize::new(0);
    let put = |path: &str, body: Value| {
        let answer = consul.http("PUT", path, body.to_string().as_bytes());
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str::<Value>(&answer.1).unwrap()
    };
    let policy = |rules: &&str| {
        let name = format!("policy-{}", POLICIES.fetch_add(1, Ordering::Relaxed));
        json!({"ID": put("/v1/acl/policy", json!({"Name": name, "Rules": rules}))["ID"]})
    };
    let mut token = json!({"Policies": policies.iter().map(policy).collect::<Vec<_>>()});
    if let Some(secret) = secret {
        token["SecretID"] = secret.into();
    }
    put("/v1/acl/token", token)["SecretID"].as_str().unwrap().to_owned()
}

/// Whether a token may write a key: the same by each of the ways that there are.
#[track_caller]
pub(crate) fn writes(consul: &Consul, token: &str, key: &str) -> bool {
    let path = format!("/v1/kv/{key}");
    let set = json!([{"KV": {"Verb": "set", "Key": key, "Value": "e30="}}]).to_string();
    let delete = json!([{"KV": {"Verb": "delete", "Key": key}}]).to_string();
    let ways = [
        ("PUT", path.clone(), "{}"),
        ("PUT", format!("{path}?cas=0"), "{}"),
        ("PUT", "/v1/txn".to_owned(), set.as_str()),
        ("PUT", "/v1/txn".to_owned(), delete.as_str()),
        ("DELETE", path, ""),
    ];
    let answers = ways.map(|(method, path, body)| consul.http_as(token, method, &path, body.as_bytes()));
    let allowed = answers.iter().all(|(status, _)| *status == 200);
    let refused = answers.iter().all(|(status, body)| matches!(status, 403 | 409) && body.contains("ermission denied"));
    assert!(allowed || refused, "{key}: {answers:?}");
    allowed
}

/// What `pp-store` says with a token: exit status, standard output, standard error.
pub(crate) fn pp_store(url: &str, token: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(bin("pp-store"));
    command.env_clear().env("CONSUL_HTTP_TOKEN", token).args(["--store", url]).args(arguments);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
