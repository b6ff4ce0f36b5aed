//! A Consul that only those reach who have a certificate of its own authority, and only with a token.

use std::path::Path;
use std::process::Command;

use fixtures::{Behaviour, Consul, Host, bin, free_port};
use serde_json::{Value, json};

use crate::place::{DENIES, rules, token};

/// A private authority in a directory of its own: its certificate, a server's and a client's with their keys.
fn authority(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    for arguments in [
        &["ca", "create"][..],
        &["cert", "create", "-server", "-dc", "dc1"],
        &["cert", "create", "-client", "-dc", "dc1"],
    ] {
        let output = Command::new("consul").arg("tls").args(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn with_a_private_authority_and_a_clients_certificate_agents_and_operators_do_their_work_and_without_they_say_what_is_missing()
 {
    let mut host = Host::new();
    let [ours, theirs] = ["authority", "another"].map(|name| host.path(name));
    authority(&ours);
    authority(&theirs);
    let file = |name: &str| ours.join(name).display().to_string();
    let https = free_port();
    let mut config = serde_json::from_str::<Value>(DENIES).unwrap();
    for (name, value) in [
        ("ports", json!({"https": https})),
        ("verify_incoming", json!(true)),
        ("ca_file", json!(file("consul-agent-ca.pem"))),
        ("cert_file", json!(file("dc1-server-consul-0.pem"))),
        ("key_file", json!(file("dc1-server-consul-0-key.pem"))),
    ] {
        config[name] = value;
    }
    host.consul = Some(Consul::start_with(&host.scratch, &config.to_string()));
    host.repo.slug("1", Behaviour::Good);
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let token = token(host.consul.as_ref().unwrap(), &[&rules("agent")]);

    let (store, repo) = (format!("consul+https://localhost:{https}"), host.repo.url());
    let path = |name: &str| host.path(name).display().to_string();
    let (runit, stage) = (path("service"), path("stage"));
    let preparer = ["pp-preparer", "--once", "--node", "web1", "--repo", &repo];
    let setlive = ["pp-setlive", "--once", "--node", "web1", "--runit", &runit, "--runit-stage", &stage];
    let get = ["pp-store", "get", "nodes/web1/slug"];
    let run = |arguments: &[&str], env: &[(&str, String)]| {
        let mut command = Command::new(bin(arguments[0]));
        command.args(["--store", &store]).args(&arguments[1..]).env("CONSUL_HTTP_TOKEN", &token);
        let output = command.envs(env.iter().cloned()).current_dir(host.scratch.path()).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let ca = ("CONSUL_CACERT", file("consul-agent-ca.pem"));
    let pair = |dir: &Path| {
        let [cert, key] =
            ["dc1-client-consul-0.pem", "dc1-client-consul-0-key.pem"].map(|name| dir.join(name).display().to_string());
        [("CONSUL_CLIENT_CERT", cert), ("CONSUL_CLIENT_KEY", key)]
    };
    let (client, stranger) = (pair(&ours), pair(&theirs));
    let all = [&client[..], std::slice::from_ref(&ca)].concat();

    for (env, says) in [
        (vec![ca.clone()], "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"),
        (vec![ca.clone(), client[0].clone()], "only one of them is set"),
        ([&stranger[..], std::slice::from_ref(&ca)].concat(), "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"),
        (client.to_vec(), "CONSUL_CACERT"),
        (
            [&client[..], &[("CONSUL_CACERT", theirs.join("consul-agent-ca.pem").display().to_string())]].concat(),
            "CONSUL_CACERT",
        ),
    ] {
        for arguments in [&preparer[..], &setlive, &get] {
            let (ok, said) = run(arguments, &env);
            assert!(!ok && said.contains(says) && said.lines().count() == 1, "{arguments:?} {env:?}: {said}");
            assert!(!said.contains(&token), "{said}");
        }
    }
    for arguments in [&preparer[..], &setlive] {
        let (ok, said) = run(arguments, &all);
        assert!(ok, "{said}");
    }
    host.serves("1");
    assert_eq!(run(&get, &all), (true, r#"{"cluster":"dev"}"#.to_owned()));
}
