//! The `pp-setlive` command.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::process::ExitCode;

use setlive::{Cli, Setlive};

fn main() -> ExitCode {
    let cli = converge::parse::<Cli>();
    match (&cli.finish, &cli.common.mark) {
        (Some(app), Some(mark)) => {
            converge::process_is("finisher");
            converge::main_of(&cli.common, async |host| {
                setlive::finish(app, &cli.places, &host, mark, cli.handover_timeout).await
            })
        }
        (None, _) | (_, None) => converge::main(&cli.common, |host| Setlive::new(&cli.places, host)),
    }
}
