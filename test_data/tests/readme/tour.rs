//! The README's tour, word for word, on a network and in a process namespace of its own.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use fixtures::in_namespaces;

use super::section;

/// Where the tour puts everything. It is a person's directory: a tour that is under way is not disturbed.
const TOUR: &str = "/tmp/tour";

/// Removes what a tour leaves behind when it fails.
struct Tidy;

impl Drop for Tidy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(TOUR);
    }
}

#[test]
fn the_tour_goes_as_it_is_written_and_with_its_agents_in_another_order() {
    let tour = section("The tour");
    let blocks = tour.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let blocks = blocks.collect::<Vec<_>>();
    let script = blocks.join("\n");
    assert!(script.matches("curl -X PUT").count() >= 3, "the tour writes keys by hand:\n{script}");
    assert_eq!(blocks.iter().filter(|block| passes(block).len() == 3).count(), 2, "each agent, and each once more");

    let said = follow(&script);
    assert!(said.contains("slug: waiting: 0.1 is not prepared yet"), "{said}");
    follow(&blocks.iter().map(|block| turned(block)).collect::<Vec<_>>().join("\n"));
}

/// The lines that are one pass of an agent.
fn passes(block: &str) -> Vec<&str> {
    block.lines().filter(|line| line.starts_with("pp-") && line.ends_with("--once")).collect()
}

/// The block with its passes in the opposite order.
fn turned(block: &str) -> String {
    let passes = passes(block);
    let mut turned = passes.iter().rev();
    let line = |line| if passes.contains(&line) { turned.next().expect("there are as many") } else { line };
    block.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Follows a tour, and tells what it said.
fn follow(script: &str) -> String {
    assert!(!Path::new(TOUR).exists(), "{TOUR} is there: end the tour that made it, and remove it");
    let _tidy = Tidy;
    // Its fixed ports are nobody else's there, and with its first process every other ends, however the test ends.
    let mut unshare = in_namespaces(["bash", "-c", "exec bash -e -x /dev/stdin 2>&1"]);
    unshare.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_")) {
        unshare.env_remove(name);
    }
    let mut shell = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, script) = (shell.stdin.take().unwrap(), script.to_owned());
    let writing = thread::spawn(move || stdin.write_all(script.as_bytes()));
    let mut said = String::new();
    shell.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = shell.wait().unwrap();
    writing.join().unwrap().unwrap();

    assert!(status.success(), "{status}\n{said}");
    for line in [
        "slug: Prepared slug_0.1",
        "slug: Opening 1212/tcp",
        "slug: 0.1 is live",
        "\nslug 0.1\n",
        "\nclusters/slug/development/config\n",
        "\nslug 0.2\n",
        "two active versions, 0.1 and 0.2",
        "\nrefused\n",
        "slug: held as it is: clusters/slug/development/config: two active versions",
        "slug 0.1: listening",
        "slug: Taking it over as it runs",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert!(!Path::new(TOUR).exists());
    said
}
