//! What an operator reads first when something is wrong: for each fault the one sentence of `pp-store why`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;

use fixtures::{Agent, Behaviour, Consul, Fault, Host, Proxy, SOON, bin, eventually, pass};
use serde_json::{Value, json};

/// A host whose agents run on.
struct Site {
    preparer: Agent,
    setlive: Agent,
    host: Host,
}

impl Site {
    /// On which version 1 runs.
    fn new() -> Self {
        Self::on(Host::new())
    }

    fn on(host: Host) -> Self {
        host.repo.slug("1", Behaviour::Good);
        host.deploy_config(json!({}));
        host.activate("1", json!({}));
        let site = Self { preparer: host.watch(host.preparer()), setlive: host.watch(host.setlive()), host };
        site.says("slug dev: converged: 1 passes on 1 of 1 nodes");
        site
    }

    fn ask(&self, arguments: &[&str]) -> fixtures::Pass {
        let mut store = Command::new(bin("pp-store"));
        // Of a Consul that asks for one.
        store.env("CONSUL_HTTP_TOKEN", "root");
        pass(store.arg("--store").arg(self.host.store_url()).args(arguments))
    }

    /// The first line.
    fn why(&self, node: &[&str]) -> String {
        let said = self.ask(&[&["why", "slug"], node].concat());
        said.out.lines().next().map_or(said.log, str::to_owned)
    }

    /// In the end. `…` stands for whatever differs from run to run.
    fn says(&self, sentence: &str) {
        self.says_of(&[], sentence);
    }

    fn says_of(&self, node: &[&str], sentence: &str) {
        let mut said = String::new();
        let is_said = || {
            said = self.why(node);
            is_like(&said, sentence).then_some(())
        };
        let what = format!("it says {sentence:?}");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually(&what, SOON, is_said))).is_err() {
            panic!("{what}, but {said:?}");
        }
    }
}

fn is_like(said: &str, sentence: &str) -> bool {
    let mut rest = said;
    for (number, part) in sentence.split('…').enumerate() {
        match rest.find(part) {
            Some(at) if number > 0 || at == 0 => rest = &rest[at + part.len()..],
            Some(_) | None => return false,
        }
    }
    rest.is_empty() || sentence.ends_with('…')
}

#[test]
fn an_artifact_that_is_not_there() {
    let site = Site::new();
    site.host.activate("2", json!({}));
    site.says("slug dev: web1: pp-preparer fails: …slug_2.tar.gz…");
}

#[test]
fn an_artifact_that_is_another_than_intent_says() {
    let site = Site::new();
    site.host.repo.slug("2", Behaviour::Good);
    site.host.activate("2", json!({"artifacts": {"2": {"sha256": "0".repeat(64)}}}));
    site.says("slug dev: web1: pp-preparer fails: …sha256…");
}

#[test]
fn a_port_that_somebody_else_has() {
    let site = Site::new();
    site.host.repo.slug("2", Behaviour::Good);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    site.host.activate("2", json!({"user_config": {"port": port}}));
    // Its check may just have been refused, or there was nothing to check at that moment.
    site.says(
        "slug dev: web1: pp-setlive fails: 2 failed here (not healthy within 3s: …); 1 runs instead, …it logged: …in use…",
    );
}

#[test]
fn a_check_that_fails() {
    let site = Site::new();
    site.host.repo.slug("2", Behaviour::NeverHealthy);
    site.host.activate("2", json!({}));
    site.says("slug dev: web1: pp-setlive fails: 2 failed here (not healthy within 3s: …500…); 1 runs instead, …");
    let status = site.ask(&["status", "--json"]).out;
    let status = &serde_json::from_str::<Value>(&status).unwrap()[0];
    let counts = ["nodes", "prepared", "live", "healthy"].map(|field| status[field].as_i64().unwrap());
    assert_eq!((&status["wanted"], &status["state"], counts), (&json!("2"), &json!("failing"), [1, 1, 0, 0]));
}

#[test]
fn a_minimum_that_cannot_be_met() {
    let site = Site::new();
    site.host.repo.slug("2", Behaviour::Good);
    site.host.activate("2", json!({"min_nodes": 1}));
    site.says(
        "slug dev: web1: pp-setlive waits: 1 of 1 healthy, min 1, all 1 that are registered are needed for min_nodes 1, so that \
         none may go down: lower it, or add a node",
    );
}

#[test]
fn another_node_that_is_down() {
    let site = Site::new();
    let mut other = Host { node: "web2", ..Host::new() };
    for shared in ["store", "repo"] {
        fs::remove_dir_all(other.path(shared)).unwrap();
        symlink(site.host.path(shared), other.path(shared)).unwrap();
    }
    other.port = site.host.port;
    // Of a cluster there is one basedir, and one port.
    fs::create_dir(other.path("srv")).unwrap();
    let (preparer, setlive) = (other.watch(other.preparer()), other.watch(other.setlive()));
    site.host.put("nodes/web2/slug", &json!({"cluster": "dev"}));
    site.says_of(&["web2"], "slug dev: web2: pp-setlive …");
    preparer.kill();
    setlive.kill();
    site.host.repo.slug("2", Behaviour::Good);
    site.host.activate("2", json!({"min_nodes": 1}));
    site.says(&format!("slug dev: web2: pp-preparer of web2 {DEAD}"));
    site.says_of(&["web1"], "slug dev: web1: pp-setlive waits: 1 of … healthy, min 1…");
}

/// Whoever is dead has not failed; so this is the reason only where nobody has.
const DEAD: &str = "is dead, cut off or refused by the store: unless its host is down, what runs there runs on as it is; see its log there";

#[test]
fn an_agent_that_is_dead() {
    let Site { preparer, setlive, host } = Site::new();
    setlive.kill();
    let site = Site { setlive: host.watch(Command::new("true")), preparer, host };
    site.says(&format!("slug dev: web1: pp-setlive of web1 {DEAD}"));
}

#[test]
fn a_disk_that_is_full() {
    let host = Host::new();
    host.repo.artifact("slug", "2", |archive| {
        let mut header = tar::Header::new_gnu();
        header.set_size(2 << 20);
        archive.append_data(&mut header, "large", &vec![b'x'; 2 << 20][..]).unwrap();
    });
    host.deploy_config(json!({}));
    host.activate("2", json!({}));
    fs::create_dir(host.path("srv")).unwrap();
    // Which nobody else sees.
    let mut preparer = Command::new("unshare");
    preparer.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\""]);
    preparer.arg(host.path("srv")).arg(bin("pp-preparer")).args(host.preparer().get_args());
    let site = Site { preparer: host.watch(preparer), setlive: host.watch(host.setlive()), host };
    site.says("slug dev: web1: pp-preparer fails: …not enough room on the file system at …");
}

#[test]
fn a_store_that_is_down() {
    let host = Host::on_consul();
    let proxy = Proxy::start(host.consul.as_ref().unwrap().addr());
    proxy.set(Fault::Refuse);
    let mut store = Command::new(bin("pp-store"));
    let said = pass(store.args(["--store", &proxy.url(), "why", "slug"]));
    assert!(!said.ok && said.log.starts_with("pp-store: ") && said.log.contains(&proxy.addr()), "{}", said.log);
}

#[test]
fn a_token_that_was_revoked() {
    let acl = r#"{"primary_datacenter": "dc1", "acl":
        {"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "agent": "root"}}}"#;
    let host = Host::new();
    let consul = Consul::start_with(&host.scratch, acl);
    let put = |path: &str, body: Value| {
        let (status, answer) = consul.http("PUT", path, body.to_string().as_bytes());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let rules = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/consul/agent.hcl")).unwrap();
    put("/v1/acl/policy", json!({"Name": "agents", "Rules": rules}));
    let token = put("/v1/acl/token", json!({"Policies": [{"Name": "agents"}]}));
    let host = Host { consul: Some(consul), ..host };
    host.repo.slug("1", Behaviour::Good);
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let with = |mut agent: Command, token: &Value| {
        agent.env("CONSUL_HTTP_TOKEN", token.as_str().unwrap());
        host.watch(agent)
    };
    let (preparer, setlive) = (with(host.preparer(), &token["SecretID"]), with(host.setlive(), &token["SecretID"]));
    let site = Site { preparer, setlive, host };
    site.says("slug dev: converged: 1 passes on 1 of 1 nodes");
    let path = format!("/v1/acl/token/{}", token["AccessorID"].as_str().unwrap());
    assert_eq!(site.host.consul.as_ref().unwrap().http("DELETE", &path, b"").0, 200);
    site.host.activate("2", json!({}));
    site.says(
        "slug dev: web1: pp-preparer of web1 has yet to see what intent says now; if that lasts, see its log there",
    );
    site.preparer.says("403");
    site.setlive.says("403");
    // Whoever asks with a token that is none any more is told so, too.
    let mut store = Command::new(bin("pp-store"));
    let said = pass(store.args(["--store", &site.host.store_url(), "why", "slug"]).env("CONSUL_HTTP_TOKEN", "revoked"));
    assert!(!said.ok && said.log.contains("403"), "{}", said.log);
}

#[test]
fn an_operators_hold() {
    let site = Site::new();
    site.host.put("nodes/web1/slug", &json!({"cluster": "dev", "hold": true}));
    site.says("slug dev: web1: nodes/web1/slug says \"hold\": true; `pp-store unhold web1 slug`");
}

#[test]
fn a_roll_that_is_followed_ends_as_the_roll_does() {
    let site = Site::new();
    let set = |arguments: &[&str]| site.ask(&[&["set", "slug", "dev"], arguments].concat());
    let unprepared = set(&["2=active"]);
    assert!(!unprepared.ok && unprepared.log.contains("web1 has 1"), "{}", unprepared.log);
    for (version, behaviour) in [("2", Behaviour::Good), ("3", Behaviour::NeverHealthy)] {
        site.host.repo.slug(version, behaviour);
        assert!(set(&[&format!("{version}=prep")]).ok);
        let reported = || {
            let said = serde_json::from_str::<Value>(&site.ask(&["get", "reality/web1/pp-preparer"]).out).ok()?;
            said["apps"]["slug"]["there"].as_array()?.contains(&json!(version)).then_some(())
        };
        eventually("it is prepared, and reported", SOON, reported);
    }
    let rolled = set(&["2=active", "--wait"]);
    assert!(rolled.ok && rolled.log.contains("2 passes on every node of slug dev"), "{}", rolled.log);
    assert_eq!(site.host.serves("2")["version"], "2");
    let failed = set(&["3=active", "--wait"]);
    assert!(!failed.ok && failed.log.contains("slug dev: 3 failed on web1: "), "{}", failed.log);
    site.host.serves("2");
    let back = site.ask(&["rollback", "slug", "dev"]);
    assert!(back.ok, "{}", back.log);
    site.says("slug dev: converged: 2 passes on 1 of 1 nodes");
    // Of the same version: what passes already is not what is followed.
    for command in ["restart", "rollback"] {
        let before = site.host.pid();
        let followed = site.ask(&[command, "slug", "dev", "--wait"]);
        assert!(followed.ok && followed.log.contains("2 passes on every node of slug dev"), "{}", followed.log);
        assert_ne!(site.host.pid(), before, "{command}");
    }
}

#[test]
fn a_host_that_is_drained_has_nothing_to_do_and_comes_back() {
    let site = Site::new();
    assert!(site.ask(&["drain", "web1"]).ok);
    let drained = "slug dev: converged: 1 passes on 0 of 1 nodes; drained: 1";
    site.says(drained);
    eventually("it does not answer", SOON, || site.host.health().is_none().then_some(()));
    assert!(site.ask(&["undrain", "web1"]).ok);
    site.host.serves("1");
    site.says("slug dev: converged: 1 passes on 1 of 1 nodes");
}
