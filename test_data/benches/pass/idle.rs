//! What agents cost that have nothing to do: for a minute each is looked at while it runs on, over apps that are converged.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::{Host, Proxy, SOON, bin, cpu_seconds, eventually, median};
use rustix::process::{Pid, Signal, kill_process};

use super::{AGENTS, load};
use crate::fleet::Fleet;

const APPS: usize = 20;
const LONG: Duration = Duration::from_secs(60);
const STARTS: usize = 9;
/// So long nothing but what goes on for ever is asked of the store before it is looked at.
const QUIET: Duration = Duration::from_secs(10);

const MOST_PERCENT: f64 = 0.1;
const MOST_MB: f64 = 6.0;
const MOST_START_MS: f64 = 30.0;
const MOST_PROGRAM_MB: f64 = 4.0;

pub(crate) fn run() {
    println!("agents with {APPS} apps and nothing to do; load before: {}", load());
    let mut fleet = Fleet::new();
    fleet.grow(APPS);
    let starts =
        AGENTS.map(|(name, agent)| median((0..STARTS).map(|_| start(&fleet.host, name, agent(&fleet.host)).1)));
    let mut running = AGENTS.map(|(name, agent)| {
        let proxy = Proxy::start(fleet.host.consul.as_ref().expect("a fleet has one").addr());
        (start(&fleet.host, name, through(&proxy, &agent(&fleet.host), &fleet.host)).0, proxy)
    });
    let all = |running: &[(Running, Proxy); 3]| running.iter().map(|(_, proxy)| proxy.requests()).collect::<Vec<_>>();
    let mut before = (Instant::now(), all(&running));
    eventually("nothing is asked of the store any more", SOON * 4, || {
        let now = all(&running);
        if now != before.1 {
            before = (Instant::now(), now);
        }
        (before.0.elapsed() > QUIET).then_some(())
    });
    let began = running.each_ref().map(|(agent, proxy)| (agent.seconds(), proxy.requests()));
    thread::sleep(LONG);
    println!(
        "\n{:<12} {:>10} {:>9} {:>8} {:>7} {:>7} {:>8} {:>10} {:>9}",
        "agent", "of a core", "watches", "local", "others", "writes", "memory", "first pass", "program"
    );
    let mut targets = Vec::new();
    for (((name, _), (agent, proxy)), ((seconds, requests), start)) in
        AGENTS.iter().zip(&mut running).zip(began.into_iter().zip(starts))
    {
        let asked = proxy.request_lines().split_off(usize::try_from(requests).expect("they fit into memory"));
        let asked = Asked::of(&asked);
        let percent = (agent.seconds() - seconds) / LONG.as_secs_f64() * 100.0;
        let (memory, program) = (agent.megabytes(), size(&bin(name)));
        println!(
            "{name:<12} {percent:>8.3} % {:>9} {:>8} {:>7} {:>7} {memory:>5.2} MB {start:>7.1} ms {program:>6.2} MB",
            asked.watches, asked.local, asked.others, asked.writes
        );
        targets.extend([
            (name, percent < MOST_PERCENT, format!("less than {MOST_PERCENT} % of a core")),
            (name, asked.writes == 0, "no store write".to_owned()),
            (name, asked.others == 0, "no store request but watches, and to the host's own Consul agent".to_owned()),
            (name, memory <= MOST_MB, format!("at most {MOST_MB} MB resident")),
            (name, start < MOST_START_MS, format!("first pass within {MOST_START_MS} ms")),
            (name, program <= MOST_PROGRAM_MB, format!("a program of at most {MOST_PROGRAM_MB} MB")),
        ]);
    }
    for name in &["pp-store", "pt-direct"] {
        let program = size(&bin(name));
        println!("{name:<12} {program:>71.2} MB");
        targets.push((name, program <= MOST_PROGRAM_MB, format!("a program of at most {MOST_PROGRAM_MB} MB")));
    }
    println!();
    for (name, holds, target) in targets {
        println!("{name:<12} {target}: {}", if holds { "holds" } else { "MISSED" });
    }
    println!("load after: {}", load());
}

/// An agent, until this is dropped.
struct Running(Child);

impl Running {
    /// How long it has been on a core.
    fn seconds(&self) -> f64 {
        cpu_seconds(self.0.id())
    }

    fn megabytes(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kibibytes.and_then(|text| text.parse::<f64>().ok()).expect("a process has memory") * 1024.0 / 1e6
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Starts an agent; after how many milliseconds its first pass was over.
fn start(host: &Host, name: &str, mut agent: Command) -> (Running, f64) {
    let mark = host.path("passed").join(name);
    let _ = fs::remove_file(&mark);
    agent.arg("--mark").arg(&mark).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let running = Running(agent.spawn().expect("it is built"));
    while !mark.exists() {
        assert!(began.elapsed() < SOON, "{name} does not get through its first pass");
        thread::sleep(Duration::from_micros(200));
    }
    (running, began.elapsed().as_secs_f64() * 1000.0)
}

/// The same agent, with this in the store's place.
fn through(proxy: &Proxy, agent: &Command, host: &Host) -> Command {
    let mut by_proxy = Command::new(agent.get_program());
    by_proxy.current_dir(host.scratch.path());
    by_proxy.args(
        agent.get_args().map(|arg| if arg == host.store_url().as_str() { proxy.url().into() } else { arg.to_owned() }),
    );
    by_proxy
}

/// What was asked of the store.
#[derive(Default)]
struct Asked {
    /// Reads that wait until something changes.
    watches: usize,
    /// Of the Consul agent of its own host: that an agent is alive, and what is registered there. No server hears of it.
    local: usize,
    writes: usize,
    others: usize,
}

impl Asked {
    fn of(lines: &[String]) -> Self {
        let mut asked = Self::default();
        for line in lines {
            let count = match line.split_once(' ') {
                Some((_, rest)) if rest.starts_with("/v1/agent/") => &mut asked.local,
                // A transaction of reads.
                Some(("PUT", rest)) if !rest.starts_with("/v1/txn") => &mut asked.writes,
                Some(("GET", rest)) if rest.contains("index=") => &mut asked.watches,
                _ => &mut asked.others,
            };
            *count += 1;
        }
        asked
    }
}

fn size(program: &Path) -> f64 {
    fs::metadata(program).expect("it is built").len() as f64 / 1e6
}
