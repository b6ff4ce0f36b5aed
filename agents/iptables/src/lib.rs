//! Makes the packet filter accept exactly the ports in intent.
//!
//! Ensures: only our own chain `PLATYPUS` and the one jump to it are ever changed, a family at once or not at all; when in
//! doubt (a store that is down or empty, a document that is malformed) what is open stays open; killed at any
//! instruction, the next pass goes on. Assumes nothing of what else is in the filter.
//!
//! What to do is in `decide` (the chain) and `authority` (files for another program); `rule` and `table` are what stands in
//! a save, `kernel` and `rules_file` are where one comes from and where a rule set goes.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod agent;
mod authority;
mod cli;
mod command;
mod decide;
mod end;
mod filter;
mod kernel;
mod rule;
mod rules_file;
mod said;
mod table;

pub use agent::PacketFilter;
pub use cli::Cli;
pub use end::Kept;
pub use filter::Filter;
pub use kernel::Variant;
