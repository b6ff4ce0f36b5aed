//! What a pass costs that finds nothing to do: each agent's whole process, from spawn to exit, for 1, 100 and 1,000 apps
//! that are in a real Consul, prepared, and running under a real runsvdir; beside its peer, a process that only reads the
//! same intent by the prototype's serial requests, over a connection that it keeps.
//!
//! The peer has the agents' own client, so that what is compared is what is asked. What the bare requests take, of a client
//! that does nothing with the answers, is measured too.
//!
//! Run by `kickstart/bench pass`; and with `idle`, by `kickstart/bench idle`, what agents cost that have nothing to do. All
//! that is compared is measured in turn, so that what else the machine does meets all of it. Everything is on tmpfs.

mod client;
mod fleet;
mod idle;

use std::process::Command;
use std::time::Instant;

use fixtures::{Host, Proxy, Scratch, median, pass};

use fleet::{Fleet, HELD};

const ROUNDS: usize = 15;
const APPS: [usize; 3] = [1, 100, 1000];
/// What a pass over 1,000 apps may take at most: in milliseconds, and in parts of the peer's time.
const MOST_MS: f64 = 50.0;
const MOST_OF_PEER: f64 = 1.0 / 8.0;

type Agent = (&'static str, fn(&Host) -> Command);

/// Every agent that makes passes.
const AGENTS: [Agent; 3] =
    [("pp-preparer", Host::preparer), ("pp-setlive", Host::setlive), ("pp-iptables", into_a_file)];

/// What a kernel takes to list its rules is not ours. A host has rules for one node.
fn into_a_file(host: &Host) -> Command {
    let mut iptables = host.iptables();
    iptables.arg("--rules").arg(host.path(&format!("rules-{}", host.node)));
    iptables
}

fn main() {
    if std::env::args().any(|arg| arg == "idle") {
        return idle::run();
    }
    println!("a pass that finds nothing to do, median of {ROUNDS}; load before: {}", load());
    let mut fleet = Fleet::new();
    // Nothing is known of it, and nothing there.
    let idle = Host::within(Scratch::in_memory());
    let figures = APPS.map(|apps| {
        let began = Instant::now();
        fleet.grow(apps);
        println!("  {apps} apps are up after {:.1} s", began.elapsed().as_secs_f64());
        measure(&mut fleet, &idle, apps)
    });
    print_passes(&figures);
    print_parts(&figures[APPS.len() - 1]);
    println!("load after: {}", load());
}

/// All in milliseconds.
struct Figures {
    apps: usize,
    /// Reading intent by the prototype's 2N+1 requests.
    peer: f64,
    /// Those requests, of a client that does nothing with the answers.
    bare: f64,
    /// An agent's requests, of a client that does nothing with the answers.
    consul: f64,
    /// What reading intent takes beside that: agents do it by the same code, and the first has nothing else to do where
    /// every app is on hold.
    reading: f64,
    agents: Vec<OfAgent>,
}

struct OfAgent {
    name: &'static str,
    /// A whole pass.
    pass: f64,
    /// One on a host that has no apps, without a Consul.
    start: f64,
    /// How often the store was asked in one pass.
    requests: u64,
}

fn measure(fleet: &mut Fleet, idle: &Host, apps: usize) -> Figures {
    let [mut peer, mut bare, mut consul, mut held] = [const { Vec::new() }; 4];
    let mut times = AGENTS.map(|_| [Vec::new(), Vec::new()]);
    let (_, reader) = AGENTS[0];
    for (_, agent) in AGENTS {
        let converged = pass(agent(&fleet.host).arg("--once"));
        assert!(converged.ok, "{}", converged.log);
    }
    for _ in 0..ROUNDS {
        peer.push(timed(|| fleet.read_as_the_prototype()));
        bare.push(timed(|| fleet.ask_as_the_prototype()));
        // What Consul has still to do for those thousands of requests is in nobody's pass.
        for ((_, agent), [_, start]) in AGENTS.iter().zip(&mut times) {
            start.push(timed(|| quietly(agent(idle))));
        }
        let node = std::mem::replace(&mut fleet.host.node, HELD);
        held.push(timed(|| quietly(reader(&fleet.host))));
        fleet.host.node = node;
        consul.push(timed(|| fleet.ask_as_an_agent()));
        for ((_, agent), [pass, _]) in AGENTS.iter().zip(&mut times) {
            pass.push(timed(|| no_op(agent(&fleet.host).arg("--once"))));
        }
    }
    let of_agent = |((name, agent), times): (Agent, [Vec<f64>; 2])| {
        let [pass, start] = times.map(median);
        OfAgent { name, pass, start, requests: requests(agent(&fleet.host), &fleet.host) }
    };
    let agents = AGENTS.into_iter().zip(times).map(of_agent).collect::<Vec<_>>();
    let consul = median(consul);
    let reading = median(held) - agents[0].start - consul;
    Figures { apps, peer: median(peer), bare: median(bare), consul, reading, agents }
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1000.0
}

fn no_op(agent: &mut Command) {
    let pass = pass(agent);
    assert_eq!((pass.ok, pass.log.as_str(), pass.out.as_str()), (true, "", ""), "{agent:?}");
}

/// A pass that would say that there is nothing to do.
fn quietly(mut agent: Command) {
    no_op(agent.arg("--once").env("RUST_LOG", "error"));
}

/// How often a pass asks the store, counted on the way to it.
fn requests(agent: Command, host: &Host) -> u64 {
    let proxy = Proxy::start(host.consul.as_ref().expect("a fleet has one").addr());
    let through =
        agent.get_args().map(|arg| if arg == host.store_url().as_str() { proxy.url().into() } else { arg.to_owned() });
    let mut through_proxy = Command::new(agent.get_program());
    through_proxy.args(through).arg("--once").current_dir(host.scratch.path());
    // The first one by another way knows nothing of those before it, and in one of them reports may be due.
    let passes = (0..4).map(|_| {
        let before = proxy.requests();
        no_op(&mut through_proxy);
        proxy.requests() - before
    });
    passes.min().expect("there are some")
}

fn print_passes(figures: &[Figures]) {
    println!(
        "\n{:<12} {:>6} {:>9} {:>9} {:>9} {:>10} {:>6} {:>10}",
        "agent", "apps", "pass", "per app", "requests", "peer", "ratio", "bare"
    );
    for Figures { apps, peer, bare, agents, .. } in figures {
        for OfAgent { name, pass, requests, .. } in agents {
            let (per_app, ratio) = (pass * 1000.0 / *apps as f64, peer / pass);
            println!(
                "{name:<12} {apps:>6} {pass:>6.1} ms {per_app:>6.0} µs {requests:>9} {peer:>7.1} ms {:>6} {bare:>7.1} ms",
                format!("1/{ratio:.1}")
            );
        }
    }
    println!();
    let [.., hundred, thousand] = figures else { unreachable!("there are three") };
    for (fewer, more) in hundred.agents.iter().zip(&thousand.agents) {
        let per_app = |agent: &OfAgent, figures: &Figures| agent.pass / figures.apps as f64;
        let mut targets = vec![
            (more.pass < MOST_MS, format!("under {MOST_MS} ms")),
            (more.pass <= thousand.peer * MOST_OF_PEER, "at most 1/8 of the peer's time".to_owned()),
            (per_app(more, thousand) <= per_app(fewer, hundred), "no more per app than for 100".to_owned()),
        ];
        if more.name == "pp-preparer" {
            targets.push((more.requests == 17, "17 requests".to_owned()));
        }
        for (holds, target) in targets {
            println!("{:<12} {} apps, {target}: {}", more.name, thousand.apps, if holds { "holds" } else { "MISSED" });
        }
    }
}

fn print_parts(Figures { apps, consul, reading, agents, .. }: &Figures) {
    println!("\nwhere the time of {apps} apps goes, by subtraction:");
    for OfAgent { name, pass, start, .. } in agents {
        // It knows by their bytes that the answers are those of the pass before.
        let reading = if *name == "pp-setlive" { 0.0 } else { *reading };
        println!(
            "{name:<12} {pass:.1} ms = process {start:.1}, Consul itself {consul:.1}, reading its answers {reading:.1}, looking at \
             the host {:.1}",
            pass - start - consul - reading
        );
    }
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
