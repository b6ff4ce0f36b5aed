//! `kill -9` of both agents at random moments, while versions flip under them: one further pass converges.
//!
//! `SEED` replays a run's choices; `SOAK_SECONDS` sets how long it goes on (default 10).

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Agent, Behaviour, Host, pass, tree};
use serde_json::json;

#[test]
fn agents_that_are_killed_at_random_moments_leave_nothing_half_done() {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(number("SOAK_SECONDS").unwrap_or(10));

    let host = Host::new();
    host.deploy_config(json!({}));
    let mut agents: [Option<Agent>; 2] = [None, None];
    let start = |index: usize| host.watch(if index == 0 { host.preparer() } else { host.setlive() });
    let (mut versions, mut active, mut kills) = (0, 0, 0);
    while Instant::now() < end {
        match random.u8(0..8) {
            0..2 => {
                versions += 1;
                host.repo.slug(&versions.to_string(), Behaviour::Good);
                active = versions;
            }
            2 if versions > 0 => active = random.u32(1..=versions),
            _ => {
                let index = random.usize(0..2);
                if let Some(agent) = agents[index].replace(start(index)) {
                    agent.kill();
                    kills += 1;
                }
            }
        }
        if active > 0 {
            let prep = random.u32(1..=versions);
            let mut config = json!({"versions": {prep.to_string(): "prep"}});
            config["versions"][active.to_string()] = json!("active");
            host.activate(&active.to_string(), config);
        }
        // Not a wait for anything: it is the random moment.
        thread::park_timeout(Duration::from_millis(random.u64(0..120)));
    }
    agents.into_iter().flatten().for_each(Agent::kill);
    println!("{versions} versions, {kills} kills");

    let preparer = pass(host.preparer().arg("--once"));
    assert!(preparer.ok, "{}", preparer.log);
    println!("{}{}", preparer.log, host.converge().log);
    let active = active.to_string();
    host.serves(&active);
    assert!(host.current().ends_with(format!("slug_{active}")));
    assert_eq!(host.record()["converging"], json!(null));

    let reference = host.path("reference");
    for install in fs::read_dir(host.path("srv/slug/installs")).unwrap() {
        let install = install.unwrap().path();
        let name = install.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with(".stage"), "staging is left behind: {name}");
        if name.starts_with("slug_") {
            assert_eq!(copied(&install), unpacked(&host, name, &reference), "{name} is not whole");
        }
    }
}

fn unpacked(host: &Host, name: &str, reference: &Path) -> fixtures::Tree {
    let to = reference.join(name);
    fs::create_dir_all(&to).unwrap();
    let artifact = host.repo.dir().join("slug").join(format!("{name}.tar.gz"));
    assert!(Command::new("tar").arg("xzf").arg(artifact).arg("-C").arg(&to).status().unwrap().success());
    copied(&to)
}

/// Without what two copies do not share.
fn copied(root: &Path) -> fixtures::Tree {
    tree(root).into_iter().map(|(path, entry)| (path, entry.copied())).collect()
}
