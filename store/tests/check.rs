//! `pp-store check` as an operator uses it: on directories, on both stores, and with a repository.

mod place;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use fixtures::{HttpFault, HttpServer, WebAnswer, WebServer, free_port};
use place::Place;
use place::command::{fails, pp_store, run, said};
use serde_json::{Value, json};

/// One of each fault: the key under which it has to be reported, what of the reason, and the documents that make it.
type Fault<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);
const FAULTS: [Fault; 12] = [
    (
        "invalid",
        "clusters/two/dev/config",
        "two active versions, 1 and 2",
        &[
            ("nodes/web1/two", r#"{"cluster": "dev"}"#),
            ("nodes/web2/two", r#"{"cluster": "dev"}"#),
            ("clusters/two/dev/config", r#"{"versions": {"1": "active", "2": "active"}}"#),
            ("clusters/two/dev/deploy_config", r#"{"basedir": "/srv/two"}"#),
        ],
    ),
    (
        "suspicious",
        "clusters/small/dev/config",
        "min_nodes 2 can never be met",
        &[
            ("nodes/web1/small", r#"{"cluster": "dev"}"#),
            ("nodes/web2/small", r#"{"cluster": "dev"}"#),
            ("clusters/small/dev/config", r#"{"versions": {"1": "active"}, "min_nodes": 2}"#),
            ("clusters/small/dev/deploy_config", r#"{"basedir": "/srv/small"}"#),
        ],
    ),
    (
        "suspicious",
        "clusters/idle/dev/config",
        "no node points at cluster dev of idle",
        &[
            ("clusters/idle/dev/config", r#"{"versions": {}}"#),
            ("clusters/idle/dev/deploy_config", r#"{"basedir": "/srv/idle"}"#),
        ],
    ),
    (
        "invalid",
        "nodes/web1/lost",
        "there are no documents of cluster dev of lost",
        &[("nodes/web1/lost", r#"{"cluster": "dev"}"#)],
    ),
    (
        "suspicious",
        "clusters/odd/dev/config",
        "no agent knows the field \"min_node\"",
        &[
            ("nodes/web1/odd", r#"{"cluster": "dev"}"#),
            ("clusters/odd/dev/config", r#"{"versions": {"1": "active"}, "min_node": 2}"#),
            ("clusters/odd/dev/deploy_config", r#"{"basedir": "/srv/odd"}"#),
        ],
    ),
    (
        "suspicious",
        "clusters/port2/dev/deploy_config",
        "port 80/tcp is wanted by clusters/port1/dev/deploy_config, too, on web1, web2",
        &[
            ("nodes/web1/port1", r#"{"cluster": "dev"}"#),
            ("nodes/web2/port1", r#"{"cluster": "dev"}"#),
            ("clusters/port1/dev/config", r#"{"versions": {}}"#),
            ("clusters/port1/dev/deploy_config", r#"{"basedir": "/srv/port1", "ports": [80]}"#),
            ("nodes/web1/port2", r#"{"cluster": "dev"}"#),
            ("nodes/web2/port2", r#"{"cluster": "dev"}"#),
            ("clusters/port2/dev/config", r#"{"versions": {}}"#),
            ("clusters/port2/dev/deploy_config", r#"{"basedir": "/srv/port2", "ports": [80]}"#),
        ],
    ),
    (
        "invalid",
        "clusters/inner/dev/deploy_config",
        "basedir /srv/outer/in is inside that of clusters/outer/dev/deploy_config, /srv/outer, on web1",
        &[
            ("nodes/web1/outer", r#"{"cluster": "dev"}"#),
            ("clusters/outer/dev/config", r#"{"versions": {}}"#),
            ("clusters/outer/dev/deploy_config", r#"{"basedir": "/srv/outer"}"#),
            ("nodes/web1/inner", r#"{"cluster": "dev"}"#),
            ("clusters/inner/dev/config", r#"{"versions": {}}"#),
            ("clusters/inner/dev/deploy_config", r#"{"basedir": "/srv/outer/in"}"#),
        ],
    ),
    (
        "suspicious",
        "clusters/gone/dev/config",
        "version 7 is not in the repository",
        &[
            ("nodes/web1/gone", r#"{"cluster": "dev"}"#),
            ("clusters/gone/dev/config", r#"{"versions": {"1": "active", "7": "prep"}}"#),
            ("clusters/gone/dev/deploy_config", r#"{"basedir": "/srv/gone"}"#),
        ],
    ),
    (
        "invalid",
        "nodes/web1/torn",
        "this is not JSON: EOF while parsing an object",
        &[
            ("nodes/web1/torn", "{\n  \"cluster\": \"dev\""),
            ("clusters/torn/dev/config", r#"{"versions": {}}"#),
            ("clusters/torn/dev/deploy_config", r#"{"basedir": "/srv/torn"}"#),
        ],
    ),
    (
        "invalid",
        "clusters/half/dev/deploy_config",
        "there is no such document",
        &[
            ("nodes/web1/half", r#"{"cluster": "dev"}"#),
            ("nodes/web2/half", r#"{"cluster": "dev"}"#),
            ("clusters/half/dev/config", r#"{"versions": {}}"#),
        ],
    ),
    ("suspicious", "clusters/slug/dev/confg", "this is no key of intent", &[("clusters/slug/dev/confg", "{}")]),
    ("invalid", "nodes/web 1/slug", "\"web 1\" is not a name", &[("nodes/web 1/slug", r#"{"cluster": "dev"}"#)]),
];

/// A store with one of each fault, and the address of the repository to check it against.
fn one_of_each(place: &Place) -> String {
    for (key, text) in FAULTS.iter().flat_map(|(_, _, _, documents)| *documents) {
        place.write(key, text.as_bytes());
    }
    let repo = place.scratch.path().join("repo");
    for app in ["two", "small", "odd", "gone"] {
        fs::create_dir_all(repo.join(app)).unwrap();
        fs::write(repo.join(format!("{app}/{app}_1.tar.gz")), "").unwrap();
    }
    format!("file:{}", repo.display())
}

fn each_fault_is_reported_once_under_its_key(place: &Place) {
    let repo = one_of_each(place);
    let (status, out, err) = run(place, &["check", "--repo", &repo]);
    assert_eq!(status, 1, "{out}{err}");
    for (severity, key, reason, _) in FAULTS {
        let lines = out.lines().filter(|line| line.starts_with(&format!("{key}: "))).collect::<Vec<_>>();
        assert_eq!(lines.len(), 1, "{key}:\n{out}");
        assert!(lines[0].contains(&format!("{severity}: {reason}")), "{}", lines[0]);
    }
    assert_eq!(out.lines().count(), FAULTS.len(), "{out}");
    let kinds = out.lines().map(|line| line.contains(": invalid: ")).collect::<Vec<_>>();
    assert!(kinds.is_sorted_by(|a, b| a >= b), "the invalid come first:\n{out}");
    assert!(err.contains("6 invalid, 6 suspicious, in "), "{err}");
    assert!(out.contains("until then held as it is: nodes/web1/two, nodes/web2/two\n"), "{out}");
    let torn = match &place.consul {
        Some(_) => "nodes/web1/torn: line 2, column 18: invalid: ".to_owned(),
        None => format!("nodes/web1/torn: {}/nodes/web1/torn.json:2:18: invalid: ", place.root().display()),
    };
    assert!(out.contains(&torn), "{out}");

    let (status, out, _) = run(place, &["check", "--repo", &repo, "--json"]);
    assert_eq!(status, 1);
    let findings = serde_json::from_str::<Vec<Value>>(&out).unwrap();
    let by_key = findings.iter().map(|found| (found["key"].as_str().unwrap(), found)).collect::<BTreeMap<_, _>>();
    assert_eq!((findings.len(), by_key.len()), (FAULTS.len(), FAULTS.len()));
    let torn = by_key["nodes/web1/torn"];
    assert_eq!((&torn["line"], &torn["column"], &torn["severity"]), (&json!(2), &json!(18), &json!("invalid")));
    assert_eq!(torn["file"].is_string(), place.consul.is_none());
    assert_eq!(by_key["clusters/half/dev/deploy_config"]["holds"], json!(["nodes/web1/half", "nodes/web2/half"]));
}

#[test]
fn each_fault_in_a_directory_is_reported_once_under_its_key() {
    each_fault_is_reported_once_under_its_key(&Place::directory());
}

#[test]
fn each_fault_in_consul_is_reported_once_under_its_key() {
    each_fault_is_reported_once_under_its_key(&Place::consul());
}

#[test]
fn the_exit_status_tells_the_worst() {
    let place = Place::directory();
    let check = |dir: &str| said(&pp_store_without_a_store().args(["check", dir]).output().unwrap());
    let root = place.root().display().to_string();
    let (status, out, err) = check(&root);
    assert_eq!((status, out.as_str()), (2, ""), "an empty directory is no intent");
    assert!(err.contains("there is no intent at all"), "{err}");

    place.write("nodes/web1/slug", br#"{"cluster": "dev"}"#);
    place.write("clusters/slug/dev/config", br#"{"versions": {}}"#);
    place.write("clusters/slug/dev/deploy_config", br#"{"basedir": "/srv/slug"}"#);
    let (status, out, err) = check(&root);
    assert_eq!((status, out.as_str(), err.as_str()), (0, "", "pp-store: 0 invalid, 0 suspicious, in 3 documents\n"));
    place.write("node/web2/slug", br#"{"cluster": "dev"}"#);
    assert_eq!(check(&root).0, 2, "a misspelt directory");
    place.write("clusters/slug/dev/config", b"{");
    assert_eq!(check(&root).0, 1);
    assert_eq!(check("/no/such/directory").0, 1);
    assert!(check("/no/such/directory").2.contains("/no/such/directory: No such file"));
    fails(&place, &["check", &root], 2, &["either a DIR or the store"]);
    // Nobody reads it, and the status says it all the same.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(
        pp_store(&place.url).arg("check").stdout(writer).stderr(Stdio::null()).status().unwrap().code(),
        Some(1)
    );
}

#[test]
fn the_shipped_intent_is_right() {
    let intent = concat!(env!("CARGO_MANIFEST_DIR"), "/../test_data/intent");
    let (status, out, err) = said(&pp_store_without_a_store().args(["check", intent]).output().unwrap());
    assert_eq!((status, out.as_str()), (0, ""), "{err}");
}

#[test]
fn what_a_hostile_key_or_document_holds_does_not_reach_the_terminal() {
    let place = Place::consul();
    for key in
        ["nodes/../x", "nodes/web1/\u{1b}[2J", "clusters/a/b/config\nforged", "nodes/web1/.store", "clusters/a//config"]
    {
        place.write_odd(key);
    }
    place.write("clusters/slug/dev/config", b"{\"versions\": {\"1\": \"\\u001b[2J\"}}");
    let (status, out, _) = run(&place, &["check"]);
    assert_eq!(status, 1);
    assert_eq!(out.lines().filter(|line| line.starts_with("clusters/slug/dev/config: ")).count(), 2, "{out}");
    assert!(!out.contains('\u{1b}') && !out.contains("\nforged"), "{out}");
    assert!(out.contains("nodes/web1/\\u{1b}[2J: invalid: "), "{out}");
}

#[test]
fn what_a_token_may_not_read_is_not_called_missing_or_well() {
    let place = Place::consul_with_access_control();
    place.write("nodes/web1/slug", br#"{"cluster": "dev"}"#);
    place.write("nodes/web1/tool", br#"{"cluster": "dev"}"#);
    for key in ["clusters/slug/dev/config", "clusters/tool/dev/config"] {
        place.write(key, br#"{"versions": {}}"#);
        place.write(
            &key.replace("config", "deploy_config"),
            format!(r#"{{"basedir": "/srv/{}"}}"#, &key[9..13]).as_bytes(),
        );
    }
    let check =
        |token: &str| said(&pp_store(&place.url).env("CONSUL_HTTP_TOKEN", token).arg("check").output().unwrap());
    assert_eq!(check("root").0, 0, "{:?}", check("root"));
    let (status, out, err) = check("");
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains(r#"cannot be known without key_prefix "nodes/" { policy = "read" }"#), "{err}");

    let nodes = r#"key_prefix "nodes/" { policy = "read" }"#;
    assert!(check(&place.token(nodes)).2.contains(r#"key_prefix "clusters/" { policy"#));
    let (status, out, _) =
        check(&place.token(&format!(r#"{nodes} key_prefix "clusters/slug/" {{ policy = "read" }}"#)));
    assert_eq!(status, 1);
    assert_eq!(out.matches("403: Permission denied").count(), 2, "{out}");
    assert!(!out.contains("there are no documents") && !out.contains("slug/dev"), "{out}");
}

#[test]
fn a_repository_that_cannot_be_asked_is_an_error_and_says_nothing_of_versions() {
    let place = Place::directory();
    place.write("nodes/web1/slug", br#"{"cluster": "dev"}"#);
    place.write("clusters/slug/dev/config", br#"{"versions": {"1": "active", "2": "prep"}}"#);
    place.write("clusters/slug/dev/deploy_config", br#"{"basedir": "/srv/slug"}"#);
    let files = place.scratch.path().join("repo");
    fs::create_dir_all(files.join("slug")).unwrap();
    fs::write(files.join("slug/slug_1.tar.gz"), "").unwrap();
    let server = HttpServer::start(&files);
    let check = |repo: &str| run(&place, &["check", "--repo", repo]);

    let (status, out, _) = check(&server.url());
    assert_eq!((status, out.lines().count()), (2, 1), "{out}");
    assert!(out.starts_with("clusters/slug/dev/config: suspicious: version 2 is not in the repository"), "{out}");
    fs::rename(files.join("slug/slug_1.tar.gz"), files.join("slug/slug_2.tar.gz")).unwrap();
    assert_eq!(check(&server.url()).0, 1, "the active one is missing");

    server.set(HttpFault::Status(503));
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    for (repo, says) in [(server.url(), "503"), (nowhere, "refused"), ("file:/no/such/repo".to_owned(), "No such file")]
    {
        let (status, out, err) = check(&repo);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(says), "{err}");
    }
}

#[test]
fn a_repository_is_shown_who_asks_as_pp_preparer_shows_it() {
    let place = Place::directory();
    place.write("nodes/web1/slug", br#"{"cluster": "dev"}"#);
    place.write("clusters/slug/dev/config", br#"{"versions": {"1": "active"}}"#);
    place.write("clusters/slug/dev/deploy_config", br#"{"basedir": "/srv/slug"}"#);
    let server = WebServer::start(|request| match request.header("authorization") {
        Some("Bearer t0ken" | "Basic dXNlcjpwYXNz") => WebAnswer::status(200),
        _ => WebAnswer::status(401),
    });
    let file = |name: &str, content: &str| {
        let path = place.scratch.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (token, login, empty) = (file("token", "t0ken\n"), file("login", "user:pass\n"), file("empty", "\n"));
    let table: [(&[&str], i32, &str); 5] = [
        (&[], 1, "401"),
        (&["--repo-token", &token], 0, "0 invalid"),
        (&["--repo-login", &login], 0, "0 invalid"),
        (&["--repo-token", &empty], 1, "empty: it is empty"),
        (&["--repo-ca", &empty], 1, "no certificate"),
    ];
    for (flags, ends, says) in table {
        let (status, _, err) = run(&place, &[&["check", "--repo", &server.url()], flags].concat());
        assert!(status == ends && err.contains(says) && !err.contains("t0ken"), "{flags:?}: {status}: {err}");
    }
    let (status, _, err) = run(&place, &["check", "--repo-token", &token]);
    assert!(status == 2 && err.contains("with --repo only"), "{status}: {err}");
}

fn pp_store_without_a_store() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pp-store"));
    command.env_clear();
    command
}
