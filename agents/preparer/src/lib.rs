//! Makes `<basedir>/installs/<app>_<version>/` exist for every version in intent, out of
//! `<repo>/<app>/<app>_<version>.tar.gz`.
//!
//! Ensures: an install is there whole or not at all, however a pass ends; what is there is never touched, and removed only
//! when neither intent nor a link in the basedir names it any more; what an artifact holds ends up in its install or
//! nowhere; what is not the artifact that intent means, or is not signed as it should be, becomes no install. Assumes that
//! `basedir` is the app's alone (intent is checked for that), and that only agents of this kind write in
//! `<basedir>/installs`, which they do under one lock.
//!
//! What to do is in `decide`; `attempt` does it, a version at a time in `prepare`, with `fetch` at one end and `install` at
//! the other. `unpack` is what stands between an artifact and the host, and `verify` what tells whether it is the right one.
//! `prune` removes what intent names no more.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod agent;
mod attempt;
mod cli;
mod decide;
mod fetch;
#[cfg(test)]
mod hostile;
mod install;
mod prepare;
mod progress;
mod prune;
mod remove;
mod sources;
mod space;
mod unpack;
mod verify;

pub use agent::Preparer;
pub use cli::Cli;
pub use prune::Keep;
pub use sources::Sources;
pub use unpack::{Allowed, Unpacked, unpack};
