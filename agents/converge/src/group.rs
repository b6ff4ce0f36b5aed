//! A child process with all that it starts.
//!
//! Ensures: it is killed with its process group when it is given up, and when the agent is ended by a signal that it can
//! see; no zombie of it is left.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A child that leads a process group, and ends with it when it is dropped.
#[derive(Debug)]
pub struct Group {
    pub child: Child,
    id: Option<Pid>,
}

impl Group {
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, id })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was waited for has no id any more: its number may be another's by now.
        if let (Some(id), Some(_)) = (self.id, self.child.id()) {
            let _ = kill_process_group(id, Signal::KILL);
            // It is dead in no time; where this process ends next, nobody else may be there to take note of it.
            for _ in 0..500 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
