//! In the place of runsvdir, which looks for services each five seconds: the same, at once. What looks after a service is
//! runit's own runsv.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const EVERY: Duration = Duration::from_millis(5);

pub(crate) struct Supervisor {
    /// `None` once it is over.
    running: Arc<Mutex<Option<Services>>>,
    thread: Option<JoinHandle<()>>,
    is_looking: Arc<AtomicBool>,
}

/// The runsv of each, by its name and the inode of its directory: one that was made anew is another.
type Services = BTreeMap<(String, u64), Child>;

impl Supervisor {
    /// Looks after what is linked in `dir`.
    pub(crate) fn start(dir: PathBuf) -> Self {
        let running = Arc::new(Mutex::new(Some(Services::new())));
        let is_looking = Arc::new(AtomicBool::new(true));
        let thread = thread::spawn({
            let (running, is_looking) = (running.clone(), is_looking.clone());
            move || {
                let mut services = |running: &mut Services| {
                    if is_looking.load(Ordering::SeqCst) {
                        look(&dir, running);
                    }
                };
                let mut look = || running.lock().unwrap().as_mut().map(&mut services);
                while look().is_some() {
                    thread::sleep(EVERY);
                }
            }
        });
        Self { running, thread: Some(thread), is_looking }
    }

    /// From now on nobody notices what is linked or unlinked. What looks after the services that there are does so still.
    pub(crate) fn look_no_more(&self) {
        self.is_looking.store(false, Ordering::SeqCst);
    }

    /// Kills whoever looks after the services. What they ran is not ended by that, nor is it started again.
    pub(crate) fn kill(mut self) {
        for mut runsv in self.running.lock().unwrap().take().unwrap_or_default().into_values() {
            runsv.kill().and_then(|()| runsv.wait()).unwrap();
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn look(dir: &Path, running: &mut Services) {
    let services = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
        // Behind the link.
        Some((name, fs::metadata(entry.path()).ok()?.ino()))
    });
    let services = services.collect::<Vec<_>>();
    for (_, runsv) in running.iter().filter(|(service, _)| !services.contains(service)) {
        // To end its service, and then itself.
        let _ = kill_process(Pid::from_child(runsv), Signal::TERM);
    }
    running.retain(|_, runsv| matches!(runsv.try_wait(), Ok(None)));
    for service in services {
        running.entry(service).or_insert_with_key(|(name, _)| {
            let mut runsv = Command::new("runsv");
            runsv.arg(name).current_dir(dir).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            runsv.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            runsv.spawn().expect("runsv starts")
        });
    }
}
