//! A host as a value, without what two histories that end the same may differ in: times, and hints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::{Content, Entry, Kind, SOON, Tree, differences, eventually, mentioning, tree_where};
use serde_json::Value;

use crate::site::Site;

pub(crate) struct Snapshot {
    files: Tree,
    /// How many processes there are of each program.
    processes: BTreeMap<String, usize>,
    /// Which version answers, in which configuration.
    health: Value,
    filter: String,
    instances: String,
}

impl Snapshot {
    pub(crate) fn of(site: &Site) -> Self {
        let mut files = Tree::new();
        for part in ["service", "stage", "srv", "store", "rules", ".rules.next", "ports.d", "applied"] {
            let tree = tree_where(&site.host.path(part), is_kept);
            files.extend(tree.into_iter().map(|(path, entry)| (Path::new(part).join(&path), plain(entry))));
        }
        // One that has just been stopped may still be on its way.
        let processes = eventually("all that runs is known", SOON, || processes(site));
        let mut health = site.host.health().unwrap_or_default();
        for pid in ["pid", "child"] {
            health[pid] = Value::Null;
        }
        Self { files, processes, health, filter: site.filter(), instances: instances(site) }
    }

    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = differences(&self.files, &other.files);
        let mut compare = |what: &str, one: String, other: String| {
            if one != other {
                found.push(format!("{what}: {one}\n→ {other}"));
            }
        };
        compare("processes", format!("{:?}", self.processes), format!("{:?}", other.processes));
        compare("the app", self.health.to_string(), other.health.to_string());
        compare("packet filter", self.filter.clone(), other.filter.clone());
        compare("Consul", self.instances.clone(), other.instances.clone());
        found
    }
}

/// Neither what supervisors and loggers write, nor hints, of which a pass that took its time leaves none, nor the one large file, that is linked from elsewhere; nor what an agent that
/// is at work says of itself, which comes a while later.
fn is_kept(path: &Path) -> bool {
    let named = |name: &str| path.components().any(|part| part.as_os_str() == name);
    let logged = named("log") && !path.ends_with("log") && !path.ends_with("run");
    !named("supervise")
        && !named("reality")
        && !logged
        && !path.ends_with(".platypus/.known")
        && !path.ends_with(".platypus/.registered")
        && !path.ends_with("bin/slug")
        && !path.ends_with("bin/pp-setlive")
}

fn plain(entry: Entry) -> Entry {
    let kind = match entry.kind {
        Kind::File(Content::Text(text)) => Kind::File(Content::Text(without_times(text))),
        kind => kind,
    };
    Entry { kind, ..entry }.copied()
}

/// Of what is JSON: without times, counts of changes, and what was logged.
fn without_times(text: String) -> String {
    fn clear(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|field, _| !["at", "since", "rev", "log", "pid", "program"].contains(&field.as_str()));
                fields.values_mut().for_each(clear);
            }
            Value::Array(values) => values.iter_mut().for_each(clear),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(mut value) => {
            clear(&mut value);
            value.to_string()
        }
        Err(_) => text,
    }
}

fn processes(site: &Site) -> Option<BTreeMap<String, usize>> {
    let mut processes = BTreeMap::new();
    for pid in mentioning(&site.host.path("srv")) {
        let name = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/comm"))).ok()?;
        *processes.entry(name.trim().to_owned()).or_default() += 1;
    }
    Some(processes)
}

fn instances(site: &Site) -> String {
    let Some(consul) = &site.host.consul else { return String::new() };
    let keys = consul.http("GET", "/v1/kv/locks?keys", b"").1;
    let locks = serde_json::from_str::<Vec<String>>(&keys).unwrap_or_default();
    let leases = locks.iter().map(|key| format!("{key}: {}\n", without_times(consul.get(key).unwrap_or_default())));
    let health = serde_json::from_str::<Value>(&consul.http("GET", "/v1/health/service/slug", b"").1).unwrap();
    let instance = |of: &Value| {
        let (service, checks) = (&of["Service"], of["Checks"].as_array().cloned().unwrap_or_default());
        let checks = checks.iter().map(|check| {
            let says = check["Output"].as_str().unwrap_or_default().split(" (reported").next();
            format!("{} {} {says:?}", check["CheckID"], check["Status"])
        });
        let checks = checks.collect::<Vec<_>>().join(", ");
        format!("{} {} {} {}: {checks}\n", service["ID"], service["Tags"], service["Meta"], service["Port"])
    };
    leases.chain(health.as_array().unwrap().iter().map(instance)).collect()
}
