//! What is printed.

use crate::counting::Tally;
use crate::figures::{Alive, Figures, OfChange, OfNodes};
use crate::site::APPS;

/// Of a table's columns.
const WIDTHS: [usize; 12] = [6, 6, 9, 9, 9, 9, 10, 12, 9, 9, 9, 9];

pub(crate) fn print(figures: &[OfNodes]) {
    println!(
        "\nagents: the loop of every agent, each with the watches, reads and reports that it has by default.\n\
         peer:   a client with one blocking query on all of clusters/, {APPS} apps, and one on what is its node's own, over \
         connections that it keeps; it has seen a\n        change when it is answered, and does not look at the answer.\n\
         floor:  what an agent's watch of that app takes to be answered and begun anew, and nothing else.\n\
         Times in ms from the put to an agent being asked to converge what is new. Requests and bytes without reports and signs \
         of life.\nCPU in ms until the last has seen it: of Consul, and of all nodes, which are one thread here."
    );
    println!("\nan app that all nodes run; medians of at least {} changes:", fewest(figures, |it| &it.all));
    head(["p50", "p99", "last"]);
    rows(figures, |it| &it.all, |nodes| nodes as f64);
    println!("\nan app that one node runs; over {} changes, each of another node's:", fewest(figures, |it| &it.one));
    head(["p50", "p99", "worst"]);
    rows(figures, |it| &it.one, |_| 1.0);
    println!("\nof the app that all nodes run, an agent's part; and what else there is to it:");
    for OfNodes { nodes, agents: Figures { start, connections, all, report, .. }, peer, .. } in figures {
        let of_node = |tally: Tally| {
            let [requests, bytes] = [tally.requests as f64, tally.bytes()].map(|of| of / *nodes as f64);
            format!("{requests:.1} requests, {}", size(bytes))
        };
        println!(
            "{nodes:>6} nodes: watch {}; reads {}; then one report, {}. {connections:.1} connections (peer {:.1}), all up after \
             {start:.1} s (peer {:.1}); by way of the counting proxy p50 was {:.1} ms (peer {:.1})",
            of_node(all.watches),
            of_node(all.reads),
            size(*report),
            peer.connections,
            peer.start,
            all.counted_p50,
            peer.all.counted_p50,
        );
    }
    println!(
        "\nwith signs of life, three requests a minute, which a host's agents give to its own Consul agent, and all here to one:"
    );
    for OfNodes { nodes, alive: Alive { alive, seconds, times: [p50, p99, last], errors }, .. } in figures {
        println!(
            "{nodes:>6} nodes: {alive} said to be alive after {seconds:.1} s, with {errors} errors; then p50 {p50:.1}, p99 {p99:.1}, last {last:.1}"
        );
    }
}

type Part = fn(&Figures) -> &OfChange;

fn fewest(figures: &[OfNodes], part: Part) -> usize {
    figures.iter().flat_map(|of| [part(&of.agents).changes, part(&of.peer).changes]).min().unwrap_or(0)
}

fn head([p50, p99, last]: [&str; 3]) {
    line(&["", "nodes", p50, p99, last, "requests", "to Consul", "from Consul", "a node:", "bytes", "Consul", "nodes"]);
}

/// `seeing`: how many of all nodes have anything to see.
fn rows(figures: &[OfNodes], part: Part, seeing: fn(usize) -> f64) {
    let agents = figures.iter().map(|of| (of.nodes, part(&of.agents))).collect::<Vec<_>>();
    let peer = figures.iter().map(|of| (of.nodes, part(&of.peer))).collect::<Vec<_>>();
    for (who, rows) in [("agents", &agents), ("peer", &peer)] {
        for (nodes, of) in rows {
            let times = [of.p50, of.p99, of.last].map(|time| format!("{time:.1}"));
            let cpu = [of.consul, of.watchers].map(|cpu| format!("{cpu:.0}"));
            row(who, *nodes, times, of.asked(), cpu);
        }
        if let [(fewest, fewer), .., (most, more)] = &rows[..] {
            let growth = |of: fn(&OfChange) -> f64| format!("x{:.1}", of(more) / of(fewer));
            line(&[
                who,
                &format!("x{}", most / fewest),
                &growth(|of| of.p50),
                &growth(|of| of.p99),
                &growth(|of| of.last),
                &growth(|of| of.asked().requests as f64),
                &growth(|of| of.asked().to_store as f64),
                &growth(|of| of.asked().from_store as f64),
            ]);
        }
    }
    for (nodes, of) in agents {
        let watch = |all: u64| (all as f64 / of.watches.requests.max(1) as f64 * seeing(nodes)) as u64;
        let floor = Tally {
            requests: watch(of.watches.requests),
            to_store: watch(of.watches.to_store),
            from_store: watch(of.watches.from_store),
        };
        row("floor", nodes, Default::default(), floor, Default::default());
    }
}

fn row(who: &str, nodes: usize, [p50, p99, last]: [String; 3], asked: Tally, [consul, watchers]: [String; 2]) {
    let [requests, bytes] = [asked.requests as f64, asked.bytes()].map(|of| of / nodes as f64);
    line(&[
        who,
        &nodes.to_string(),
        &p50,
        &p99,
        &last,
        &asked.requests.to_string(),
        &size(asked.to_store as f64),
        &size(asked.from_store as f64),
        &format!("{requests:.1}"),
        &size(bytes),
        &consul,
        &watchers,
    ]);
}

fn line(cells: &[&str]) {
    let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}"));
    println!("{}", cells.collect::<String>());
}

fn size(bytes: f64) -> String {
    match bytes {
        ..1e3 => format!("{bytes:.0} B"),
        1e3..1e6 => format!("{:.1} kB", bytes / 1e3),
        _ => format!("{:.1} MB", bytes / 1e6),
    }
}
