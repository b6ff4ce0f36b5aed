//! How far each app is in each cluster: what `status` and `why` show.
//!
//! Ensures: what cannot be known is said as that, and counts as nothing; of everything that keeps a node from being as
//! intent has it, the one thing comes first that the others wait for.

mod node;
mod observe;

use store::lease::Leases;
use store::{AppName, ClusterName, Registered, Version};

pub(super) use node::{Node, Obstacle, PREPARER, SETLIVE, Seen, Trouble};
pub(super) use observe::{Agents, Reports, Which, agents_by_node, instances, observe, reports_by_node};

/// All that was asked for, and what could not be known of it, by keys.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) deployments: Vec<Deployment>,
    pub(super) problems: Vec<(String, String)>,
}

/// One app in one cluster.
#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) app: AppName,
    pub(super) cluster: ClusterName,
    /// The active version; none where nothing is to run, or where that is not known.
    pub(super) wanted: Option<Version>,
    pub(super) nodes: Vec<Node>,
    pub(super) leases: Leases,
    /// `None` where they cannot be known.
    pub(super) instances: Option<Vec<Registered>>,
}

impl Deployment {
    pub(super) fn count(&self, is: impl Fn(&Node) -> bool) -> usize {
        self.nodes.iter().filter(|node| is(node)).count()
    }

    /// What to look at first: the worst that keeps one of its nodes from being as intent has it; of what fails, where it was
    /// tried.
    pub(super) fn obstacle(&self) -> Option<(&Node, &Obstacle)> {
        let all = self.nodes.iter().filter_map(|node| Some((node, node.obstacle.as_ref()?)));
        // Of the same trouble the first node, and not the last as `max_by` would.
        all.rev().max_by_key(|(_, obstacle)| (obstacle.trouble, !obstacle.log.is_empty()))
    }

    /// How long the slowest node has been on its way, in seconds.
    pub(super) fn lag(&self, now: time::OffsetDateTime) -> Option<i64> {
        let since = self.nodes.iter().filter_map(|node| node.obstacle.as_ref()?.since.as_deref());
        since.filter_map(|since| super::age::seconds(since, now)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_equally_bad_comes_first_where_it_was_tried_and_then_the_first_node() {
        let node = |(number, (trouble, log)): (usize, &(Trouble, &[&str]))| Node {
            name: format!("web{number}").parse().unwrap(),
            prepared: true,
            live: true,
            healthy: true,
            arrived: true,
            drained: false,
            obstacle: Some(Obstacle {
                trouble: *trouble,
                says: String::new(),
                since: None,
                log: log.iter().map(|line| (*line).to_owned()).collect(),
            }),
        };
        let (waits, fails, tried) =
            ((Trouble::Waiting, &["old"][..]), (Trouble::Failing, &[][..]), (Trouble::Failing, &["no"][..]));
        for (obstacles, first) in
            [(&[waits, fails, fails][..], "web1"), (&[fails, waits, tried, tried], "web2"), (&[waits, waits], "web0")]
        {
            let of = Deployment {
                app: "slug".parse().unwrap(),
                cluster: "dev".parse().unwrap(),
                wanted: None,
                nodes: obstacles.iter().enumerate().map(node).collect(),
                leases: Leases::default(),
                instances: None,
            };
            assert_eq!(of.obstacle().unwrap().0.name.as_str(), first);
        }
    }
}
