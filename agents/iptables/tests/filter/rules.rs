//! The rule set as a file.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fixtures::{Host, Pass, bin, pass};
use serde_json::json;

use crate::support::{Site, agent, open, with_each_variant};

fn once(host: &Host, arguments: &[&str]) -> Pass {
    pass(agent(host, std::process::Command::new(bin("pp-iptables"))).arg("--once").args(arguments))
}

const FILE: &str = "test_data/iptables/rules";

#[test]
fn one_text_serves_both_families_again_and_again() {
    with_each_variant(|site: &Site<'_>| {
        let udp = json!({"port": 53, "protocol": "udp", "source": "10.0.0.0/8"});
        open(site.host, "slug", json!([80, udp, {"port": 81, "source": "fd00::/8"}]));
        let pass = once(site.host, &["--default-drop"]);
        assert!(pass.ok && pass.log.contains("slug: Opening 53/udp from 10.0.0.0/8, 80/tcp"), "{}", pass.log);
        let rules = site.host.path(FILE);
        let rules = rules.to_str().unwrap();
        for _ in 0..2 {
            for family in ["iptables", "ip6tables"] {
                site.namespace.run(&[&format!("{family}-{}-restore", site.variant), "--noflush", rules]);
            }
        }
        let by_file = site.save();
        // What it makes is what the agent makes, but for the jump.
        let pass = site.converge(&["--default-drop"]);
        assert!(pass.log.lines().all(|line| line.contains("PLATYPUS: Jumping to it from INPUT")), "{}", pass.log);
        let jump = |save: String| save.replace("-A INPUT -j PLATYPUS\n", "");
        assert_eq!(jump(site.save()), jump(by_file));
    });
}

#[test]
fn a_file_that_is_as_it_should_be_is_not_written_and_what_is_held_stays_in_it() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    open(&host, "other", json!([90]));
    assert!(once(&host, &[]).ok);
    let file = || fs::metadata(host.path(FILE)).map(|file| (file.ino(), file.mtime_nsec())).unwrap();
    let before = file();
    let pass = once(&host, &[]);
    assert_eq!((pass.ok, pass.log.as_str(), file()), (true, "", before));

    host.put_text("clusters/slug/dev/deploy_config", "{");
    host.delete("nodes/web1/other");
    let pass = once(&host, &[]);
    assert!(!pass.ok && pass.log.contains("other: Closing 90/tcp"), "{}", pass.log);
    let text = fs::read_to_string(host.path(FILE)).unwrap();
    assert!(text.contains("\"slug/dev\"") && !text.contains("other/dev"), "{text}");
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    fs::write(host.path("mine"), "my own\n").unwrap();
    let pass = once(&host, &["--rules", "mine"]);
    assert!(!pass.ok && pass.log.contains("reading mine: it is no rule set of ours"), "{}", pass.log);
    assert_eq!(fs::read_to_string(host.path("mine")).unwrap(), "my own\n");
}

#[test]
fn a_file_may_be_a_name_alone() {
    let host = Host::without_runit();
    open(&host, "slug", json!([80]));
    let pass = once(&host, &["--rules", "mine"]);
    assert!(pass.ok, "{}", pass.log);
    assert!(fs::read_to_string(host.path("mine")).unwrap().contains("--dport 80"));
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    for wrong in [
        &["--apply", "--rules", "r"][..],
        &["--apply", "--cmd", "c", "--config-dir", "d"],
        &["--cmd", "c"],
        &["--config-dir", "d"],
        &["--variant", "nft"],
        &["--keep", "22"],
        &["--default-drop", "--keep", "ssh"],
        &["--default-drop", "--cmd", "c", "--config-dir", "d"],
    ] {
        let output = std::process::Command::new(bin("pp-iptables")).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
