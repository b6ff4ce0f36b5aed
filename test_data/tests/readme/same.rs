//! Whether what a command prints is what the README says, but for what is never the same twice.
//!
//! Ensures: that is all here, and no more than times, ages, names of people and machines, how far a roll was at a moment, and
//! which host was the one that tried a version first; no reason, number or state.

/// What differs from run to run, and what stands for it: `0` is a digit, `#` a number, `*` a word.
const SHAPES: [(&str, &str); 8] = [
    ("0000-00-00T00:00:00Z", "<time>"),
    // As svlogd has it.
    ("0000-00-00_00:00:00.00000", "<time>"),
    (" after #.# s:", " after <age>:"),
    (" for # s:", " for <age>:"),
    (" down for # s,", " down for <age>,"),
    (" # s ago:", " <age> ago:"),
    // A column of `status`.
    ("  # s  ", "  <age>  "),
    // In `log`.
    ("  <time>  *@*  ", "  <time>  <who>  "),
];
/// What a terminal has wiped out by the end.
const PROGRESS: &str = "pp-store: * passes on # of # nodes: ";
/// A line that stands for any that come there, in the README.
pub(super) const AND_SO_ON: &str = "…";
/// Who tries a version first, in the README.
const FIRST: &str = "web1";

pub(super) fn is_same(said: &str, written: &str) -> bool {
    let (mut said, mut written) = (lines(said), lines(written));
    let Some(who) = who_tried(&said).filter(|who| who != FIRST) else { return is_like(&said, &written) };
    said.iter_mut().for_each(|line| *line = renamed(line, &who));
    // Below the first line, which is what to look at first, they are in the order of the hosts' names.
    for lines in [&mut said, &mut written] {
        lines.get_mut(1..).unwrap_or_default().sort();
    }
    said == written
}

fn lines(text: &str) -> Vec<String> {
    let lasting = text.lines().filter(|line| matched(line, PROGRESS).is_none());
    lasting.map(|line| squeezed(&SHAPES.iter().fold(line.to_owned(), |line, shape| shaped(&line, *shape)))).collect()
}

/// Line by line, `…` being any.
fn is_like(said: &[String], written: &[String]) -> bool {
    match written.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line == AND_SO_ON => (0..=said.len()).any(|from| is_like(&said[from..], rest)),
        Some((line, rest)) => said.first() == Some(line) && is_like(&said[1..], rest),
    }
}

/// Columns are as wide as what is in them.
fn squeezed(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let cells = line[indent..].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
    line[..indent].to_owned() + &cells.join("  ")
}

/// The line with what has this shape replaced, wherever it is.
fn shaped(line: &str, (shape, by): (&str, &str)) -> String {
    let (mut done, mut rest) = (String::new(), line);
    while let Some(first) = rest.chars().next() {
        let length = match matched(rest, shape) {
            Some(length) => {
                done += by;
                length
            }
            None => {
                done.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    done
}

/// How much of the beginning of a text has this shape.
fn matched(text: &str, shape: &str) -> Option<usize> {
    let mut rest = text;
    for part in shape.chars() {
        let is_of = |c: char| if part == '*' { !c.is_whitespace() && c != '@' } else { c.is_ascii_digit() };
        let length = match part {
            '0' => usize::from(rest.starts_with(|c: char| c.is_ascii_digit())),
            '#' | '*' => rest.find(|c| !is_of(c)).unwrap_or(rest.len()),
            _ if rest.starts_with(part) => part.len_utf8(),
            _ => 0,
        };
        if length == 0 {
            return None;
        }
        rest = &rest[length..];
    }
    Some(text.len() - rest.len())
}

/// The host that is said to have tried a version, or to be at it.
fn who_tried(lines: &[String]) -> Option<String> {
    let is_host = |word: &&str| word.strip_prefix("web").is_some_and(|number| number.parse::<u8>().is_ok());
    let of_line = |line: &String| {
        let tries = line.split_once(" tries ").and_then(|(before, _)| before.split(' ').next_back());
        let failed = line.split_once(" failed on ").and_then(|(_, after)| after.split([' ', ':']).next());
        tries.or(failed).filter(is_host).map(str::to_owned)
    };
    lines.iter().find_map(of_line)
}

/// The line with who tried called the first, and those before it one further each, so that the others' order stays.
fn renamed(line: &str, who: &str) -> String {
    let before = who.trim_start_matches("web").parse::<u8>().unwrap_or(1);
    let others = (1..before).rev().map(|number| (format!("web{number}"), format!("web{}", number + 1)));
    others.fold(line.replace(who, "\0"), |line, (from, to)| line.replace(&from, &to)).replace('\0', FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "\
slug demo: web2: pp-setlive waits: web1 tries e5145775 first, since a moment ago
  web1: converging for 1 s: pp-setlive is at work on it
  web2: waiting for 12 s: pp-setlive waits: web1 tries e5145775 first, since a moment ago
  web3: waiting for 1 s: pp-setlive waits: web1 tries e5145775 first, since a moment ago
  slug demo: 2 of 3 instances pass, min_nodes is 2, which leaves none to spare
    web1: down for 1 s, replaced by 0.3, to e5145775; drained; its host web1 is alive";
    const WHY_OF_WEB2: &str = "\
slug demo: web1: pp-setlive waits: web2 tries e5145775 first, since a moment ago
  web1: waiting for 3 s: pp-setlive waits: web2 tries e5145775 first, since a moment ago
  web2: converging for 0 s: pp-setlive is at work on it
  web3: waiting for 3 s: pp-setlive waits: web2 tries e5145775 first, since a moment ago
  slug demo: 2 of 3 instances pass, min_nodes is 2, which leaves none to spare
    web2: down for 3 s, replaced by 0.3, to e5145775; drained; its host web2 is alive";
    const WHY_OF_WEB3: &str = "\
slug demo: web1: pp-setlive waits: web3 tries e5145775 first, since a moment ago
  web1: waiting for 3 s: pp-setlive waits: web3 tries e5145775 first, since a moment ago
  web2: waiting for 3 s: pp-setlive waits: web3 tries e5145775 first, since a moment ago
  web3: converging for 0 s: pp-setlive is at work on it
  slug demo: 2 of 3 instances pass, min_nodes is 2, which leaves none to spare
    web3: down for 3 s, replaced by 0.3, to e5145775; drained; its host web3 is alive";
    const STATUS: &str = "\
APP   CLUSTER  WANTED  NODES  LAG  STATE
slug  demo     0.3     3      9 s  failing: web1: not healthy within 5s: answered 500 (and 2 more)";
    const STATUS_LATER: &str = "\
APP   CLUSTER  WANTED  NODES  LAG   STATE
slug  demo     0.3     3      10 s  failing: web1: not healthy within 5s: answered 500 (and 2 more)";
    const SET: &str = "slug demo: 0.2 is active, and was prep\npp-store: 0.2 passes on every node of slug demo";
    const SET_FOLLOWED: &str = "slug demo: 0.2 is active, and was prep\npp-store: 0.2 passes on 1 of 3 nodes: web2: why\n\
                                pp-store: 0.2 passes on every node of slug demo";
    const LOG: &str = "7  2026-11-22T19:51:13Z  ada@laptop  clusters/slug/demo/config: 0.2 active (current): faster";

    #[test]
    fn what_differs_from_run_to_run_is_the_same() {
        for (said, written) in [
            (WHY, WHY),
            (WHY_OF_WEB2, WHY),
            (WHY_OF_WEB3, WHY),
            (STATUS_LATER, STATUS),
            (SET_FOLLOWED, SET),
            (&LOG.replace("51:13Z  ada@laptop", "00:00Z  uid-0@vm"), LOG),
            ("Up after 4.3 s:\n\nserver1\nweb1", "Up after 10.0 s:\n…"),
            ("web1 | 2026-11-22_19:51:14.65735 slug: on", "web1 | 2014-08-31_02:42:58.07700 slug: on"),
            ("0.3 (e51) failed on web3 14 s ago: 500", "0.3 (e51) failed on web1 2 s ago: 500"),
        ] {
            assert!(is_same(said, written), "{said}\n---\n{written}");
        }
    }

    /// Whoever changes one word of it changes what is said.
    #[test]
    fn another_reason_number_state_or_host_is_not_the_same() {
        for (written, from, to) in [
            (WHY, "pp-setlive waits", "pp-setlive fails"),
            (WHY, "e5145775", "e5145776"),
            (WHY, "2 of 3", "1 of 3"),
            (WHY, "min_nodes is 2", "min_nodes is 1"),
            (WHY, "  web3: waiting", "  web3: failing"),
            (WHY, "slug demo: web2", "slug demo: web3"),
            (WHY, "  web1: converging", "  web2: converging"),
            (WHY, "its host web1 is alive", "its host web1 is dead"),
            (WHY, "; drained", ""),
            (WHY, "a moment ago", "40 s"),
            (STATUS, "web1", "web2"),
            (STATUS, "within 5s", "within 6s"),
            (STATUS, "9 s", "-"),
            (STATUS, "answered 500", "answered 503"),
            (STATUS, "and 2 more", "and 1 more"),
            (SET, "every node", "2 of 3 nodes"),
            (SET, "0.2 is active", "0.1 is active"),
            (LOG, "7  ", "8  "),
            (LOG, " (current)", ""),
            (LOG, ": faster", ""),
            (LOG, "0.2 active", "0.3 active"),
            ("0.3 failed on web1: not healthy within 5 s: 500", "500", "refused"),
            ("0.3 failed on web1: not healthy within 5 s: 500", "within 5 s", "within 6 s"),
            ("0.3 failed on web1: 500", "0.3 failed", "0.2 failed"),
            ("nodes/web3/slug: drained", "web3", "web2"),
        ] {
            let said = written.replacen(from, to, 1);
            assert_ne!(said, written, "{from}");
            assert!(!is_same(&said, written), "{said}\n---\n{written}");
        }
        for (from, to) in
            [("web1: waiting", "web1: failing"), ("slug demo: web1", "slug demo: web2"), ("2 of 3", "1 of 3")]
        {
            assert!(!is_same(&WHY_OF_WEB3.replacen(from, to, 1), WHY), "{from}");
        }
    }
}
