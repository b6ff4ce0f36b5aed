//! What a change comes to, in words: for the log, and for `--plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use store::schema::Port;
use store::{AppName, Gather};

use crate::rule::{Family, Meaning, Rule, word};
use crate::table::{CHAIN, Table, Tables};

/// One line: of an app, or of the chain as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) about: String,
    pub(crate) text: String,
}

/// As `--plan` prints it.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.text)
    }
}

impl Line {
    pub(crate) fn of(about: impl fmt::Display, text: impl Into<String>) -> Self {
        Self { about: about.to_string(), text: text.into() }
    }
}

/// What changes between two states of the tables. Empty only when nothing does.
pub(crate) fn changes(before: &Tables, after: &Tables) -> Vec<Line> {
    if before == after {
        return Vec::new();
    }
    let mut lines = jumps(before);
    lines.extend(foreign(before));
    lines.extend(ends(before, after));
    lines.extend(ports(&by_app(before), &by_app(after), before.v6.is_some()));
    if lines.is_empty() {
        lines.push(Line::of(CHAIN, "Putting its rules in order"));
    }
    lines
}

fn jumps(before: &Tables) -> Vec<Line> {
    let mut texts = Vec::new();
    for (family, Table { chain, jumps }) in before.each() {
        let ip = name(family);
        match (chain, jumps) {
            (None, 0) => texts.push(format!("Creating the chain for {ip}, and jumping to it from INPUT")),
            (None, _) => texts.push(format!("Creating the chain for {ip}")),
            (Some(_), 0) => texts.push(format!("Jumping to it from INPUT again, for {ip}")),
            (Some(_), 1) => {}
            (Some(_), more) => texts.push(format!("Making one jump of {more} from INPUT, for {ip}")),
        }
    }
    texts.into_iter().map(|text| Line::of(CHAIN, text)).collect()
}

fn foreign(before: &Tables) -> impl Iterator<Item = Line> {
    let foreign = before.rules().filter(|rule| rule.meaning == Meaning::Foreign);
    foreign.map(|rule| Line::of(CHAIN, format!("Removing a rule that stands for no app: {}", rule.text)))
}

fn ends(before: &Tables, after: &Tables) -> Option<Line> {
    let ends = |tables: &Tables| {
        let ends = tables.each().map(|(_, table)| table.rules().filter(|rule| rule.meaning == Meaning::End).cloned());
        ends.map(Iterator::collect).collect::<Vec<Vec<Arc<Rule>>>>()
    };
    let (before, after) = (ends(before), ends(after));
    let drops =
        |ends: &[Vec<Arc<Rule>>]| ends.iter().all(|end| end.last().is_some_and(|rule| rule.text.ends_with("-j DROP")));
    let kept = || kept(&after);
    let text = match (drops(&before), drops(&after)) {
        _ if before == after => return None,
        (false, true) => format!("Dropping, from here on, what no rule accepts; kept open: {}", kept()),
        (true, false) => "No longer dropping what no rule accepts".to_owned(),
        (true, true) => format!("Writing the rules at its end anew; kept open: {}", kept()),
        (false, false) => "Writing the rules at its end anew".to_owned(),
    };
    Some(Line::of(CHAIN, text))
}

/// The ports that a chain that drops keeps open, whatever intent says.
fn kept(ends: &[Vec<Arc<Rule>>]) -> String {
    let port = |rule: &Arc<Rule>| {
        let (_, protocol) = rule.text.split_once("-m ")?;
        let (protocol, port) = protocol.split_once(" --dport ")?;
        Some(format!("{}/{protocol}", port.split(' ').next()?.replace(':', "-")))
    };
    ends.first().into_iter().flatten().filter_map(port).collect::<Vec<_>>().join(", ")
}

type ByApp<'a> = BTreeMap<&'a AppName, Vec<(Family, &'a Arc<Rule>)>>;

fn by_app(tables: &Tables) -> ByApp<'_> {
    let mut apps = ByApp::new();
    for (family, table) in tables.each() {
        for rule in table.rules() {
            if let Some(owner) = rule.owner() {
                apps.entry(&owner.app).or_default().push((family, rule));
            }
        }
    }
    apps
}

/// What is opened and closed, by app.
fn ports(before: &ByApp<'_>, after: &ByApp<'_>, both_families: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for app in before.keys().chain(after.keys()).gather::<BTreeSet<&AppName>>() {
        let [before, after] = [before, after].map(|side| side.get(app).map(Vec::as_slice).unwrap_or_default());
        if before == after {
            continue;
        }
        let (there, wanted) = (names(before), names(after));
        let opened = missing(&wanted, &there, both_families);
        let closed = missing(&there, &wanted, both_families);
        if opened.is_empty() && closed.is_empty() {
            let owner = after.iter().find_map(|(_, rule)| rule.owner());
            let owner = owner.map(|owner| format!(" as {owner}'s")).unwrap_or_default();
            lines.push(Line::of(app, format!("Writing its rules anew{owner}")));
        }
        let verbs = [("Opening", opened), ("Closing", closed)].into_iter().filter(|(_, ports)| !ports.is_empty());
        lines.extend(verbs.map(|(verb, ports)| Line::of(app, format!("{verb} {}", ports.join(", ")))));
    }
    lines
}

/// What of `some` the `others` lack, in words.
fn missing(some: &Named<'_>, others: &Named<'_>, both_families: bool) -> Vec<String> {
    let words = some.iter().filter_map(|(name, families)| {
        let family = match families & !others.get(name).unwrap_or(&0) {
            0 => return None,
            1 if both_families && name.is_of_both() => " (IPv4)",
            2 if both_families && name.is_of_both() => " (IPv6)",
            _ => "",
        };
        Some(format!("{name}{family}"))
    });
    words.collect()
}

/// What rules let through, and in which families: 1 for IPv4, 2 for IPv6, 3 for both.
type Named<'a> = BTreeMap<Name<'a>, u8>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name<'a> {
    Port(&'a Port),
    /// Written by somebody else.
    Text(&'a str),
}

impl Name<'_> {
    fn is_of_both(&self) -> bool {
        match self {
            Self::Port(port) => port.source.is_none(),
            Self::Text(_) => false,
        }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => f.write_str(&port_name(port)),
            Self::Text(text) => write!(f, "what {text:?} says"),
        }
    }
}

fn names<'a>(rules: &[(Family, &'a Arc<Rule>)]) -> Named<'a> {
    let mut names = Named::new();
    for (family, rule) in rules.iter().filter(|(_, rule)| !matches!(rule.meaning, Meaning::Claim(_))) {
        let name = match &rule.meaning {
            Meaning::App(_, Some(port)) => Name::Port(port),
            _ => Name::Text(&rule.text),
        };
        let bit = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        *names.entry(name).or_default() |= bit;
    }
    names
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// `53/udp from 10.0.0.0/8`
pub(crate) fn port_name(port: &Port) -> String {
    let from = port.source.map(|source| format!(" from {source}")).unwrap_or_default();
    format!("{}/{}{from}", port.port, word(port.protocol))
}

/// `Opening …` and `Closing …` of one app, where there are no families.
pub(crate) fn port_changes(app: &AppName, before: &[Port], after: &[Port]) -> Vec<Line> {
    let (before, after) = (before.iter().gather::<BTreeSet<_>>(), after.iter().gather::<BTreeSet<_>>());
    let line = |verb: &str, ports: BTreeSet<&Port>| {
        let names = ports.into_iter().map(port_name).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| Line::of(app, format!("{verb} {names}")))
    };
    [line("Opening", &after - &before), line("Closing", &before - &after)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::End;

    fn table(jumps: usize, rules: &[&str]) -> Table {
        Table { chain: Some(rules.iter().map(|rule| Rule::read(rule).into()).collect()), jumps }
    }

    fn both(rules: &[&str]) -> Tables {
        Tables { v4: table(1, rules), v6: Some(table(1, rules)) }
    }

    fn said(before: &Tables, after: &Tables) -> Vec<String> {
        changes(before, after).iter().map(Line::to_string).collect()
    }

    const EIGHTY: &str = r#"-p tcp -m tcp --dport 80 -m comment --comment "slug/dev" -j ACCEPT"#;
    const DNS: &str = r#"-s 10.0.0.0/8 -p udp -m udp --dport 53 -m comment --comment "slug/dev" -j ACCEPT"#;

    #[test]
    fn what_is_opened_and_closed_is_said_an_app_a_line() {
        let mut before = both(&[EIGHTY]);
        let mut after = both(&[]);
        after.v4 = table(1, &[DNS]);
        assert_eq!(said(&before, &after), ["slug: Opening 53/udp from 10.0.0.0/8", "slug: Closing 80/tcp"]);
        before.v6 = Some(table(1, &[]));
        assert_eq!(said(&before, &both(&[EIGHTY])), ["slug: Opening 80/tcp (IPv6)"]);
        assert_eq!(said(&before, &before), [""; 0]);
    }

    #[test]
    fn who_is_about_to_drop_sees_what_stays_open() {
        let end = End::Drop(["22", "8301-8302/udp"].map(|text| text.parse().unwrap()).to_vec());
        let dropping = Tables {
            v4: Table { chain: Some(end.rules(Family::V4).into_iter().map(Arc::new).collect()), jumps: 1 },
            v6: None,
        };
        let falling = Tables { v4: table(1, &[]), v6: None };
        let says = "PLATYPUS: Dropping, from here on, what no rule accepts; kept open: 22/tcp, 8301-8302/udp";
        assert_eq!(said(&falling, &dropping), [says]);
    }

    #[test]
    fn every_change_is_said_somehow() {
        let one = Tables { v4: table(1, &[EIGHTY, DNS]), v6: None };
        let with = |jumps, rules: &[&str]| Tables { v4: table(jumps, rules), v6: None };
        let direct = EIGHTY.replace("slug/dev", "slug/dev (direct)");
        let table: [(Tables, &str); 7] = [
            (Tables::default(), "PLATYPUS: Creating the chain for IPv4"),
            (with(0, &[EIGHTY, DNS]), "PLATYPUS: Jumping to it"),
            (with(3, &[EIGHTY, DNS]), "PLATYPUS: Making one jump of 3"),
            (with(1, &[DNS, EIGHTY]), "slug: Writing its rules anew as slug/dev's"),
            (with(1, &[&direct, DNS]), "slug: Writing its rules anew as slug/dev's"),
            (with(1, &["-j DROP", EIGHTY, DNS]), "PLATYPUS: Removing a rule that stands for no app: -j DROP"),
            (with(1, &[EIGHTY, DNS, r#"-m comment --comment "platypus: default drop" -j DROP"#]), "No longer dropping"),
        ];
        for (before, line) in table {
            let said = said(&before, &one);
            assert!(said.iter().any(|said| said.contains(line)), "{said:?}: {line}");
        }
    }
}
