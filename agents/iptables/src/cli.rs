//! What can be said to `pp-iptables`.

use clap::Parser;

use crate::Filter;

/// Makes the packet filter accept exactly the ports in intent.
///
/// For each app that intent names under nodes/<node>/, the "ports" of clusters/<app>/<cluster>/deploy_config are opened,
/// whether or not a version is active: an app that is about to start finds them open. They are closed when they are no
/// longer there, or when the app was taken off this node. When in doubt (a store that is down, a document that is
/// malformed) what is open stays open.
///
/// With --apply the rules are in a chain of their own, PLATYPUS in the table filter, in IPv4 and in IPv6. It is the
/// agent's alone: what else is written into it is removed. INPUT jumps to it first; move the jump, and it stays where you
/// put it. No other rule or chain is touched. The chain only accepts, and then falls through to the host's own rules.
///
/// With --default-drop it ends by dropping the rest, so that rules of the host's own that come after it in INPUT accept
/// nothing any more: what they are for belongs into intent, into --keep, or before the jump. Look with --plan first.
///
/// Every rule says whose it is: its comment is <app>/<cluster>, with (direct) behind it when pt-direct made it. Neither
/// agent touches the other's, but that an app in the store's intent takes over what pt-direct had opened for it.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLE}\n\n{}", converge::EXIT_STATUS))]
pub struct Cli {
    #[command(flatten)]
    pub common: converge::Args,

    #[command(flatten)]
    pub filter: Filter,

    /// Take over what was made for another node: rules whose app this node's intent does not name are kept and reported
    /// otherwise
    #[arg(long)]
    pub adopt: bool,
}

const EXAMPLE: &str = "\
Without --apply and --cmd nothing is changed but a file of rules, for a look at them:
  pp-iptables --once
Example, DNS on this host from its own network, and all else but SSH and Consul dropped:
  pp-store put clusters/dns/prod/deploy_config \\
    '{\"basedir\": \"/srv/dns\", \"ports\": [{\"port\": 53, \"protocol\": \"udp\", \"source\": \"10.0.0.0/8\"}]}'
  pp-iptables --store consul://127.0.0.1:8500 --apply --default-drop --plan
  pp-iptables --store consul://127.0.0.1:8500 --apply --default-drop
To undo it all, once the agent is stopped:
  for t in iptables ip6tables; do $t -D INPUT -j PLATYPUS; $t -F PLATYPUS; $t -X PLATYPUS; done";
