//! `pp-store leases`, `release` and `retry`: a cluster whose hosts wait for each other, and an operator who looks.

#[macro_use]
mod place;

use std::fs::{self, File};
use std::process::{Child, Stdio};

use fixtures::eventually;
use place::command::{fails, json, ok, pp_store, run, said};
use place::{Place, SOON, soon};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use store::lease::Leases;
use store::{Alive, Instance, InstanceCheck};

const LOCK: &str = "locks/slug/dev/shutdown";
const CONFIG: &str = "clusters/slug/dev/config";
const NEW: &str = "9f2c41aa00112233";
const BAD: &str = "bad0bad000112233";

on_both_stores_async! {
    who_is_down_who_waits_and_what_has_failed
    where_there_is_nothing_to_show_that_is_said
    what_cannot_be_known_is_named_with_what_to_do_and_the_rest_is_shown
    an_entry_that_was_left_behind_is_released
    what_may_pass_on_a_host_that_may_be_alive_is_released_by_force_only
    what_failed_may_be_tried_again
    what_is_no_name_is_wrong_usage
    operators_at_once_lose_nothing
    a_change_is_decided_on_anew_when_somebody_else_was_faster
}

/// A cluster in which web1, web2 and web3 are alive, the nodes named have instances of 0.1, and those with `true` pass.
struct Cluster<'a> {
    place: &'a Place,
    /// What the store calls the host that all agents are on, or web1's.
    host: String,
    _agents: Vec<Alive>,
}

impl<'a> Cluster<'a> {
    async fn new(place: &'a Place, min_nodes: u32, nodes: &[(&str, bool)]) -> Self {
        let store = place.store();
        let config = json!({"versions": {"0.1": "prep", "0.2": "active"}, "min_nodes": min_nodes});
        place.write(CONFIG, config.to_string().as_bytes());
        let mut agents = Vec::new();
        for node in ["web1", "web2", "web3"] {
            agents.push(store.stay_alive(&node.parse().unwrap(), "pp-setlive").await.unwrap());
        }
        for (node, passes) in nodes {
            let instance = Instance {
                app: "slug".parse().unwrap(),
                cluster: "dev".parse().unwrap(),
                node: node.parse().unwrap(),
                version: "0.1".parse().unwrap(),
                digest: "01d01d".to_owned(),
                port: None,
                check: InstanceCheck::Reported,
            };
            store.register(&instance).await.unwrap();
            store.report(&instance.node, &instance.app, *passes, "").await.unwrap();
            let shown = async {
                let is_so = |it: &store::Registered| it.node == instance.node && it.passing == *passes;
                while !store.instances(&instance.app, &instance.cluster).await.unwrap().iter().any(is_so) {
                    tokio::task::yield_now().await;
                }
            };
            soon(shown).await;
        }
        Self { place, host: store.host_of(&"web1".parse().unwrap()).await.unwrap(), _agents: agents }
    }

    /// An entry on a host that is alive.
    fn down(&self, node: &str, to: Option<&str>) -> Value {
        let host = if self.place.consul.is_some() { &self.host } else { node };
        json!({"to": to, "since": "2026-01-02T03:04:05Z", "why": "replaced by 0.2", "host": host})
    }

    fn write(&self, down: &Value, failed: &Value) {
        write(self.place, LOCK, down, failed);
    }
}

fn write(place: &Place, key: &str, down: &Value, failed: &Value) {
    place.write(key, json!({"rev": 7, "down": down, "failed": failed}).to_string().as_bytes());
}

/// An entry on a host that is dead.
fn down_and_dead(place: &Place) -> Value {
    if let Some(consul) = &place.consul {
        let checks = json!([{"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "critical"}]);
        let dead = json!({"Node": "dead", "Address": "192.0.2.1", "Checks": checks});
        assert_eq!(consul.http("PUT", "/v1/catalog/register", dead.to_string().as_bytes()).0, 200);
    }
    json!({"to": NEW, "since": "2026-01-02T03:04:05Z", "why": "replaced by 0.2", "host": "dead"})
}

fn failed(version: &str, retry: Option<&str>) -> Value {
    let at = "2026-01-02T03:04:05Z";
    let mut failed =
        json!({"version": version, "node": "web1", "reason": "answered 500", "at": at, "log": ["a", "b\u{7}"]});
    if let Some(retry) = retry {
        failed["retry"] = retry.into();
    }
    failed
}

fn leases(place: &Place) -> Leases {
    serde_json::from_value(json(place, &["get", LOCK])["value"].clone()).unwrap()
}

async fn who_is_down_who_waits_and_what_has_failed(place: Place) {
    let cluster = Cluster::new(&place, 1, &[("web1", true), ("web2", true), ("web3", false)]).await;
    let downs = json!({"web3": cluster.down("web3", Some(NEW)), "web4": down_and_dead(&place)});
    cluster.write(&downs, &json!({BAD: failed("0.2", None), NEW: failed("0.3", Some("2026-01-02T03:04:05Z"))}));
    write(&place, "locks/other/dev/shutdown", &json!({}), &json!({}));
    write(&place, "locks/other/dev/elsewhere", &json!({}), &json!({}));
    let out = ok(&place, &["leases"]);
    let lines = out.lines().collect::<Vec<_>>();
    let host = downs["web3"]["host"].as_str().unwrap();
    for (line, begins, says) in [
        (0, "slug dev: 2 of 3 instances pass, min_nodes is 1, which leaves 1 to spare", String::new()),
        (1, "  web3: down for ", ", replaced by 0.2, to 0.3 (9f2c41aa); does not pass: its check ".to_owned()),
        (
            2,
            "  web4: down for ",
            "; not registered; its host dead is dead, so the entry keeps nobody waiting".to_owned(),
        ),
        (3, "  0.3 (9f2c41aa) failed on web1 ", " days ago: answered 500; may be tried again, as an op".to_owned()),
        (4, "    | a", String::new()),
        (5, r"    | b\u{7}", String::new()),
        (
            6,
            "  0.2 (bad0bad0) failed on web1 ",
            " days ago: answered 500; nobody tries it again, until `pp-st".to_owned(),
        ),
        (1, "  web3: down for ", format!("; its host {host} is alive; others wait until")),
    ] {
        assert!(lines[line].starts_with(begins) && lines[line].contains(&says), "{out}");
    }
    assert_eq!(lines.len(), 9, "{out}");
    assert_eq!(ok(&place, &["leases", "slug", "dev"]).lines().count(), 9);

    let all = json(&place, &["leases"]);
    let it = &all[0];
    assert_eq!(all.as_array().unwrap().len(), 1);
    let expected = json!([LOCK, "slug", "dev", 1, 3, 2, 1]);
    let fields = ["key", "app", "cluster", "min_nodes", "instances", "passing", "spare"];
    assert_eq!(fields.map(|field| it[field].clone()).to_vec(), *expected.as_array().unwrap());
    let mut entry = downs["web3"].clone();
    for (field, value) in
        [("node", json!("web3")), ("version", json!("0.3")), ("alive", json!(true)), ("passing", json!(false))]
    {
        entry[field] = value;
    }
    (entry["trial"], entry["held"]) = (json!(true), json!(false));
    assert_eq!(it["down"][0], entry);
    assert_eq!((&it["down"][1]["alive"], &it["down"][1]["trial"]), (&json!(false), &json!(false)));
    let mut expected = failed("0.2", None);
    (expected["digest"], expected["retry"]) = (BAD.into(), Value::Null);
    assert_eq!(it["failed"][1], expected);
}

async fn where_there_is_nothing_to_show_that_is_said(place: Place) {
    let nothing = "pp-store: nobody is down on purpose, and nothing has failed";
    let nothing_at_all =
        format!("{nothing}; who waits all the same waits for min_nodes: see `pp-store leases APP CLUSTER`\n");
    assert_eq!(run(&place, &["leases"]), (0, String::new(), nothing_at_all.clone()));
    assert_eq!(json(&place, &["leases"]), json!([]));
    fails(&place, &["leases", "slug", "dev"], 1, &["there is no cluster dev of slug: neither a config nor"]);
    fails(&place, &["release", "slug", "dev", "web1"], 1, &["there is no cluster dev of slug: neither"]);
    fails(&place, &["retry", "slug", "dev"], 1, &["there is no cluster dev of slug: neither"]);
    fails(&place, &["retry", "slug", "dev", "0.2"], 1, &["failed: nothing"]);
    assert!(place.store().all_leases().await.unwrap().is_empty(), "nothing was written");

    let cluster = Cluster::new(&place, 2, &[("web1", true)]).await;
    let head = "slug dev: 1 of 1 instances pass, min_nodes is 2, which is too few: what runs stays up until more pass, or \
                min_nodes is lower\n";
    for _ in 0..2 {
        assert_eq!(run(&place, &["leases", "slug", "dev"]), (0, head.to_owned(), format!("{nothing}\n")));
        assert_eq!(run(&place, &["leases"]), (0, String::new(), nothing_at_all.clone()));
        fails(&place, &["release", "slug", "dev", "web1"], 1, &["no entry of web1 in slug dev", "purpose: nobody is"]);
        fails(&place, &["retry", "slug", "dev"], 1, &["nothing has failed in slug dev"]);
        cluster.write(&json!({}), &json!({}));
    }
}

async fn what_cannot_be_known_is_named_with_what_to_do_and_the_rest_is_shown(place: Place) {
    let cluster = Cluster::new(&place, 1, &[]).await;
    cluster.write(&json!({"web1": cluster.down("web1", Some(NEW))}), &json!({}));
    place.write("locks/other/dev/shutdown", b"{\"rev\": ");
    place.write(CONFIG, b"");
    let (status, out, err) = run(&place, &["leases"]);
    assert_eq!((status, out.lines().count()), (1, 2), "{out}{err}");
    for says in [
        "pp-store: locks/other/dev/shutdown: this is not what agents write there: EOF while parsing",
        "once no host is in the middle of a replacement, `pp-store rm locks/other/dev/shutdown`\n",
        "pp-store: clusters/slug/dev/config: min_nodes cannot be known: the document is empty\n",
        "pp-store: 2 of these cannot be read or known\n",
    ] {
        assert!(err.contains(says), "{err}\ndoes not say: {says}");
    }
    assert!(out.contains("min_nodes is not known"), "{out}");
    let all = json(&place, &["leases"]);
    assert_eq!((&all[0]["min_nodes"], &all[0]["spare"], &all[2]["key"]), (&json!(null), &json!(null), &json!(CONFIG)));
    assert!(all[1]["error"].as_str().unwrap().contains("not what agents write"), "{all}");
    for command in [&["leases", "other", "dev"][..], &["release", "other", "dev", "web1"], &["retry", "other", "dev"]] {
        fails(&place, command, 1, &["locks/other/dev/shutdown: this is not what", "`pp-store rm locks/other/dev/"]);
    }
    ok(&place, &["rm", "locks/other/dev/shutdown"]);
    place.write(CONFIG, br#"{"versions": {}}"#);
    assert_eq!(run(&place, &["leases"]).0, 0);
}

async fn an_entry_that_was_left_behind_is_released(place: Place) {
    let cluster = Cluster::new(&place, 1, &[("web1", true), ("web2", false)]).await;
    let down = json!({"web2": cluster.down("web2", Some(NEW)), "web3": cluster.down("web3", None), "web4": down_and_dead(&place)});
    cluster.write(&down, &json!({BAD: failed("0.2", None)}));
    fails(
        &place,
        &["release", "slug", "dev", "web9"],
        1,
        &["no entry of web9 in slug dev; down on purpose: web2, web3, web4"],
    );
    for (node, says) in [
        ("web2", "web2 does not pass, and nobody counts on it; another node may try what it was to try; if its agent"),
        ("web3", "web3 does not pass, and nobody counts on it; if its agent comes back and goes on"),
        ("web4", "the host dead is dead, so the entry kept nobody waiting"),
    ] {
        let (status, out, err) = run(&place, &["release", "slug", "dev", node]);
        assert_eq!((status, err.lines().count()), (0, 1), "{out}{err}");
        assert!(out.starts_with(&format!("released {node}: down for ")) && err.contains(says), "{out}{err}");
    }
    let left = leases(&place);
    assert_eq!((left.rev, left.down.len(), left.failed.len()), (10, 0, 1));
    cluster.write(&down, &json!({}));
    let released = json(&place, &["release", "slug", "dev", "web2"]);
    assert_eq!(released, json!({"key": LOCK, "released": ["web2"], "down": ["web3", "web4"]}));
    let absent = json(&place, &["release", "slug", "dev", "web2"]);
    assert_eq!(absent, json!({"key": LOCK, "released": [], "down": ["web3", "web4"]}));
}

async fn what_may_pass_on_a_host_that_may_be_alive_is_released_by_force_only(place: Place) {
    let cluster = Cluster::new(&place, 1, &[("web1", true)]).await;
    cluster.write(&json!({"web1": cluster.down("web1", Some(NEW))}), &json!({}));
    let release = ["release", "slug", "dev", "web1"];
    let says = [
        "nothing was changed. web1: down for ",
        "web1 passes, and others will count on it",
        "if this one is gone for good, --force",
    ];
    fails(&place, &release, 1, &says);
    assert_eq!(leases(&place).rev, 7);
    let (status, _, err) = run(&place, &[&release[..], &["--force"]].concat());
    assert!(status == 0 && err.contains("fewer than min_nodes may pass for a while"), "{err}");
    assert!(leases(&place).down.is_empty());
    // Nothing that the store shows is nothing that is there, but in a directory.
    let other = "locks/other/dev/shutdown";
    write(&place, other, &json!({"web1": cluster.down("web1", Some(NEW))}), &json!({}));
    let (status, _, err) = run(&place, &["release", "other", "dev", "web1"]);
    if place.consul.is_some() {
        assert!(status == 1 && err.contains("whether web1 passes cannot be seen"), "{err}");
    } else {
        assert_eq!(status, 0, "{err}");
    }
}

async fn what_failed_may_be_tried_again(place: Place) {
    let cluster = Cluster::new(&place, 1, &[("web1", true)]).await;
    let all = json!({BAD: failed("0.2", None), NEW: failed("0.3", None), "bad1": failed("0.2", None)});
    cluster.write(&json!({"web2": cluster.down("web2", None)}), &all);
    fails(
        &place,
        &["retry", "slug", "dev", "bad"],
        1,
        &["bad may mean several; which? 0.2 bad0bad000112233, 0.2 bad1"],
    );
    fails(&place, &["retry", "slug", "dev", "c0ffee"], 1, &["no failed digest begins with c0ffee", "0.3 9f2c41aa"]);
    assert_eq!(leases(&place).rev, 7);

    let (status, out, err) = run(&place, &["retry", "slug", "dev", "bad0"]);
    assert_eq!((status, out.as_str()), (0, "slug dev: 0.2 (bad0bad0) may be tried again\n"));
    assert_eq!(err, "pp-store: one node tries it, and is out of service meanwhile; min_nodes holds as ever\n");
    let after = leases(&place);
    let retry = after.failed[BAD].retry.clone().unwrap();
    assert!(retry.len() == 20 && retry.ends_with('Z') && retry.as_str() > "2026", "{retry}");
    assert!(after.held(BAD, "").is_none() && after.held("bad1", "").is_some());
    assert_eq!((after.rev, after.down.len(), after.failed.len()), (8, 1, 3));
    assert!(ok(&place, &["leases"]).contains("may be tried again, as an operator said"));

    // By version, and what was said already stays as it was said.
    let (status, out, err) = run(&place, &["retry", "slug", "dev", "0.2"]);
    assert_eq!((status, out.as_str()), (0, "slug dev: 0.2 (bad1) may be tried again\n"));
    assert!(err.contains("0.2 (bad0bad0) may be tried again already, as was said "), "{err}");
    let (_, _, err) = run(&place, &["retry", "slug", "dev"]);
    assert!(err.contains("0.3 is not the active version (0.2 is): nobody tries it"), "{err}");
    assert_eq!((leases(&place).rev, leases(&place).failed[BAD].retry.as_ref()), (10, Some(&retry)));
    let again = json(&place, &["retry", "slug", "dev"]);
    assert_eq!(again, json!({"key": LOCK, "retried": [], "already": [NEW, BAD, "bad1"]}));
    assert_eq!(leases(&place).rev, 10);
}

async fn what_is_no_name_is_wrong_usage(place: Place) {
    for command in [
        &["leases", "slug"][..],
        &["leases", "../slug", "dev"],
        &["leases", "slug", "dev/x"],
        &["release", "slug", "dev"],
        &["release", "slug", "dev", "web 1"],
        &["retry", "slug"],
        &["retry", "slug", "dev", ""],
        &["retry", "slug", "dev", "../x"],
    ] {
        let (status, out, err) = run(&place, command);
        assert_eq!((status, out.as_str()), (2, ""), "{command:?}: {err}");
    }
}

async fn operators_at_once_lose_nothing(place: Place) {
    let cluster = Cluster::new(&place, 1, &[("web1", true)]).await;
    let down = json!({"web2": down_and_dead(&place), "web3": down_and_dead(&place), "web4": down_and_dead(&place)});
    cluster.write(&down, &json!({BAD: failed("0.2", None), NEW: failed("0.3", None)}));
    let commands: [&[&str]; 5] = [
        &["release", "slug", "dev", "web2"],
        &["release", "slug", "dev", "web3"],
        &["release", "slug", "dev", "web4"],
        &["retry", "slug", "dev", "bad"],
        &["retry", "slug", "dev", "9f"],
    ];
    let children = commands.map(|command| start(&place, command));
    for child in children {
        let (status, _, err) = said(&child.wait_with_output().unwrap());
        assert_eq!(status, 0, "{err}");
    }
    let after = leases(&place);
    assert_eq!((after.rev, after.down.len()), (12, 0));
    assert!(after.failed.values().all(|failed| failed.retry.is_some()), "{after:?}");
}

fn start(place: &Place, arguments: &[&str]) -> Child {
    pp_store(&place.url).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn a_change_is_decided_on_anew_when_somebody_else_was_faster(place: Place) {
    let (store, app, cluster) = (place.store(), "slug".parse().unwrap(), "dev".parse().unwrap());
    let mut seen = Vec::new();
    let theirs = |rev: u64| place.write(LOCK, json!({"rev": rev}).to_string().as_bytes());
    let changed = store.change_leases(&app, &cluster, async |leases| {
        seen.push(leases.rev);
        if seen.len() < 3 {
            theirs(10 * seen.len() as u64);
        }
        Ok((Some(leases.changed(|_| {})), "done"))
    });
    assert_eq!(changed.await.unwrap(), Some("done"));
    assert_eq!((seen, leases(&place).rev), (vec![0, 10, 20], 21));

    let mut rev = 100;
    let lost = store.change_leases(&app, &cluster, async |leases| {
        rev += 1;
        theirs(rev);
        Ok((Some(leases.changed(|_| {})), ()))
    });
    assert_eq!(lost.await.unwrap(), None);
    assert_eq!(leases(&place).rev, rev);
    let left = store.change_leases(&app, &cluster, async |_| Ok((None, "left"))).await.unwrap();
    assert_eq!((left, leases(&place).rev), (Some("left"), rev));
}

#[tokio::test]
async fn an_entry_that_changes_while_an_operator_looks_is_left_alone() {
    let place = Place::directory();
    let cluster = Cluster::new(&place, 1, &[("web1", true)]).await;
    let other = json!({"web3": cluster.down("web3", None)});
    for (theirs, status, says) in [
        (
            json!({"web2": cluster.down("web2", Some(BAD))}),
            3,
            "web2's entry is another by now, so its agent is at work",
        ),
        (other, 1, "there is no entry of web2 in slug dev; down on purpose: web3"),
        (
            json!({"web2": cluster.down("web2", Some(NEW)), "web3": cluster.down("web3", None)}),
            0,
            "nobody counts on it",
        ),
    ] {
        cluster.write(&json!({"web2": cluster.down("web2", Some(NEW))}), &json!({}));
        let path = place.root().join(".store/lock");
        let lock = File::open(&path).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let child = start(&place, &["release", "slug", "dev", "web2"]);
        // Only to write does it need the lock.
        eventually("it is about to write", SOON, || {
            let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).ok()?;
            fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path)).then_some(())
        });
        write(&place, LOCK, &theirs, &json!({"77": failed("0.2", None)}));
        drop(lock);
        let (found, out, err) = said(&child.wait_with_output().unwrap());
        assert!(found == status && err.contains(says), "{found}: {out}{err}");
        assert_eq!(leases(&place).failed.len(), 1);
        assert_eq!(leases(&place).down.contains_key("web2"), status == 3);
        assert_eq!(leases(&place).rev, if status == 0 { 8 } else { 7 });
    }
}

#[test]
fn a_store_that_is_one_file_has_no_leases() {
    let place = Place::directory();
    let file = place.scratch.path().join("intent.json");
    fs::write(&file, format!(r#"{{"{LOCK}": {{"rev": 1}}}}"#)).unwrap();
    let place = Place { url: format!("file:{}", file.display()), ..place };
    for command in [&["leases"][..], &["release", "slug", "dev", "web1"], &["retry", "slug", "dev"]] {
        fails(&place, command, 1, &["a store that is one file has no leases"]);
    }
}

#[test]
fn a_document_that_cannot_be_read_is_named() {
    let place = Place::directory();
    fs::create_dir_all(place.root().join("locks/slug/dev")).unwrap();
    std::os::unix::fs::symlink("/no/such/file", place.root().join(format!("{LOCK}.json"))).unwrap();
    let (status, _, err) = run(&place, &["leases"]);
    assert!(
        status == 1 && err.contains(&format!("pp-store: {LOCK}: ")) && err.contains("; make it readable\n"),
        "{err}"
    );
    fails(&place, &["retry", "slug", "dev"], 1, &[LOCK, "is a link whose target"]);
}

#[test]
fn without_rights_nothing_is_said_to_be_absent_and_the_rule_is_named() {
    let place = Place::consul_with_access_control();
    let with = |token: &str, command: &[&str]| {
        said(&pp_store(&place.url).env("CONSUL_HTTP_TOKEN", token).args(command).output().unwrap())
    };
    let none = place.token("");
    for (command, says) in [
        (&["leases"][..], r#"cannot be known without key_prefix "locks/" { policy = "read" }"#),
        (&["leases", "slug", "dev"], r#"needs key "locks/slug/dev/shutdown" { policy = "read" }"#),
        (&["release", "slug", "dev", "web1"], r#"needs key "locks/slug/dev/shutdown" { policy = "read" }"#),
        (&["retry", "slug", "dev"], r#"needs key "locks/slug/dev/shutdown" { policy = "read" }"#),
    ] {
        let (status, out, err) = with(&none, command);
        assert_eq!((status, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
        assert!(err.contains("403: Permission denied") && err.contains(says), "{err}");
    }

    let down = json!({"web1": {"to": NEW, "since": "2026-01-02T03:04:05Z", "why": "why", "host": "web1"}});
    write(&place, LOCK, &down, &json!({BAD: failed("0.2", None)}));
    let reads = place.token(r#"key_prefix "locks/" { policy = "read" }"#);
    let (status, out, err) = with(&reads, &["leases"]);
    assert_eq!((status, out.lines().count()), (1, 5), "{out}{err}");
    assert!(
        out.contains("or none that this token may see") && out.contains("whether its host is alive is not"),
        "{out}"
    );
    for says in
        [r#"needs agent_prefix "" { policy = "read" }"#, &format!(r#"needs key "{CONFIG}" {{ policy = "read" }}"#)]
    {
        assert!(err.contains(says), "{err}\ndoes not say: {says}");
    }
    let write = format!(r#"needs key "{LOCK}" {{ policy = "write" }}"#);
    for command in [&["release", "slug", "dev", "web1", "--force"][..], &["retry", "slug", "dev"]] {
        let (status, out, err) = with(&reads, command);
        assert!(status == 1 && out.is_empty() && err.contains(&write), "{err}");
    }
    let refused = with(&reads, &["release", "slug", "dev", "web1"]);
    assert!(refused.2.contains("whether web1 passes cannot be seen"), "{refused:?}");
    let (status, out, err) = with("root", &["leases"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
}
