//! What is registered in a real Consul, and known by a stamp: that must never keep a pass from seeing what somebody changed.

use std::cell::Cell;
use std::fs;

use fixtures::{Behaviour, Host, Pass, Proxy, SOON, Slug, differences, eventually};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// A host whose one app is live and registered.
struct Live {
    host: Host,
    asked: Cell<usize>,
}

impl Live {
    fn new() -> Self {
        let mut host = Host::on_consul();
        host.proxy = Some(Proxy::start(consul(&host).addr()));
        host.install(&Slug::new("1", Behaviour::Good));
        let live = Self { host, asked: Cell::new(0) };
        live.wants();
        live.becomes_known();
        live
    }

    fn wants(&self) {
        self.host.deploy_config(json!({}));
        self.host.activate("1", json!({}));
    }

    /// A pass, and how often it looked at all that is registered.
    fn pass(&self) -> (Pass, usize) {
        let pass = self.host.converge();
        let lines = self.host.proxy.as_ref().unwrap().request_lines();
        let new = &lines[self.asked.replace(lines.len())..];
        let looks = new.iter().filter(|line| line.starts_with("GET /v1/agent/services ")).count();
        (pass, looks)
    }

    fn becomes_known(&self) {
        eventually("a pass need not look", SOON, || (self.pass().1 == 0).then_some(()));
    }

    fn put(&self, path: &str, body: &Value) {
        let answer = consul(&self.host).http("PUT", &format!("/v1/{path}"), body.to_string().as_bytes());
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&consul(&self.host).http("GET", &format!("/v1/{path}"), b"").1).unwrap()
    }

    fn service(&self) -> Value {
        let mut service = self.get("agent/services")["web1:slug"].clone();
        service["ContentHash"].take();
        service
    }

    /// By their names.
    fn checks(&self) -> Vec<String> {
        self.get("agent/checks").as_object().unwrap().keys().cloned().collect()
    }
}

fn consul(host: &Host) -> &fixtures::Consul {
    host.consul.as_ref().unwrap()
}

fn is_registered_anew(pass: &Pass) -> bool {
    pass.log.contains("slug: Registering it anew")
}

#[test]
fn what_was_found_registered_as_it_should_be_is_not_looked_at_again_and_nothing_is_written() {
    let live = Live::new();
    let before = live.host.everything();
    for _ in 0..3 {
        let (pass, looks) = live.pass();
        assert_eq!((pass.log.as_str(), looks), ("", 0));
    }
    assert_eq!(differences(&before, &live.host.everything()), Vec::<String>::new());
}

#[test]
fn what_somebody_changes_of_a_registration_is_mended_by_the_next_pass() {
    let live = Live::new();
    let ours = live.service();
    let (catalog, check) = (live.get("agent/self")["Config"]["NodeName"].clone(), live.checks().pop().unwrap());
    let mut changed =
        json!({"ID": "web1:slug", "Name": "slug", "Tags": ours["Tags"], "Port": ours["Port"], "Meta": ours["Meta"]});
    changed["Meta"]["version"] = json!("2");
    let other_port = json!({"ID": "web1:slug", "Name": "slug", "Tags": ours["Tags"], "Port": 1, "Meta": ours["Meta"]});
    let other_tag =
        json!({"ID": "web1:slug", "Name": "slug", "Tags": ["x"], "Port": ours["Port"], "Meta": ours["Meta"]});
    for (what, path, body, is_mended) in [
        ("it is gone", "agent/service/deregister/web1:slug", json!(null), true),
        ("its meta", "agent/service/register", changed, true),
        ("its port", "agent/service/register", other_port, true),
        ("its tag", "agent/service/register", other_tag, true),
        ("its check is gone", &*format!("agent/check/deregister/{check}"), json!(null), true),
        // Which Consul's agent itself mends.
        ("in the catalog", "catalog/deregister", json!({"Node": catalog, "ServiceID": "web1:slug"}), false),
        (
            "a drain of ours that was never ended",
            "agent/service/maintenance/web1:slug?enable=true&reason=platypus:+x",
            json!(null),
            false,
        ),
    ] {
        live.put(path, &body);
        let (pass, looks) = live.pass();
        assert_eq!((looks, is_registered_anew(&pass)), (1, is_mended), "{what}: {}", pass.log);
        assert_eq!(live.service(), ours, "{what}");
        assert_eq!(live.checks(), [check.as_str()], "{what}");
        live.becomes_known();
    }
}

#[test]
fn while_an_instance_does_not_pass_every_pass_looks() {
    let live = Live::new();
    for (on, off) in [
        (
            "agent/service/maintenance/web1:slug?enable=true&reason=a+disk",
            "agent/service/maintenance/web1:slug?enable=false",
        ),
        ("agent/maintenance?enable=true&reason=a+disk", "agent/maintenance?enable=false"),
    ] {
        live.put(on, &json!(null));
        for _ in 0..2 {
            assert_eq!(live.pass().1, 1, "{on}");
        }
        live.put(off, &json!(null));
        live.becomes_known();
    }
}

#[test]
fn reports_are_repeated_once_one_of_them_is_due_and_till_then_no_pass_looks() {
    let live = Live::new();
    live.host.activate("1", json!({"health": null}));
    live.becomes_known();
    let check = live.checks().pop().unwrap();
    let output = || live.get("agent/checks")[&check]["Output"].as_str().unwrap().to_owned();
    for (age, is_repeated) in [(40, false), (61, true), (-30, true)] {
        let at = OffsetDateTime::now_utc() - Duration::seconds(age);
        let says = output().split(" (reported").next().unwrap().to_owned();
        let old = format!("{says} (reported {})", at.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap());
        live.put(&format!("agent/check/update/{check}"), &json!({"Status": "passing", "Output": old}));
        fs::remove_file(live.host.path("stage/.platypus/.registered")).unwrap();
        assert_eq!(live.pass().1, 1, "{age} s");
        assert_eq!(output() != old, is_repeated, "{age} s: {}", output());
        if !is_repeated {
            assert_eq!(live.pass().1, 0, "{age} s");
        }
        live.becomes_known();
    }
}

#[test]
fn a_hint_of_another_store_or_of_one_that_began_anew_is_not_believed() {
    let mut live = Live::new();
    let proxy = Proxy::start(consul(&live.host).addr());
    live.host.proxy = Some(proxy);
    live.asked.set(0);
    assert_eq!(live.pass().1, 1, "the same by another address");
    live.becomes_known();

    consul(&live.host).restart();
    live.wants();
    let (pass, looks) = live.pass();
    assert!(looks == 1 && is_registered_anew(&pass), "{}", pass.log);
    live.becomes_known();
}

#[test]
fn a_hint_that_is_torn_or_gone_is_no_hint() {
    let live = Live::new();
    let hint = live.host.path("stage/.platypus/.registered");
    let text = fs::read(&hint).unwrap();
    fs::write(&hint, &text[..text.len() / 2]).unwrap();
    assert_eq!(live.pass().1, 1);
    live.becomes_known();
    fs::remove_file(&hint).unwrap();
    assert_eq!(live.pass().1, 1);
    live.becomes_known();
}

#[test]
fn what_intent_wants_otherwise_is_looked_at() {
    let live = Live::new();
    let before = live.service()["Port"].clone();
    live.host.deploy_config(json!({"ports": [99]}));
    let (pass, looks) = live.pass();
    assert!(looks == 1 && is_registered_anew(&pass), "{}", pass.log);
    assert_eq!((&before, &live.service()["Port"]), (&json!(live.host.port), &json!(99)));
}

#[test]
fn a_pass_that_finds_all_as_it_was_left_ends_early_and_one_that_has_something_to_say_never_does() {
    let live = Live::new();
    let ends_early = || {
        let mut agent = live.host.setlive();
        let pass = fixtures::pass(agent.arg("--once").env("RUST_LOG", "converge=debug"));
        let early = pass.log.contains("all is as a pass before this one left it");
        (early, pass)
    };
    assert!(ends_early().0);
    let put = |key: &str, document: &Value| live.put(&format!("kv/{key}"), document);
    let node = "nodes/web1/slug";
    for (what, key, document, instead, is_fine) in [
        ("on hold", node, json!({"cluster": "dev", "hold": true}), json!({"cluster": "dev"}), true),
        ("an app that is invalid", "nodes/web1/other", json!({"cluster": "dev"}), Value::Null, false),
        ("no app's key", "nodes/web1/a/b", json!({"cluster": "dev"}), Value::Null, false),
    ] {
        put(key, &document);
        let said = [(); 3].map(|()| {
            let (early, pass) = ends_early();
            assert!(!early && pass.ok == is_fine, "{what}: {}", pass.log);
            pass.log.lines().filter(|line| !line.contains("DEBUG")).count()
        });
        assert!(said.iter().all(|lines| *lines == said[0] && *lines > 0), "{what}: {said:?}");
        match instead {
            Value::Null => drop(consul(&live.host).http("DELETE", &format!("/v1/kv/{key}"), b"")),
            instead => put(key, &instead),
        }
        eventually("it ends early again", SOON, || ends_early().0.then_some(()));
    }
}
