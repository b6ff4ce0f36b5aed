//! How the chain ends: by falling through to the host's own rules, or by dropping what no rule accepted.
//!
//! Ensures: a chain that drops keeps open what a host is lost without: its loopback, what belongs to a connection that it
//! has, ICMP (without which IPv6 finds no neighbour), and the ports that are to be kept.

use std::fmt;
use std::str::FromStr;

use store::schema::Protocol;

use crate::rule::{Family, Rule, word};

#[derive(Debug, Clone)]
pub(crate) enum End {
    /// It only accepts.
    FallThrough,
    /// All but these.
    Drop(Vec<Kept>),
}

/// Ports that stay open under `--default-drop`: `22`, `22/tcp`, `8300-8302/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    first: u16,
    last: u16,
    protocol: Protocol,
}

impl FromStr for Kept {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not ports to keep: give 22, 22/tcp or 8300-8302/udp";
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol =
            [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| word(*known) == protocol).ok_or(WRONG)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().map_err(|_| WRONG);
        let (first, last) = (number(first)?, number(last)?);
        if first == 0 || first > last { Err(WRONG) } else { Ok(Self { first, last, protocol }) }
    }
}

/// As iptables writes ports.
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}:{}", self.first, self.last) }
    }
}

impl End {
    pub(crate) fn rules(&self, family: Family) -> Vec<Rule> {
        let Self::Drop(kept) = self else { return Vec::new() };
        let icmp = match family {
            Family::V4 => "-p icmp ",
            Family::V6 => "-p ipv6-icmp ",
        };
        let mut rules = vec![
            Rule::end("-i lo ", "loopback", "ACCEPT"),
            Rule::end("-m conntrack --ctstate RELATED,ESTABLISHED ", "established", "ACCEPT"),
            Rule::end(icmp, "ICMP", "ACCEPT"),
        ];
        rules.extend(kept.iter().map(|kept| {
            let protocol = word(kept.protocol);
            Rule::end(&format!("-p {protocol} -m {protocol} --dport {kept} "), "kept", "ACCEPT")
        }));
        rules.push(Rule::end("", "default drop", "DROP"));
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Meaning;

    #[test]
    fn ports_to_keep_are_read_and_nonsense_is_not() {
        for (text, ports) in [("22", "22"), ("53/udp", "53"), ("8300-8302/tcp", "8300:8302")] {
            assert_eq!(text.parse::<Kept>().unwrap().to_string(), ports);
        }
        for text in ["", "0", "65536", "9-8", "22/icmp", "-1", "1-2-3", "22/tcp/udp"] {
            assert!(text.parse::<Kept>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_chain_that_drops_does_so_last_and_says_of_each_rule_why_it_is_there() {
        let rules = End::Drop(vec!["22".parse().unwrap()]).rules(Family::V6);
        assert!(rules.last().unwrap().text.ends_with("-j DROP"));
        assert_eq!(rules.iter().filter(|rule| rule.text.ends_with("DROP")).count(), 1);
        assert!(rules.iter().all(|rule| Rule::read(&rule.text).meaning == Meaning::End));
        assert!(End::FallThrough.rules(Family::V4).is_empty());
    }
}
