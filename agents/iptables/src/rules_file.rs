//! The rule set as a file, that nothing applies: for a developer's checkout, and to see what would be.
//!
//! Ensures: one text for both families; `iptables-restore --noflush` and `ip6tables-restore --noflush` each take what is
//! theirs of it, and taking it twice is as taking it once. So the text holds no jump: that is the host's own to place.
//! The file plays the part of the save: what it says of an app that is held is kept.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use converge::files;

use crate::rule::Rule;
use crate::table::{CHAIN, Table, Tables, is_chain};

const HEADER: &str = "\
# What pp-iptables makes of intent. iptables-restore --noflush and ip6tables-restore --noflush take it, again and again.
# It is used once INPUT jumps to it: iptables -I INPUT -j PLATYPUS; ip6tables -I INPUT -j PLATYPUS
";

#[derive(Debug, Clone)]
pub(crate) struct RulesFile {
    pub(crate) path: PathBuf,
}

impl RulesFile {
    pub(crate) fn lock(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.lock"))
    }

    pub(crate) fn look(&self) -> Result<Tables> {
        match files::read_text(&self.path) {
            Ok(text) => read(&text).with_context(|| format!("reading {}", self.path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let none = Table { chain: None, jumps: 1 };
                Ok(Tables { v4: none.clone(), v6: Some(none) })
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", self.path.display())),
        }
    }

    pub(crate) fn render(tables: &Tables) -> String {
        let (v4, v6) = (tables.v4.rules(), tables.v6.iter().flat_map(Table::rules));
        let rules = merge(v4, v6).into_iter().map(|(only, rule)| format!("{only}-A {CHAIN} {}\n", rule.text));
        format!("{HEADER}*filter\n:{CHAIN} - [0:0]\n{}COMMIT\n", rules.collect::<String>())
    }
}

fn read(text: &str) -> Result<Tables> {
    let ours = text.lines().any(|line| line == "*filter") && text.lines().any(is_chain);
    ensure!(ours, "it is no rule set of ours: move it away");
    let of = |own: &str, other: &str| {
        let lines = text.lines().filter(|line| !line.starts_with(other));
        let lines = lines.map(|line| line.strip_prefix(own).unwrap_or(line)).collect::<Vec<_>>();
        Table::read(&lines.join("\n")).map(|table| Table { jumps: 1, ..table })
    };
    Ok(Tables { v4: of("-4 ", "-6 ")?, v6: Some(of("-6 ", "-4 ")?) })
}

/// Both lists in one, each in its order, with what is in both once; the others with their family.
fn merge<'a>(
    v4: impl Iterator<Item = &'a Arc<Rule>>,
    v6: impl Iterator<Item = &'a Arc<Rule>>,
) -> Vec<(&'static str, &'a Arc<Rule>)> {
    let v6 = v6.collect::<Vec<_>>();
    let in_v6 = v6.iter().map(|rule| rule.text.as_str()).collect::<HashSet<_>>();
    let (mut merged, mut v6) = (Vec::new(), v6.into_iter().peekable());
    for rule in v4 {
        if !in_v6.contains(rule.text.as_str()) {
            merged.push(("-4 ", rule));
            continue;
        }
        let before = std::iter::from_fn(|| v6.next_if(|other| other.text != rule.text)).collect::<Vec<_>>();
        merged.extend(before.into_iter().map(|other| ("-6 ", other)));
        // It has passed already where the two lists are not in the same order, or one has it twice.
        let only = if v6.next().is_some() { "" } else { "-4 " };
        merged.push((only, rule));
    }
    merged.extend(v6.map(|other| ("-6 ", other)));
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(texts: &[&str]) -> Table {
        Table { chain: Some(texts.iter().map(|text| Rule::read(text).into()).collect()), jumps: 1 }
    }

    fn texts(rules: &[&'static str], v6: &[&'static str]) -> Vec<String> {
        let tables = Tables { v4: table(rules), v6: Some(table(v6)) };
        let rules = merge(tables.v4.rules(), tables.v6.iter().flat_map(Table::rules));
        rules.into_iter().map(|(only, rule)| format!("{only}{}", rule.text)).collect()
    }

    #[test]
    fn what_both_families_have_is_there_once_and_the_rest_says_whose_it_is() {
        assert_eq!(texts(&["a", "b", "4", "c"], &["a", "6", "b", "c"]), ["a", "-6 6", "b", "-4 4", "c"]);
        assert_eq!(texts(&[], &["a"]), ["-6 a"]);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_not_taken_for_an_empty_one() {
        for text in ["", "hello", "*filter\nCOMMIT\n", "*filter\n:PLATYPUS - [0:0]\n"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_whatever_the_order(
            v4 in prop::collection::vec("[a-d]", 0..6), v6 in prop::collection::vec("[a-d]", 0..6),
        ) {
            let table = |texts: &[String]| table(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let tables = Tables { v4: table(&v4), v6: Some(table(&v6)) };
            prop_assert_eq!(read(&RulesFile::render(&tables)).unwrap(), tables);
        }
    }
}
