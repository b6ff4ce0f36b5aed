//! What apps that are right by themselves want of the same node.

use std::collections::{BTreeMap, BTreeSet};

use super::{Intent, NodeApp, deploy_key};
use crate::check::{Finding, some_of};
use crate::intent::nested;
use crate::name::NodeName;
use crate::schema::{BaseDir, DeployConfig, Port, Protocol};

/// Apps of one node that clash, by the keys of their clusters' documents.
type Clashes<'a, Why> = BTreeMap<(String, String, Why), Vec<&'a NodeApp<'a>>>;

impl<'a> Intent<'a> {
    /// By node, the apps whose `deploy_config` is valid.
    fn deployed(&self) -> BTreeMap<&NodeName, Vec<(&NodeApp<'a>, String, DeployConfig)>> {
        let mut nodes = BTreeMap::<_, Vec<_>>::new();
        for (cluster, apps) in &self.used {
            let key = deploy_key(cluster);
            let Some(config) = self.valid::<DeployConfig>(&key) else { continue };
            for app in apps {
                nodes.entry(&app.node).or_default().push((app, key.clone(), config.clone()));
            }
        }
        nodes
    }

    /// Apps of one node of which one's basedir is, or is inside, the other's: one finding for each two `deploy_config`s,
    /// under the inner one's key.
    pub(super) fn overlaps(&self) -> Vec<Finding> {
        let mut clashes = Clashes::<(BaseDir, BaseDir)>::new();
        let nodes = self.deployed();
        for apps in nodes.values() {
            for (inner, outer) in nested(apps, |(_, _, config)| &config.basedir) {
                let why = (inner.2.basedir.clone(), outer.2.basedir.clone());
                clashes.entry((inner.1.clone(), outer.1.clone(), why)).or_default().extend([inner.0, outer.0]);
            }
        }
        let mut findings = Vec::new();
        for ((inner, outer, (basedir, around)), apps) in clashes {
            let how = if basedir == around { "is that of" } else { "is inside that of" };
            let reason =
                format!("basedir {} {how} {outer}, {}, on {}", basedir.as_str(), around.as_str(), nodes_of(&apps));
            let holds = apps.iter().map(|app| app.key.to_owned()).collect::<BTreeSet<_>>();
            let finding = Finding::invalid(&inner, reason, "give each app a directory of its own");
            findings.push(finding.holding(holds.into_iter().collect()));
        }
        findings
    }

    /// Ports that two apps of one node want, or one app twice: one finding for each port of each two `deploy_config`s,
    /// under the later key.
    pub(super) fn ports(&self) -> Vec<Finding> {
        let mut clashes = Clashes::<(u16, Protocol)>::new();
        let nodes = self.deployed();
        for apps in nodes.values() {
            let mut wanted = BTreeMap::<_, (&NodeApp, &str)>::new();
            for (app, key, config) in apps {
                for port in config.ports.iter().map(number).collect::<BTreeSet<_>>() {
                    match wanted.get(&port) {
                        None => drop(wanted.insert(port, (app, key))),
                        Some((_, first)) => {
                            clashes.entry((key.clone(), (*first).to_owned(), port)).or_default().push(app);
                        }
                    }
                }
            }
        }
        let between = clashes.into_iter().map(|((key, other, port), apps)| {
            let reason = format!("port {} is wanted by {other}, too, on {}", spelt(port), nodes_of(&apps));
            Finding::suspicious(
                &key,
                reason,
                "give each app a port of its own, unless they listen at different addresses",
            )
        });
        between.chain(self.repeated_ports()).collect()
    }

    /// Ports that one list has twice, so that one of the two changes nothing.
    fn repeated_ports(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for key in self.there.iter().map(deploy_key) {
            let ports = self.valid::<DeployConfig>(&key).map(|config| config.ports).unwrap_or_default();
            let same = |a: &Port, b: &Port| {
                number(a) == number(b) && (a.source == b.source || a.source.is_none() || b.source.is_none())
            };
            let repeated =
                ports.iter().enumerate().filter(|(n, port)| ports[..*n].iter().any(|before| same(before, port)));
            for port in repeated.map(|(_, port)| number(port)).collect::<BTreeSet<_>>() {
                let reason = format!("port {} is there twice, and one of the two changes nothing", spelt(port));
                findings.push(Finding::suspicious(
                    &key,
                    reason,
                    "remove one; without a \"source\" a port is open to all",
                ));
            }
        }
        findings
    }
}

fn number(port: &Port) -> (u16, Protocol) {
    (port.port, port.protocol)
}

fn spelt((port, protocol): (u16, Protocol)) -> String {
    match protocol {
        Protocol::Tcp => format!("{port}/tcp"),
        Protocol::Udp => format!("{port}/udp"),
    }
}

/// The nodes, as many as one cares to read.
fn nodes_of(apps: &[&NodeApp]) -> String {
    let nodes = apps.iter().map(|app| app.node.as_str()).collect::<BTreeSet<_>>();
    some_of(&nodes.into_iter().collect::<Vec<_>>())
}
