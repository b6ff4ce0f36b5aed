//! A small world for the protocol: hosts, a store, an operator, and all that may come between any two steps of any of them.
//!
//! The decisions are the agent's own, by [`step`](super::step). What is made up here is what they are about: what a
//! decision does to a host, a step at a time, each safe to be the last; what the store answers, when it has to be asked
//! again, and what people and machines do meanwhile. Assumes of the agent around the protocol that it looks again whenever
//! something that it was told is different by now, and that it notices when the store no longer shows its instance.

mod answers;
mod demands;
mod host;
mod intent;
mod steps;
mod world;

pub(crate) use host::Host;
pub(crate) use intent::{Change, ClusterIntent, Intent, Spec};
pub(crate) use world::{Action, Budget, World};

/// What is made wrong on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Mutation {
    #[default]
    None,
    /// Who passes is counted before the leases are read, and so with those who are about to go down.
    CountFirst,
    /// The config is read before the leases, from which what failed may have been cleared since.
    ConfigFirst,
    /// Who was given leave once is not counted for again.
    CountOnce,
    /// A node leaves `down` when it has started something, not when that passes.
    LeaveEarly,
    /// Leases are written whatever is there.
    PlainPut,
    /// Who passes is answered with what was true at first, as a server might that was cut off from the others.
    StaleRead,
    /// What failed is not told to the others.
    PublishNothing,
    /// What an operator lets be tried again is not looked at.
    IgnoreRetry,
    /// In whose leases a node may stand is lost with its agent.
    AskInMemory,
    /// The entry of a host that was lost counts as that of one that tries.
    TheDeadTry,
    /// What the store lost is not noticed.
    NoticeNothing,
}
