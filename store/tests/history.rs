//! What `pp-store` writes is in the history before it is in intent, on both stores.

#[macro_use]
mod place;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use place::command::{fails, json, ok, pp_store, run, said};
use place::{Place, SOON};
use serde_json::{Value, json};

const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

on_both_stores! {
    a_change_is_recorded_with_who_when_why_and_the_whole_document
    what_was_recorded_and_not_done_is_told_from_what_something_else_has_written
    a_node_that_moves_is_in_both_clusters_histories
    import_records_each_change_and_prune_and_check_leave_the_history_alone
    of_two_writers_at_once_each_takes_a_number_of_its_own
    only_the_newest_entries_are_kept
    what_cannot_be_read_in_a_history_is_named_and_the_rest_is_shown
}

fn config(version: &str) -> String {
    format!(r#"{{"versions": {{"{version}": "active"}}}}"#)
}

#[track_caller]
fn put(place: &Place, key: &str, document: &str) {
    assert_eq!(run(place, &["put", key, document]), (0, String::new(), String::new()));
}

/// One field of all entries, the newest first.
#[track_caller]
fn log(place: &Place, field: &str) -> Vec<Value> {
    let log = json(place, &["log", "slug", "dev"]);
    log.as_array().unwrap().iter().map(|entry| entry[field].clone()).collect()
}

fn a_change_is_recorded_with_who_when_why_and_the_whole_document(place: &Place) {
    fails(place, &["log", "slug", "dev"], 1, &["nothing is recorded of slug dev"]);
    let mut command = pp_store(&place.url);
    command.env("USER", "ann").args(["put", CONFIG, "{\"versions\":  {}}\n", "-m", "begin"]);
    assert_eq!(said(&command.output().unwrap()), (0, String::new(), String::new()));
    put(place, CONFIG, &config("0.1"));
    // Nothing changes, and nothing is recorded.
    put(place, CONFIG, &config("0.1"));
    fails(place, &["put", CONFIG, &config("0.2"), "--cas", "absent"], 3, &["is not as --cas expects"]);
    ok(place, &["rm", CONFIG]);

    let entries = json(place, &["log", "slug", "dev"]);
    assert_eq!(log(place, "number"), [json!(3), json!(2), json!(1)]);
    assert_eq!(log(place, "state"), ["current", "applied", "applied"]);
    assert_eq!(log(place, "document"), [Value::Null, json!({"versions": {"0.1": "active"}}), json!({"versions": {}})]);
    let first = &entries[2];
    assert_eq!((&first["message"], &first["was"], &first["key"]), (&json!("begin"), &Value::Null, &json!(CONFIG)));
    assert!(first["who"].as_str().unwrap().starts_with("ann@"), "{first}");
    assert!(entries[1]["who"].as_str().unwrap().starts_with("uid-"), "{entries}");
    assert_eq!(entries[1]["was"], first["is"]);

    let text = ok(place, &["log", "slug", "dev", "-n", "2", "--diff"]);
    let lines = text.lines().collect::<Vec<_>>();
    assert!(lines[0].starts_with("3  2") && lines[0].ends_with(&format!("  {CONFIG}: removed (current)")), "{text}");
    assert!(text.contains(&format!("--- 2: {CONFIG}\n+++ /dev/null\n")), "{text}");
    assert!(text.contains(&format!("  {CONFIG}: 0.1 active\n--- 1: {CONFIG}\n+++ 2: {CONFIG}\n")), "{text}");
    assert!(!text.contains("begin") && ok(place, &["log", "slug", "dev"]).ends_with("no version active: begin\n"));
    // In lists there would be more of it than of all else.
    assert_eq!(run(place, &["ls"]).1, "");
    assert_eq!(ok(place, &["ls", "history"]).lines().count(), 3);
}

fn what_was_recorded_and_not_done_is_told_from_what_something_else_has_written(place: &Place) {
    put(place, CONFIG, &config("0.1"));
    put(place, CONFIG, &config("0.2"));
    place.write(CONFIG, config("0.1").as_bytes());
    assert_eq!(log(place, "state"), ["not applied", "current"]);
    place.write(CONFIG, config("0.3").as_bytes());
    place.write(DEPLOY, br#"{"basedir": "/srv/slug"}"#);
    assert_eq!(log(place, "state"), ["changed outside", "not recorded", "changed outside since", "applied"]);
    let text = ok(place, &["log", "slug", "dev", "--diff"]);
    assert!(text.starts_with(&format!("-  {CONFIG}: changed outside, not by pp-store: 0.3 active\n--- 2: {CONFIG}\n")));
    assert!(text.contains(&format!("-  {DEPLOY}: not in this history")), "{text}");
    put(place, CONFIG, &config("0.4"));
    assert_eq!(log(place, "state"), ["not recorded", "current", "changed outside since", "applied"]);
    assert!(ok(place, &["log", "slug", "dev", "--diff"]).contains("(what it replaced is not in this history)\n"));
}

fn a_node_that_moves_is_in_both_clusters_histories(place: &Place) {
    put(place, "nodes/web1/slug", r#"{"cluster": "dev"}"#);
    put(place, "nodes/web1/slug", r#"{"cluster": "live"}"#);
    put(place, "nodes/web1/slug", r#"{"cluster": "live", "hold": true}"#);
    assert_eq!(log(place, "state"), ["current", "applied"]);
    let live = ok(place, &["log", "slug", "live"]);
    let lines = live.lines().collect::<Vec<_>>();
    assert!(lines.len() == 2 && lines[0].ends_with("  nodes/web1/slug: cluster live, hold (current)"), "{live}");
    // What names no cluster is in none, and no host runs anything by it.
    place.write("nodes/web2/slug", b"{");
    assert_eq!(run(place, &["rm", "nodes/web2/slug"]).0, 0);
    assert_eq!(ok(place, &["ls", "history"]).lines().count(), 4);
}

fn import_records_each_change_and_prune_and_check_leave_the_history_alone(place: &Place) {
    let dir = place.scratch.path().join("tree");
    let write = |key: &str, text: &str| {
        let file = dir.join(format!("{key}.json"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write(CONFIG, &(config("0.1") + "\n"));
    write(DEPLOY, r#"{"basedir": "/srv/slug"}"#);
    write("nodes/web1/slug", r#"{"cluster": "dev"}"#);
    write("nodes/web2/slug", r#"{"cluster": "dev"}"#);
    let dir = dir.to_str().unwrap();
    assert_eq!(run(place, &["import", dir, "-m", "from git"]).0, 0);
    let keys = ["nodes/web2/slug", "nodes/web1/slug", CONFIG, DEPLOY];
    assert_eq!(log(place, "key"), keys);
    assert_eq!(log(place, "message"), ["from git"; 4]);
    std::fs::remove_file(format!("{dir}/nodes/web2/slug.json")).unwrap();
    let (status, out, _) = run(place, &["import", dir, "--prune"]);
    assert_eq!((status, out.as_str()), (0, "removed nodes/web2/slug\n"));
    assert_eq!(log(place, "document")[0], Value::Null);
    assert_eq!(run(place, &["import", dir, "--prune", "--json"]).1.matches("identical").count(), 1);
    assert_eq!(log(place, "number").len(), 5);
    assert_eq!(run(place, &["check"]).0, 0);
    let backup = place.scratch.path().join("backup");
    assert_eq!(run(place, &["export", backup.to_str().unwrap()]).0, 0);
    assert!(!backup.join("history").exists() && backup.join("nodes/web1/slug.json").exists());
}

fn of_two_writers_at_once_each_takes_a_number_of_its_own(place: &Place) {
    thread::scope(|scope| {
        for node in 0..6 {
            scope.spawn(move || put(place, &format!("nodes/web{node}/slug"), r#"{"cluster": "dev"}"#));
        }
    });
    assert_eq!(log(place, "number"), [6, 5, 4, 3, 2, 1].map(|number| json!(number)));
    assert_eq!(log(place, "state"), ["current"; 6]);
    // The same document: each is written once, and what lost is not left in the history.
    thread::scope(|scope| {
        for version in 0..4 {
            scope.spawn(move || put(place, CONFIG, &config(&version.to_string())));
        }
    });
    let states = log(place, "state");
    assert!(states[..4] == ["current", "applied", "applied", "applied"] && states.len() == 10, "{states:?}");
}

fn only_the_newest_entries_are_kept(place: &Place) {
    put(place, CONFIG, r#"{"versions":{"0":"active"}}"#);
    let entry = json(place, &["get", "history/slug/dev/00000001"])["value"].clone();
    for number in 2..=100 {
        place.write(&format!("history/slug/dev/{number:08}"), entry.to_string().as_bytes());
    }
    let node = json!({"key": "nodes/web1/slug", "who": "", "at": "", "was": null, "is": null, "document": null});
    place.write("history/slug/dev/00000101", node.to_string().as_bytes());
    put(place, CONFIG, &config("1"));
    let numbers = log(place, "number");
    assert_eq!((numbers.len(), &numbers[0], &numbers[1], &numbers[100]), (101, &json!(102), &json!(101), &json!(2)));
    // Much less than that many, where they are large: each is read for the next one.
    for version in 2..12 {
        let large = format!(r#"{{"versions": {{}}, "user_config": {{"{version}": "{}"}}}}"#, "a".repeat(500_000));
        let file = place.scratch.path().join("large");
        std::fs::write(&file, large).unwrap();
        put(place, CONFIG, &format!("@{}", file.display()));
    }
    assert_eq!(log(place, "number").len(), 8);
}

fn what_cannot_be_read_in_a_history_is_named_and_the_rest_is_shown(place: &Place) {
    put(place, CONFIG, &config("0.1"));
    place.write("history/slug/dev/00000007", b"{}");
    let (status, out, err) = run(place, &["log", "slug", "dev"]);
    assert!(status == 1 && out.lines().count() == 1, "{out}{err}");
    assert!(err.contains("history/slug/dev/00000007: this is no entry of a history: missing field `key`"), "{err}");
    let other =
        json!({"key": "clusters/tool/dev/config", "who": "", "at": "", "was": null, "is": null, "document": null});
    place.write("history/slug/dev/00000009", other.to_string().as_bytes());
    let (_, out, err) = run(place, &["log", "slug", "dev"]);
    assert!(
        out.lines().count() == 1 && err.contains("/00000009: it says that it is of clusters/tool/dev/config"),
        "{err}"
    );
    // Nor does it keep anybody from writing.
    put(place, CONFIG, &config("0.2"));
    assert_eq!(log(place, "number"), [json!(10), json!(1), Value::Null, Value::Null]);
    place.write(&format!("history/slug/dev/{}", u64::MAX), b"{}");
    let says = format!("there is no number after that of history/slug/dev/{}: remove it", u64::MAX);
    fails(place, &["put", CONFIG, &config("0.3")], 1, &[&format!("{CONFIG} was left as it is"), &says]);
}

#[test]
fn who_may_not_write_the_history_changes_nothing_and_is_told_which_right_is_missing() {
    let place = Place::consul_with_access_control();
    let with = |token: &str, arguments: &[&str]| {
        said(&pp_store(&place.url).env("CONSUL_HTTP_TOKEN", token).args(arguments).output().unwrap())
    };
    let intent_alone = place.token(r#"key_prefix "" { policy = "read" } key_prefix "clusters/" { policy = "write" }"#);
    let (status, _, err) = with(&intent_alone, &["put", CONFIG, &config("0.1")]);
    assert_eq!((status, err.lines().count()), (1, 1), "{err}");
    let says = format!(
        "{CONFIG} was left as it is, since a change is recorded before it is made, which takes key_prefix \
         \"history/slug/dev/\" {{ policy = \"write\" }}: "
    );
    assert!(err.contains(&says) && err.contains("403: Permission denied"), "{err}");
    assert_eq!(with("root", &["ls"]).1, "");

    // And the other way round: what was refused was not tried.
    let history_alone = place.token(r#"key_prefix "" { policy = "read" } key_prefix "history/" { policy = "write" }"#);
    let (status, _, err) = with(&history_alone, &["put", CONFIG, &config("0.1")]);
    assert!(status == 1 && err.contains("403: Permission denied; the token in"), "{err}");
    assert_eq!(with("root", &["ls", "history"]).1, "");
    let (status, _, err) = with("", &["log", "slug", "dev"]);
    assert!(status == 1 && err.contains("403") && err.contains("history/slug/dev/00000001"), "{err}");
}

/// Passes one connection on to a Consul, up to the first request to write a cluster's document, which never comes there.
/// Tells when it has been sent.
fn until_the_change(consul: String) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, (tell, told)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(consul).unwrap();
        let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut answers, &mut back));
        let mut request = [0; 4096];
        while let Ok(length @ 1..) = client.read(&mut request) {
            if request.starts_with(b"PUT /v1/kv/clusters/") {
                tell.send(()).unwrap();
                // Until whoever waits for the answer is killed.
                let _ = io::copy(&mut client, &mut io::sink());
                break;
            }
            server.write_all(&request[..length]).unwrap();
        }
        let _ = server.shutdown(Shutdown::Both);
    });
    (format!("consul://{addr}"), told)
}

#[test]
fn killed_between_the_entry_and_the_change_a_change_is_shown_as_not_applied() {
    let place = Place::consul();
    put(&place, CONFIG, &config("0.1"));
    let (gate, told) = until_the_change(place.consul.as_ref().unwrap().addr());
    let mut child = pp_store(&gate).args(["put", CONFIG, &config("0.2"), "-m", "never"]).spawn().unwrap();
    told.recv_timeout(SOON).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let text = ok(&place, &["log", "slug", "dev"]);
    let lines = text.lines().collect::<Vec<_>>();
    assert!(lines[0].starts_with("2  ") && lines[0].ends_with(": 0.2 active (not applied): never"), "{text}");
    assert!(lines[1].ends_with(": 0.1 active (current)"), "{text}");
    // The next one goes on from what is there.
    put(&place, CONFIG, &config("0.3"));
    assert_eq!(log(&place, "state"), ["current", "not applied", "applied"]);
}
