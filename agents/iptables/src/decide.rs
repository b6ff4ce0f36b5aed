//! What is to become of each app's rules, and of the chain: pure functions from what intent says and what was seen.
//!
//! Ensures: only what intent names, validly and not held, is opened; only what intent named once and what the store twice
//! said is gone is closed; all else is as it was. Nothing here asks or tells anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use converge::Source;
use store::intent::{App, NodeIntent};
use store::schema::Port;
use store::{AppName, ClusterName, Gather, NodeName};

use crate::end::End;
use crate::rule::{Family, Meaning, Owner, Rule, in_family};
use crate::table::{Table, Tables};

#[cfg(test)]
mod tests;

/// Who decides.
#[derive(Debug, Clone)]
pub(crate) struct Us {
    pub(crate) node: NodeName,
    pub(crate) source: Source,
    /// Take over what another node's agent or, as `pt-direct`, the store's had made.
    pub(crate) adopt: bool,
}

/// Something of an app that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) owner: Owner,
    /// The node that it was made for, where that is known.
    pub(crate) node: Option<NodeName>,
}

/// The apps that the store said are gone from this node, each with the cluster it was in.
pub(crate) type Gone = BTreeSet<(AppName, ClusterName)>;

/// What is to become of what is there. Everything that neither list names stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Verdicts<'a> {
    /// What there is of these, whoever made it, is replaced by what intent says.
    pub(crate) open: BTreeMap<&'a AppName, &'a App>,
    /// Goes, as far as it is of our own source.
    pub(crate) close: Gone,
    /// Goes once the store has said that it is gone.
    pub(crate) ask: Gone,
    /// What is wrong, an app each.
    pub(crate) complaints: BTreeMap<AppName, String>,
    /// Something is kept that was made for another node.
    pub(crate) another_nodes: bool,
}

impl Verdicts<'_> {
    /// Whether something of this owner stays as it is.
    pub(crate) fn keep(&self, owner: &Owner, us: &Us) -> bool {
        let closed = owner.source == us.source && self.close.contains(&(owner.app.clone(), owner.cluster.clone()));
        !closed && !self.open.contains_key(&owner.app)
    }
}

/// The verdict on every app that intent names or that something is there of.
pub(crate) fn verdicts<'a>(intent: &'a NodeIntent, present: &[Present], gone: &Gone, us: &Us) -> Verdicts<'a> {
    let mut verdicts = Verdicts::default();
    let others = present.iter().filter(|there| us.source == Source::Direct && there.owner.source == Source::Store);
    let others = others.map(|there| &there.owner.app).gather::<BTreeSet<_>>();
    for (name, app) in &intent.apps {
        // An app that is held or invalid stays as it is, and that is said already.
        let Some(app) = app.as_ref().ok().filter(|app| !app.hold) else { continue };
        // Else the store's agent sees to it.
        if !others.contains(name) || us.adopt {
            verdicts.open.insert(name, app);
        }
    }
    let unnamed = present.iter().filter(|there| !intent.apps.contains_key(&there.owner.app));
    for Present { owner, node } in unnamed.filter(|there| there.owner.source == us.source) {
        let key = (owner.app.clone(), owner.cluster.clone());
        match node {
            Some(node) if *node != us.node && !us.adopt => {
                let complaint = format!(
                    "kept as it is: made for another node, {node}; give --node {node}, or --adopt to take it over"
                );
                verdicts.complaints.insert(owner.app.clone(), complaint);
                verdicts.another_nodes = true;
            }
            _ if gone.contains(&key) => verdicts.close.extend([key]),
            _ => verdicts.ask.extend([key]),
        }
    }
    verdicts
}

/// What the tables have of each app.
pub(crate) fn present(tables: &Tables) -> Vec<Present> {
    let nodes = [Source::Store, Source::Direct].map(|source| (source, node(tables, source)));
    let node_of = |source| nodes.iter().find(|(of, _)| *of == source).and_then(|(_, node)| node.cloned());
    let mut present = Vec::<Present>::new();
    for owner in tables.rules().filter_map(|rule| rule.owner()) {
        // An app's rules are next to each other, and twice the same app is no harm.
        if present.last().is_none_or(|last| last.owner != *owner) {
            present.push(Present { owner: owner.clone(), node: node_of(owner.source) });
        }
    }
    present
}

/// The node that a source's rules are for.
fn node(tables: &Tables, of: Source) -> Option<&NodeName> {
    tables.rules().find_map(|rule| match &rule.meaning {
        Meaning::Node(node, source) if *source == of => Some(node),
        Meaning::Node(..) | Meaning::App(..) | Meaning::Claim(_) | Meaning::End | Meaning::Foreign => None,
    })
}

/// The tables as they are to be.
pub(crate) fn tables(seen: &Tables, verdicts: &Verdicts<'_>, us: &Us, end: &End) -> Tables {
    let table = |(family, table): (Family, &Table)| Table {
        chain: Some(chain(family, table, seen, verdicts, us, end)),
        jumps: 1,
    };
    let mut tables = seen.each().map(table);
    Tables { v4: tables.next().unwrap_or_default(), v6: tables.next() }
}

/// One family's chain: for whom it is, then each app's rules in the order of their names, then its end.
fn chain(family: Family, table: &Table, seen: &Tables, verdicts: &Verdicts<'_>, us: &Us, end: &End) -> Vec<Arc<Rule>> {
    let mut there = BTreeMap::<&AppName, Vec<&Arc<Rule>>>::new();
    let owned = table.rules().filter(|rule| rule.owner().is_some()).collect::<Vec<_>>();
    // An app's rules are next to each other, most often.
    for rules in owned.chunk_by(|one, next| one.owner().map(|one| &one.app) == next.owner().map(|next| &next.app)) {
        if let Some(owner) = rules[0].owner() {
            there.entry(&owner.app).or_default().extend(rules);
        }
    }
    let mut chain = nodes(seen, verdicts, us);
    for app in there.keys().chain(verdicts.open.keys()).gather::<BTreeSet<_>>() {
        let there = there.get(app).map(Vec::as_slice).unwrap_or_default();
        match verdicts.open.get(*app) {
            Some(app) => chain.extend(rules(family, app, there, us)),
            None => {
                let kept = there.iter().filter(|rule| rule.owner().is_some_and(|owner| verdicts.keep(owner, us)));
                chain.extend(kept.copied().cloned());
            }
        }
    }
    // Where the store's agent is at work, too, it is the one to say how the chain ends.
    let theirs = us.source == Source::Direct && node(seen, Source::Store).is_some() && !us.adopt;
    if theirs {
        chain.extend(table.rules().filter(|rule| rule.meaning == Meaning::End).cloned());
    } else {
        chain.extend(end.rules(family).into_iter().map(Arc::new));
    }
    chain
}

/// An app's rules as intent wants them. One that is there already stays as it is written.
fn rules(family: Family, app: &App, there: &[&Arc<Rule>], us: &Us) -> Vec<Arc<Rule>> {
    let owner = Owner { app: app.name.clone(), cluster: app.cluster.clone(), source: us.source };
    let ports = app.ports.iter().filter_map(|port| in_family(port, family)).gather::<BTreeSet<_>>();
    let taken_over = |rule: &&Arc<Rule>| match &rule.meaning {
        Meaning::Claim(claims) => *claims == owner,
        Meaning::App(of, _) => of.source != us.source,
        Meaning::Node(..) | Meaning::End | Meaning::Foreign => false,
    };
    if ports.is_empty() && there.iter().any(taken_over) {
        return vec![Rule::claim(&owner).into()];
    }
    let written = there.iter().filter_map(|rule| match &rule.meaning {
        Meaning::App(of, Some(port)) if *of == owner => Some((port, *rule)),
        _ => None,
    });
    let written = written.gather::<BTreeMap<_, _>>();
    let rule = |port: Port| written.get(&port).map_or_else(|| Rule::open(&owner, port).into(), |rule| Arc::clone(rule));
    ports.into_iter().map(rule).collect()
}

/// For which nodes the rules of the two sources are. Ours stays another node's while something of it is kept.
fn nodes(seen: &Tables, verdicts: &Verdicts<'_>, us: &Us) -> Vec<Arc<Rule>> {
    let node_of = |source| match node(seen, source) {
        Some(node) if source != us.source => Some(node),
        None if source != us.source => None,
        Some(node) if verdicts.another_nodes => Some(node),
        _ => Some(&us.node),
    };
    let rule = |source| node_of(source).map(|node| Rule::node(node, source).into());
    [Source::Store, Source::Direct].into_iter().filter_map(rule).collect()
}
