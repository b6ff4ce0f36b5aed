//! The command `pp-preparer`.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::process::ExitCode;

use preparer::{Cli, Preparer};

fn main() -> ExitCode {
    let cli = converge::parse::<Cli>();
    converge::main(&cli.common, |_| Preparer::new(cli.sources, cli.keep, cli.common.run.is_watched()))
}
