//! The platform is upgraded through intent, by its own agents.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fixtures::{SOON, eventually, pause};
use serde_json::{Value, json};

use crate::site::{Packed, Site};

/// Longer than a hand-over takes, and the way back from one.
pub(crate) const HANDED_OVER: Duration = Duration::from_secs(60);
/// What a version that does not work has, in place of a minute.
pub(crate) const PATIENCE: f64 = 4.0;

/// A config in which that version of the platform is active, from which the next one has so many seconds.
pub(crate) fn activated(mut config: Value, version: &str, patience: f64) -> Value {
    let versions = config["versions"].as_object_mut().unwrap();
    versions.values_mut().for_each(|status| *status = json!("prep"));
    versions.insert(version.to_owned(), json!("active"));
    config["user_config"]["pp-setlive"]["handover-timeout"] = json!(patience);
    config["stop_seconds"] = json!(2);
    config
}

impl Site {
    /// An operator makes another version of the platform the active one.
    #[track_caller]
    pub(crate) fn activate(&self, version: &str, patience: f64) {
        let config = activated(self.get("clusters/platypus/main/config"), version, patience);
        self.put("clusters/platypus/main/config", &config);
    }

    /// The way to another version is begun, which from there on has a minute.
    #[track_caller]
    fn hands_over(&self, to: &str) {
        self.activate(to, 60.0);
        eventually("it is handed over", HANDED_OVER, || self.record()["handover"].is_object().then_some(()));
    }

    /// It was tried in earnest, and has failed.
    #[track_caller]
    pub(crate) fn fails(&self, platform: &Packed) {
        let has_failed = || {
            let record = self.record();
            let mut failed = record["failed"].as_object()?.values();
            failed.any(|failure| failure["version"] == platform.version.as_str()).then_some(())
        };
        eventually(&format!("{} has failed", platform.version), HANDED_OVER, has_failed);
    }

    #[track_caller]
    fn upgrades(&self, to: &Packed) {
        self.activate(&to.version, PATIENCE);
        self.is_on(to);
    }

    /// All agents are of that version, and nothing is left of what led there.
    #[track_caller]
    pub(crate) fn is_on(&self, platform: &Packed) {
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

    pub(crate) fn record(&self) -> Value {
        let record = fs::read(self.host.disk("var/lib/platypus/stage/.platypus/platypus.json")).unwrap();
        serde_json::from_slice(&record).unwrap()
    }

    /// What was logged about it.
    fn said(&self) -> String {
        let log = |agent| fs::read_to_string(self.host.disk(&format!("srv/platypus/log/{agent}/current")));
        let logs = ["finish", "pp-setlive"].map(|agent| format!("{agent}:\n{}", log(agent).unwrap_or_default()));
        format!("{}\n{}", self.record(), logs.concat())
    }

    /// The sample app's process, by its own word.
    #[track_caller]
    fn pid(&self) -> i64 {
        let (_, health) = self.host.http_get(8080, "/health").expect("the sample app answers");
        serde_json::from_str::<Value>(&health).unwrap()["pid"].as_i64().unwrap()
    }
}

#[test]
fn an_upgrade_ends_well_though_the_store_is_away_for_long_and_whoever_is_at_work_is_killed() {
    let mut site = Site::new();
    site.kickstart(&[]);
    site.serves();
    let (repo, app) = (site.host.disk("mnt/repo"), site.pid());
    let good = site.platform.successor(&repo);
    let begun = Instant::now();
    site.upgrades(&good);
    println!("an upgrade: {:?}", begun.elapsed());
    fs::copy(&good.path, site.host.disk("mnt/good.tar.gz")).unwrap();
    let again = site.kickstart(&["--artifact", "/mnt/good.tar.gz", "--sha256", &good.sha256]);
    assert!(again.starts_with("Nothing to do: "), "{again}");

    // A store that is away for longer than a version may take condemns none.
    let next = site.platform.successor(&repo);
    let (store, away) = (site.host.disk("mnt/store"), site.host.disk("mnt/away"));
    site.hands_over(&next.version);
    fs::rename(&store, &away).unwrap();
    let begun = Instant::now();
    eventually("it has been away for long enough", SOON, || {
        assert!(site.record()["converging"]["version"] == next.version.as_str(), "{}", site.said());
        (begun.elapsed() > Duration::from_secs_f64(2.0 * PATIENCE)).then_some(())
    });
    assert!(!site.running("/bin/pp-setlive --settings").is_empty());
    fs::rename(&away, &store).unwrap();
    site.is_on(&next);

    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let last = site.platform.successor(&repo);
    site.hands_over(&last.version);
    let mut kills = 0;
    while kills < 20 && !site.record()["handover"].is_null() {
        pause(Duration::from_millis(random.u64(0..200)));
        let victim = ["--finish", "/bin/pp-setlive --settings", "/bin/pp-preparer --settings"][random.usize(0..3)];
        for process in
            site.running(victim).iter().filter(|process| !process.contains("--finish") || victim == "--finish")
        {
            let pid = process.split_whitespace().next().unwrap();
            // By now it may be gone.
            kills += usize::from(site.host.command("kill").args(["-9", pid]).status().unwrap().success());
        }
    }
    println!("{kills} kills");
    assert!(kills > 2);
    site.is_on(&last);
    assert_eq!(site.pid(), app);

    // Nor does a power cut, after which runsvdir starts what there is.
    site.hands_over(&next.version);
    site.host.restart();
    let mut boot = site.host.command("setsid");
    boot.args(["-f", "runsvdir", "-P", "/var/lib/platypus/service"]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(boot.status().unwrap().success());
    site.is_on(&next);
    site.answers();

    site.hands_over(&last.version);
    site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert_eq!(site.host.processes(), [""; 0]);
}
