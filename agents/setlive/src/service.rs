//! Service definitions on disk: what they say (pure), and putting them in place.
//!
//! For a definition there are: `<stage>/<service>/run` and `log/run`, the configuration file, the links `<runit>/<service>`
//! and `<basedir>/current`. Ensures: everything that can fail for want of space is written beside its place before
//! anything is stopped, so that between stop and start only renames remain. A live service directory is never recreated.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use converge::{effect, files};
use serde_json::json;
use store::{AppName, Gather};

use crate::below;
use crate::data;
use crate::definition::{Definition, config_path, install_link};
use crate::record::finisher;

/// Where services are built, and where runsvdir looks for them.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Service directories; absolute.
    pub(crate) stage: PathBuf,
    /// The directory that runsvdir looks after: links to service directories; absolute.
    pub(crate) runit: PathBuf,
    /// An external service builder, and the directory where it finds what to build.
    pub(crate) builder: Option<Builder>,
}

/// A command that makes service directories and links, called with `-c <config> -d <runit> -s <stage>`.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    pub(crate) command: PathBuf,
    pub(crate) config: PathBuf,
}

/// One thing that a definition needs on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    File { what: &'static str, path: PathBuf, text: String, mode: u32 },
    Link { what: &'static str, path: PathBuf, target: PathBuf },
}

impl Places {
    pub(crate) fn staged(&self, service: &str) -> PathBuf {
        below(&self.stage, &[service])
    }

    pub(crate) fn link(&self, service: &str) -> PathBuf {
        self.runit.join(service)
    }

    fn run(&self, service: &str) -> PathBuf {
        below(&self.stage, &[service, "/run"])
    }

    fn log_run(&self, service: &str) -> PathBuf {
        below(&self.stage, &[service, "/log/run"])
    }

    /// True when all that the definition needs is on disk as it shall be.
    pub(crate) fn hold(&self, app: &AppName, definition: &Definition) -> bool {
        let mut owned = self.files(app, definition).into_iter().chain(self.links(app, definition));
        owned.all(|owned| match &owned {
            Owned::File { path, text, mode, .. } => files::holds(path, text.as_bytes(), *mode),
            Owned::Link { path, target, .. } => fs::read_link(path).is_ok_and(|found| found == *target),
        })
    }

    /// Where all that is that [`Places::hold`] reads, of a definition that we build ourselves; but for links to
    /// services.
    pub(crate) fn owned<'a>(
        &self,
        basedir: &Path,
        digest: &str,
        services: impl Iterator<Item = &'a str>,
    ) -> Vec<PathBuf> {
        let mut owned = vec![config_path(basedir, digest), current(basedir)];
        for service in services {
            owned.extend([self.run(service), self.log_run(service)]);
        }
        owned
    }

    /// Removes what a crash left beside what the definition owns.
    pub(crate) fn clear(&self, app: &AppName, definition: &Definition) -> Result<()> {
        let owned = self.files(app, definition).into_iter().chain(self.links(app, definition));
        let owned = owned.map(|owned| match owned {
            Owned::File { path, .. } | Owned::Link { path, .. } => path,
        });
        owned.chain([last(definition.basedir.path())]).try_for_each(|path| files::clear(&path))
    }

    /// Creates what a definition needs before anything is stopped: directories, its configuration file, and the next
    /// text of its files beside them.
    pub(crate) fn stage(&self, app: &AppName, definition: &Definition) -> Result<Staged> {
        data::ensure(definition)?;
        for service in definition.services() {
            files::directory("directory of logs", &definition.log_dir(service))?;
            if self.builder.is_none() {
                files::directory("service", &self.staged(service).join("log"))?;
            }
        }
        let config = definition.config_path();
        files::directory("directory of configuration", config.parent().unwrap_or(Path::new("/")))?;
        let mut staged = Vec::new();
        for owned in self.files(app, definition).into_iter().chain(self.links(app, definition)) {
            staged.extend(match &owned {
                Owned::File { what, path, text, mode } => files::stage(what, path, text.as_bytes(), *mode)?,
                Owned::Link { what, path, target } => files::stage_link(what, path, target)?,
            });
        }
        Ok(Staged { owned: staged })
    }

    /// Writes what the app's finisher is started by, as `service` of `from` is.
    pub(crate) fn write_finisher(&self, app: &AppName, from: &Definition, service: &str) -> Result<()> {
        let entry = from.entries.get(service).with_context(|| format!("{} has no {service}", from.version))?;
        files::write("configuration", &from.config_path(), config_text(from).as_bytes(), 0o644)?;
        let finisher = finisher(app);
        files::directory("directory of the finisher's logs", &from.log_dir(&finisher))?;
        files::directory("finisher", &self.staged(&finisher).join("log"))?;
        let run = format!("#!/bin/sh\n{} --finish {app}\n", run_commands(app, from, entry).trim_end());
        files::write("finisher's run", &self.run(&finisher), run.as_bytes(), 0o755)?;
        let log = log_commands(from, &finisher);
        files::write("finisher's log/run", &self.log_run(&finisher), log.as_bytes(), 0o755).map(drop)
    }

    /// Has runsvdir start it.
    pub(crate) fn link_finisher(&self, app: &AppName) -> Result<()> {
        let finisher = finisher(app);
        files::link("link to the finisher", &self.link(&finisher), &self.staged(&finisher)).map(drop)
    }

    /// Runs the external service builder, if there is one.
    pub(crate) fn build(&self) -> Result<()> {
        let Some(Builder { command, config }) = &self.builder else { return Ok(()) };
        let mut builder = std::process::Command::new(command);
        builder.arg("-c").arg(config).arg("-d").arg(&self.runit).arg("-s").arg(&self.stage);
        let output = effect::run_blocking("service builder", &mut builder)
            .with_context(|| format!("running {}", command.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "{} failed ({}): {}",
            command.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Takes out what the builder is told of this app.
    pub(crate) fn unbuild(&self, app: &AppName) -> Result<()> {
        match &self.builder {
            Some(builder) => files::remove("description of services", &builder.description(app)),
            None => Ok(()),
        }
    }

    fn files(&self, app: &AppName, definition: &Definition) -> Vec<Owned> {
        let config = Owned::File {
            what: "configuration",
            path: definition.config_path(),
            text: config_text(definition),
            mode: 0o644,
        };
        let mut owned = vec![config];
        let script = |what, path: PathBuf, text: String| Owned::File { what, path, text, mode: 0o755 };
        match &self.builder {
            Some(builder) => {
                let services = definition.entries.iter().map(|(service, entry)| {
                    let run = ["/bin/sh".to_owned(), "-c".to_owned(), run_commands(app, definition, entry)];
                    (service.clone(), json!({"run": run}))
                });
                let text = serde_json::Value::Object(services.gather()).to_string();
                let path = builder.description(app);
                owned.push(Owned::File { what: "description of services", path, text, mode: 0o644 });
            }
            None => owned.extend(definition.entries.iter().flat_map(|(service, entry)| {
                let run = format!("#!/bin/sh\n{}", run_commands(app, definition, entry));
                let log = log_commands(definition, service);
                [script("run", self.run(service), run), script("log/run", self.log_run(service), log)]
            })),
        }
        owned
    }

    /// In the order in which they are made: a service that is linked is about to be started.
    fn links(&self, app: &AppName, definition: &Definition) -> Vec<Owned> {
        let target = install_link(app, &definition.version);
        let current = Owned::Link { what: "current", path: current(definition.basedir.path()), target };
        let services = definition.services().filter(|_| self.builder.is_none());
        let services = services.map(|service| Owned::Link {
            what: "link to a service",
            path: self.link(service),
            target: self.staged(service),
        });
        std::iter::once(current).chain(services).collect()
    }
}

/// The link to the install that runs.
pub(crate) fn current(basedir: &Path) -> PathBuf {
    below(basedir, &["current"])
}

/// The link to the install that would be gone back to.
pub(crate) fn last(basedir: &Path) -> PathBuf {
    below(basedir, &["last"])
}

impl Builder {
    fn description(&self, app: &AppName) -> PathBuf {
        // JSON is YAML.
        self.config.join(format!("{app}.yaml"))
    }
}

/// What is written beside its place and only has to be renamed.
#[derive(Debug)]
pub(crate) struct Staged {
    owned: Vec<files::Staged>,
}

impl Staged {
    /// Puts everything in its place. What a crash or a power failure undoes is done again by the next pass, since the
    /// record says that this was under way.
    pub(crate) fn put(&self) -> Result<()> {
        self.owned.iter().try_for_each(files::Staged::put)
    }

    /// Makes it last.
    pub(crate) fn sync(&self) -> Result<()> {
        self.owned.iter().try_for_each(files::Staged::sync)
    }
}

/// The process that runsv starts becomes the app itself, at the head of a process group of its own.
fn run_commands(app: &AppName, definition: &Definition, entry: &str) -> String {
    let install = definition.install(app);
    let user = definition.runas.as_ref().map(|user| format!("-u {} ", user.as_str())).unwrap_or_default();
    format!(
        "exec 2>&1\ncd {} || exit 1\nexport CONFIG_PATH={} DATA_DIR={}\nexec chpst -P {user}{}\n",
        quoted(&install),
        quoted(&definition.config_path()),
        quoted(&definition.data_dir()),
        quoted(&install.join(entry)),
    )
}

fn config_text(definition: &Definition) -> String {
    serde_json::to_string(&definition.user_config).expect("its keys are strings")
}

fn log_commands(definition: &Definition, service: &str) -> String {
    format!("#!/bin/sh\nexec svlogd -tt {}\n", quoted(&definition.log_dir(service)))
}

/// As one word of a shell, whatever it holds.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::tests::definition;

    #[test]
    fn a_run_script_execs_the_app_with_its_config_and_user() {
        let app = "slug".parse().unwrap();
        let mut definition = definition("0.1");
        definition.runas = Some("www".to_owned().try_into().unwrap());
        let digest = definition.digest();
        assert_eq!(
            run_commands(&app, &definition, "bin/launch"),
            format!(
                "exec 2>&1\ncd '/srv/slug/installs/slug_0.1' || exit 1\n\
                 export CONFIG_PATH='/srv/slug/config/{}.json' DATA_DIR='/srv/slug/data'\n\
                 exec chpst -P -u www '/srv/slug/installs/slug_0.1/bin/launch'\n",
                digest.as_str()
            )
        );
    }

    #[test]
    fn a_path_is_one_word_whatever_it_holds() {
        let path = Path::new("/srv/it's $(date) \"x\"");
        let shell = format!("printf %s {}", quoted(path));
        let output = std::process::Command::new("sh").arg("-c").arg(shell).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), path.display().to_string());
    }
    #[test]
    fn what_is_owned_is_what_is_looked_at() {
        let (app, mut definition) = ("slug".parse().unwrap(), definition("0.1"));
        definition.entries = [("slug@a", "bin/launch/a"), ("slug@b", "bin/launch/b")]
            .map(|(service, entry)| (service.to_owned(), entry.to_owned()))
            .into();
        let places = Places { stage: "/stage".into(), runit: "/service".into(), builder: None };
        let looked_at = places.files(&app, &definition).into_iter().chain(places.links(&app, &definition));
        let looked_at = looked_at.map(|owned| match owned {
            Owned::File { path, .. } | Owned::Link { path, .. } => path,
        });
        // What is a link to a service shows in the directory of those links.
        let mut looked_at = looked_at.filter(|path| path.parent() != Some(&places.runit)).collect::<Vec<_>>();
        let mut owned = places.owned(definition.basedir.path(), definition.digest().as_str(), definition.services());
        looked_at.sort();
        owned.sort();
        assert_eq!(owned, looked_at);
    }
}
