//! `kill -9` of every agent at random moments, while versions, configuration, ports, holds and removals change under them
//! and the store goes away and comes back. Afterwards, one pass of each, and the host equals one that was never
//! disturbed: the same intent converged from nothing, at the same place.
//!
//! `SEED` replays a run's choices; `SOAK_SECONDS` sets how long it goes on (default 10).

mod snapshot;
mod world;

use std::env;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::{Agent, Consul, Fault, Host, Proxy, Scratch, alone, pass, pause};

use snapshot::{Snapshot, raze};
use world::World;

#[test]
fn agents_that_are_killed_at_random_moments_leave_the_host_as_if_nothing_had_happened() {
    // The packet filter that is changed is this test's own.
    if !alone("agents_that_are_killed_at_random_moments_leave_the_host_as_if_nothing_had_happened", Scratch::new) {
        return;
    }
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let end = Instant::now() + Duration::from_secs(number("SOAK_SECONDS").unwrap_or(10));

    let mut random = fastrand::Rng::with_seed(seed);
    let mut host = host(random.bool());
    let mut world = World::new(&host);
    let mut agents: [Option<Agent>; AGENTS] = Default::default();
    let (mut kills, mut outages, mut is_away) = (0, 0, false);
    while Instant::now() < end {
        match random.u8(0..10) {
            0..4 => {
                // A directory that is away cannot be written to.
                if is_away && host.consul.is_none() {
                    bring_back(&host);
                    is_away = false;
                }
                world.change(&mut random, &host);
            }
            4 if is_away => {
                bring_back(&host);
                is_away = false;
            }
            4 if random.bool() => {
                take_away(&mut random, &host);
                is_away = true;
                outages += 1;
            }
            _ => {
                let index = random.usize(0..AGENTS);
                if let Some(agent) = agents[index].replace(host.watch(agent(&host, index, &["--interval", "1"]))) {
                    agent.kill();
                    kills += 1;
                }
            }
        }
        // Not a wait for anything: it is the random moment.
        pause(Duration::from_millis(random.u64(0..120)));
    }
    agents.into_iter().flatten().for_each(Agent::kill);
    if is_away {
        bring_back(&host);
    }
    world.settle(&host);
    println!("{} changes, {kills} kills, {outages} outages of the store; in the end: {world}", world.changes);

    converge(&host);
    world.serves();
    let disturbed = Snapshot::of(&host, &world);
    raze(&mut host);
    converge(&host);
    world.serves();
    assert_eq!(disturbed.differences(&Snapshot::of(&host, &world)), Vec::<String>::new(), "disturbed → undisturbed");
}

const AGENTS: usize = 4;

fn agent(host: &Host, index: usize, arguments: &[&str]) -> Command {
    let mut agent = match index {
        0 => host.preparer(),
        1 => host.setlive(),
        2 => host.iptables(),
        _ => host.direct(),
    };
    if index >= 2 {
        agent.args(["--apply", "--default-drop", "--lock"]).arg(host.path("lock"));
    }
    agent.args(arguments);
    agent
}

/// On a Consul behind a proxy, or on a directory.
fn host(on_consul: bool) -> Host {
    let host = Host::new();
    if !on_consul {
        return host;
    }
    // To Consul, an agent that is killed goes on asking for a minute, and one that asks too much is locked out.
    let consul = Consul::start_with(&host.scratch, r#"{"limits": {"http_max_conns_per_client": 10000}}"#);
    let proxy = Proxy::start(consul.addr());
    Host { consul: Some(consul), proxy: Some(proxy), ..host }
}

fn take_away(random: &mut fastrand::Rng, host: &Host) {
    match &host.proxy {
        Some(proxy) => {
            let faults = [Fault::Refuse, Fault::Reset, Fault::Hang, Fault::Status(500), Fault::Status(404)];
            proxy.set(faults[random.usize(0..faults.len())]);
        }
        None => fs::rename(host.path("store"), host.path("away")).unwrap(),
    }
}

fn bring_back(host: &Host) {
    match &host.proxy {
        Some(proxy) => proxy.set(Fault::None),
        None => fs::rename(host.path("away"), host.path("store")).unwrap(),
    }
}

/// The end of what each app printed, and what runs: all of it is gone with the host.
fn printed(host: &Host) -> String {
    let logs = fs::read_dir(host.path("srv")).into_iter().flatten().flatten().map(|app| app.path().join("log/current"));
    let ends = logs.map(|log| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().rev().take(30).collect::<Vec<_>>();
        format!("{}, the last line first:\n{}\n", log.display(), lines.join("\n"))
    });
    let ps = Command::new("ps").args(["-eo", "pid,ppid,lstart,args", "--forest"]).output();
    let ps = ps.map(|ps| String::from_utf8_lossy(&ps.stdout).into_owned()).unwrap_or_default();
    ends.collect::<String>() + &ps
}

/// One pass of each agent, which has to succeed, and a second, which has to find nothing to do.
fn converge(host: &Host) {
    for round in 0..2 {
        for index in 0..AGENTS {
            let pass = pass(&mut agent(host, index, &["--once"]));
            assert!(pass.ok, "agent {index}, round {round}: {}\n{}", pass.log, printed(host));
            let done = pass.log.lines().all(|line| line.contains("no app is meant for this node"));
            assert!(round == 0 || done, "agent {index} is not done: {}", pass.log);
        }
    }
}
