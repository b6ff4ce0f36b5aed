//! A real runsvdir over a directory of services.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::Scratch;
use crate::process::installed;

/// `runsvdir -P` over a directory of services. It is the [`Scratch`] that ends it, and all that it started.
#[derive(Debug)]
pub struct Runsvdir {
    child: Mutex<Child>,
    dir: PathBuf,
}

impl Runsvdir {
    /// Starts one over `dir`, made if missing, which has to be under `scratch` to be found again.
    pub fn start(scratch: &Scratch, dir: &Path) -> Self {
        assert!(installed("runsvdir") && installed("runsv"), "runit is not installed: run kickstart/setup");
        assert!(dir.starts_with(scratch.path()), "{} is not under the scratch directory", dir.display());
        fs::create_dir_all(dir).expect("the directory of services can be made");
        let log = File::options().create(true).append(true).open(scratch.path().join("runsvdir.log"));
        let child = Command::new("runsvdir")
            .arg("-P")
            .arg(dir)
            // Services inherit the environment, and should not depend on who runs the test.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the log can be opened"))
            .spawn()
            .expect("runsvdir starts");
        Self { child: Mutex::new(child), dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pid(&self) -> i32 {
        self.child.lock().expect("nobody panics with it").id().cast_signed()
    }

    /// Kills runsvdir alone: its runsvs and their services go on, as they do on a host.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("nobody panics with it");
        child.kill().expect("it is ours to kill");
        child.wait().expect("it is ours to wait for");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{eventually, mentioning, script};

    #[test]
    fn it_starts_what_it_finds_and_killed_leaves_it_running() {
        let scratch = Scratch::new();
        let services = scratch.path().join("service");
        let runsvdir = Runsvdir::start(&scratch, &services);
        let service = scratch.path().join("stage");
        fs::create_dir(&service).unwrap();
        script(&service.join("run"), "echo > started\nexec sleep 1000");
        fs::rename(&service, services.join("app")).unwrap();
        eventually("the service runs", Duration::from_secs(20), || services.join("app/started").exists().then_some(()));
        let before = mentioning(scratch.path());
        assert!(before.contains(&runsvdir.pid()));
        runsvdir.kill();
        assert_eq!(mentioning(scratch.path()).len(), before.len() - 1);
    }
}
