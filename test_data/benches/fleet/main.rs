//! What it costs that many nodes watch one Consul: from the put of a new active version to each node's agent being asked to
//! converge it, of an app that all nodes run and of one that no other node runs; with the requests and the bytes that go
//! between, beside a peer that watches all of intent.
//!
//! Run by `kickstart/bench fleet`; with numbers, of so many nodes. Every node is the loop that all agents run, with its defaults,
//! around attempts that have no effect: see `agents.rs`. All are in this process, so that what they take of the processor, one
//! after the other, is in the times; hosts would do it at once. Everything is on tmpfs.
//!
//! Times are of changes that go to Consul directly. What is asked is counted in changes of their own, by way of a proxy that
//! takes time. Those that are timed come one after the other only when all that there is to report of one is in the store.

mod agents;
mod counting;
mod figures;
mod peer;
mod site;
mod table;
mod watchers;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::filter::LevelFilter;

use counting::Counting;
use figures::{Alive, Counted, Figures, OfChange, OfNodes, each, spread, together};
use site::{APPS, Change, EVERYWHERE, LONE, Site, Who, lone};

const NODES: [usize; 3] = [10, 100, 1000];
/// For whatever is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Before each change: an agent that has just written its report writes the next one no sooner. It writes more than are needed
/// here before it does so only now and then.
const PAUSE: Duration = Duration::from_secs(1);
/// Queries that nothing answers are asked again after a minute. What is counted has to be over by then.
const BEFORE_RENEWAL: Duration = Duration::from_secs(55);
/// Of descriptors.
const PLENTY: usize = 1 << 20;
/// The most connections of a node at once: its watches, its first reads, its report, its sign of life.
const CONNECTIONS: usize = 6;

fn main() -> ExitCode {
    // A request that failed would be in the figures.
    tracing_subscriber::fmt().with_max_level(LevelFilter::ERROR).with_writer(|| Log).init();
    let given = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect::<Vec<_>>();
    let nodes = if given.is_empty() { NODES.to_vec() } else { given };
    assert!(nodes.iter().all(|nodes| *nodes >= LONE), "{LONE} nodes have an app of their own");
    let descriptors = raise_descriptors();
    println!("many nodes that watch one Consul, {APPS} apps in it; load before: {}", load());
    let began = Instant::now();
    let mut figures = Vec::new();
    let mut missed = false;
    for nodes in nodes {
        // Of each connection by way of the proxy all ends but Consul's are in this process.
        let needed = nodes * CONNECTIONS * 3 + 256;
        if needed > descriptors {
            println!(
                "{nodes} nodes: NOT MEASURED: {needed} descriptors are needed, and RLIMIT_NOFILE allows {descriptors}"
            );
            missed = true;
            continue;
        }
        let begun = Instant::now();
        let [agents, peer] = [Who::Agents, Who::Peers].map(|who| measure(nodes, who, descriptors));
        figures.push(OfNodes { nodes, agents, peer, alive: with_signs_of_life(nodes, descriptors) });
        println!("  {nodes} nodes took {:.0} s", begun.elapsed().as_secs_f64());
    }
    table::print(&figures);
    let expected = figures.iter().map(|of| of.alive.errors).sum::<usize>();
    println!("\nother errors that were logged: {}", ERRORS.load(Relaxed) - expected);
    println!("{:.0} s in all; load after: {}", began.elapsed().as_secs_f64(), load());
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Takes the lines that agents log, and shows the first few.
struct Log;

static ERRORS: AtomicUsize = AtomicUsize::new(0);
const SHOWN: usize = 5;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if ERRORS.fetch_add(1, Relaxed) < SHOWN { io::stderr().write(line) } else { Ok(line.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For this process and for the Consul that it starts: as many as they may have.
fn raise_descriptors() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit may be raised to the hard one");
    maximum.map_or(PLENTY, |maximum| usize::try_from(maximum).map_or(PLENTY, |maximum| maximum.min(PLENTY)))
}

fn measure(nodes: usize, who: Who, descriptors: usize) -> Figures {
    let mut site = Site::new(nodes, descriptors);
    let ([start, connections], [all, one]) = match who {
        Who::Agents | Who::AgentsAlive => time_agents(&mut site),
        Who::Peers => time_peers(&mut site),
    };
    let ([counted_all, counted_one], report) = count(&mut site, who);
    let all = OfChange::of(&all, &counted_all, |changes| each(changes.iter().copied()));
    Figures { start, connections, all, one: OfChange::of(&one, &counted_one, together), report }
}

/// Changes, without the first one of each kind: by then all has been asked once.
fn time_agents(site: &mut Site) -> ([f64; 2], [Vec<Change>; 2]) {
    let nodes = site.all();
    let (watchers, start) = site.watch(Who::Agents, None);
    let mut change = |app: &str, nodes: &[usize]| {
        thread::sleep(PAUSE);
        let index = site.index();
        let change = site.change(&watchers, app, nodes);
        site.wait_for_reports(nodes, index);
        change
    };
    let mut all = (0..LONE).map(|_| change(EVERYWHERE, &nodes)).collect::<Vec<_>>();
    let mut one = (1..=LONE).map(|node| change(&lone(node), &[node])).collect::<Vec<_>>();
    (start, [all.split_off(1), one.split_off(1)])
}

fn time_peers(site: &mut Site) -> ([f64; 2], [Vec<Change>; 2]) {
    let nodes = site.all();
    let (watchers, start) = site.watch(Who::Peers, None);
    let mut all = (0..LONE).map(|_| site.change(&watchers, EVERYWHERE, &nodes)).collect::<Vec<_>>();
    // All of them are woken, and the next change waits for them, too.
    let mut one = (1..=LONE).map(|node| of_one(site.change(&watchers, &lone(node), &nodes), node)).collect::<Vec<_>>();
    (start, [all.split_off(1), one.split_off(1)])
}

fn of_one(mut change: Change, node: usize) -> Change {
    change.times.retain(|other, _| *other == node);
    change
}

/// What goes between in changes that come one after the other, without the first of each kind; and the bytes of a report.
fn count(site: &mut Site, who: Who) -> ([Vec<Counted>; 2], f64) {
    let counting = Counting::start(site.addr().parse().expect("it is an address"));
    let began = Instant::now();
    let (watchers, _) = site.watch(who, Some(&counting));
    let nodes = site.all();
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for _ in 0..LONE {
        let before = counting.counts();
        let change = site.change(&watchers, EVERYWHERE, &nodes);
        all.push((change, counting.counts().since(before)));
    }
    for node in 1..=LONE {
        let before = counting.counts();
        let change = match who {
            Who::Agents | Who::AgentsAlive => site.change(&watchers, &lone(node), &[node]),
            Who::Peers => of_one(site.change(&watchers, &lone(node), &nodes), node),
        };
        one.push((change, counting.counts().since(before)));
    }
    if began.elapsed() > BEFORE_RENEWAL {
        println!("  {} nodes: what is counted may have queries in it that were asked again after a minute", site.nodes);
    }
    let reports = counting.counts().reports;
    ([all.split_off(1), one.split_off(1)], reports.bytes() / reports.requests.max(1) as f64)
}

/// Changes with signs of life, which all agents give to the one Consul that is here.
fn with_signs_of_life(nodes: usize, descriptors: usize) -> Alive {
    let mut site = Site::new(nodes, descriptors);
    let (errors, began) = (ERRORS.load(Relaxed), Instant::now());
    let (watchers, _) = site.watch(Who::AgentsAlive, None);
    while site.alive() < nodes && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
    }
    let (seconds, alive) = (began.elapsed().as_secs_f64(), site.alive());
    let all = site.all();
    let changes = (0..LONE).map(|_| site.change(&watchers, EVERYWHERE, &all)).collect::<Vec<_>>();
    let times = spread(&each(changes[1..].iter()));
    Alive { seconds, alive, times, errors: ERRORS.load(Relaxed) - errors }
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
