//! The protocol in a world of its own: all that can happen in small fleets, and much of what can in larger ones.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::fleet::{Action, Budget, Change, ClusterIntent, Host, Intent, Mutation, Spec, World};

struct Fleet(World);

impl Model for Fleet {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.0.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("as many as min_nodes pass, and what fails is tried by one", |_, world: &World| {
                world.violation.is_none()
            }),
            Property::always("no two steps go on to undo each other", |_, world: &World| {
                world.leases.values().all(|leases| leases.rev < 60)
            }),
            Property::always("where nothing more happens, all is as it shall be", |_, world: &World| {
                world.unsettled().is_none()
            }),
        ]
    }
}

const ONE: Spec = Spec { version: 1, cluster: 0, basedir: 0 };
/// What is never healthy.
const BAD: u8 = 9;

/// A cluster of so many nodes, of which so many have to pass; they all run version 1, or nothing yet.
fn fleet(nodes: usize, min_nodes: u32, host: &Host, budget: Budget) -> World {
    let cluster = |version| ClusterIntent { version: Some(version), min_nodes, basedir: 0 };
    let intent = Intent { clusters: [(0, cluster(1)), (1, cluster(3))].into(), nodes: vec![Some(0); nodes] };
    World::new(intent, vec![host.clone(); nodes], &[BAD], budget)
}

fn running(nodes: usize, min_nodes: u32, budget: Budget) -> World {
    fleet(nodes, min_nodes, &Host::running(ONE), budget)
}

fn activate(version: u8) -> Change {
    Change::Activate { cluster: 0, version: Some(version) }
}

fn changes(changes: &[Change]) -> Budget {
    Budget { changes: changes.to_vec(), ..Budget::default() }
}

/// Explores all that can come of a world; how many states that are.
#[track_caller]
fn explored(what: &str, world: World) -> usize {
    let began = Instant::now();
    let checker = Fleet(world).checker().threads(2).spawn_dfs().join();
    println!("{what}: {} states, in {:.1?}", checker.unique_state_count(), began.elapsed());
    if let Some(path) = checker.discoveries().into_values().next() {
        let last = path.last_state();
        let wrong = (last.violation, last.unsettled());
        panic!("{what}: {wrong:?}\n{last:?}\nafter {:?}", path.clone().into_actions());
    }
    checker.unique_state_count()
}

#[test]
fn whatever_comes_between_no_step_takes_a_cluster_below_its_minimum_and_it_ends_well() {
    let good_after_bad = changes(&[activate(BAD), activate(2)]);
    let leaves = Change::Place { node: 0, cluster: None };
    let moves = |node| Change::Place { node, cluster: Some(1) };
    let bare = Host::default();
    let worlds = [
        ("two nodes, one has to pass, killed twice", running(2, 1, Budget { kills: 2, ..changes(&[activate(2)]) })),
        ("a bad version, then a good one, killed once", running(2, 1, Budget { kills: 1, ..good_after_bad.clone() })),
        ("and the store fails once", running(2, 1, Budget { faults: 1, ..good_after_bad.clone() })),
        ("three nodes, two have to pass", running(3, 2, changes(&[activate(2)]))),
        ("three nodes, a bad version", running(3, 1, changes(&[activate(BAD)]))),
        ("back before it is done", running(2, 1, Budget { kills: 1, ..changes(&[activate(2), activate(1)]) })),
        ("the minimum is lowered", {
            let lowered = Change::Minimum { cluster: 0, min_nodes: 1 };
            running(2, 2, Budget { kills: 1, ..changes(&[activate(2), lowered]) })
        }),
        ("an operator lets it be tried again", running(2, 1, changes(&[activate(BAD), Change::Retry { cluster: 0 }]))),
        ("a host is lost", running(2, 0, Budget { deaths: 1, ..changes(&[activate(BAD)]) })),
        ("the first deployment", fleet(3, 2, &bare, Budget::default())),
        ("the first deployment, of a bad one", fleet(2, 1, &bare, good_after_bad)),
        ("one leaves", running(3, 1, changes(&[leaves, activate(2)]))),
        ("two move to another cluster", running(3, 1, changes(&[moves(0), moves(1)]))),
        ("a process ends by itself", running(2, 1, Budget { crashes: 1, ..changes(&[activate(2)]) })),
        ("an instance serves nobody any more", running(2, 1, Budget { sicknesses: 1, ..changes(&[activate(2)]) })),
        ("the store is wiped", running(2, 1, changes(&[activate(2), Change::Wipe]))),
        ("an operator strikes a node from the leases", {
            running(2, 1, changes(&[activate(2), Change::Release { node: 0 }]))
        }),
        ("no version is active for a while", {
            running(2, 1, changes(&[Change::Activate { cluster: 0, version: None }, activate(2)]))
        }),
        (
            "the basedir moves",
            running(2, 1, Budget { kills: 1, ..changes(&[Change::Basedir { cluster: 0, basedir: 1 }]) }),
        ),
    ];
    let states = worlds.map(|(what, world)| explored(what, world)).iter().sum::<usize>();
    println!("{states} states in all");
    assert!(states >= 1_000_000);
}

#[test]
fn what_would_be_wrong_is_found() {
    let leaves = |node| Change::Place { node, cluster: None };
    for (mutation, mut world) in [
        (Mutation::CountFirst, running(3, 2, changes(&[activate(2)]))),
        (Mutation::ConfigFirst, fleet(2, 0, &Host::default(), changes(&[activate(BAD), activate(2)]))),
        (Mutation::LeaveEarly, running(2, 0, changes(&[activate(BAD)]))),
        (Mutation::PlainPut, running(3, 2, changes(&[activate(2)]))),
        (Mutation::StaleRead, running(3, 1, changes(&[leaves(0), activate(2), leaves(2)]))),
    ] {
        world.mutation = mutation;
        let checker = Fleet(world).checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        let found = checker.discoveries();
        assert!(!found.is_empty(), "{mutation:?} is not found");

        for path in found.into_values() {
            let path = path.into_states();
            println!("{mutation:?}: {:?} after {} steps", path.last().and_then(|world| world.violation), path.len());
        }
    }
}
