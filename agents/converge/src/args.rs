//! The flags that all agents have.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use store::NodeName;

/// Of agents that take their intent from a store.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub run: RunArgs,

    /// The name under which intent knows this host [default: the host name; `localhost` in a checkout, that is when
    /// neither --store nor CONSUL_HTTP_ADDR says where intent is]
    #[arg(long)]
    pub node: Option<NodeName>,

    /// Where intent is: consul://host:8500, consul+https://host:8501 or file:path [default: $CONSUL_HTTP_ADDR when set,
    /// else file:test_data/intent]
    #[arg(long, value_name = "URL", value_parser = store::store_url)]
    pub store: Option<String>,

    /// Take further flags from this file, a JSON object as in {"store": "consul://127.0.0.1:8500", "pp-setlive": {"runit":
    /// "/etc/service"}}: what is no object is a flag of every agent, and the rest of the agent of that name
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,

    /// Once a pass over the store's intent is made, the first since the start, say so in this file: the program, its
    /// process, the node and the store
    #[arg(long, value_name = "FILE", conflicts_with_all = ["once", "plan"])]
    pub mark: Option<PathBuf>,

    /// Write metrics into this file, in Prometheus' text format: for node_exporter's textfile collector, in whose directory
    /// its name has to end in .prom
    #[arg(long, value_name = "FILE", conflicts_with_all = ["once", "plan"])]
    pub metrics: Option<PathBuf>,
}

/// How a process runs, wherever its intent comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Make one pass and exit: 0 when converged or waiting for a precondition, 1 when anything failed
    #[arg(long)]
    pub once: bool,

    /// Print what a pass would do, and change nothing; exit with 0 when that is nothing, 2 when it is something, 1 when not all
    /// can be said
    #[arg(long)]
    pub plan: bool,

    /// How log lines look, and a plan
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Apps at work on at the same time; looking at an app costs none of these
    #[arg(long, value_name = "N", default_value = "8")]
    pub parallel: NonZeroU32,

    /// Seconds between two looks at the host, to repair what changed without anybody saying so; jittered by a quarter
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = positive_seconds)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `INFO  [2014-08-31 02:42:58.077] slug: Symlinking`, in UTC
    Text,
    /// One JSON object a line
    Json,
}

impl RunArgs {
    /// Whether somebody looks on, who would like to see how far it is.
    pub fn is_watched(&self) -> bool {
        self.once && !self.plan && self.log_format == LogFormat::Text && std::io::stderr().is_terminal()
    }
}

impl Args {
    pub(crate) fn node(&self) -> Result<NodeName> {
        let consul = std::env::var_os("CONSUL_HTTP_ADDR").is_some_and(|addr| !addr.is_empty());
        node_or_default(self.node.as_ref(), self.store.is_none() && !consul)
    }

    /// The store in the words of whoever named it.
    pub(crate) fn store_name(&self) -> String {
        let by_default = || std::env::var("CONSUL_HTTP_ADDR").unwrap_or_else(|_| "file:test_data/intent".to_owned());
        self.store.clone().unwrap_or_else(by_default)
    }
}

/// The node that was named; else `localhost` in a developer's `checkout`, and the host name anywhere else.
pub fn node_or_default(named: Option<&NodeName>, checkout: bool) -> Result<NodeName> {
    if let Some(node) = named {
        return Ok(node.clone());
    }
    if checkout {
        return "localhost".parse().context("naming a developer's host");
    }
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().context("the host name is not UTF-8; give --node")?;
    name.parse().context("the host name cannot be a node's name; give --node")
}

/// For command lines: a number of seconds, more than none and no more than a day.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    let whole_day = 86_400.0;
    if seconds > 0.0 && seconds <= whole_day {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("more than 0 and at most {whole_day} seconds"))
    }
}
