//! `pp-store` as an operator uses it, on both stores.

#[macro_use]
mod place;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use fixtures::{Scratch, free_port};
use place::Place;
use place::command::{fails, json, ok, pp_store, run, said};
use serde_json::json;

const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

on_both_stores! {
    what_is_put_is_listed_and_got
    nothing_is_written_that_an_agent_would_refuse
    a_document_comes_from_the_command_line_a_file_or_standard_input
    compare_and_set_with_the_revision_that_get_tells
    a_cluster_is_not_removed_while_nodes_need_it
    force_removes_nodes_documents_first_and_what_is_absent_is_said
    a_closed_pipe_is_no_failure
}

/// Removes documents of nodes, and is told what has to stay for a while.
#[track_caller]
fn rm_nodes(place: &Place, keys: &[&str]) {
    let (status, out, err) = run(place, &[&["rm"], keys].concat());
    assert_eq!((status, out.as_str(), err.lines().count()), (0, "", 1), "{keys:?}: {err}");
    assert!(err.contains("keep its cluster's config until they have"), "{err}");
}

fn put_slug(place: &Place) {
    assert_eq!(ok(place, &["put", DEPLOY, r#"{"basedir": "/srv/slug"}"#]), "");
    assert_eq!(ok(place, &["put", CONFIG, r#"{"versions": {"0.1": "active"}}"#]), "");
    for node in ["nodes/web1/slug", "nodes/web2/slug"] {
        assert_eq!(ok(place, &["put", node, r#"{"cluster": "dev"}"#]), "");
    }
}

fn what_is_put_is_listed_and_got(place: &Place) {
    put_slug(place);
    assert_eq!(ok(place, &["ls"]), format!("{CONFIG}\n{DEPLOY}\nnodes/web1/slug\nnodes/web2/slug\n"));
    assert_eq!(ok(place, &["ls", "nodes/web1/"]), "nodes/web1/slug\n");
    assert_eq!(ok(place, &["get", "nodes/web1/slug"]), r#"{"cluster": "dev"}"#);
    fails(place, &["get", "nodes/web3/slug"], 1, &["pp-store: there is no nodes/web3/slug"]);
    assert_eq!(run(place, &["ls", "nodes/web"]).1, "");

    let got = json(place, &["get", "nodes/web1/slug"]);
    assert_eq!((&got["key"], &got["value"]), (&json!("nodes/web1/slug"), &json!({"cluster": "dev"})));
    let listed = json(place, &["ls", "nodes/web1"]);
    assert_eq!(listed, json!([{"key": "nodes/web1/slug", "revision": got["revision"]}]));
    place.write("nodes/web1/torn", b"{\"clus");
    assert_eq!(json(place, &["get", "nodes/web1/torn"])["text"], "{\"clus");
    assert_eq!(json(place, &["put", CONFIG, r#"{"versions": {}}"#]), json!({"key": CONFIG, "written": true}));
}

fn nothing_is_written_that_an_agent_would_refuse(place: &Place) {
    for (key, document, says) in [
        (CONFIG, r#"{"versions": {"1": "active", "2": "active"}}"#, "two active versions, 1 and 2"),
        (CONFIG, r#"{"versions": "#, "EOF"),
        (CONFIG, "", "the document is empty"),
        (DEPLOY, r#"{"basedir": "srv"}"#, "not an absolute path"),
    ] {
        fails(place, &["put", key, document], 1, &[&format!("nothing was written, since this is no {key}: "), says]);
    }
    for key in ["locks/slug/dev/shutdown", "nodes/web1", "clusters/slug/dev/confg", "nodes/../slug"] {
        fails(place, &["put", key, "{}"], 2, &["invalid value", key]);
    }
    assert_eq!(run(place, &["ls"]).1, "");
    let (status, out, err) = run(place, &["put", CONFIG, r#"{"versions": {}, "min_node": 1}"#]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(err.contains(r#"warning: no agent knows the field "min_node" of clusters/slug/dev/config"#), "{err}");
    fails(place, &["frob"], 2, &["unrecognized subcommand"]);
    fails(place, &["get", "nodes"], 2, &["is not a key"]);
}

fn a_document_comes_from_the_command_line_a_file_or_standard_input(place: &Place) {
    let file = place.scratch.path().join("document");
    fs::write(&file, "{\"cluster\": \"file\"}\n").unwrap();
    ok(place, &["put", "nodes/web1/slug", &format!("@{}", file.display())]);
    assert_eq!(ok(place, &["get", "nodes/web1/slug"]), "{\"cluster\": \"file\"}\n");
    fails(place, &["put", "nodes/web1/slug", "@no-such-file"], 1, &["reading no-such-file: No such file"]);

    let mut child = pp_store(&place.url)
        .args(["put", "nodes/web1/slug", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"cluster": "stdin"}"#).unwrap();
    assert_eq!(said(&child.wait_with_output().unwrap()), (0, String::new(), String::new()));
    assert_eq!(ok(place, &["get", "nodes/web1/slug"]), r#"{"cluster": "stdin"}"#);
}

fn compare_and_set_with_the_revision_that_get_tells(place: &Place) {
    let put = |cas: &str, cluster: &str| {
        run(place, &["put", "nodes/web1/slug", &format!(r#"{{"cluster": "{cluster}"}}"#), "--cas", cas])
    };
    assert_eq!(put("absent", "a"), (0, String::new(), String::new()));
    let (status, _, err) = put("absent", "b");
    assert_eq!(status, 3);
    let seen = json(place, &["get", "nodes/web1/slug"])["revision"].as_str().unwrap().to_owned();
    assert!(err.contains(&format!("nodes/web1/slug is not as --cas expects, but at revision {seen}; get it")), "{err}");
    assert_eq!(put(&seen, "c").0, 0);
    assert_eq!(put(&seen, "d").0, 3);
    assert_eq!(ok(place, &["get", "nodes/web1/slug"]), r#"{"cluster": "c"}"#);
    assert_eq!(put("", "e").0, 2);
    let lost = json(place, &["put", "nodes/web1/slug", r#"{"cluster": "f"}"#, "--cas", &seen]);
    assert_eq!(lost, json!({"key": "nodes/web1/slug", "written": false}));
    rm_nodes(place, &["nodes/web1/slug"]);
    assert!(put(&seen, "g").2.contains("but absent"));
}

fn a_cluster_is_not_removed_while_nodes_need_it(place: &Place) {
    put_slug(place);
    ok(place, &["put", "nodes/web3/slug", r#"{"cluster": "live"}"#]);
    place.write("nodes/web4/slug", b"");
    for keys in [&[CONFIG][..], &[DEPLOY], &[CONFIG, "nodes/web1/slug", "nodes/web2/slug", "nodes/web4/slug"]] {
        let says = "in use: nodes/web1/slug, nodes/web2/slug, perhaps by nodes/web4/slug (the document is empty)";
        fails(place, &[&["rm"], keys].concat(), 1, &["nothing was removed: cluster dev of slug is", says, "--force"]);
    }
    assert_eq!(ok(place, &["ls"]).lines().count(), 6);
    rm_nodes(place, &["nodes/web1/slug", "nodes/web2/slug", "nodes/web4/slug"]);
    ok(place, &["rm", CONFIG, DEPLOY]);
    assert_eq!(ok(place, &["ls"]), "nodes/web3/slug\n");
}

fn force_removes_nodes_documents_first_and_what_is_absent_is_said(place: &Place) {
    put_slug(place);
    let removed = json(place, &["rm", "--force", CONFIG, "nodes/web1/slug", DEPLOY, "nodes/web9/slug"]);
    let expected = json!({"removed": ["nodes/web1/slug", CONFIG, DEPLOY], "absent": ["nodes/web9/slug"]});
    assert_eq!(removed, expected);
    fails(place, &["rm", "nodes/web1/slug"], 1, &["there is no nodes/web1/slug"]);
    assert_eq!(ok(place, &["ls"]), "nodes/web2/slug\n");
}

fn a_closed_pipe_is_no_failure(place: &Place) {
    put_slug(place);
    for command in [&["ls"][..], &["ls", "--json"], &["get", CONFIG]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = pp_store(&place.url).args(command).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(said(&output), (0, String::new(), String::new()));
    }
}

#[test]
fn a_store_that_is_not_there_is_an_error_of_one_line_that_names_it() {
    let nowhere = format!("127.0.0.1:{}", free_port());
    let place = Place { consul: None, scratch: Scratch::new(), url: format!("consul://{nowhere}") };
    let says = format!("GET nodes/web1/slug at http://{nowhere}: cannot connect: Connection refused");
    fails(&place, &["get", "nodes/web1/slug"], 1, &[&says]);
    let place = Place { url: "file:/no/such/directory".to_owned(), ..place };
    fails(&place, &["ls"], 1, &["pp-store: the directory of documents /no/such/directory: No such file"]);
    let says =
        "nodes/web1/slug was left as it is, since a change is recorded before it is made: the directory of documents";
    fails(&place, &["put", "nodes/web1/slug", r#"{"cluster": "a"}"#], 1, &[says, "/no/such/directory: No such file"]);
    let place = Place { url: "etcd://a".to_owned(), ..place };
    fails(&place, &["ls"], 2, &["'etcd://a' for '--store <URL>': not a store: consul://host:8500"]);
    let place = Place { url: format!("consul://{nowhere}/v1/kv"), ..place };
    fails(&place, &["ls"], 2, &["a path has no place behind the port"]);
}

#[test]
fn a_key_that_is_none_and_a_document_that_cannot_be_read_are_listed_too() {
    let place = Place::directory();
    place.write("nodes/web1/slug", br#"{"cluster": "dev"}"#);
    std::os::unix::fs::symlink("/no/such/file", place.root().join("nodes/web1/other.json")).unwrap();
    let (status, out, err) = run(&place, &["ls"]);
    assert_eq!((status, out.as_str()), (1, "nodes/web1/other\nnodes/web1/slug\n"));
    assert!(err.starts_with("pp-store: nodes/web1/other: ") && err.contains("is a link whose target"), "{err}");
    assert!(json(&place, &["ls"])[0]["error"].is_string());
    fails(&place, &["get", "nodes/web1/other"], 1, &["nodes/web1/other: ", "is a link whose target"]);
    let output = run(&place, &["rm", "clusters/other/dev/config"]);
    assert!(output.2.contains("in use: perhaps by nodes/web1/other"), "{output:?}");
    rm_nodes(&place, &["nodes/web1/other"]);
    assert_eq!(ok(&place, &["ls"]), "nodes/web1/slug\n");
}

#[test]
fn the_environment_means_what_it_means_to_the_consul_command() {
    let place = Place::consul_with_access_control();
    let consul = place.consul.as_ref().unwrap();
    consul.put("nodes/web1/slug", "{}");
    let file = place.scratch.path().join("token");
    fs::write(&file, "root\n").unwrap();
    let with = |env: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pp-store"));
        let address = ("CONSUL_HTTP_ADDR", consul.addr());
        said(
            &command
                .env_clear()
                .envs([address])
                .envs(env.iter().copied())
                .args(["get", "nodes/web1/slug"])
                .output()
                .unwrap(),
        )
    };
    assert_eq!(with(&[("CONSUL_HTTP_TOKEN", "root")]), (0, "{}".to_owned(), String::new()));
    assert_eq!(with(&[("CONSUL_HTTP_TOKEN_FILE", file.to_str().unwrap()), ("CONSUL_HTTP_TOKEN", "wrong")]).0, 0);
    // A proxy is for other hosts.
    assert_eq!(
        with(&[
            ("CONSUL_HTTP_TOKEN", "root"),
            ("HTTP_PROXY", "http://127.0.0.1:1"),
            ("http_proxy", "http://127.0.0.1:1")
        ])
        .0,
        0
    );
    for (env, says) in [
        (
            &[][..],
            r#"403: Permission denied; the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE needs key "nodes/web1/slug""#,
        ),
        (&[("CONSUL_HTTP_TOKEN", "wrong")], "403: ACL not found; Consul does not know the token"),
        (&[("CONSUL_HTTP_TOKEN_FILE", "/no/such/file")], "CONSUL_HTTP_TOKEN_FILE /no/such/file: No such file"),
    ] {
        let (status, out, err) = with(env);
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(err.contains(says) && err.lines().count() == 1, "{err}");
    }
    // An empty listing says nothing, and `rm` knows it.
    let unprivileged = |arguments: &[&str]| said(&pp_store(&place.url).args(arguments).output().unwrap());
    assert!(unprivileged(&["ls"]).2.contains("nothing that this token may read"));
    assert!(unprivileged(&["rm", CONFIG]).2.contains("whether a node runs slug cannot be known"));
}

#[test]
fn a_consul_behind_tls_is_trusted_by_its_authority_alone_and_may_ask_who_we_are() {
    let scratch = Scratch::new();
    let consul_tls = |arguments: &[&str]| {
        let output = Command::new("consul").arg("tls").args(arguments).current_dir(scratch.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    consul_tls(&["ca", "create"]);
    consul_tls(&["cert", "create", "-server", "-dc", "dc1"]);
    consul_tls(&["cert", "create", "-client", "-dc", "dc1"]);
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let https = free_port();
    let config = json!({
        "ports": {"https": https}, "verify_incoming_https": true, "ca_file": file("consul-agent-ca.pem"),
        "cert_file": file("dc1-server-consul-0.pem"), "key_file": file("dc1-server-consul-0-key.pem"),
    });
    let place = Place::consul_with(&config.to_string());
    place.write("nodes/web1/slug", b"{}");
    let (ca, cert, key) =
        (file("consul-agent-ca.pem"), file("dc1-client-consul-0.pem"), file("dc1-client-consul-0-key.pem"));
    let get = |address: &str, env: &[(&str, &str)]| {
        let mut command = pp_store(address);
        said(&command.envs(env.iter().copied()).args(["get", "nodes/web1/slug"]).output().unwrap())
    };
    let (by_name, by_address) =
        (format!("consul+https://localhost:{https}"), format!("consul+https://127.0.0.1:{https}"));
    let client = [("CONSUL_CLIENT_CERT", cert.as_str()), ("CONSUL_CLIENT_KEY", key.as_str())];
    let authority = ("CONSUL_CACERT", ca.as_str());
    let found = (0, "{}".to_owned(), String::new());
    assert_eq!(get(&by_name, &[&client[..], &[authority]].concat()), found);
    assert_eq!(get(&by_address, &[&client[..], &[("CONSUL_HTTP_SSL_VERIFY", "false")]].concat()), found);
    let named = [&client[..], &[authority, ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul")]].concat();
    assert_eq!(get(&by_address, &named), found);
    assert_eq!(get(&by_name, &named), found);
    let asked = format!("consul://localhost:{https}");
    assert_eq!(get(&asked, &[&client[..], &[authority, ("CONSUL_HTTP_SSL", "true")]].concat()), found);
    for (env, says) in [
        (&client[..], "certificate"),
        (&[authority][..], "BadCertificate"),
        (&[("CONSUL_CACERT", cert.as_str()), client[0], client[1]][..], "certificate"),
    ] {
        let (status, _, err) = get(&by_name, env);
        assert!(status == 1 && err.contains(says) && err.lines().count() == 1, "{env:?}: {err}");
    }
    let plain = get(&asked, &[]);
    assert!(plain.2.contains("give the address as https://"), "{}", plain.2);
}

#[test]
fn help_lists_examples_and_exit_statuses() {
    let place = Place::directory();
    let (status, out, _) = run(&place, &["--help"]);
    assert_eq!(status, 0);
    for says in [
        "--cas absent",
        "3  somebody else was faster",
        "CONSUL_HTTP_TOKEN_FILE",
        r#"{"key", "revision", "value"}"#,
        "who waits for whom?",
        r#""spare""#,
    ] {
        assert!(out.contains(says), "{out}");
    }
}
