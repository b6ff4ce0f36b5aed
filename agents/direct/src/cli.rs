//! What can be said to `pt-direct`.

use std::path::PathBuf;

use clap::Parser;
use iptables::Filter;
use preparer::Sources;
use setlive::Places;
use store::NodeName;

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
pub(crate) struct Cli {
    /// A directory of documents, or one file with all [default: test_data/intent]
    pub(crate) intent: Option<PathBuf>,

    /// The name under which intent knows this host [default: the host name; `localhost` without INTENT]
    #[arg(long)]
    pub(crate) node: Option<NodeName>,

    #[command(flatten)]
    pub(crate) run: converge::RunArgs,

    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) places: Places,

    /// Leave the packet filter alone
    #[arg(long, conflicts_with_all = ["rules", "apply", "cmd"])]
    pub(crate) no_iptables: bool,

    #[command(flatten)]
    pub(crate) filter: Filter,
}

const ADOPT: &str = "Take over services, apps and rules that are there but are not recorded as ours; what runs differently \
                     is restarted";

const EXAMPLE: &str = "\
Example, with runsvdir looking after /etc/service:
  pt-direct --once --node web1 --repo https://artifacts.example.com/ --runit /etc/service \\
      --runit-stage /var/lib/platypus/stage --apply intent.json";
