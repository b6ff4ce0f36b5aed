//! The document that an instance is in a directory.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::instance::our_reason;
use crate::{AppName, ClusterName, Instance, Key, NodeName, Registered, Reports, Version};

/// The document, whose key tells app, cluster and node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    version: Version,
    digest: String,
    port: Option<u16>,
    /// Tells its check's definition from another.
    check: String,
    pub(super) passes: bool,
    pub(super) says: String,
    /// Why no client shall be sent there: ours, which begins with `platypus:`, or an operator's.
    pub(super) maintenance: Option<String>,
}

impl Entry {
    /// What `instance` is to be, where `before` was.
    pub(super) fn of(instance: &Instance, before: Option<(&Key, &Self)>) -> Self {
        let Instance { version, digest, port, check, app: _, cluster: _, node: _ } = instance;
        let vouched = before.filter(|(key, before)| {
            let names = super::names(key.as_str()).expect("it is an instance's key");
            (*before).clone().registered(names, &BTreeSet::new()).vouches_for(instance)
        });
        Self {
            version: version.clone(),
            digest: digest.clone(),
            port: *port,
            check: check.id(),
            passes: vouched.is_some(),
            says: vouched.map(|(_, before)| before.says.clone()).unwrap_or_default(),
            maintenance: before.and_then(|(_, before)| before.maintenance.clone()),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("this is no instance: {error}"))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("it is text and numbers");
        bytes.push(b'\n');
        bytes
    }

    /// As others see it, given the nodes that are alive.
    pub(super) fn registered(self, names: (AppName, ClusterName, NodeName), alive: &BTreeSet<String>) -> Registered {
        let (app, cluster, node) = names;
        let drained = self.maintenance.as_deref().and_then(our_reason).map(str::to_owned);
        Registered {
            app,
            cluster,
            version: self.version,
            digest: self.digest,
            port: self.port,
            host: node.to_string(),
            passing: self.passes && self.maintenance.is_none() && alive.contains(node.as_str()),
            checks: BTreeSet::from([self.check]),
            check_passes: self.passes,
            maintenance: if drained.is_some() { None } else { self.maintenance },
            drained,
            says: self.says,
            reports: Reports::Lasting,
            node,
        }
    }
}
