//! What people may do, by their policies.

use fixtures::{Consul, Scratch};
use serde_json::{Value, json};

use crate::place::{consul, developers, pp_store, rules, token, writes};

/// What no token of ours may write.
const NOBODYS: [&str; 3] = ["other/key", "clusters", "vault/core/lock"];

fn put(consul: &Consul, key: &str, document: &Value) {
    consul.put(key, &document.to_string());
}

/// An app in a cluster, on a host, with a lease and a failure.
fn slug(consul: &Consul) {
    put(consul, "nodes/web1/slug", &json!({"cluster": "development"}));
    put(consul, "clusters/slug/development/config", &json!({"versions": {"0.1": "prep"}}));
    put(consul, "clusters/slug/development/deploy_config", &json!({"basedir": "/srv/slug"}));
    let at = "2026-01-02T03:04:05Z";
    let down = json!({"web1": {"to": null, "since": at, "why": "why", "host": "web1"}});
    let failed =
        json!({"version": "0.1", "node": "web1", "reason": "answered 500", "at": at, "log": [], "retry": null});
    let lock = json!({"rev": 7, "down": down, "failed": {"bad0bad000112233": failed}});
    put(consul, "locks/slug/development/shutdown", &lock);
}

/// Neither a service nor Consul's access control itself.
fn cannot_act_beyond_keys(consul: &Consul, token: &str) {
    for (method, path, body) in [
        ("PUT", "/v1/agent/service/register", r#"{"Name": "slug"}"#),
        ("PUT", "/v1/agent/maintenance?enable=true", ""),
        ("PUT", "/v1/session/create", "{}"),
        ("GET", "/v1/acl/tokens", ""),
        ("DELETE", "/v1/kv/?recurse", ""),
        ("DELETE", "/v1/kv/locks/other/?recurse", ""),
    ] {
        let answer = consul.http_as(token, method, path, body.as_bytes());
        assert_eq!(answer.0, 403, "{method} {path}: {}", answer.1);
    }
}

#[test]
fn a_developer_writes_the_config_of_the_clusters_that_are_named_and_nothing_else() {
    let scratch = Scratch::new();
    let consul = consul(&scratch);
    slug(&consul);
    let token = token(&consul, &[&developers("slug", "development"), &developers("slug", "live")]);
    let config = r#"{"versions": {"0.2": "prep"}}"#;
    let put = |key: &str, document: &str| pp_store(&consul.url(), &token, &["put", key, document]);
    assert_eq!(put("clusters/slug/development/config", config), (0, String::new(), String::new()));
    for (key, document) in [
        ("clusters/slug/development/deploy_config", r#"{"basedir": "/srv/slug"}"#),
        ("clusters/slug2/development/config", config),
        ("nodes/web1/slug", r#"{"cluster": "development"}"#),
    ] {
        let (status, _, err) = put(key, document);
        let rule = format!(
            "403: Permission denied; the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE needs key \"{key}\""
        );
        assert!(status == 1 && err.contains(&rule), "{err}");
    }
    let (status, out, err) = pp_store(&consul.url(), &token, &["log", "slug", "development"]);
    assert!(status == 0 && out.contains("clusters/slug/development/config: no version active (current)"), "{out}{err}");
    assert!(!out.contains("deploy_config: changed"), "what was refused is not recorded: {out}");
    let run = |arguments: &[&str]| pp_store(&consul.url(), &token, arguments);
    assert_eq!(run(&["set", "slug", "development", "0.3=prep"]).0, 0);
    assert_eq!(run(&["rollback", "slug", "development"]).0, 0);
    let activate = run(&["set", "slug", "development", "0.2=active"]);
    assert!(activate.0 == 1 && activate.2.contains("no node of slug development is known to have 0.2"), "{activate:?}");
    let hold = run(&["hold", "web1", "slug"]);
    assert!(hold.0 == 1 && hold.2.contains("403: Permission denied"), "{hold:?}");
    let (status, out, err) = pp_store(&consul.url(), &token, &["leases", "slug", "development"]);
    assert!(status == 0 && out.contains("web1"), "{out}{err}");
    let (status, out, err) = run(&["status", "slug"]);
    assert!(status == 0 && out.contains("slug  development  "), "{out}{err}");
    let (status, out, err) = run(&["why", "slug"]);
    assert!(status == 0 && out.contains("no pp-preparer of web1 has ever said anything here"), "{out}{err}");
    let retry = pp_store(&consul.url(), &token, &["retry", "slug", "development"]);
    assert!(retry.0 == 1 && retry.2.contains("403: Permission denied"), "{retry:?}");

    let own = ["clusters/slug/development/config", "clusters/slug/live/config", "history/slug/live/00000001"];
    for key in own {
        assert!(writes(&consul, &token, key), "{key}");
    }
    let refused = [
        "clusters/slug/development/deploy_config",
        "clusters/slug/live/deploy_config",
        // A cluster that no policy names.
        "clusters/slug/next/deploy_config",
        "clusters/slug/next/config",
        "clusters/slug/development/config2",
        "clusters/slug/development/config/more",
        "clusters/slug2/development/config",
        "clusters/other/development/config",
        "clusters/platypus/main/config",
        "nodes/web1/slug",
        "nodes/web2/slug",
        "history/slug/next/00000001",
        "history/slug2/development/00000001",
        "locks/slug/development/shutdown",
        "reality/web1/pp-setlive",
    ];
    for key in refused.into_iter().chain(NOBODYS) {
        assert!(!writes(&consul, &token, key), "{key}");
    }
    cannot_act_beyond_keys(&consul, &token);
    for prefix in ["clusters/slug/", "clusters/slug/development/config"] {
        assert_eq!(consul.http_as(&token, "DELETE", &format!("/v1/kv/{prefix}?recurse"), b"").0, 403);
    }
    for key in ["clusters/other/development/config", "history/other/development/00000001"] {
        let theirs = pp_store(&consul.url(), &token, &["get", key]);
        assert!(theirs.2.contains("403"), "{theirs:?}");
    }
}

/// Why the policy is as it is.
#[test]
fn a_prefix_to_write_under_with_what_is_denied_would_leave_the_next_clusters_deploy_config_open() {
    let scratch = Scratch::new();
    let consul = consul(&scratch);
    let token = token(
        &consul,
        &[
            r#"key_prefix "clusters/slug/" { policy = "write" } key "clusters/slug/development/deploy_config" { policy = "deny" }"#,
        ],
    );
    assert!(!writes(&consul, &token, "clusters/slug/development/deploy_config"));
    assert!(writes(&consul, &token, "clusters/slug/next/deploy_config"));
}

#[test]
fn an_operator_writes_intent_and_leases_and_nothing_else() {
    let scratch = Scratch::new();
    let consul = consul(&scratch);
    slug(&consul);
    let token = token(&consul, &[&rules("operator")]);
    let run = |arguments: &[&str]| pp_store(&consul.url(), &token, arguments);
    for arguments in [
        &["leases"][..],
        &["release", "slug", "development", "web1", "--force"],
        &["retry", "slug", "development"],
        &["put", "nodes/web2/slug", r#"{"cluster": "development"}"#],
        &["put", "clusters/slug/development/deploy_config", r#"{"basedir": "/srv/slug", "ports": [80]}"#],
        &["put", "clusters/slug/development/config", r#"{"versions": {"0.1": "active"}}"#],
        &["check"],
        &["log", "slug", "development"],
        &["rm", "nodes/web1/slug", "nodes/web2/slug"],
        &["rm", "clusters/slug/development/config", "clusters/slug/development/deploy_config"],
    ] {
        let (status, out, err) = run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {out}{err}");
    }
    for key in [
        "nodes/web1/slug",
        "clusters/other/live/config",
        "clusters/other/live/deploy_config",
        "locks/a/b/shutdown",
        "history/slug/development/00000001",
    ] {
        assert!(writes(&consul, &token, key), "{key}");
    }
    for key in ["reality/web1/pp-setlive", "instances/slug/live/web1"].into_iter().chain(NOBODYS) {
        assert!(!writes(&consul, &token, key), "{key}");
    }
    let register = consul.http_as(&token, "PUT", "/v1/agent/service/register", br#"{"Name": "slug"}"#);
    assert_eq!((register.0, consul.http_as(&token, "GET", "/v1/acl/tokens", b"").0), (403, 403));
}

#[test]
fn who_only_reads_sees_all_of_it_and_writes_nothing() {
    let scratch = Scratch::new();
    let consul = consul(&scratch);
    slug(&consul);
    let operators = token(&consul, &[&rules("operator")]);
    let moved = ["put", "nodes/web2/slug", r#"{"cluster": "development"}"#];
    assert_eq!(pp_store(&consul.url(), &operators, &moved).0, 0);
    let token = token(&consul, &[&rules("read-only")]);
    let backup = scratch.path().join("backup").display().to_string();
    let run = |arguments: &[&str]| pp_store(&consul.url(), &token, arguments);
    for (arguments, says) in [
        (&["ls"][..], "clusters/slug/development/deploy_config\n"),
        (&["get", "nodes/web1/slug"], r#"{"cluster":"development"}"#),
        (&["check"], ""),
        (&["leases"], "web1"),
        (&["leases", "slug", "development"], "web1"),
        (&["log", "slug", "development"], "nodes/web2/slug: cluster development (current)"),
        (&["export", &backup], ""),
    ] {
        let (status, out, err) = run(arguments);
        assert!(status == 0 && out.contains(says) && !err.contains("403"), "{arguments:?}: {status} {out}{err}");
    }
    let changed = scratch.path().join("backup/nodes/web9/slug.json");
    std::fs::create_dir(changed.parent().unwrap()).unwrap();
    std::fs::write(changed, r#"{"cluster": "development"}"#).unwrap();
    for arguments in [
        &["put", "nodes/web1/slug", r#"{"cluster": "development"}"#][..],
        &["rm", "nodes/web1/slug"],
        &["release", "slug", "development", "web1", "--force"],
        &["retry", "slug", "development"],
        &["import", &backup],
    ] {
        let (status, _, err) = run(arguments);
        assert!(status == 1 && err.contains("403: Permission denied"), "{arguments:?}: {err}");
    }
    let keys = [
        "nodes/web1/slug",
        "clusters/slug/development/config",
        "history/slug/development/00000009",
        "locks/slug/development/shutdown",
        "reality/web1/a",
    ];
    for key in keys.into_iter().chain(["clusters/slug/development/deploy_config"]).chain(NOBODYS) {
        assert!(!writes(&consul, &token, key), "{key}");
    }
    cannot_act_beyond_keys(&consul, &token);
}
