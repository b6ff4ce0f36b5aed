//! Makes `<basedir>/installs/<app>_<version>/` exist for every version in intent, out of
//! `<repo>/<app>/<app>_<version>.tar.gz`.
//!
//! Ensures: an install is there whole or not at all, however a pass ends; what is there is never touched; what an
//! artifact holds ends up in its install or nowhere. Assumes that `basedir` is the app's alone (intent is checked for
//! that), and that only agents of this kind write in `<basedir>/installs`, which they do under one lock.
//!
//! What to do is in `decide`; `attempt` does it, with `fetch` at one end and `install` at the other; `unpack` is what
//! stands between an artifact and the host.

mod agent;
mod attempt;
mod decide;
mod fetch;
#[cfg(test)]
mod hostile;
mod install;
mod remove;
mod unpack;

pub use agent::Preparer;
pub use store::repository::Repo;
pub use unpack::{Unpacked, unpack};
