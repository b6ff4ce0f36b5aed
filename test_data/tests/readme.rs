//! The README's tour, word for word, on a network and in a process namespace of its own.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use fixtures::in_namespaces;

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
fn the_tour_goes_as_it_is_written() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let tour = readme.split("\n## The tour\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = tour.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let script = blocks.collect::<Vec<_>>().join("\n");
    assert!(script.matches("curl -X PUT").count() >= 3, "the tour writes keys by hand:\n{script}");

    assert!(!Path::new(TOUR).exists(), "{TOUR} is there: end the tour that made it, and remove it");
    let _tidy = Tidy;
    // Its fixed ports are nobody else's there, and with its first process every other ends, however the test ends.
    let mut unshare = in_namespaces(["bash", "-c", "exec bash -e -x /dev/stdin 2>&1"]);
    unshare.current_dir(root);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_")) {
        unshare.env_remove(name);
    }
    let mut shell = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let writing = thread::spawn(move || stdin.write_all(script.as_bytes()));
    let mut said = String::new();
    shell.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = shell.wait().unwrap();
    writing.join().unwrap().unwrap();

    assert!(status.success(), "{status}\n{said}");
    for line in [
        "slug: waiting: 0.1 is not prepared yet",
        "slug: Prepared slug_0.1",
        "slug: 0.1 is live",
        "\nslug 0.1\n",
        "\nclusters/slug/development/config\n",
        "\nslug 0.2\n",
        "two active versions, 0.1 and 0.2",
        "\nrefused\n",
        "slug: held as it is: clusters/slug/development/config: two active versions",
        "slug 0.1: listening",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert!(!Path::new(TOUR).exists());
}
