//! The `pt-direct` command.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod direct;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use converge::Source;
use iptables::Filter;
use preparer::{Keep, Preparer, Sources};
use setlive::Places;
use store::{Directory, NodeName, Store};

use direct::Direct;

/// Converges this host from a file of intent, where there is no store (yet).
///
/// What intent names under nodes/<node>/ is fetched and unpacked as by pp-preparer, run as by pp-setlive, and let through
/// the packet filter as by pp-iptables: it is the same code, with the same flags. INTENT is a directory of documents, as
/// pp-store export writes it (<INTENT>/nodes/web1/slug.json), or one file with all of them:
///
///   {"nodes/web1/slug": {"cluster": "dev"},
///    "clusters/slug/dev/config": {"versions": {"0.1": "active"}},
///    "clusters/slug/dev/deploy_config": {"basedir": "/srv/slug", "ports": [80]}}
///
/// The agents that follow a store leave alone what this one runs, and the other way round. An app passes to the store,
/// without a restart, once the intent there says the same of it; or, with --adopt, to whoever is given that.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, after_help = format!("{EXAMPLE}\n\n{}", converge::EXIT_STATUS))]
#[command(mut_arg("adopt", |adopt| adopt.help(ADOPT)))]
struct Cli {
    /// A directory of documents, or one file with all [default: test_data/intent]
    intent: Option<PathBuf>,

    /// The name under which intent knows this host [default: the host name; `localhost` without INTENT]
    #[arg(long)]
    node: Option<NodeName>,

    #[command(flatten)]
    run: converge::RunArgs,

    #[command(flatten)]
    sources: Sources,

    #[command(flatten)]
    places: Places,

    /// Leave the packet filter alone
    #[arg(long, conflicts_with_all = ["rules", "apply", "cmd"])]
    no_iptables: bool,

    #[command(flatten)]
    filter: Filter,
}

const ADOPT: &str = "Take over services, apps and rules that are there but are not recorded as ours; what runs differently \
                     is restarted";

const EXAMPLE: &str = "\
Example, with runsvdir looking after /etc/service:
  pt-direct --once --node web1 --repo https://artifacts.example.com/ --runit /etc/service \\
      --runit-stage /var/lib/platypus/stage --apply intent.json";

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    cli.filter.adopt = cli.places.adopt;
    let filter = (!cli.no_iptables).then_some(&cli.filter);
    converge::main_on(
        &cli.run,
        Source::Direct,
        || open(cli.node.as_ref(), cli.intent.as_deref()),
        |host| {
            Direct::new(
                Preparer::new(cli.sources.clone(), Keep::default(), cli.run.is_watched())?,
                &cli.places,
                filter,
                host,
            )
        },
    )
}

/// This node's name, and what to read. A path that leads nowhere is more likely a slip than a file to come.
fn open(node: Option<&NodeName>, intent: Option<&Path>) -> Result<(NodeName, Store)> {
    let path = intent.unwrap_or(Path::new("test_data/intent"));
    ensure!(path.exists(), "there is no {}: give a directory of documents, or a file with all", path.display());
    Ok((converge::node_or_default(node, intent.is_none())?, Store::Directory(Directory::open(path.to_owned()))))
}
