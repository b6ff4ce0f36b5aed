//! The `pp-iptables` command.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::process::ExitCode;

use iptables::{Cli, PacketFilter};

fn main() -> ExitCode {
    let Cli { common, mut filter, adopt } = converge::parse();
    filter.adopt = adopt;
    converge::main(&common, |host| PacketFilter::new(&filter, host))
}
