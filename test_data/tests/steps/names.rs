//! Which steps the agents' sources name: a list to hold against what was walked.
//!
//! Ensures: a name that is written at the call of what has an effect is in the list; where it is no literal, nor a constant
//! of the same file, the file has to be one of [`PASSES_ON`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const WRITTEN: &[&str] = &["create", "write", "chmod", "rename"];
const LINKED: &[&str] = &["link", "rename"];

/// What has effects by way of `effect.rs`, and takes their name first.
const CALLS: [(&str, &[&str]); 11] = [
    ("files::write(", WRITTEN),
    ("Owned::File { what: ", WRITTEN),
    ("script(", WRITTEN),
    ("files::link(", LINKED),
    ("Owned::Link { what: ", LINKED),
    ("files::remove(", &["remove"]),
    ("files::directory(", &["make"]),
    ("files::remove_directory(", &["remove"]),
    ("Lock::try_hold(", &["create"]),
    ("Group::start(", &["run"]),
    ("command::run(", &["run"]),
];

/// These give a name to what has effects that they were given themselves: by calls that are listed here, or, the last one,
/// as the path of a hook.
const PASSES_ON: [&str; 5] = [
    "converge/src/files.rs",
    "converge/src/group.rs",
    "iptables/src/command.rs",
    "setlive/src/service.rs",
    "setlive/src/program.rs",
];

/// What an agent that is at work all the time says of itself, when it will: see [`super::itself`].
pub(crate) const OF_ITSELF: [&str; 8] = [
    "stay alive",
    "write report",
    "say alive",
    "say gone",
    "create metrics",
    "write metrics",
    "chmod metrics",
    "rename metrics",
];

/// The name of a step as an agent lists it.
pub(crate) fn of(step: &str) -> &str {
    step.split_once(':').expect("it is of a process").1
}

pub(crate) fn in_sources() -> BTreeSet<String> {
    let agents = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("agents");
    let effects = effects(&fs::read_to_string(agents.join("converge/src/effect.rs")).unwrap());
    let calls = effects.iter().map(|(call, verb)| (call.as_str(), vec![verb.as_str()]));
    let calls = calls.chain(CALLS.map(|(call, verbs)| (call, verbs.to_vec()))).collect::<Vec<_>>();
    let mut names = BTreeSet::new();
    for path in sources(&agents) {
        let text = fs::read_to_string(&path).unwrap();
        // Lines that are folded, as they are where there is room.
        let text = own(&text).split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        let passes_on = PASSES_ON.iter().any(|file| path.ends_with(file));
        for (call, verbs) in &calls {
            for (at, _) in text.match_indices(call) {
                match name(&text[at + call.len()..], &text) {
                    Some(name) => names.extend(verbs.iter().map(|verb| format!("{verb} {name}").trim().to_owned())),
                    None => assert!(passes_on, "{} calls {call} by what name?", path.display()),
                }
            }
        }
    }
    // What it is told is a byte.
    assert!(names.remove("tell runsv"));
    let runit = fs::read_to_string(agents.join("setlive/src/runit.rs")).unwrap();
    names.extend(own(&runit).split("b'").skip(1).map(|text| format!("tell runsv {}", &text[..1])));
    for name in OF_ITSELF {
        assert!(names.remove(name), "{name}");
    }
    assert!(names.len() > CALLS.len() && names.contains("rename record"), "not these alone: {names:?}");
    names
}

/// The verb of each function of `effect.rs` that is a step: none of those that are given a whole name.
fn effects(source: &str) -> BTreeMap<String, String> {
    let functions = own(source).split("\npub ").skip(1);
    let steps = functions.filter_map(|function| {
        let name = function.split_once("fn ")?.1.split(['(', '<']).next()?;
        let step = function.split_once("step(")?.1;
        let verb = step.strip_prefix("format_args!(\"").map_or("", |text| text.split('{').next().unwrap_or(text));
        Some((format!("effect::{name}("), verb.trim().to_owned()))
    });
    steps.collect()
}

/// The literal with which `arguments` begins, or what the constant holds that does.
fn name<'a>(arguments: &'a str, file: &'a str) -> Option<&'a str> {
    let literal = |text: &'a str| text.strip_prefix('"')?.split('"').next();
    literal(arguments).or_else(|| {
        let constant = arguments.split(',').next()?;
        literal(file.split_once(&format!("const {constant}: &str = "))?.1)
    })
}

/// Without the tests, which come last.
fn own(source: &str) -> &str {
    source.split("mod tests {").next().unwrap_or(source)
}

fn sources(agents: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![agents.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let is_test = entry.ends_with("tests") || entry.ends_with("tests.rs") || entry.ends_with("benches");
            if entry.is_dir() && !is_test {
                left.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") && !is_test {
                found.push(entry);
            }
        }
    }
    found
}
