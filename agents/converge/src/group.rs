//! A child process with all that it starts.
//!
//! Ensures: it is killed with its process group when it is given up, and when the agent is ended by a signal that it can
//! see; no zombie of it is left.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::{Child, Command};

use crate::effect;

/// A child that leads a process group, and ends with it when it is dropped.
#[derive(Debug)]
pub struct Group {
    pub child: Child,
    id: Option<Pid>,
}

impl Group {
    /// Of a program that changes something.
    pub fn start(what: &str, command: &mut Command) -> io::Result<Self> {
        effect::start(what, command.process_group(0)).map(Self::of)
    }

    /// Of a program that only looks.
    pub fn start_to_ask(command: &mut Command) -> io::Result<Self> {
        effect::start_to_ask(command.process_group(0)).map(Self::of)
    }

    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { child, id }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was waited for has no id any more: its number may be another's by now.
        if let (Some(id), Some(_)) = (self.id, self.child.id()) {
            let _ = effect::kill_group("program that was given up", id);
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
