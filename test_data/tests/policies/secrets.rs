//! A token is seen by nobody: not in what our programs say, at any level of their logs, nor in what they write or start.

use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::{Behaviour, Fault, Host, Proxy, Slug, WebAnswer, WebServer, bin, free_port};
use serde_json::json;

use crate::place::{consul, rules, token_that_is};

/// As Consul's own are.
const SECRET: &str = "5e5a3e00-0b5e-4ed0-8000-0b5e55edc0de";
/// What Consul has never heard of.
const UNKNOWN: &str = "5e5a3e00-0b5e-4ed0-8000-000000000000";
/// What all of them begin with.
const RECOGNISED: &str = "5e5a3e00-0b5e";

/// How a program is told a token.
fn told(command: &mut Command, host: &Host, token: &str, by_file: bool) {
    command.env("RUST_LOG", "trace");
    if by_file {
        let file = host.path("token");
        fs::write(&file, format!("{token}\n")).unwrap();
        command.env("CONSUL_HTTP_TOKEN_FILE", file);
    } else {
        command.env("CONSUL_HTTP_TOKEN", token);
    }
}

/// Runs every program once against this store; tells what all of them said.
fn everything(host: &Host, store: &str, token: &str, by_file: bool) -> String {
    let path = |name: &str| host.path(name).display().to_string();
    let (runit, stage, rules, backup) = (path("service"), path("stage"), path("rules"), path("backup"));
    let repo = host.repo.url();
    let agent = ["--once", "--node", "web1"];
    let mut said = String::new();
    for (program, arguments) in [
        ("pp-preparer", [&agent[..], &["--repo", &repo]].concat()),
        ("pp-setlive", [&agent[..], &["--runit", &runit, "--runit-stage", &stage, "--log-format", "json"]].concat()),
        ("pp-setlive", vec!["--plan", "--node", "web1", "--runit", &runit, "--runit-stage", &stage]),
        ("pp-iptables", [&agent[..], &["--rules", &rules]].concat()),
        ("pp-store", vec!["ls", "--json"]),
        ("pp-store", vec!["get", "nodes/web1/slug"]),
        ("pp-store", vec!["put", "nodes/web1/slug", r#"{"cluster": "dev"}"#]),
        ("pp-store", vec!["log", "slug", "dev", "--diff"]),
        ("pp-store", vec!["leases", "slug", "dev"]),
        ("pp-store", vec!["check"]),
        ("pp-store", vec!["export", &backup]),
        ("pp-store", vec!["plan", &backup]),
    ] {
        let mut command = Command::new(bin(program));
        command.args(["--store", store]).args(arguments).current_dir(host.scratch.path());
        told(&mut command, host, token, by_file);
        let output = command.output().unwrap();
        for bytes in [output.stdout, output.stderr] {
            said.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    said
}

#[test]
fn a_token_is_in_nothing_that_our_programs_say_write_or_start_whatever_fails() {
    let host = Host::new().with_consul(consul);
    let server = host.consul.as_ref().unwrap();
    token_that_is(server, &[&rules("agent")], Some(SECRET));
    // What runs meanwhile, with its arguments, and what the hook itself is told.
    let look = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done >$DATA_DIR/arguments 2>/dev/null
        env >$DATA_DIR/environment";
    host.repo.add_as("slug", &Slug::new("1", Behaviour::Good).enable(look));
    host.deploy_config(json!({"ports": [1212]}));
    host.activate("1", json!({}));
    let elsewhere = WebServer::start(|_| WebAnswer::status(200));
    let to = elsewhere.url();
    let redirects = WebServer::start(move |_| WebAnswer::redirect(&format!("{to}/v1/kv/")));
    let proxy = Proxy::start(server.addr());
    proxy.set(Fault::Status(500));
    let (good, nobody) = (server.url(), format!("consul://127.0.0.1:{}", free_port()));
    let mut said = String::new();
    for by_file in [false, true] {
        for (store, token, says) in [
            (good.as_str(), SECRET, "403: Permission denied; the token in CONSUL_HTTP_TOKEN"),
            (&good, UNKNOWN, "403: ACL not found; Consul does not know the token"),
            (&nobody, SECRET, "cannot connect"),
            (&proxy.url(), SECRET, ": 500: "),
            (&redirects.url().replace("http:", "consul:"), SECRET, ": 302: "),
            (&good, &format!("{RECOGNISED}\u{7f}"), "holds what no HTTP header can"),
        ] {
            let now = everything(&host, store, token, by_file);
            assert!(now.contains(says), "{store} {by_file}: {now}");
            said.push_str(&now);
        }
    }
    assert!(said.contains("1 is live") && said.contains("step: "), "all is logged that there is: {said}");
    assert!(!said.contains(RECOGNISED), "{said}");
    assert!(!redirects.requests().is_empty() && elsewhere.requests().is_empty(), "nobody else is told a token");

    fs::remove_file(host.path("token")).unwrap();
    let arguments = fs::read_to_string(host.path("srv/slug/data/arguments")).unwrap();
    assert!(arguments.contains("pp-setlive --store") && arguments.contains("bin/enable"), "{arguments}");
    assert!(fs::read_to_string(host.path("srv/slug/data/environment")).unwrap().contains("DATA_DIR"));
    let mut files = 0;
    each_file(host.scratch.path(), &mut |path, bytes| {
        files += 1;
        assert!(!bytes.windows(RECOGNISED.len()).any(|part| part == RECOGNISED.as_bytes()), "{}", path.display());
    });
    assert!(files > 20, "{files}");
}

/// What is in all files but Consul's own.
fn each_file(dir: &Path, tell: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !entry.file_name().to_string_lossy().starts_with("consul-") {
            each_file(&path, tell);
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(&path)
        {
            tell(&path, &bytes);
        }
    }
}
