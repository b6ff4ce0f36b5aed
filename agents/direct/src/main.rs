//! The `pt-direct` command.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod cli;
mod direct;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use converge::Source;
use preparer::{Keep, Preparer};
use store::{Directory, NodeName, Store};

use cli::Cli;
use direct::Direct;

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
