//! Writes what people are told of `pp-store`, as below a prefix's share/: a manual page for each of its commands, and what has
//! their shells complete them. For kickstart/pack; in no program, which it would make larger by a fiftieth.

#[expect(dead_code, reason = "only what can be said is asked for")]
mod cli;

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate};

fn main() -> Result<()> {
    let share = PathBuf::from(env::args_os().nth(1).context("give a directory")?);
    let command = cli::Args::command();
    for (shell, dir, file) in [
        (Shell::Bash, "bash-completion/completions", "pp-store"),
        (Shell::Zsh, "zsh/site-functions", "_pp-store"),
        (Shell::Fish, "fish/vendor_completions.d", "pp-store.fish"),
    ] {
        let (dir, mut script) = (share.join(dir), Vec::new());
        generate(shell, &mut command.clone(), "pp-store", &mut script);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(file), script)?;
    }
    let pages = share.join("man/man1");
    fs::create_dir_all(&pages)?;
    Ok(clap_mangen::generate_to(command, pages)?)
}
