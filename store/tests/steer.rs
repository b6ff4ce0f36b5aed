//! Commands that change one thing of what is there: nothing else of the document changes, and it is in the history.

#[macro_use]
mod place;

use std::thread;

use place::Place;
use place::command::{fails, json, ok, pp_store, run, said};
use serde_json::{Value, json};

const CONFIG: &str = "clusters/slug/dev/config";
const NODE: &str = "nodes/web1/slug";
/// As somebody wrote it by hand.
const BY_HAND: &str = "{\n  \"versions\" : {\"0.1\":\"active\", \"0.2\": \"prep\"},\n\t\"x-owner\": 1.50,\n  \"user_config\": {\"b\": 1, \"a\": [ ]}\n}\n";

on_both_stores! {
    set_changes_the_versions_and_no_other_byte
    what_no_node_has_is_not_activated_without_force
    set_does_not_take_from_hosts_what_they_run
    of_several_who_set_at_once_none_undoes_what_another_did
    rollback_brings_back_the_version_and_all_that_was_with_it
    restart_changes_the_nonce_and_no_other_byte
    hold_changes_the_flag_and_no_other_byte
    drain_changes_the_flag_of_all_apps_but_those_by_which_the_host_comes_back
}

/// What a node's pp-preparer says that it has.
fn report(place: &Place, node: &str, there: &[&str]) {
    let slug = json!({"cluster": "dev", "state": "converged", "since": "2026-11-22T03:14:08Z", "there": there});
    let report = json!({"version": "0.1.0", "apps": {"slug": slug}});
    place.write(&format!("reality/{node}/pp-preparer"), report.to_string().as_bytes());
}

#[track_caller]
fn is(place: &Place, key: &str, text: &str) {
    assert_eq!(ok(place, &["get", key]), text);
}

/// How many entries there are.
#[track_caller]
fn recorded(place: &Place) -> usize {
    json(place, &["log", "slug", "dev"]).as_array().unwrap().iter().filter(|entry| entry["number"].is_number()).count()
}

fn set_changes_the_versions_and_no_other_byte(place: &Place) {
    fails(place, &["set", "slug", "dev", "0.1=prep"], 1, &["there is no clusters/slug/dev/config; pp-store put"]);
    place.write(CONFIG, BY_HAND.as_bytes());
    report(place, "web1", &["0.1", "0.2"]);
    let said = ok(place, &["set", "slug", "dev", "0.2=active", "0.3=prep", "-m", "roll it out"]);
    let lines = ["0.1 is prep, and was active", "0.2 is active, and was prep", "0.3 is prep, and was not there"];
    assert_eq!(said, lines.map(|line| format!("slug dev: {line}\n")).concat());
    let after = BY_HAND.replace(r#""0.1":"active", "0.2": "prep""#, r#""0.1":"prep", "0.2": "active", "0.3": "prep""#);
    is(place, CONFIG, &after);
    assert_eq!(json(place, &["log", "slug", "dev"])[0]["message"], "roll it out");

    let (status, out, err) = run(place, &["set", "slug", "dev", "0.2=active", "0.9=rm"]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(err.contains("nothing to do: clusters/slug/dev/config says so already"), "{err}");
    let unchanged = json(place, &["set", "slug", "dev", "0.2=active"]);
    let versions = json!({"0.1": "prep", "0.2": "active", "0.3": "prep"});
    assert_eq!(unchanged, json!({"key": CONFIG, "written": false, "versions": versions}));
    assert_eq!(recorded(place), 1);
    ok(place, &["set", "slug", "dev", "0.3=rm"]);
    is(place, CONFIG, &after.replace(r#", "0.3": "prep""#, ""));

    place.write(CONFIG, br#"{"versions": {"1": "active", "2": "active"}}"#);
    let says = "clusters/slug/dev/config is not as it has to be, and was left as it is: two active versions, 1 and 2";
    fails(place, &["set", "slug", "dev", "1=prep"], 1, &[says]);
    for wrong in [&["set", "slug", "dev"][..], &["set", "slug", "dev", "0.1"], &["set", "slug", "dev", "0.1=on"]] {
        assert_eq!(run(place, wrong).0, 2, "{wrong:?}");
    }
}

fn what_no_node_has_is_not_activated_without_force(place: &Place) {
    place.write(CONFIG, BY_HAND.as_bytes());
    let activate = ["set", "slug", "dev", "0.2=active"];
    fails(
        place,
        &activate,
        1,
        &["no node of slug dev is known to have 0.2: no node's pp-preparer reports anything of it"],
    );
    report(place, "web1", &["0.1"]);
    report(place, "web2", &[]);
    place.write("reality/web3/pp-preparer", b"{");
    let says = "nothing was written: no node of slug dev is known to have 0.2: web1 has 0.1; web2 has nothing. Have it \
                fetched first by `pp-store set slug dev 0.2=prep`; with --force";
    fails(place, &activate, 1, &[says]);
    is(place, CONFIG, BY_HAND);
    report(place, "web2", &["0.2"]);
    ok(place, &activate);
    ok(place, &["set", "slug", "dev", "0.4=active", "--force"]);
    assert_eq!(json(place, &["get", CONFIG])["value"]["versions"]["0.4"], "active");
}

fn set_does_not_take_from_hosts_what_they_run(place: &Place) {
    place.write(CONFIG, BY_HAND.as_bytes());
    let says =
        "0.1 is the active version of clusters/slug/dev/config; hosts that cannot run another one come back to it";
    fails(place, &["set", "slug", "dev", "0.1=rm"], 1, &[says, "--force"]);
    fails(place, &["set", "slug", "dev", "0.1=prep"], 1, &["without an active version all hosts stop", "--force"]);
    assert_eq!(run(place, &["log", "slug", "dev"]).0, 1, "nothing is recorded");
    ok(place, &["set", "slug", "dev", "0.1=rm", "--force"]);
    is(place, CONFIG, &BY_HAND.replace(r#""0.1":"active", "#, ""));
}

fn of_several_who_set_at_once_none_undoes_what_another_did(place: &Place) {
    place.write(CONFIG, BY_HAND.as_bytes());
    thread::scope(|scope| {
        for version in 1..=4 {
            scope.spawn(move || ok(place, &["set", "slug", "dev", &format!("1.{version}=prep")]));
        }
    });
    let versions = json(place, &["get", CONFIG])["value"]["versions"].clone();
    assert_eq!(versions.as_object().unwrap().len(), 6, "{versions}");
    assert_eq!(recorded(place), 4);
}

fn rollback_brings_back_the_version_and_all_that_was_with_it(place: &Place) {
    let put = |document: &str| assert_eq!(run(place, &["put", CONFIG, document]).0, 0);
    let rollback = |number: &[&str]| run(place, &[&["rollback", "slug", "dev"], number].concat());
    fails(place, &["rollback", "slug", "dev"], 1, &["the history has no other clusters/slug/dev/config"]);
    put(BY_HAND);
    let second = r#"{"versions": {"0.2": "active"}, "user_config": {}}"#;
    put(second);
    let (status, out, err) = rollback(&[]);
    assert!(status == 0 && out.starts_with("slug dev: 0.1 active, as of 2") && out.ends_with(" (1)\n"), "{out}{err}");
    is(place, CONFIG, BY_HAND);
    assert_eq!(json(place, &["log", "slug", "dev"])[0]["message"], "rollback to 1");
    // There and back again.
    assert_eq!(rollback(&["-m", "no, it was the database"]).0, 0);
    is(place, CONFIG, second);
    assert_eq!(rollback(&["1"]).0, 0);
    is(place, CONFIG, BY_HAND);
    assert_eq!(
        rollback(&["3"]),
        (0, String::new(), format!("pp-store: nothing to do: {CONFIG} is as entry 3 has it\n"))
    );
    assert_eq!(recorded(place), 5);

    // To stop everything at once takes more than one word.
    put(r#"{"versions": {"0.1": "prep"}}"#);
    assert_eq!(rollback(&[]).0, 0);
    fails(
        place,
        &["rollback", "slug", "dev", "6"],
        1,
        &["entry 6 has no active version, so that all hosts would stop"],
    );
    is(place, CONFIG, BY_HAND);
    // Of which there is nothing to follow.
    ok(place, &["rollback", "slug", "dev", "6", "--force", "--wait"]);
    assert_eq!(rollback(&["5"]).0, 0);

    // What an editor wrote is not in the history: back to what pp-store wrote last.
    place.write(CONFIG, br#"{"versions": {}}"#);
    assert_eq!(json(place, &["rollback", "slug", "dev"]), json!({"key": CONFIG, "written": true, "number": 9}));
    is(place, CONFIG, BY_HAND);
    ok(place, &["rm", CONFIG]);
    assert_eq!(rollback(&[]).0, 0);
    is(place, CONFIG, BY_HAND);
    fails(place, &["rollback", "slug", "dev", "11"], 1, &["entry 11 has no document: removed"]);
    fails(place, &["rollback", "slug", "dev", "70"], 1, &["there is no entry 70; see pp-store log"]);

    // Whoever can write into a history can have nothing else come back than was recorded.
    let key = "history/slug/dev/00000002";
    let entry = ok(place, &["get", key]);
    place.write(key, entry.replace(r#""0.2": "active""#, r#""6.6": "active""#).as_bytes());
    fails(place, &["rollback", "slug", "dev", "2"], 1, &["there is no entry 2"]);
    place.write(key, entry.replace("clusters/slug/dev/config", "clusters/slug/dev/deploy_config").as_bytes());
    fails(place, &["rollback", "slug", "dev", "2"], 1, &["entry 2 is of clusters/slug/dev/deploy_config"]);
}

fn restart_changes_the_nonce_and_no_other_byte(place: &Place) {
    let restart = ["restart", "slug", "dev"];
    fails(place, &restart, 1, &["there is no clusters/slug/dev/config"]);
    place.write(CONFIG, BY_HAND.as_bytes());
    let at = json(place, &restart)["restart"].as_str().unwrap().to_owned();
    is(place, CONFIG, &BY_HAND.replace("[ ]}", &format!("[ ]}},\n  \"restart\": \"{at}\"")));
    assert_eq!(recorded(place), 1);
    assert!(ok(place, &["log", "slug", "dev"]).ends_with(&format!("0.1 active, restart {at} (current)\n")));
    place.write(CONFIG, BY_HAND.replace("\n}", ",\n  \"restart\": \"before\"\n}").as_bytes());
    let (status, out, err) = run(place, &restart);
    assert!(status == 0 && out.starts_with("slug dev: 0.1 is started anew"), "{out}{err}");
    assert_ne!(json(place, &["get", CONFIG])["value"]["restart"], "before");
    place.write(CONFIG, br#"{"versions": {"1": "prep"}}"#);
    let waiting = ["restart", "slug", "dev", "--wait"];
    fails(place, &waiting, 1, &["clusters/slug/dev/config has no active version, so that there is nothing to restart"]);
}

fn hold_changes_the_flag_and_no_other_byte(place: &Place) {
    fails(place, &["hold", "web1", "slug"], 1, &["there is no nodes/web1/slug"]);
    let document = "{\"cluster\": \"dev\",\n \"x\": 1e3}\n";
    place.write(NODE, document.as_bytes());
    assert_eq!(ok(place, &["hold", "web1", "slug", "-m", "at work"]), format!("{NODE}: held as it is\n"));
    is(place, NODE, "{\"cluster\": \"dev\",\n \"x\": 1e3,\n \"hold\": true}\n");
    assert_eq!(json(place, &["hold", "web1", "slug"]), json!({"key": NODE, "written": false}));
    assert_eq!(ok(place, &["unhold", "web1", "slug"]), format!("{NODE}: held no more\n"));
    is(place, NODE, document);
    assert_eq!(run(place, &["unhold", "web1", "slug"]).2, format!("pp-store: nothing to do: {NODE} says so already\n"));
    assert_eq!(recorded(place), 2);
    place.write(NODE, br#"{"cluster": "dev", "hold": false}"#);
    ok(place, &["hold", "web1", "slug"]);
    is(place, NODE, r#"{"cluster": "dev", "hold": true}"#);
    place.write(NODE, br#"{"cluster": ""#);
    fails(
        place,
        &["hold", "web1", "slug"],
        1,
        &["nodes/web1/slug is not as it has to be, and was left as it is: cluster: EOF"],
    );
}

fn drain_changes_the_flag_of_all_apps_but_those_by_which_the_host_comes_back(place: &Place) {
    fails(place, &["drain", "web1"], 1, &["no app is meant for web1, there is nothing under nodes/web1/"]);
    let document = "{\"cluster\":\"dev\"}\n";
    for key in [NODE, "nodes/web1/tool", "nodes/web1/platypus", "nodes/web1/consul", "nodes/web10/slug"] {
        place.write(key, document.as_bytes());
    }
    let (status, out, err) = run(place, &["drain", "web1", "-m", "new disks"]);
    let says = "drained: stopped as soon as min_nodes lets it, until undrain";
    assert_eq!((status, out), (0, format!("{NODE}: {says}\nnodes/web1/tool: {says}\n")), "{err}");
    assert!(err.contains("nodes/web1/platypus stays as it is") && err.contains("nodes/web1/consul stays"), "{err}");
    is(place, NODE, "{\"cluster\":\"dev\",\"drain\":true}\n");
    for key in ["nodes/web1/platypus", "nodes/web1/consul", "nodes/web10/slug"] {
        is(place, key, document);
    }
    let log = ok(place, &["log", "slug", "dev"]);
    assert!(log.contains("  nodes/web1/slug: cluster dev, drain (current): new disks\n"), "{log}");
    let again = json!({"node": "web1", "changed": [], "already": [NODE, "nodes/web1/tool"], "left": []});
    assert_eq!(json(place, &["drain", "web1"]), again);

    place.write("nodes/web1/torn", b"{");
    let (status, out, err) = run(place, &["undrain", "web1"]);
    assert!(status == 1 && out.lines().count() == 2 && out.contains("drained no more"), "{out}{err}");
    assert!(err.contains("pp-store: nodes/web1/torn: nodes/web1/torn is not as it has to be"), "{err}");
    is(place, NODE, document);
    assert_eq!(recorded(place), 2);
}

#[test]
fn what_a_token_does_not_let_us_see_is_not_said_to_be_missing() {
    let place = Place::consul_with_access_control();
    let master = |arguments: &[&str]| {
        said(&pp_store(&place.url).env("CONSUL_HTTP_TOKEN", "root").args(arguments).output().unwrap())
    };
    assert_eq!(master(&["put", CONFIG, r#"{"versions": {"1": "active"}}"#]).0, 0);
    let token =
        place.token(r#"key_prefix "clusters/" { policy = "write" } key_prefix "history/" { policy = "write" }"#);
    let run = |arguments: &[&str]| {
        said(&pp_store(&place.url).env("CONSUL_HTTP_TOKEN", &token).args(arguments).output().unwrap())
    };
    let (status, _, err) = run(&["set", "slug", "dev", "2=active"]);
    assert!(status == 1 && err.lines().count() == 1 && err.contains(r#"without key_prefix "reality/""#), "{err}");
    assert_eq!(run(&["set", "slug", "dev", "2=active", "--force"]).0, 0);
    for refused in [&["hold", "web1", "slug"][..], &["drain", "web1"]] {
        let (status, _, err) = run(refused);
        assert!(status == 1 && err.contains("403: Permission denied"), "{refused:?}: {err}");
    }
    assert_eq!(
        serde_json::from_str::<Value>(&master(&["log", "slug", "dev", "--json"]).1).unwrap()[0]["state"],
        "current"
    );
}
