//! `pp-store` as a program: what it is told, and what it says.

use std::process::{Command, Output};

use serde_json::Value;

use super::Place;

/// A command without the store's and Consul's own variables.
pub fn pp_store(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pp-store"));
    command.env_clear().args(["--store", url]);
    command
}

/// What it says: exit status, standard output, standard error.
pub fn run(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    said(&pp_store(&place.url).args(arguments).output().unwrap())
}

pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("it exits"), text(&output.stdout), text(&output.stderr))
}

/// What it prints, when that is all it has to say.
#[track_caller]
pub fn ok(place: &Place, arguments: &[&str]) -> String {
    let (status, out, err) = run(place, arguments);
    assert_eq!((status, err.as_str()), (0, ""), "{arguments:?}");
    out
}

#[track_caller]
pub fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(place, &[arguments, &["--json"]].concat()).1).unwrap()
}

#[track_caller]
pub fn fails(place: &Place, arguments: &[&str], status: i32, says: &[&str]) {
    let (found, out, err) = run(place, arguments);
    assert_eq!((found, out.as_str()), (status, ""), "{arguments:?}: {err}");
    for says in says {
        assert!(err.contains(says), "{arguments:?}: {err}\ndoes not say: {says}");
    }
    assert!(status == 2 || err.lines().count() == 1, "{arguments:?}: {err}");
}
