//! A host as a value, without what a past may leave behind by design: old installs, the link to the last one, old
//! configuration files, logs, locks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::{Host, Runsvdir, Tree, differences, end_all, mentioning, tree_where};
use serde_json::Value;

use crate::world::World;

pub(crate) struct Snapshot {
    files: Tree,
    /// How many processes there are of each program.
    processes: BTreeMap<String, usize>,
    filter: String,
}

impl Snapshot {
    pub(crate) fn of(host: &Host, world: &World) -> Self {
        Self { files: files(host, world), processes: processes(host), filter: filter() }
    }

    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = differences(&self.files, &other.files);
        if self.processes != other.processes {
            found.push(format!("processes: {:?} → {:?}", self.processes, other.processes));
        }
        if self.filter != other.filter {
            found.push(format!("packet filter: {}\n→ {}", self.filter, other.filter));
        }
        found
    }
}

fn files(host: &Host, world: &World) -> Tree {
    let mut kept = Tree::new();
    let mut add = |under: &str, keep: &dyn Fn(&Path) -> bool| {
        let tree = tree_where(&host.path(under), keep);
        kept.extend(tree.into_iter().map(|(path, entry)| (Path::new(under).join(path), entry.copied())));
    };
    add("service", &|_| true);
    // What is known of files by their inodes, and of registrations by their stamp, is another in each history.
    let hints = [".known", ".registered"];
    let counts = |path: &Path| !path.ends_with("supervise") && !hints.iter().any(|hint| path.ends_with(hint));
    add("stage", &|path| counts(path) && path.extension().is_none_or(|extension| extension != "lock"));
    for app in world.apps.iter().filter(|app| app.is_here) {
        let wanted = app.active.iter().chain(&app.prep).map(|version| format!("{}_{version}", app.name));
        for install in wanted {
            add(&format!("srv/{}/installs/{install}", app.name), &|_| true);
        }
        if app.active.is_some() {
            add(&format!("srv/{}/current", app.name), &|_| true);
            let record = fs::read(host.path(&format!("stage/.platypus/{}.json", app.name))).unwrap();
            let record = serde_json::from_slice::<Value>(&record).unwrap();
            assert_eq!(record["converging"], Value::Null, "{record}");
            add(&format!("srv/{}/config", app.name), &|path| {
                run_script(host, app.name).contains(path.to_str().unwrap())
            });
        }
    }
    kept
}

fn run_script(host: &Host, app: &str) -> String {
    fs::read_to_string(host.path(&format!("stage/{app}/run"))).unwrap()
}

fn processes(host: &Host) -> BTreeMap<String, usize> {
    let mut processes = BTreeMap::new();
    for part in ["service", "stage", "srv"] {
        for pid in mentioning(&host.path(part)) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            *processes.entry(format!("{} in {part}", name.trim())).or_default() += 1;
        }
    }
    processes
}

fn filter() -> String {
    let saves = ["iptables-save", "ip6tables-save"].map(|save| {
        let output = Command::new(save).args(["-t", "filter"]).output().unwrap();
        assert!(output.status.success(), "{save}");
        String::from_utf8(output.stdout).unwrap()
    });
    let rules = saves.iter().flat_map(|save| save.lines()).filter(|line| line.starts_with("-A "));
    rules.collect::<Vec<_>>().join("\n")
}

/// Takes away all that agents ever made on the host, and all that runs there: intent and artifacts stay.
pub(crate) fn raze(host: &mut Host) {
    host.runsvdir = None;
    let made = ["service", "stage", "srv"].map(|part| host.path(part));
    for dir in &made {
        assert_eq!(end_all(dir), Vec::<i32>::new());
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();
    }
    for family in ["iptables", "ip6tables"] {
        for arguments in [["-t", "filter", "-F"], ["-t", "filter", "-X"]] {
            assert!(Command::new(family).args(arguments).status().unwrap().success());
        }
    }
    host.runsvdir = Some(Runsvdir::start(&host.scratch, &host.path("service")));
}
