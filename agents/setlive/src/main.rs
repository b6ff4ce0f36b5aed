//! The `pp-setlive` command.

use std::process::ExitCode;

use clap::Parser;
use setlive::{Places, Setlive};

/// Makes the active version of every app of this host the running one, under runit.
///
/// For each app that intent names under nodes/<node>/, the version that is "active" in clusters/<app>/<cluster>/config is
/// run from <basedir>/installs/<app>_<version>, once it is there. When it is not healthy in time, the last healthy version
/// is started again. Apps without an active version, and apps that were taken off this node, are stopped and their
/// services removed. What runs is registered in the store; before it is stopped for another, enough other instances of
/// its cluster have to pass there (min_nodes), and what none of them runs yet is tried by one host first; `pp-store
/// leases` shows who waits for whom. When in doubt (a store that is down, a document that is malformed) everything stays as it is.
///
/// Example, with runsvdir looking after /tmp/service:
///
///   pp-setlive --store consul://127.0.0.1:8500 --runit=/tmp/service --runit-stage=/tmp/service-stage
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, after_help = converge::EXIT_STATUS)]
struct Cli {
    #[command(flatten)]
    common: converge::Args,

    #[command(flatten)]
    places: Places,
}

fn main() -> ExitCode {
    let cli = converge::parse::<Cli>();
    converge::main(&cli.common, |host| Setlive::new(&cli.places, host))
}
