//! The packet filter in the hands of another program, `port_authority`: a file for each app that says which ports to open,
//! and `CMD rebuild` once they are written.
//!
//! Ensures: only files that say in their first line that they are ours are changed or removed; the command runs once
//! something has changed, and again until it has ended well: that it has to is a file of its own, written before the
//! first change and removed last. Files are JSON, which is YAML.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use converge::{blocking, files};
use serde_json::{Value, json};
use store::schema::Port;
use store::{AppName, NodeName};

use crate::command;
use crate::decide::{Present, Us, Verdicts};
use crate::rule::{Owner, word};
use crate::said::{Line, port_changes};

const OURS: &str = "# pp-iptables: ";
const UNFINISHED: &str = ".platypus.unfinished";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) command: PathBuf,
    pub(crate) dir: PathBuf,
}

/// One app's file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Definition {
    owner: Owner,
    node: NodeName,
    ports: Vec<Port>,
    text: String,
}

/// What is in the directory.
#[derive(Debug, Default)]
pub(crate) struct Files {
    ours: BTreeMap<AppName, Definition>,
    /// Apps in whose place somebody else's file is.
    others: BTreeSet<AppName>,
    /// The names of our files beside which a crash left their next content.
    left: Vec<String>,
    /// The command has still to run for what was written last.
    unfinished: bool,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    write: Vec<Definition>,
    remove: Vec<AppName>,
    pub(crate) rebuild: bool,
    pub(crate) lines: Vec<Line>,
}

impl Files {
    pub(crate) fn present(&self) -> Vec<Present> {
        let present = |file: &Definition| Present { owner: file.owner.clone(), node: Some(file.node.clone()) };
        self.ours.values().map(present).collect()
    }
}

/// What to change, and what is wrong beside what `verdicts` complains of.
pub(crate) fn decide(seen: &Files, verdicts: &mut Verdicts<'_>, us: &Us) -> Changes {
    let mut changes = Changes::default();
    for (name, app) in &verdicts.open {
        let there = seen.ours.get(*name);
        let owner = Owner { app: app.name.clone(), cluster: app.cluster.clone(), source: us.source };
        let wanted = Definition::new(owner, us.node.clone(), app.ports.clone());
        // One without ports is there only to say whose the app is: what another source had opened would come back.
        let claims = there.is_some_and(|there| there.owner.source != us.source || *there == wanted);
        let wanted = (!app.ports.is_empty() || claims).then_some(wanted);
        if wanted.as_ref() == there {
            continue;
        }
        if wanted.is_some() && seen.others.contains(*name) && !us.adopt {
            let complaint = format!("{name}.yaml is there, and not ours: move it away, or give --adopt");
            verdicts.complaints.insert((*name).clone(), complaint);
            continue;
        }
        let ports = |definition: Option<&Definition>| definition.map(|d| d.ports.clone()).unwrap_or_default();
        let lines = port_changes(name, &ports(there), &ports(wanted.as_ref()));
        let same = lines.is_empty();
        changes.lines.extend(lines);
        if same {
            changes.lines.push(Line::of(name, "Writing its ports anew"));
        }
        match wanted {
            Some(definition) => changes.write.push(definition),
            None => changes.remove.push((*name).clone()),
        }
    }
    for (name, there) in &seen.ours {
        if !verdicts.open.contains_key(name) && !verdicts.keep(&there.owner, us) {
            changes.lines.extend(port_changes(name, &there.ports, &[]));
            changes.remove.push(name.clone());
        }
    }
    changes.rebuild = seen.unfinished || !changes.write.is_empty() || !changes.remove.is_empty();
    changes
}

impl Definition {
    fn new(owner: Owner, node: NodeName, ports: Vec<Port>) -> Self {
        let body = |port: &Port| {
            let mut body = json!({"port": port.port, "protocol": word(port.protocol)});
            if let Some(source) = &port.source {
                body["source"] = source.to_string().into();
            }
            body
        };
        let ports = ports.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let bodies = ports.iter().map(body).collect::<Value>();
        let content = json!({ owner.app.as_str(): {"cluster": &owner.cluster, "ports": bodies} });
        let text = format!(
            "{OURS}{owner}, node {node}\n# Written from intent: what is changed here by hand is overwritten.\n{content:#}\n"
        );
        Self { owner, node, ports, text }
    }

    /// `None` when the file is not ours.
    fn read(app: &AppName, text: &str) -> Option<Self> {
        let (owner, node) = text.lines().next()?.strip_prefix(OURS)?.split_once(", node ")?;
        let owner = Owner::read(owner).filter(|owner| owner.app == *app)?;
        // What is no definition any more is ours all the same, and written again.
        let body = text.lines().skip_while(|line| line.starts_with('#')).collect::<String>();
        let body = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let ports = body.get(app.as_str()).and_then(|app| serde_json::from_value(app.get("ports")?.clone()).ok());
        Some(Self { owner, node: node.parse().ok()?, ports: ports.unwrap_or_default(), text: text.to_owned() })
    }
}

impl Authority {
    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join(".platypus.lock")
    }

    pub(crate) async fn look(&self) -> Result<Files> {
        let (dir, unfinished) = (self.dir.clone(), self.unfinished());
        blocking(move || Ok(Files { unfinished: unfinished.exists(), ..look(&dir)? })).await
    }

    /// Removes what a crash left of definitions that may be wanted no more.
    pub(crate) async fn clear(&self, seen: &Files) -> Result<()> {
        let left = seen.left.iter().map(|name| self.dir.join(name)).collect::<Vec<_>>();
        blocking(move || left.iter().try_for_each(|path| files::clear(path))).await
    }

    pub(crate) async fn act(&self, changes: &Changes) -> Result<()> {
        let (dir, unfinished) = (self.dir.clone(), self.unfinished());
        let (write, remove) = (changes.write.clone(), changes.remove.clone());
        blocking(move || {
            files::write("word of what is unfinished", &unfinished, b"", 0o644)?;
            for definition in &write {
                let path = path(&dir, &definition.owner.app);
                files::write("definition of ports", &path, definition.text.as_bytes(), 0o644)?;
            }
            remove.iter().try_for_each(|app| files::remove("definition of ports", &path(&dir, app)))
        })
        .await?;
        command::run("rebuild", &self.command, &["rebuild"], "", Stdio::null(), PATIENCE).await?;
        let unfinished = self.unfinished();
        blocking(move || files::remove("word of what is unfinished", &unfinished)).await
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(UNFINISHED)
    }
}

fn look(dir: &Path) -> Result<Files> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Files::default()),
        entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
    };
    let mut found = Files::default();
    for entry in entries.with_context(|| format!("listing {}", dir.display()))? {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(of) = files::is_beside(name).filter(|of| app_of(of).is_some() || *of == UNFINISHED) {
            found.left.push(of.to_owned());
        }
        let Some(app) = app_of(name) else { continue };
        // One that cannot be read is in the way of its app, and of no other.
        match files::read_text(&entry.path()).ok().and_then(|text| Definition::read(&app, &text)) {
            Some(definition) => drop(found.ours.insert(app, definition)),
            None => drop(found.others.insert(app)),
        }
    }
    Ok(found)
}

/// Whose ports a file of this name says.
fn app_of(name: &str) -> Option<AppName> {
    name.strip_suffix(".yaml")?.parse().ok()
}

fn path(dir: &Path, app: &AppName) -> PathBuf {
    dir.join(format!("{app}.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_read_back_and_a_file_of_another_is_not_ours() {
        let owner = Owner::read("slug/dev (direct)").unwrap();
        let ports =
            serde_json::from_str::<Vec<Port>>(r#"[80, {"port": 53, "protocol": "udp", "source": "::/0"}]"#).unwrap();
        let definition = Definition::new(owner, "web1".parse().unwrap(), ports);
        let read = |app: &str, text: &str| Definition::read(&app.parse().unwrap(), text);
        assert_eq!(read("slug", &definition.text).unwrap().text, definition.text);
        assert_eq!(read("slug", &definition.text).unwrap().node, definition.node);
        assert_eq!(read("other", &definition.text), None, "somebody's copy");
        for text in ["", "{}", "# pp-iptables: slug/dev\n{}", "# by hand\n{}"] {
            assert_eq!(read("slug", text), None, "{text:?}");
        }
        let torn = "# pp-iptables: slug/dev, node web1\n{";
        assert_eq!(read("slug", torn).unwrap().ports, [], "a torn one is ours, to be written again");
    }
    #[test]
    fn an_app_without_ports_is_said_to_be_ours_only_where_another_source_had_it() {
        let app = store::intent::App {
            name: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            hold: false,
            drain: false,
            active: None,
            prep: Vec::new(),
            artifacts: BTreeMap::new(),
            min_nodes: 0,
            user_config: serde_json::Map::new(),
            restart: None,
            health: None,
            timeouts: serde_json::from_str(r#"{"stop": 1, "enable": 1, "disable": 1}"#).unwrap(),
            basedir: "/srv/slug".to_owned().try_into().unwrap(),
            runas: None,
            ports: Vec::new(),
            allow_setuid: false,
            limits: store::schema::Limits::default(),
        };
        let us = Us { node: "web1".parse().unwrap(), source: converge::Source::Store, adopt: false };
        let decide = |there: Option<&Definition>| {
            let mut verdicts = Verdicts { open: [(&app.name, &app)].into(), ..Verdicts::default() };
            let ours = there.map(|there| (app.name.clone(), there.clone())).into_iter().collect();
            decide(&Files { ours, ..Files::default() }, &mut verdicts, &us)
        };
        let of = |owner: &str, ports: &str| {
            let ports = serde_json::from_str(ports).unwrap();
            Definition::new(Owner::read(owner).unwrap(), us.node.clone(), ports)
        };
        let claim = of("slug/dev", "[]");
        assert_eq!(decide(None), Changes::default());
        assert_eq!(decide(Some(&of("slug/dev", "[80]"))).remove, std::slice::from_ref(&app.name));
        assert_eq!(decide(Some(&of("slug/dev (direct)", "[80]"))).write, std::slice::from_ref(&claim));
        assert_eq!(decide(Some(&claim)), Changes::default());
    }
}
