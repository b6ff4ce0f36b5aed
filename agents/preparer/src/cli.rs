//! What can be said to `pp-preparer`.

use clap::Parser;

use crate::{Keep, Sources};

/// Fetches and unpacks every version that intent names for this host.
///
/// For each app under nodes/<node>/ and each of its versions, "prep" and "active" alike, the active one first, it makes
/// the directory <basedir>/installs/<app>_<version>/ out of the artifact <repo>/<app>/<app>_<version>.tar.gz. The
/// directory appears whole or not at all, and is not touched as long as intent names it. What intent names no more is
/// removed some ten minutes later, but for the --keep that it named last and whatever a link in the basedir leads to.
/// Nothing is started: that is pp-setlive's. Without --once it stays, follows changes of intent as they come, and retries what failed.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLE}\n\n{}", converge::EXIT_STATUS))]
pub struct Cli {
    #[command(flatten)]
    pub keep: Keep,

    #[command(flatten)]
    pub common: converge::Args,

    #[command(flatten)]
    pub sources: Sources,
}

const EXAMPLE: &str = "\
Example, version 0.2 of the app slug on this host:
  pp-store put nodes/$(hostname)/slug '{\"cluster\": \"dev\"}'
  pp-store put clusters/slug/dev/deploy_config '{\"basedir\": \"/srv/slug\"}'
  pp-store put clusters/slug/dev/config '{\"versions\": {\"0.2\": \"prep\"}}'
  pp-preparer --repo http://artifacts.example.com/ --once
fetches http://artifacts.example.com/slug/slug_0.2.tar.gz and makes /srv/slug/installs/slug_0.2/ of it.";
