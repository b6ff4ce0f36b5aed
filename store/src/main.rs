//! `pp-store`, the operator's command: list, read, write and remove documents in either store, one by one or a whole
//! directory of them, and say what is wrong with them, who waits for whom, and what has failed.
//!
//! Ensures: nothing is written that an agent would refuse; every change of intent is in the history before it is made; one
//! that depends on what was read can be made to fail when that has changed; a cluster's documents stay as long as a node needs them. An error is one line on standard
//! error, which names the key and says what to do.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use cli::{Args, Outcome};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(Args::parse()).await {
        Ok(outcome) => exit_code(outcome),
        // Whoever read our output has seen enough: `pp-store ls | head -1`.
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "pp-store: {}", cli::legible(&format!("{error:#}")));
            ExitCode::from(1)
        }
    }
}

/// As `--help` lists them. For wrong usage clap exits with 2 by itself.
fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Absent | Outcome::Invalid => ExitCode::from(1),
        Outcome::Suspicious | Outcome::ToDo => ExitCode::from(2),
        Outcome::Lost => ExitCode::from(3),
    }
}
