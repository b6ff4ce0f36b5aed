//! What can be said to `pp-setlive`.

use std::time::Duration;

use clap::Parser;
use store::AppName;

use crate::Places;

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
pub struct Cli {
    #[command(flatten)]
    pub common: converge::Args,

    #[command(flatten)]
    pub places: Places,

    /// Finish the replacement of this app, of which the agent itself is a part and which it has therefore handed over: runit runs
    /// this as the service <APP>@finish while it is needed. Marks of agents' first passes are looked for beside --mark
    #[arg(long, value_name = "APP", requires = "mark", conflicts_with_all = ["once", "plan"])]
    pub finish: Option<AppName>,

    /// Seconds that all agents of a new version of this agent's own app may take to make their first pass, while the store
    /// can be read; then the old version comes back
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = converge::positive_seconds)]
    pub handover_timeout: Duration,
}
