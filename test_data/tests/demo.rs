//! `kickstart/demo`, the first command that a newcomer runs: it shows what it says, and leaves nothing behind.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fixtures::{Scratch, in_namespaces};
use rustix::net::sockopt::set_socket_linger;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/demo");

/// Runs the demo to its end, where its ports are nobody else's.
#[track_caller]
fn demo(args: &[&str]) {
    let scratch = Scratch::new();
    let mut demo = in_namespaces([&[DEMO], args].concat());
    // What cargo says of a test would have the demo's cargo build anew what looks at that.
    let of_test = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_test(&name.to_string_lossy())) {
        demo.env_remove(name);
    }
    let output = demo.env("TMPDIR", scratch.path()).output().unwrap();
    let [said, complaints] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}\n{said}\n{complaints}", output.status);
    for line in [
        "slug: Prepared slug_0.1",
        "> slug 0.1\n",
        "slug: 0.2 is live",
        "slug: 0.3 failed here",
        "to the good one answering again\n",
        "no process and no file of the demo is left\n",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}\n{complaints}");
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_shows_a_deployment_an_upgrade_and_one_that_fails() {
    demo(&[]);
}

#[test]
fn the_demo_shows_them_with_consul() {
    demo(&["--consul"]);
}

#[test]
fn one_that_hangs_up_has_not_answered_and_the_demo_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || {
        // As an app that is killed: what comes after is answered with a reset.
        for stream in listener.incoming() {
            set_socket_linger(stream.unwrap(), Some(Duration::ZERO)).unwrap();
        }
    });
    let output = Command::new("bash")
        .args(["-euc", "eval \"$(sed -n '/^get() {/,/^}/p' \"$0\")\"; for _ in {1..500}; do ! get \"$1\" / || exit 9; done; echo on"])
        .args([DEMO, &port])
        .output()
        .unwrap();
    assert_eq!((output.status.to_string(), &*output.stdout), ("exit status: 0".to_owned(), &b"on\n"[..]));
}
