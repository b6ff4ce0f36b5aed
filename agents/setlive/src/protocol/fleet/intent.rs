//! What people want, and how they change their minds.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use store::{ClusterName, NodeName};

use crate::decide::Goal;
use crate::definition::Definition;
use crate::definition::tests::definition;

/// What is run, in few bytes: states are kept by the million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spec {
    pub(crate) version: u8,
    pub(crate) cluster: u8,
    pub(crate) basedir: u8,
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/c{}/b{}", self.version, self.cluster, self.basedir)
    }
}

impl Spec {
    pub(crate) fn definition(self) -> Definition {
        thread_local!(static DEFINITIONS: RefCell<HashMap<Spec, Definition>> = RefCell::default());
        DEFINITIONS.with(|known| known.borrow_mut().entry(self).or_insert_with(|| self.made()).clone())
    }

    fn made(self) -> Definition {
        let mut definition = definition(&self.version.to_string());
        definition.cluster = cluster_name(self.cluster);
        definition.basedir = format!("/srv/{}", self.basedir).try_into().expect("it is a good one");
        definition
    }

    pub(super) fn of(definition: &Definition) -> Self {
        let last = |text: &str| text.bytes().last().map_or(0, |digit| digit - b'0');
        Self {
            version: last(definition.version.as_str()),
            cluster: last(definition.cluster.as_str()),
            basedir: last(definition.basedir.as_str()),
        }
    }

    pub(crate) fn digest(self) -> String {
        thread_local!(static DIGESTS: RefCell<HashMap<Spec, String>> = RefCell::default());
        let digest = || self.made().digest().as_str().to_owned();
        DIGESTS.with(|known| known.borrow_mut().entry(self).or_insert_with(digest).clone())
    }
}

pub(super) fn cluster_name(number: u8) -> ClusterName {
    format!("c{number}").parse().expect("a name")
}

pub(super) fn cluster_number(name: &ClusterName) -> u8 {
    name.as_str().bytes().last().expect("not empty") - b'0'
}

pub(super) fn node_name(number: usize) -> NodeName {
    format!("n{number}").parse().expect("a name")
}

pub(super) fn node_number(name: &NodeName) -> usize {
    usize::from(name.as_str().bytes().last().expect("not empty") - b'0')
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Intent {
    pub(crate) clusters: BTreeMap<u8, ClusterIntent>,
    /// The cluster that each node is in.
    pub(crate) nodes: Vec<Option<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct ClusterIntent {
    /// The active version.
    pub(crate) version: Option<u8>,
    pub(crate) min_nodes: u32,
    pub(crate) basedir: u8,
}

impl ClusterIntent {
    /// How many have to pass: where no version is active, none.
    pub(super) fn minimum(self) -> u32 {
        self.version.map_or(0, |_| self.min_nodes)
    }
}

/// What intent comes to on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Wanted {
    Run(Spec),
    /// Its install is not there yet.
    Unprepared(Spec),
    /// No version is active.
    Inactive,
    /// The app is not meant for this node.
    #[default]
    Elsewhere,
    /// The store does not say.
    Unknown,
}

impl Intent {
    pub(super) fn of(&self, node: usize) -> Wanted {
        let Some(cluster) = self.nodes[node] else { return Wanted::Elsewhere };
        let ClusterIntent { version, basedir, .. } = self.clusters[&cluster];
        version.map_or(Wanted::Inactive, |version| Wanted::Run(Spec { version, cluster, basedir }))
    }
}

impl Wanted {
    pub(super) fn goal(self) -> Goal {
        match self {
            Self::Run(spec) => Goal::Run(spec.definition()),
            Self::Unprepared(spec) => {
                Goal::Unprepared { version: spec.definition().version, install: "/srv/slug".into() }
            }
            Self::Inactive => Goal::Nothing { why: "no version is active", heeds_minimum: false },
            Self::Elsewhere => Goal::Nothing { why: "it was taken off this node", heeds_minimum: true },
            Self::Unknown => Goal::Finish,
        }
    }
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Activate {
        cluster: u8,
        version: Option<u8>,
    },
    Minimum {
        cluster: u8,
        min_nodes: u32,
    },
    /// Leave this node, or have it run the app in this cluster.
    Place {
        node: usize,
        cluster: Option<u8>,
    },
    Basedir {
        cluster: u8,
        basedir: u8,
    },
    /// Let what failed be tried again.
    Retry {
        cluster: u8,
    },
    /// Strike a node from all leases, as one would whose host is not to come back.
    Release {
        node: usize,
    },
    /// Lose all that the store holds. Intent is put back, from a backup.
    Wipe,
}
