//! The one record of what this agent runs for an app: `<runit-stage>/.platypus/<app>.json`.
//!
//! Ensures: it is written before the host changes and cleared after, so that whoever comes next knows what was under
//! way. Assumes that the app's lock is held by whoever writes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use converge::files::{self, Lock};
use converge::{Source, blocking};
use serde::{Deserialize, Serialize};
use store::schema::{BaseDir, Health};
use store::{AppName, ClusterName, Gather, NodeName, Version};
use tracing::warn;

use crate::below;
use crate::definition::{Definition, Digest, check_name};

/// What we run of one app, and what is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) node: NodeName,
    /// Who says what is to run.
    pub(crate) source: Source,
    /// Where it runs, or is being moved to.
    pub(crate) cluster: ClusterName,
    pub(crate) basedir: BaseDir,
    /// Every service that may be there; only these are ever removed.
    pub(crate) services: BTreeSet<String>,
    /// The last definition that was healthy.
    pub(crate) healthy: Option<Definition>,
    /// Written before the first destructive step towards a definition, cleared when it is healthy.
    pub(crate) converging: Option<Definition>,
    /// From `healthy` to `converging` another process leads, since this agent is of the app itself: see [`crate::finish`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) handover: Option<Handover>,
    /// What was tried and was not healthy in time; not tried again while its version stays active.
    #[serde(default)]
    pub(crate) failed: BTreeMap<Digest, Failure>,
    /// The clusters in whose leases this node may stand: noted before it does, cleared after.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) asked: BTreeSet<ClusterName>,
    /// Something was begun since the store last showed what runs here as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unregistered: bool,
}

/// A replacement that the app's finisher makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handover {
    /// The service that is this agent: the finisher is launched as it is.
    pub(crate) service: String,
}

/// Why a definition counts as failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) version: Version,
    pub(crate) reason: String,
    /// The last lines that it logged.
    pub(crate) log: Vec<String>,
    /// The check that it did not pass: with another one it may be tried again.
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// The other nodes of the cluster can know of it.
    #[serde(default)]
    pub(crate) is_published: bool,
}

impl Failure {
    /// Names the check that was not passed.
    pub(crate) fn check(&self) -> String {
        check_name(self.health.as_ref())
    }
}

impl Record {
    pub(crate) fn new(node: &NodeName, source: Source, to: &Definition) -> Self {
        Self {
            node: node.clone(),
            source,
            cluster: to.cluster.clone(),
            basedir: to.basedir.clone(),
            services: BTreeSet::new(),
            healthy: None,
            converging: None,
            handover: None,
            failed: BTreeMap::new(),
            asked: BTreeSet::new(),
            unregistered: false,
        }
    }

    /// The record once the way to `to` is begun.
    #[must_use]
    pub(crate) fn begun(mut self, to: &Definition) -> Self {
        self.cluster = to.cluster.clone();
        self.basedir = to.basedir.clone();
        self.services.extend(to.services().map(str::to_owned));
        self.converging = Some(to.clone());
        self.unregistered = true;
        self
    }

    /// The record once the finisher leads the way that was begun.
    #[must_use]
    pub(crate) fn handed_over(mut self, app: &AppName, service: &str) -> Self {
        self.services.insert(finisher(app));
        self.handover = Some(Handover { service: service.to_owned() });
        self
    }

    /// The record once `to` is healthy.
    #[must_use]
    pub(crate) fn arrived(mut self, to: &Definition) -> Self {
        // It may be what something was begun from, for another place.
        self.cluster = to.cluster.clone();
        self.basedir = to.basedir.clone();
        self.failed.remove(&to.digest());
        self.healthy = Some(to.clone());
        (self.converging, self.handover) = (None, None);
        self
    }

    /// The record once it is known that `to` is not to be had, and what it logged last; says so.
    #[must_use]
    pub(crate) fn condemned(mut self, app: &AppName, to: &Definition, reason: String, log: Vec<String>) -> Self {
        warn!(%app, "{} failed: {reason}", to.version);
        for line in &log {
            warn!(%app, "| {line}");
        }
        let (version, health) = (to.version.clone(), to.health.clone());
        self.failed.insert(to.digest(), Failure { version, reason, log, health, is_published: false });
        self
    }

    /// The record once nothing runs any more.
    #[must_use]
    pub(crate) fn emptied(mut self) -> Self {
        (self.healthy, self.converging, self.handover) = (None, None, None);
        self.services.clear();
        self.unregistered = true;
        self
    }

    /// The record once the store shows what runs here, and no lease names this node.
    #[must_use]
    pub(crate) fn settled(mut self) -> Self {
        self.asked.clear();
        self.unregistered = false;
        self
    }

    /// Whether there is something left to tell the store.
    pub(crate) fn is_owing(&self) -> bool {
        self.unregistered || !self.asked.is_empty() || self.failed.values().any(|failure| !failure.is_published)
    }

    /// Whether it reminds of nothing that is on this host.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.healthy.is_none() && self.converging.is_none()
    }
}

/// The service that finishes what this agent cannot: replacing itself.
pub(crate) fn finisher(app: &AppName) -> String {
    format!("{app}@finish")
}

/// The directory that holds the records and their locks.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    /// The records below a staging directory.
    pub(crate) fn open(stage: &Path) -> Self {
        Self { dir: stage.join(".platypus") }
    }

    /// The apps that have a record.
    pub(crate) fn apps(&self) -> Result<BTreeSet<AppName>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| app_of(name.to_str()?)).gather())
    }

    /// What there is in the directory of records.
    fn names(&self) -> Result<Vec<OsString>> {
        let list = || match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>(),
        };
        list().with_context(|| format!("listing the records in {}", self.dir.display()))
    }

    /// Removes what a crash left beside records, but for an app's at which another process is at work.
    pub(crate) fn clear(&self) -> Result<()> {
        for app in self.names()?.iter().filter_map(|name| app_of(files::is_beside(name.to_str()?)?)) {
            if let Some(_lock) = self.lock(&app)? {
                files::clear(&self.path(&app))?;
            }
        }
        Ok(())
    }

    /// The app's record; one that is there but cannot be read is an error, not nothing.
    pub(crate) fn load(&self, app: &AppName) -> Result<Option<Record>> {
        let path = self.path(app);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let record = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is not a record; mend it, or stop the app's services, remove it and use --adopt",
                path.display()
            )
        })?;
        Ok(Some(record))
    }

    pub(crate) fn save(&self, app: &AppName, record: &Record) -> Result<()> {
        let json = serde_json::to_vec_pretty(record).context("writing a record as JSON")?;
        // A record that cannot be read back would stop everything that follows.
        serde_json::from_slice::<Record>(&json).context("a record that could not be read again is not written")?;
        // Only the agent's user reads it: a user_config may hold what others must not see.
        files::write("record", &self.path(app), &json, 0o600)?;
        Ok(())
    }

    /// As [`Records::save`], on a thread of its own.
    pub(crate) async fn note(&self, app: &AppName, record: Record) -> Result<()> {
        let (records, app) = (self.clone(), app.clone());
        blocking(move || records.save(&app, &record)).await
    }

    pub(crate) fn remove(&self, app: &AppName) -> Result<()> {
        files::remove("record", &self.path(app))
    }

    /// The lock that everything holds which converges or prunes this app.
    pub(crate) fn lock(&self, app: &AppName) -> Result<Option<Lock>> {
        files::directory("directory of records", &self.dir)?;
        Lock::try_hold("lock of an app", &self.dir.join(format!("{app}.lock")))
    }

    pub(crate) fn path(&self, app: &AppName) -> PathBuf {
        below(&self.dir, &[app.as_str(), ".json"])
    }
}

/// Whose record a file of this name is.
fn app_of(name: &str) -> Option<AppName> {
    name.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::tests::definition;

    #[test]
    fn a_record_says_where_it_runs_also_when_what_was_begun_elsewhere_is_given_up() {
        let (here, mut there) = (definition("1"), definition("2"));
        there.cluster = "there".parse().unwrap();
        there.basedir = "/srv/there".to_owned().try_into().unwrap();
        let record = Record::new(&"web1".parse().unwrap(), Source::Store, &here).begun(&there);
        assert_eq!((&record.cluster, &record.basedir), (&there.cluster, &there.basedir));
        let record = record.arrived(&here);
        assert_eq!((record.cluster, record.basedir), (here.cluster, here.basedir));
    }

    #[test]
    fn a_record_comes_back_as_it_was_saved_and_a_torn_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path());
        fs::create_dir(&records.dir).unwrap();
        let app = "slug".parse().unwrap();
        assert_eq!(records.load(&app).unwrap(), None);
        let record = Record::new(&"web1".parse().unwrap(), Source::Store, &definition("1")).begun(&definition("1"));
        records.save(&app, &record).unwrap();
        assert_eq!(records.load(&app).unwrap(), Some(record));
        assert_eq!(records.apps().unwrap().iter().map(AppName::as_str).collect::<Vec<_>>(), ["slug"]);
        for torn in ["", "{", "{}"] {
            fs::write(dir.path().join(".platypus/slug.json"), torn).unwrap();
            assert!(records.load(&app).is_err(), "{torn:?}");
        }
    }
}
