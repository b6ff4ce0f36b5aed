//! `kill -9` at random moments: the next pass makes what an undisturbed one makes. `SEED` replays a run.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fixtures::{Host, differences, pause};
use serde_json::json;

use crate::support::{converge, copied, file, intend, names};

const ROUNDS: u32 = 20;

#[test]
fn a_preparer_killed_at_any_moment_is_followed_by_one_that_makes_the_same_as_if_it_had_not_been() {
    let seed = env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let host = Host::without_runit();
    for version in ["1", "2"] {
        host.repo.artifact("slug", version, |archive| {
            for n in 0..400 {
                file(archive, &format!("d{}/e{}/f{n}", n % 10, n % 3), format!("{n}\n").repeat(n % 500).as_bytes());
            }
        });
    }
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    let began = Instant::now();
    converge(&host);
    let undisturbed = began.elapsed();
    let (basedir, installs) = (host.path("srv/slug"), host.path("srv/slug/installs"));
    let expected = [copied(&installs.join("slug_1")), copied(&installs.join("slug_2"))];

    let mut kills = 0;
    for round in 0..ROUNDS {
        fs::remove_dir_all(&basedir).unwrap();
        // Several times on what the one before left.
        for _ in 0..random.u32(1..4) {
            kills += u32::from(killed_after(&host, undisturbed.mul_f64(random.f64())));
        }
        converge(&host);
        assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2"], "round {round}");
        for (install, expected) in ["slug_1", "slug_2"].iter().zip(&expected) {
            assert_eq!(differences(expected, &copied(&installs.join(install))), [""; 0], "round {round}");
        }
        let before = host.everything();
        assert_eq!(converge(&host).log, "", "round {round}");
        assert_eq!(differences(&before, &host.everything()), [""; 0], "round {round}");
    }
    println!("{kills} kills in {ROUNDS} rounds, an undisturbed pass takes {undisturbed:?}");
    assert!(kills >= ROUNDS / 2, "most passes ended before they were killed: {kills}");
}

/// Tells whether it was still running.
fn killed_after(host: &Host, delay: Duration) -> bool {
    let mut preparer = host.preparer().arg("--once").stderr(Stdio::null()).spawn().unwrap();
    // Not a wait for anything: it is the random moment.
    pause(delay);
    preparer.kill().unwrap();
    preparer.wait().unwrap().signal() == Some(9)
}
