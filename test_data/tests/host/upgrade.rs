//! The platform is upgraded through intent, by its own agents.

use std::fs;
use std::time::{Duration, Instant};

use fixtures::{SOON, eventually};
use serde_json::{Value, json};

use crate::site::{Packed, Site};

/// Longer than a hand-over takes, and the way back from one.
const HANDED_OVER: Duration = Duration::from_secs(60);
/// What a version that does not work has, in place of a minute.
const PATIENCE: u32 = 4;

const EXITS: &[u8] = b"#!/bin/sh\nexit 1\n";
const HANGS: &[u8] = b"#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n";
const IS_NO_PROGRAM: &[u8] = b"\x7fELF, but no more of it";

impl Site {
    /// An operator makes another version of the platform the active one.
    #[track_caller]
    fn activate(&self, version: &str) {
        let mut config = self.get("clusters/platypus/main/config");
        let versions = config["versions"].as_object_mut().unwrap();
        versions.values_mut().for_each(|status| *status = json!("prep"));
        versions.insert(version.to_owned(), json!("active"));
        config["user_config"]["pp-setlive"]["handover-timeout"] = json!(PATIENCE);
        config["stop_seconds"] = json!(2);
        self.put("clusters/platypus/main/config", &config);
    }

    #[track_caller]
    fn upgrades(&self, to: &Packed) {
        self.activate(&to.version);
        self.is_on(to);
    }

    /// All agents are of that version, and nothing is left of what led there.
    #[track_caller]
    fn is_on(&self, platform: &Packed) {
        let is_there = || {
            let record = self.record();
            let finished = record["handover"].is_null() && record["healthy"]["version"] == platform.version.as_str();
            let settled = record["services"].as_array()?.len() == 3 && record["unregistered"].is_null();
            (finished && settled && self.marked(&platform.version)).then_some(())
        };
        let begun = Instant::now();
        eventually("the hand-over is finished", HANDED_OVER, || {
            let is_late = begun.elapsed() > HANDED_OVER.mul_f64(0.9);
            is_there().or_else(|| is_late.then(|| panic!("not on {}: {}", platform.version, self.said())))
        });
        assert!(!self.host.disk("var/lib/platypus/stage/platypus@finish").exists());
        assert_eq!(self.running("--finish"), [""; 0]);
    }

    fn record(&self) -> Value {
        let record = fs::read(self.host.disk("var/lib/platypus/stage/.platypus/platypus.json")).unwrap();
        serde_json::from_slice(&record).unwrap()
    }

    /// What was logged about it.
    fn said(&self) -> String {
        let log = |agent| fs::read_to_string(self.host.disk(&format!("srv/platypus/log/{agent}/current")));
        let logs = ["finish", "pp-setlive"].map(|agent| format!("{agent}:\n{}", log(agent).unwrap_or_default()));
        format!("{}\n{}", self.record(), logs.concat())
    }

    /// What the finisher has logged.
    fn finisher(&self) -> String {
        fs::read_to_string(self.host.disk("srv/platypus/log/finish/current")).unwrap_or_default()
    }

    /// The sample app's process, by its own word.
    #[track_caller]
    fn pid(&self) -> i64 {
        let (_, health) = self.host.http_get(8080, "/health").expect("the sample app answers");
        serde_json::from_str::<Value>(&health).unwrap()["pid"].as_i64().unwrap()
    }
}

#[test]
fn a_platform_that_does_not_work_gives_way_to_the_one_before_and_one_that_works_is_not_condemned_for_the_store() {
    let site = Site::new();
    site.kickstart(&[]);
    site.serves();
    let (repo, app) = (site.host.disk("mnt/repo"), site.pid());
    let good = site.platform.successor(&repo);
    let begun = Instant::now();
    site.upgrades(&good);
    println!("an upgrade: {:?}", begun.elapsed());

    for (program, content) in [("pp-setlive", EXITS), ("pp-setlive", HANGS), ("pp-preparer", IS_NO_PROGRAM)] {
        let (bad, begun) = (site.platform.with(program, content, &repo), Instant::now());
        site.activate(&bad.version);
        let has_failed = || {
            let failed = site.record()["failed"].as_object()?.values().any(|failure| failure["version"] == bad.version);
            failed.then_some(())
        };
        eventually("it has failed", HANDED_OVER, has_failed);
        site.is_on(&good);
        println!("there and back, with {}: {:?}", String::from_utf8_lossy(&content[..10]), begun.elapsed());
        let why = format!("{} failed: no first pass of platypus@{program}", bad.version);
        assert!(site.finisher().contains(&why), "{}", site.finisher());
    }

    // A store that is away for longer than a version may take condemns none.
    let next = site.platform.successor(&repo);
    let (store, away) = (site.host.disk("mnt/store"), site.host.disk("mnt/away"));
    site.activate(&next.version);
    eventually("it is handed over", HANDED_OVER, || site.record()["handover"].is_object().then_some(()));
    fs::rename(&store, &away).unwrap();
    let begun = Instant::now();
    eventually("it has been away for long enough", SOON, || {
        assert!(site.record()["converging"]["version"] == next.version.as_str(), "{}", site.finisher());
        (begun.elapsed() > Duration::from_secs(3 * u64::from(PATIENCE))).then_some(())
    });
    assert!(!site.running("/bin/pp-setlive --settings").is_empty());
    fs::rename(&away, &store).unwrap();
    site.is_on(&next);
    assert_eq!(site.pid(), app);
}
