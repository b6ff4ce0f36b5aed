//! What is seen of a fetch that takes its time.

use std::fs;
use std::process::Command;

use fixtures::{Host, WebAnswer, WebServer, bin, pass};
use serde_json::json;

use crate::support::{file, intend, preparer};

#[test]
fn a_slow_fetch_shows_how_far_it_is_as_bars_on_a_terminal_and_else_in_the_log() {
    let host = Host::without_runit();
    intend(&host, "slug", &json!({"1": "active"}));
    let path = host.repo.artifact("slug", "1", |archive| file(archive, "large", &vec![b'x'; 2_000_000]));
    let bytes = fs::read(path).unwrap();
    let server = WebServer::start(move |request| WebAnswer::file(request, &bytes, "\"a\"").stalling(1_000_000));
    // Longer than the time between two lines.
    let logged = pass(preparer(&host, &server.url()).args(["--once", "--fetch-retries=0", "--stall-timeout=5.5"])).log;
    assert!(logged.contains("slug: Fetching slug_1: 1.0 of 2.0 MB\n"), "{logged}");
    assert!(!logged.contains('\u{1b}'), "{logged}");
    let line = format!(
        "{} --node web1 --store {} --repo {} --once --fetch-retries=0 --stall-timeout=0.5",
        bin("pp-preparer").display(),
        host.store_url(),
        server.url()
    );
    let mut on_a_terminal = Command::new("script");
    on_a_terminal
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("NO_PROXY", "*")
        .env("TERM", "xterm");
    let drawn = pass(&mut on_a_terminal).out;
    assert!(drawn.contains("[###########-------------] 1.0 of 2.0 MB  slug_1\r\n"), "{drawn}");
    assert!(drawn.contains("slug: Fetching http://") && drawn.contains("timed out"), "{drawn}");
}
