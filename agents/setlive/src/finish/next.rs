//! What the finisher does next: a pure function of what it sees.

use std::collections::BTreeMap;

use store::Gather;

/// Where the finisher leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    There,
    Back,
}

/// One of the agents of the definition that is led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    /// Somebody has told it to be.
    Down,
    /// It has no process yet, or one of which cannot be told what it is going to be.
    Starting,
    /// Its process is still of another definition.
    Other {
        pid: i32,
    },
    /// It has not made its first pass.
    Started,
    Passed,
}

/// What the finisher sees.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) way: Way,
    /// The files and links are those of the definition that is led to.
    pub(super) is_written: bool,
    /// By service.
    pub(super) agents: BTreeMap<String, Agent>,
    /// The definition's own check passes, or it has none. Asked once all have passed.
    pub(super) is_healthy: bool,
    /// The store could be read, without a gap, since the files were written, for as long as may be waited.
    pub(super) is_late: bool,
    /// There is an install to come back to.
    pub(super) can_return: bool,
}

/// What it does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Write,
    Start(Vec<String>),
    /// Have runsv put another process in place of these.
    Renew(BTreeMap<String, i32>),
    Wait,
    Arrive,
    /// Lead back, for these have not passed.
    Condemn(Vec<String>),
    Return,
}

pub(super) fn next(sight: &Sight) -> Next {
    let Sight { way, is_written, agents, is_healthy, is_late, can_return } = sight;
    let which = |is: fn(Agent) -> bool| {
        let those = agents.iter().filter(|(_, agent)| is(**agent));
        those.map(|(service, _)| service.clone()).collect::<Vec<_>>()
    };
    let other = |(service, agent): (&String, &Agent)| match agent {
        Agent::Other { pid } => Some((service.clone(), *pid)),
        Agent::Down | Agent::Starting | Agent::Started | Agent::Passed => None,
    };
    let (down, others) =
        (which(|agent| agent == Agent::Down), agents.iter().filter_map(other).gather::<BTreeMap<_, _>>());
    let late = which(|agent| agent != Agent::Passed);
    let runs = |agent: &Agent| matches!(agent, Agent::Started | Agent::Passed);
    match way {
        Way::There if late.is_empty() && *is_healthy && *is_written => Next::Arrive,
        Way::There if *is_late && *can_return => Next::Condemn(late),
        _ if !is_written => Next::Write,
        _ if !down.is_empty() => Next::Start(down),
        _ if !others.is_empty() => Next::Renew(others),
        // It was healthy before: to wait for more would leave the host without an agent that goes on.
        Way::Back if agents.values().all(runs) => Next::Return,
        Way::There | Way::Back => Next::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(way: Way, is_written: bool, agents: &[(&str, Agent)]) -> Sight {
        let agents = agents.iter().map(|(service, agent)| ((*service).to_owned(), *agent)).collect();
        Sight { way, is_written, agents, is_healthy: true, is_late: false, can_return: true }
    }

    #[test]
    fn the_next_step_follows_from_what_is_seen() {
        use Agent::{Down, Other, Passed, Started, Starting};
        use Way::{Back, There};
        let all = |agent| [("setlive", agent), ("preparer", Passed)];
        let setlive = || vec!["setlive".to_owned()];
        for (way, is_written, agent, answer) in [
            (There, false, Other { pid: 7 }, Next::Write),
            (There, false, Passed, Next::Write),
            (There, true, Other { pid: 7 }, Next::Renew([("setlive".to_owned(), 7)].into())),
            (There, true, Down, Next::Start(setlive())),
            (There, true, Starting, Next::Wait),
            (There, true, Started, Next::Wait),
            (There, true, Passed, Next::Arrive),
            (Back, false, Passed, Next::Write),
            (Back, true, Other { pid: 7 }, Next::Renew([("setlive".to_owned(), 7)].into())),
            (Back, true, Down, Next::Start(setlive())),
            (Back, true, Starting, Next::Wait),
            (Back, true, Started, Next::Return),
            (Back, true, Passed, Next::Return),
        ] {
            assert_eq!(next(&sight(way, is_written, &all(agent))), answer, "{way:?} {is_written} {agent:?}");
        }
        let late = |way, agent| next(&Sight { is_late: true, ..sight(way, true, &all(agent)) });
        assert_eq!(late(There, Started), Next::Condemn(setlive()));
        assert_eq!(late(There, Other { pid: 7 }), Next::Condemn(setlive()), "also one that cannot be ended");
        assert_eq!(late(There, Passed), Next::Arrive, "it is late, but there");
        let only_there = Sight { is_late: true, can_return: false, ..sight(There, true, &all(Started)) };
        assert_eq!(next(&only_there), Next::Wait, "to come back to what is gone would leave nothing");
        assert_eq!(late(Back, Started), Next::Return);
        let unhealthy = Sight { is_healthy: false, ..sight(There, true, &all(Passed)) };
        assert_eq!(next(&unhealthy), Next::Wait);
        assert_eq!(next(&Sight { is_late: true, ..unhealthy }), Next::Condemn(Vec::new()));
    }
}
