//! What an artifact of any number of entries may cost, and what happens when the host has no more to give.

use std::process::{Command, Stdio};

use fixtures::{Host, Pass, bin, pass, peak_memory};
use serde_json::json;

use crate::support::{file, intend, names};

/// `pp-preparer --once` under a limit of the shell's `ulimit`.
fn limited(host: &Host, limit: &str) -> Command {
    let mut sh = Command::new("sh");
    // A write beyond the limit of a file's size shall fail, not kill.
    sh.args(["-c", &format!("trap '' XFSZ; ulimit {limit} && exec \"$@\""), "sh"]).arg(bin("pp-preparer"));
    sh.args(["--once", "--node", "web1", "--store", &host.store_url(), "--repo", &host.repo.url()]);
    sh
}

#[test]
fn fifty_thousand_entries_take_no_more_descriptors_and_memory_than_fifty() {
    let peak = |entries| {
        let host = Host::without_runit();
        host.repo.artifact("slug", "1", |archive| {
            for n in 0..entries {
                file(archive, &format!("d{}/e{}/f{n}", n % 10, n % 113), b"x");
            }
        });
        intend(&host, "slug", &json!({"1": "active"}));
        let peak = peak_memory(limited(&host, "-n 24").stderr(Stdio::null()).spawn().unwrap());
        assert_eq!(names(&host, "slug"), [".lock", "slug_1"], "with {entries} entries");
        peak
    };
    let (few, many) = (peak(50), peak(50_000));
    println!("peak memory {few} kB with 50 entries, {many} kB with 50,000");
    assert!(few > 1_000 && many < few + 3_000, "{few} kB with 50 entries, {many} kB with 50,000");
}

#[test]
fn a_write_that_fails_names_the_entry_and_leaves_nothing() {
    let host = Host::without_runit();
    host.repo.artifact("slug", "1", |archive| {
        file(archive, "small", b"x");
        file(archive, "dir/large", &vec![b'x'; 1 << 20]);
    });
    host.repo.artifact("slug", "2", |archive| file(archive, "small", b"x"));
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    let Pass { ok, log, .. } = pass(&mut limited(&host, "-f 100"));
    let error =
        format!("slug: {}: entry \"dir/large\": writing it: File too large", host.repo.path("slug", "1").display());
    assert!(!ok && log.contains(&error), "{log}");
    assert_eq!(names(&host, "slug"), [".lock", "slug_2"]);
}
