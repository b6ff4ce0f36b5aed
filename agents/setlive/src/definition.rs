//! What is run: one version with all that its processes are started from, and the digest that tells two of them apart.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::mem::discriminant;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use store::intent::{App, Timeouts};
use store::schema::{BaseDir, Health, UserName};
use store::{AppName, ClusterName, Version};

use crate::below;

/// Everything that a version's processes are started from, and how they are judged and stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) version: Version,
    pub(crate) cluster: ClusterName,
    pub(crate) basedir: BaseDir,
    pub(crate) runas: Option<UserName>,
    pub(crate) user_config: Map<String, Value>,
    /// Another text, and it is started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<String>,
    pub(crate) entries: Entries,
    pub(crate) health: Option<Health>,
    pub(crate) timeouts: Timeouts,
    #[serde(skip)]
    digest: Memo,
}

/// By service: what it runs, relative to the install.
pub(crate) type Entries = BTreeMap<String, String>;

/// A definition's digest once it was asked for: that is often, and takes longer than all else of a look at an app.
#[derive(Debug, Default)]
struct Memo(OnceLock<Digest>);

/// A clone may be made into another definition.
impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// It says nothing that the rest of a definition does not.
impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Names a definition by its inputs. Two definitions with one digest run the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// The first eight digits: enough for a person to tell two apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..8).unwrap_or(&self.0))
    }
}

impl Definition {
    /// What `app` wants run as `version`, of which the install is at hand.
    pub(crate) fn new(app: &App, version: &Version) -> Result<Self> {
        let install = install(&app.basedir, &app.name, version);
        Ok(Self {
            version: version.clone(),
            cluster: app.cluster.clone(),
            basedir: app.basedir.clone(),
            runas: app.runas.clone(),
            user_config: app.user_config.clone(),
            restart: app.restart.clone(),
            entries: entries(&app.name, &install)?,
            health: app.health.clone(),
            timeouts: app.timeouts,
            digest: Memo::default(),
        })
    }

    /// The digest of the inputs: version, cluster, basedir, runas, user_config, restart and entries, and nothing else, so
    /// that neither a new agent nor a new port, minimum or time-out restarts anything.
    ///
    /// The encoding is frozen: a line with its number, then JSON with sorted keys in which what is absent does not
    /// appear. A new optional input therefore changes no digest of those that do not use it.
    pub(crate) fn digest(&self) -> Digest {
        self.digest.0.get_or_init(|| self.digest_inputs()).clone()
    }

    fn digest_inputs(&self) -> Digest {
        let Self { version, cluster, basedir, runas, user_config, restart, entries, health: _, timeouts: _, digest: _ } =
            self;
        let (restart, runas) = (restart.as_deref(), runas.as_ref());
        Inputs { basedir, cluster, entries, restart, runas, user_config, version }.digest()
    }

    /// Names its check: empty without one.
    pub(crate) fn check(&self) -> String {
        check_name(self.health.as_ref())
    }

    pub(crate) fn install(&self, app: &AppName) -> PathBuf {
        install(&self.basedir, app, &self.version)
    }

    /// The file that the app finds in `CONFIG_PATH`.
    pub(crate) fn config_path(&self) -> PathBuf {
        config_path(self.basedir.path(), self.digest().as_str())
    }

    /// The directory that the app finds in `DATA_DIR`, and may write in.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.basedir.path().join("data")
    }

    /// Where a service's output goes: `<basedir>/log`, and below it by script where there are several.
    pub(crate) fn log_dir(&self, service: &str) -> PathBuf {
        let logs = self.basedir.path().join("log");
        match service.split_once('@') {
            Some((_, script)) => logs.join(script),
            None => logs,
        }
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

/// Tells one check from another.
pub(crate) fn check_name(health: Option<&Health>) -> String {
    let json = health.map(|health| serde_json::to_vec(health).expect("its keys are strings"));
    json.map(|json| format!("{:x}", Sha256::digest(json))[..16].to_owned()).unwrap_or_default()
}

/// What a digest covers, in the order of the keys.
#[derive(Serialize)]
pub(crate) struct Inputs<'a> {
    basedir: &'a BaseDir,
    cluster: &'a ClusterName,
    pub(crate) entries: &'a Entries,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runas: Option<&'a UserName>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    user_config: &'a Map<String, Value>,
    version: &'a Version,
}

impl<'a> Inputs<'a> {
    /// As of what [`Definition::new`] makes of the same, without making it.
    pub(crate) fn of(app: &'a App, version: &'a Version, entries: &'a Entries) -> Self {
        let App { basedir, cluster, runas, user_config, restart, .. } = app;
        Self { basedir, cluster, entries, restart: restart.as_deref(), runas: runas.as_ref(), user_config, version }
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut text = b"platypus definition 1\n".to_vec();
        serde_json::to_writer(&mut text, self).expect("its keys are strings");
        let hash = Sha256::digest(text);
        Digest(format!("{hash:x}"))
    }
}

/// Of two that have different digests it is not the same, as long as its hasher does not make it so.
impl Hash for Inputs<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { basedir, cluster, entries, restart, runas, user_config, version } = self;
        (basedir, cluster, entries, restart, runas, version).hash(state);
        hash_object(user_config, state);
    }
}

fn hash_object<H: Hasher>(object: &Map<String, Value>, state: &mut H) {
    object.len().hash(state);
    for (name, value) in object {
        name.hash(state);
        hash_value(value, state);
    }
}

/// As serde_json's own hash is not, to which -1 and the greatest number of 64 bits are one, and 0.0 and -0.0 are.
fn hash_value<H: Hasher>(value: &Value, state: &mut H) {
    discriminant(value).hash(state);
    match value {
        Value::Null => {}
        Value::Bool(bool) => bool.hash(state),
        Value::Number(number) => (number.as_u64(), number.as_i64(), number.as_f64().map(f64::to_bits)).hash(state),
        Value::String(text) => text.hash(state),
        Value::Array(items) => {
            items.len().hash(state);
            items.iter().for_each(|item| hash_value(item, state));
        }
        Value::Object(object) => hash_object(object, state),
    }
}

pub(crate) fn config_path(basedir: &Path, digest: &str) -> PathBuf {
    below(basedir, &["config/", digest, ".json"])
}

/// Where an app's version is unpacked. Whoever unpacks makes it appear as a whole.
pub(crate) fn install(basedir: &BaseDir, app: &AppName, version: &Version) -> PathBuf {
    below(basedir.path(), &["installs/", app.as_str(), "_", version.as_str()])
}

/// The same as a link in the basedir has it.
pub(crate) fn install_link(app: &AppName, version: &Version) -> PathBuf {
    Path::new("installs").join(format!("{app}_{version}"))
}

/// What a service runs, relative to the install.
pub(crate) fn entry(service: &str) -> String {
    match service.split_once('@') {
        Some((_, script)) => format!("bin/launch/{script}"),
        None => "bin/launch".to_owned(),
    }
}

/// What the install launches: `bin/launch` itself, or each executable in it.
pub(crate) fn entries(app: &AppName, install: &Path) -> Result<Entries> {
    let launch = below(install, &["bin/launch"]);
    let metadata = match fs::metadata(&launch) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "{} is missing: an app's install needs it, a script or a directory of scripts; if it is a directory too \
                 deep in the artifact, make that with tar -C <directory> . as another version, or remove {}, so that the \
                 mended artifact is fetched",
                launch.display(),
                install.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("looking at {}", launch.display())),
    };
    if !metadata.is_dir() {
        executable(&launch, &metadata)?;
        return Ok([(app.to_string(), entry(app.as_str()))].into());
    }
    let mut entries = BTreeMap::new();
    for found in fs::read_dir(&launch).with_context(|| format!("listing {}", launch.display()))? {
        let path = found.with_context(|| format!("listing {}", launch.display()))?.path();
        let script = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Its log goes to <basedir>/log/<script>, beside what svlogd itself keeps there for an app of one service.
        let svlogds = ["current", "lock", "state", "config"].contains(&script.as_str());
        ensure!(
            store::is_name(&script) && !svlogds,
            "{} cannot name a service: letters, digits, '.', '_', '-', and none of svlogd's own: current, lock, state, config",
            path.display()
        );
        executable(&path, &fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?)?;
        let service = format!("{app}@{script}");
        let runs = entry(&service);
        entries.insert(service, runs);
    }
    ensure!(!entries.is_empty(), "{} is an empty directory: nothing to run", launch.display());
    Ok(entries)
}

fn executable(path: &Path, metadata: &Metadata) -> Result<()> {
    let good = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    ensure!(good, "{} is not an executable file: mend the artifact, under a new version", path.display());
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::hash::DefaultHasher;

    use serde_json::json;

    use super::*;

    /// A definition of `version`, complete but for what a test changes.
    pub(crate) fn definition(version: &str) -> Definition {
        let app = json!({
            "version": version, "cluster": "dev", "basedir": "/srv/slug", "runas": null, "user_config": {},
            "entries": {"slug": "bin/launch"}, "health": null,
            "timeouts": {"stop": 10.0, "enable": 30.0, "disable": 30.0},
        });
        serde_json::from_value(app).unwrap()
    }

    #[test]
    fn the_digest_is_frozen() {
        let plain = definition("0.1");
        let full = Definition {
            runas: Some("www".to_owned().try_into().unwrap()),
            user_config: json!({"b": [1, 2.5, null], "a": {"é": true}}).as_object().unwrap().clone(),
            ..plain.clone()
        };
        let restarted = Definition { restart: Some("2026-11-22T03:14:08Z".to_owned()), ..full.clone() };
        // If one of these changes, every app on every host restarts with the next agent.
        assert_eq!(plain.digest().as_str(), "d09bda3ed74a69a320f0dd735018481b841a264c07705772b72b26c6eb052ec9");
        assert_eq!(full.digest().as_str(), "b21e7021bf1aa907282b2890480e69f8cc92051e83fb65ca5510cd0115fb790c");
        assert_eq!(restarted.digest().as_str(), "c63e6e3657fc72079a8560ead139b3b8d0f88ce6a6834c82ab3e84e13e2fbf4b");
    }

    #[test]
    fn what_makes_another_digest_makes_another_hash() {
        let values = [
            json!(null),
            json!(false),
            json!(""),
            json!([]),
            json!({}),
            json!(0),
            json!(0.0),
            json!(-0.0),
            json!(1),
            json!(1.0),
            json!(1.0f64.to_bits()),
            json!(-1),
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!("1"),
            json!([1]),
            json!([[1]]),
            json!([1, null]),
            json!({"a": 1}),
            json!({"a": [1]}),
            json!({"b": 1}),
            json!("a\u{ff}"),
        ];
        let hash = |value: &Value| {
            let user_config = [("x".to_owned(), value.clone())].into_iter().collect();
            let definition = Definition { user_config, ..definition("0.1") };
            let Definition { version, cluster, basedir, user_config, entries, .. } = &definition;
            let inputs = Inputs { basedir, cluster, entries, restart: None, runas: None, user_config, version };
            let mut hasher = DefaultHasher::new();
            inputs.hash(&mut hasher);
            (inputs.digest(), hasher.finish())
        };
        for (at, one) in values.iter().enumerate() {
            for (with, other) in values.iter().enumerate() {
                let ((digest, hashed), (other_digest, other_hashed)) = (hash(one), hash(other));
                assert_eq!(
                    (digest == other_digest, hashed == other_hashed),
                    (at == with, at == with),
                    "{one} and {other}"
                );
            }
        }
    }

    #[test]
    fn the_digest_covers_inputs_only() {
        let base = definition("0.1");
        let mut other = base.clone();
        other.timeouts.stop = 3.0.try_into().unwrap();
        other.health = serde_json::from_value(json!({"tcp": {"port": 1}})).unwrap();
        assert_eq!(base.digest(), other.digest());
        assert_ne!(base.digest(), definition("0.2").digest());
    }

    #[test]
    fn a_launch_file_is_one_service_and_a_launch_directory_one_for_each_script() {
        let dir = tempfile::tempdir().unwrap();
        let app = "slug".parse().unwrap();
        let script = |path: &str, mode: u32| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(entries(&app, dir.path()).unwrap_err().to_string().contains("bin/launch is missing"));
        script("bin/launch", 0o644);
        assert!(entries(&app, dir.path()).unwrap_err().to_string().contains("not an executable"));
        script("bin/launch", 0o755);
        assert_eq!(entries(&app, dir.path()).unwrap()["slug"], "bin/launch");
        fs::remove_file(dir.path().join("bin/launch")).unwrap();
        script("bin/launch/web", 0o755);
        script("bin/launch/worker", 0o755);
        let found = entries(&app, dir.path()).unwrap();
        assert_eq!(found["slug@web"], "bin/launch/web");
        assert_eq!(found.len(), 2);
        script("bin/launch/a b", 0o755);
        assert!(entries(&app, dir.path()).unwrap_err().to_string().contains("cannot name a service"));
    }
}
