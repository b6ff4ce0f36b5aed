//! Instances: what is registered of an app on a node, and how it is.
//!
//! Ensures: *passing* means that a client would be sent there: the store says so by a consistent read, of the instance's
//! own check, of everything else that anybody had checked, and of the host. What is not known is not passing. A drain is
//! told from an operator's maintenance by its words, and only ours is ever lifted. Assumes that a node's instances are
//! registered by its own agents only, one at a time for each app.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::{AppName, ClusterName, Gather, NodeName, Store, Version};

/// How long a report on an instance that nobody else checks counts, in Consul: so long that a slow upgrade of the agent
/// takes no healthy app out of DNS.
pub const REPORT_LASTS: Duration = Duration::from_secs(600);
/// At what age it is repeated by whoever comes by.
const REPORT_AGAIN: Duration = Duration::from_secs(30);
/// At what age somebody has to. So what was reported at different times is repeated together, and rarely.
const REPORT_DUE: Duration = Duration::from_secs(60);
/// What is kept of a report's words. Consul cuts at 4,096 bytes.
const MOST_WORDS: usize = 2000;
/// What our own maintenance notes begin with.
const OURS: &str = "platypus:";

/// What is to be registered of an app on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub app: AppName,
    pub cluster: ClusterName,
    pub node: NodeName,
    pub version: Version,
    /// Of the definition that runs.
    pub digest: String,
    /// Where clients find it.
    pub port: Option<u16>,
    pub check: InstanceCheck,
}

/// How the store learns whether an instance passes. Ports are on its own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceCheck {
    /// A GET that answers 2xx.
    Http { port: u16, path: String, interval: Duration, timeout: Duration },
    /// A connection that is accepted.
    Tcp { port: u16, interval: Duration, timeout: Duration },
    /// Whoever registered it reports how it is.
    Reported,
}

impl InstanceCheck {
    /// Tells one definition from another. Frozen: otherwise an upgrade of an agent would replace every check there is.
    pub(crate) fn id(&self) -> String {
        let millis = Duration::as_millis;
        let text = match self {
            Self::Http { port, path, interval, timeout } => {
                format!("http {port} {path} {} {}", millis(interval), millis(timeout))
            }
            Self::Tcp { port, interval, timeout } => format!("tcp {port} {} {}", millis(interval), millis(timeout)),
            Self::Reported => format!("reported {}", millis(&REPORT_LASTS)),
        };
        Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An instance as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub app: AppName,
    pub cluster: ClusterName,
    pub node: NodeName,
    pub version: Version,
    pub digest: String,
    pub port: Option<u16>,
    /// The host that it is on, as [`Store::host_of`] has it.
    pub host: String,
    /// Its checks that we registered, by what tells their definitions apart, and what else is left of an earlier
    /// registration. One is as it should be.
    pub checks: BTreeSet<String>,
    /// Would a client be sent there?
    pub passing: bool,
    /// Our own check alone, whatever maintenance or others' checks say.
    pub check_passes: bool,
    /// Why we drained it, if we did.
    pub drained: Option<String>,
    /// What an operator's own maintenance says, of this instance or of its whole host.
    pub maintenance: Option<String>,
    /// What the check last said.
    pub says: String,
    pub reports: Reports,
}

/// Whose word it is whether an instance passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reports {
    /// The store checks the instance itself.
    Unneeded,
    /// The last report counts until the next.
    Lasting,
    /// The last report, if there was one, counts for [`REPORT_LASTS`]. Of other hosts' it may be known minutes late.
    Expiring(Option<SystemTime>),
}

impl Registered {
    /// Whether `instance` is registered exactly so, with nothing left of another registration.
    pub fn is(&self, instance: &Instance) -> bool {
        let Instance { app, cluster, node, version, digest, port, check } = instance;
        (&self.app, &self.cluster, &self.node) == (app, cluster, node)
            && (&self.version, &self.digest, &self.port) == (version, digest, port)
            && self.is_checked_by(check)
    }

    /// Whether it has this check of ours and no other.
    pub fn is_checked_by(&self, check: &InstanceCheck) -> bool {
        self.checks.iter().eq([&check.id()])
    }

    /// Whether [`Store::report`] with these words is due: it would be news, or the last one becomes old. Words that
    /// differ each time would be news each time.
    pub fn wants_report(&self, passes: bool, says: &str, now: SystemTime) -> bool {
        let is_news = passes != self.check_passes || words(says) != self.says;
        match self.reports {
            Reports::Unneeded => false,
            Reports::Lasting => is_news,
            Reports::Expiring(None) => true,
            // One from the future is by another clock.
            Reports::Expiring(Some(at)) => is_news || now.duration_since(at).map_or(true, |age| age >= REPORT_AGAIN),
        }
    }

    /// When somebody has to repeat the last report, if that is ever so: in the past where there is none, or one of a clock
    /// that is ahead of `now`.
    pub fn report_due(&self, now: SystemTime) -> Option<SystemTime> {
        match self.reports {
            Reports::Unneeded | Reports::Lasting => None,
            Reports::Expiring(at) => {
                Some(at.filter(|at| *at <= now).map_or(SystemTime::UNIX_EPOCH, |at| at + REPORT_DUE))
            }
        }
    }

    /// Whether what this instance's check says counts for `instance`, too: the same check goes on, and a new check of
    /// the same definition takes no passing instance out of service until it has run.
    pub(crate) fn vouches_for(&self, instance: &Instance) -> bool {
        self.check_passes && (self.checks.contains(&instance.check.id()) || self.digest == instance.digest)
    }
}

/// Host, node, digest, what passes, and why it is drained.
pub(crate) type Matter<'a> = (&'a str, &'a NodeName, &'a str, [bool; 2], Option<&'a str>);

/// What somebody who waits wants to know of instances.
pub(crate) fn matters(instances: &[Registered]) -> BTreeSet<Matter<'_>> {
    // Of one that is drained only its check can pass.
    let passes = |it: &Registered| [it.passing, it.check_passes];
    instances
        .iter()
        .map(|it| (it.host.as_str(), &it.node, it.digest.as_str(), passes(it), it.drained.as_deref()))
        .gather()
}

/// As much of a report's words as is kept.
pub(crate) fn words(says: &str) -> String {
    says.trim().chars().take(MOST_WORDS).collect::<String>().trim_end().to_owned()
}

/// The notes of a maintenance of our own.
pub(crate) fn our_notes(why: &str) -> String {
    format!("{OURS} {why}")
}

/// Why we drained, if these notes are ours.
pub(crate) fn our_reason(notes: &str) -> Option<&str> {
    notes.strip_prefix(OURS).map(str::trim)
}

impl Store {
    /// Whether there can be instances and leases here: not in a store that is one file, which is never written to.
    pub fn keeps_instances(&self) -> bool {
        match self {
            Self::Consul(_) => true,
            Self::Directory(directory) => directory.keeps_instances(),
        }
    }

    /// What is registered on this node, by app, as its own host has it, in two requests. A registration that makes no
    /// sense counts as none: register over it.
    pub async fn registered(&self, node: &NodeName) -> Result<BTreeMap<AppName, Registered>> {
        match self {
            Self::Consul(consul) => consul.registered(node).await,
            Self::Directory(directory) => directory.registered(node).await,
        }
    }

    /// A stamp of what [`Store::registered`] tells, for next to nothing: while it is the same, nothing of that was
    /// registered otherwise, is gone or does not pass. `None` where something does not pass, and where there is no such
    /// stamp. It does not show that one check took another's place, nor, unless [`Store::shows_own_host`], that one fails.
    pub async fn registered_stamp(&self, node: &NodeName) -> Result<Option<String>> {
        match self {
            Self::Consul(consul) => consul.registered_stamp(node).await,
            Self::Directory(_) => Ok(None),
        }
    }

    /// Whether the store shows the checks of this host to us at all: to a token that may not see them none fails.
    pub async fn shows_own_host(&self) -> Result<bool> {
        match self {
            Self::Consul(consul) => consul.shows_own_host().await,
            Self::Directory(_) => Ok(true),
        }
    }

    /// Registers an instance; nothing is written if it [is so](Registered::is) already. Leaves maintenance as it is, and
    /// removes what is left of this app's earlier registrations on this node.
    pub async fn register(&self, instance: &Instance) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.register(instance).await,
            Self::Directory(directory) => directory.register(instance).await,
        }
    }

    /// Fine when it is not there.
    pub async fn deregister(&self, node: &NodeName, app: &AppName) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.deregister(node, app).await,
            Self::Directory(directory) => directory.deregister(node, app).await,
        }
    }

    /// Has no clients sent there, with the notes `platypus: <why>`. An operator's own maintenance is left as it is, and so
    /// is an earlier drain. Fine when there is no such instance.
    pub async fn drain(&self, node: &NodeName, app: &AppName, why: &str) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.drain(node, app, why).await,
            Self::Directory(directory) => directory.drain(node, app, why).await,
        }
    }

    /// Ends what [`Store::drain`] began, and no operator's maintenance. Fine when there is no such instance.
    pub async fn undrain(&self, node: &NodeName, app: &AppName) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.undrain(node, app).await,
            Self::Directory(directory) => directory.undrain(node, app).await,
        }
    }

    /// Says how an instance is, where the store does not check that itself; see [`Registered::wants_report`].
    pub async fn report(&self, node: &NodeName, app: &AppName, passes: bool, says: &str) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.report(node, app, passes, says).await,
            Self::Directory(directory) => directory.report(node, app, passes, says).await,
        }
    }

    /// All instances of an app in a cluster, by a consistent read.
    ///
    /// On Consul, to a token without rights there seem to be none: which takes nothing down, since none is passing.
    pub async fn instances(&self, app: &AppName, cluster: &ClusterName) -> Result<Vec<Registered>> {
        match self {
            Self::Consul(consul) => consul.instances(app, cluster).await,
            Self::Directory(directory) => directory.instances(app, cluster).await,
        }
    }

    /// Returns once [`Store::instances`] says something else than `seen` about who is there, with which digest, passing or
    /// drained; at once if it does already. An error when that cannot be watched: read again, after a while.
    pub async fn wait_instances(&self, app: &AppName, cluster: &ClusterName, seen: &[Registered]) -> Result<()> {
        match self {
            Self::Consul(consul) => consul.wait_instances(app, cluster, seen).await,
            Self::Directory(directory) => directory.wait_instances(app, cluster, seen).await,
        }
    }

    /// The name by which the store knows the host that `node` is on: Consul's own name of it, or else the node's.
    pub async fn host_of(&self, node: &NodeName) -> Result<String> {
        match self {
            Self::Consul(consul) => consul.host().await,
            Self::Directory(_) => Ok(node.to_string()),
        }
    }

    /// Those of `hosts` that are alive: to Consul, which has to know them; in a directory, those with an agent that is.
    ///
    /// # Errors
    /// When that cannot be known, also because a token may not see hosts.
    pub async fn alive(&self, hosts: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        match self {
            Self::Consul(consul) => consul.alive(hosts).await,
            Self::Directory(directory) => directory.alive(hosts).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> Registered {
        Registered {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: "web1".parse().unwrap(),
            version: "0.1".parse().unwrap(),
            digest: "d1".to_owned(),
            port: None,
            host: "web1".to_owned(),
            checks: BTreeSet::from([InstanceCheck::Reported.id()]),
            passing: true,
            check_passes: true,
            drained: None,
            maintenance: None,
            says: "runs".to_owned(),
            reports: Reports::Lasting,
        }
    }

    #[test]
    fn a_report_is_due_when_it_is_news_or_the_last_one_becomes_old() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |seconds| Reports::Expiring(now.checked_sub(Duration::from_secs(seconds)));
        let ahead = Reports::Expiring(Some(now + Duration::from_secs(1)));
        for (reports, passes, says, due) in [
            (Reports::Unneeded, false, "stopped", false),
            (Reports::Lasting, true, " runs", false),
            (Reports::Lasting, true, "runs well", true),
            (Reports::Lasting, false, "runs", true),
            (Reports::Expiring(None), true, "runs", true),
            (ago(29), true, "runs", false),
            (ago(29), false, "runs", true),
            (ago(30), true, "runs", true),
            (ahead, true, "runs", true),
        ] {
            let registered = Registered { reports, ..registered() };
            assert_eq!(registered.wants_report(passes, says, now), due, "{reports:?} {passes} {says}");
        }
    }

    #[test]
    fn every_part_of_a_checks_definition_makes_it_another_and_nothing_else_does() {
        let (one, two) = (Duration::from_secs(1), Duration::from_secs(2));
        let http = |port, path: &str, interval, timeout| {
            InstanceCheck::Http { port, path: path.to_owned(), interval, timeout }.id()
        };
        let tcp = |port, interval, timeout| InstanceCheck::Tcp { port, interval, timeout }.id();
        let all = [
            http(80, "/", one, one),
            http(81, "/", one, one),
            http(80, "/up", one, one),
            http(80, "/", two, one),
            http(80, "/", one, two),
            tcp(80, one, one),
            tcp(81, one, one),
            tcp(80, two, one),
            tcp(80, one, two),
            InstanceCheck::Reported.id(),
        ];
        assert_eq!(BTreeSet::from(all.clone()).len(), all.len());
        assert_eq!([&all[0], &all[5], &all[9]], ["ab02925e7327", "f5ff2e7db0d1", "8def3e9404d0"]);
    }

    #[test]
    fn words_are_kept_up_to_a_length_and_by_whole_letters() {
        assert_eq!(words(" a\n"), "a");
        assert_eq!(words(&"é".repeat(3000)), "é".repeat(2000));
    }
}
