//! What a node does: the steps that its agent decides on, and what they do to its host and in the store.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

use store::ClusterName;

use super::Mutation;
use super::host::{Effect, Next};
use super::intent::node_name;
use super::world::{Entry, Node, World};
use crate::protocol::{Cluster, Peer, Question, Told, Us, step};

impl World {
    /// Whether a node would do anything if it were to go on.
    pub(super) fn is_awake(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        // The node that waits for health gives up when intent changes, as the agent does.
        !node.todo.is_empty()
            || match *self.next(number) {
                Next::Idle => self.is_news(number),
                Next::AwaitCheck => node.entry.as_ref().is_none_or(|entry| entry.check) || self.is_news(number),
                Next::Note(_)
                | Next::Effects(_)
                | Next::Question(_)
                | Next::Write(..)
                | Next::Register
                | Next::Undrain
                | Next::Deregister => true,
            }
    }

    /// Whether what a node does next is up to the store.
    pub(super) fn asks(&self, number: usize) -> bool {
        match self.nodes[number].todo.first() {
            Some(effect) => *effect == Effect::Drain,
            None => match *self.next(number) {
                Next::Question(Question::IsWell) => false,
                Next::Question(_) | Next::Write(..) | Next::Register | Next::Undrain | Next::Deregister => true,
                Next::Idle | Next::AwaitCheck | Next::Note(_) | Next::Effects(_) => false,
            },
        }
    }

    /// Whether the store, or the host, says something else than it told the node.
    fn is_news(&self, number: usize) -> bool {
        let told = &self.nodes[number].told;
        let of_cluster = |(cluster, known): (&ClusterName, &Cluster)| {
            known.leases.as_ref().is_some_and(|told| *told != self.leases_told(number, cluster))
                || known.config.as_ref().is_some_and(|told| *told != self.config(cluster))
                || known
                    .peers
                    .as_ref()
                    .is_some_and(|told| !same(told, &self.peers_told(number, cluster)) || known.alive != self.alive())
        };
        told.away || told.is_well.is_some_and(|told| told != self.is_up(number)) || told.clusters.iter().any(of_cluster)
    }

    /// The answer of the agent's own protocol.
    fn next(&self, number: usize) -> Rc<Next> {
        thread_local!(static KNOWN: RefCell<HashMap<u64, Rc<Next>>> = RefCell::default());
        let Node { host, wanted, told, .. } = &self.nodes[number];
        // Most views are seen again and again, in another state of the rest of the world. They are known by their hashes, as
        // states are to who explores them.
        let view = BuildHasherDefault::<DefaultHasher>::default().hash_one((number, wanted, host, told));
        let decide = || {
            let us = Us { node: node_name(number), host: node_name(number).to_string(), now: "now".to_owned() };
            let (goal, seen) = host.seen(*wanted);
            Rc::new(host.next(step(&us, &goal, &seen, told)))
        };
        KNOWN.with(|known| {
            let mut known = known.borrow_mut();
            if known.len() > 1_000_000 {
                known.clear();
            }
            known.entry(view).or_insert_with(decide).clone()
        })
    }

    pub(super) fn go_on(&mut self, number: usize) {
        if !self.nodes[number].todo.is_empty() {
            let effect = self.nodes[number].todo.remove(0);
            self.apply(number, effect);
            return;
        }
        let next = (*self.next(number)).clone();
        self.see_what_is_stopped(number, &next);
        let node = &mut self.nodes[number];
        match next {
            Next::Idle | Next::AwaitCheck => node.told = Told::default(),
            Next::Question(question) => self.answer(number, question),
            Next::Write(cluster, leases) => self.write(number, &cluster, leases),
            Next::Note(noted) => node.host.record = Some(noted),
            Next::Effects(effects) => (node.todo, node.told) = (effects, Told::default()),
            Next::Register => {
                let spec = node.host.healthy().expect("something is registered");
                let (check, drained) = node.entry.as_ref().map_or((false, false), |entry| (entry.check, entry.drained));
                node.entry = Some(Entry { spec, check, drained });
                node.told.own = None;
            }
            Next::Undrain => {
                if let Some(entry) = &mut node.entry {
                    entry.drained = false;
                }
                node.told.own = None;
            }
            Next::Deregister => (node.entry, node.told.own) = (None, None),
        }
    }

    fn apply(&mut self, number: usize, effect: Effect) {
        let served = self.serves(number);
        let host = &mut self.nodes[number].host;
        match effect {
            Effect::Save(noted) => host.record = Some(noted),
            Effect::Drain => {
                if let Some(entry) = &mut self.nodes[number].entry {
                    entry.drained = true;
                }
                self.see_who_is_left(number, served);
            }
            Effect::Stop => {
                (host.told_to_run, host.running, host.is_sick) = (false, None, false);
                self.see_who_is_left(number, served);
            }
            Effect::Write(spec) => host.files = Some(spec),
            Effect::Start => {
                self.start(number);
                self.see_who_tries(number);
                if self.mutation == Mutation::LeaveEarly {
                    for leases in self.leases.values_mut() {
                        *leases = leases.changed(|leases| drop(leases.down.remove(&node_name(number))));
                    }
                }
            }
            Effect::Judge(spec) => {
                let noted = host.record.take().expect("it was noted before");
                host.record = Some(noted.judged(spec, !self.bad.contains(&spec.version)));
            }
            Effect::RemoveService => host.files = None,
            Effect::RemoveRecord => host.record = None,
        }
    }

    pub(super) fn start(&mut self, number: usize) {
        let host = &mut self.nodes[number].host;
        if host.running.is_none() {
            (host.running, host.is_sick) = (host.files, false);
        }
        host.told_to_run = true;
    }
}

/// Whether two answers are the same, but for what a mutation made of names.
fn same(one: &[Peer], other: &[Peer]) -> bool {
    one.iter().map(|peer| (&peer.digest, peer.passing)).eq(other.iter().map(|peer| (&peer.digest, peer.passing)))
}
