//! What many changes come to.

use fixtures::median;

use crate::counting::{Counts, Tally};
use crate::site::Change;

/// A change whose times are those of the way by the proxy, and what went that way.
pub(crate) type Counted = (Change, Counts);

pub(crate) struct OfNodes {
    pub(crate) nodes: usize,
    pub(crate) agents: Figures,
    pub(crate) peer: Figures,
    pub(crate) alive: Alive,
}

/// Of agents, or of peers.
pub(crate) struct Figures {
    /// In how many seconds all were up, and how many connections each had then.
    pub(crate) start: f64,
    pub(crate) connections: f64,
    /// Changes of the app that all run, and of one that one node runs.
    pub(crate) all: OfChange,
    pub(crate) one: OfChange,
    /// The bytes of one report and its answer.
    pub(crate) report: f64,
}

/// Medians.
pub(crate) struct OfChange {
    pub(crate) changes: usize,
    /// From the put on, in milliseconds, of the nodes that run the app.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) last: f64,
    /// The first by way of the proxy.
    pub(crate) counted_p50: f64,
    pub(crate) watches: Tally,
    pub(crate) reads: Tally,
    /// Of the processor, in milliseconds.
    pub(crate) consul: f64,
    pub(crate) watchers: f64,
}

/// Of agents that all say to one Consul that they are alive.
pub(crate) struct Alive {
    /// How many were said to be, after so many seconds.
    pub(crate) alive: usize,
    pub(crate) seconds: f64,
    /// As of a change that all have to see: p50, p99 and the last.
    pub(crate) times: [f64; 3],
    /// That they logged.
    pub(crate) errors: usize,
}

impl OfChange {
    /// `grouped`: of which times together a quantile is to be told.
    pub(crate) fn of(timed: &[Change], counted: &[Counted], grouped: fn(&[&Change]) -> Vec<Vec<f64>>) -> Self {
        let tally =
            |of: fn(&Counts) -> Tally| middle(&counted.iter().map(|(_, counts)| of(counts)).collect::<Vec<_>>());
        let milliseconds = |of: fn(&Change) -> f64| median(timed.iter().map(|change| of(change) * 1000.0));
        let [counted_p50, ..] = spread(&grouped(&counted.iter().map(|(change, _)| change).collect::<Vec<_>>()));
        let [p50, p99, last] = spread(&grouped(&timed.iter().collect::<Vec<_>>()));
        Self {
            changes: timed.len(),
            p50,
            p99,
            last,
            counted_p50,
            watches: tally(|counts| counts.watches),
            reads: tally(|counts| counts.reads),
            consul: milliseconds(|change| change.consul),
            watchers: milliseconds(|change| change.watchers),
        }
    }

    /// In all.
    pub(crate) fn asked(&self) -> Tally {
        let Self { watches, reads, .. } = self;
        Tally {
            requests: watches.requests + reads.requests,
            to_store: watches.to_store + reads.to_store,
            from_store: watches.from_store + reads.from_store,
        }
    }
}

/// Of each change the times of its nodes.
pub(crate) fn each<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Vec<Vec<f64>> {
    changes.into_iter().map(|change| change.times.values().copied().collect()).collect()
}

/// Of one node's times those in all changes.
pub(crate) fn together(changes: &[&Change]) -> Vec<Vec<f64>> {
    vec![each(changes.iter().copied()).concat()]
}

/// The p50, the p99 and the last of each group: the medians of these.
pub(crate) fn spread(groups: &[Vec<f64>]) -> [f64; 3] {
    [0.5, 0.99, 1.0].map(|part| median(groups.iter().map(|times| quantile(part, times))))
}

/// The least of which so much of all is not more.
fn quantile(part: f64, times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let rank = (part * times.len() as f64).ceil() as usize;
    times[rank.max(1) - 1]
}

fn middle(tallies: &[Tally]) -> Tally {
    let of = |field: fn(&Tally) -> u64| median(tallies.iter().map(|tally| field(tally) as f64)) as u64;
    Tally {
        requests: of(|tally| tally.requests),
        to_store: of(|tally| tally.to_store),
        from_store: of(|tally| tally.from_store),
    }
}
