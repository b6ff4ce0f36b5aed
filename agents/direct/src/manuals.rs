//! Writes the manual pages of the agents and of `pt-direct`, as below a prefix's share/: for kickstart/pack.

mod cli;

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};
use clap::CommandFactory;

fn main() -> Result<()> {
    let pages = PathBuf::from(env::args_os().nth(1).context("give a directory")?).join("man/man1");
    fs::create_dir_all(&pages)?;
    let commands = [cli::Cli::command(), iptables::Cli::command(), preparer::Cli::command(), setlive::Cli::command()];
    commands.into_iter().try_for_each(|command| Ok(clap_mangen::generate_to(command, &pages)?))
}
