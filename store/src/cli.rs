//! The command line of `pp-store`: what can be said, and how answers are given.

mod age;
mod change;
mod check;
mod cluster;
mod edit;
mod examples;
mod export;
mod finding;
mod flag;
mod fleet;
mod get;
mod import;
mod intent;
mod leases;
mod log;
mod ls;
mod plan;
mod prepared;
mod put;
mod release;
mod restart;
mod retry;
mod rm;
mod roll;
mod rollback;
mod set;
mod status;
mod why;
mod write;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::Value;
use store::repository::{Access, Repo};
use store::schema::IntentKey;
use store::{AppName, ClusterName, Directory, Expected, Key, NodeName, Prefix, Revision, Store, Version};

use change::{Change, Sides};
use examples::EXAMPLES;
use flag::Flag;
use fleet::Which;
use write::Message;

/// List, read, write and remove what hosts shall run
///
/// Documents are JSON under keys such as nodes/web1/slug (this host runs slug, in that cluster),
/// clusters/slug/dev/config (its versions) and clusters/slug/dev/deploy_config (where on a host, and as whom).
/// Agents on the hosts make it so. Where they wait for each other, `leases` says why.
#[derive(Debug, Parser)]
#[command(name = "pp-store", version, after_long_help = EXAMPLES, after_help = "See --help for examples and exit statuses.")]
pub(crate) struct Args {
    /// consul://host:8500, consul+https://host:8501 or file:path; without it, Consul if CONSUL_HTTP_ADDR is set, else
    /// file:test_data/intent
    #[arg(long, global = true, value_name = "URL", value_parser = store::store_url)]
    store: Option<String>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List keys, all of them or those under a prefix
    ///
    /// Those under history/ only where the prefix begins so: there is one for each change.
    Ls {
        /// Such as nodes/web1 or clusters/slug
        #[arg(default_value = "", hide_default_value = true, value_parser = Prefix::parse)]
        prefix: Prefix,
    },
    /// Print a document
    Get {
        /// Such as nodes/web1/slug
        #[arg(value_parser = Key::parse)]
        key: Key,
    },
    /// Write a document, if it is one that agents understand
    Put {
        /// nodes/<node>/<app>, clusters/<app>/<cluster>/config or clusters/<app>/<cluster>/deploy_config
        #[arg(value_parser = IntentKey::parse)]
        key: IntentKey,
        /// The document; @FILE reads it from a file, - from standard input
        #[arg(value_name = "JSON")]
        document: String,
        /// Write only if the document is still at this revision, as get --json tells it; "absent": if there is none
        #[arg(long, value_name = "TOKEN", value_parser = expected)]
        cas: Option<Expected>,
        #[command(flatten)]
        message: Message,
    },
    /// Remove documents, those of nodes first
    ///
    /// A cluster's config and deploy_config are not removed while a node is to run the app in that cluster: a host stops
    /// an app only if the store says that nodes/<node>/<app> is absent while the cluster's config is still there. So
    /// remove the nodes' documents first, and the cluster's once the hosts have stopped the app.
    Rm {
        /// Such as nodes/web1/slug
        #[arg(required = true, value_name = "KEY", value_parser = Key::parse)]
        keys: Vec<Key>,
        /// Remove a cluster's documents also while nodes need them; those nodes keep what they run as it is
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        message: Message,
    },
    /// Say of versions which are to be there, and which one runs
    ///
    /// VERSION=prep has hosts fetch and unpack it, VERSION=active has them run it, VERSION=rm takes it out. What was active
    /// becomes prep in the same write, so that hosts can come back to it. Of clusters/<app>/<cluster>/config nothing else
    /// changes, not even its layout.
    ///
    /// Refused without --force: to activate what no node is known to have (what its pp-preparer reports counts, under
    /// reality/<node>/pp-preparer); to take out the active version; to leave no version active, by which all hosts stop the
    /// app at once, whatever min_nodes says.
    Set {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        /// Such as 0.2=active
        #[arg(required = true, value_name = "VERSION=active|prep|rm")]
        versions: Vec<set::Assignment>,
        /// Do it all the same
        #[arg(long)]
        force: bool,
        /// Then follow the roll of the version that is active now until it passes on every node, or has failed: exit status
        /// 1. Whoever ends this ends nothing else
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        message: Message,
    },
    /// Put a cluster's config back as it was: its version, its user_config and all
    ///
    /// Without N that is the newest config of the history that was in force and differs from the one that is there: twice
    /// in a row is there and back. With N it is the document of that entry of `pp-store log`, whatever became of it then.
    /// The deploy_config stays as it is. Hosts go on with what they run until they have the version.
    Rollback {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        /// The number of an entry
        #[arg(value_name = "N")]
        number: Option<u64>,
        /// Also where no version was active then, and all hosts stop what they run
        #[arg(long)]
        force: bool,
        /// Then follow the roll, as set does
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        message: Message,
    },
    /// Have a cluster's instances started anew, one after the other
    ///
    /// Writes the time as "restart" into clusters/<app>/<cluster>/config, and changes nothing else in it. To hosts that is a
    /// new definition: they go over to it as to a new version, one first, then as min_nodes lets them, and back to the one
    /// before where it is not healthy in time.
    Restart {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        /// Then follow the roll, as set does
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        message: Message,
    },
    /// Have agents leave an app on one node as it is, while somebody works on it by hand
    ///
    /// Writes "hold": true into nodes/<node>/<app>, and changes nothing else in it.
    Hold {
        /// Such as web1
        node: NodeName,
        /// Such as slug
        app: AppName,
        #[command(flatten)]
        message: Message,
    },
    /// Have agents see to an app on one node again
    Unhold {
        /// Such as web1
        node: NodeName,
        /// Such as slug
        app: AppName,
        #[command(flatten)]
        message: Message,
    },
    /// Take a host away without an error: stop all apps of a node, for a while
    ///
    /// Writes "drain": true into each nodes/<node>/<app>, and changes nothing else in it. Agents treat an app that is drained
    /// as one that leaves the node, for what they stop: they wait until min_nodes lets it go, send no more clients, stop it,
    /// and remove its services. Its intent, installs and data stay, and so do its rules of the packet filter; versions are
    /// fetched as before. An app that is held as well is left alone.
    ///
    /// `platypus` and `consul`, as kickstart/host calls the platform and its Consul client, stay as they are: it is by them that
    /// the host is brought back. No agent stops the app that it is of itself. See `pp-store leases` for who waits for whom.
    Drain {
        /// Such as web1
        node: NodeName,
        #[command(flatten)]
        message: Message,
    },
    /// Have the apps of a node run again: as a first start does
    Undrain {
        /// Such as web1
        node: NodeName,
        #[command(flatten)]
        message: Message,
    },
    /// Say what pp-store has changed of a cluster: who, when, why, and what became of it
    ///
    /// Each change of a cluster's config and deploy_config, and of the nodes/<node>/<app> that name the cluster, is an entry
    /// under history/<app>/<cluster>/, which pp-store writes before the change itself. The newest comes first: its number,
    /// when, who, the key, what the document says in short, and the message that was given with -m.
    ///
    /// In brackets: "current" is what is there now. "not applied" was recorded and not done: pp-store was killed between
    /// the two, or somebody else was faster. "changed outside since" is what something else has replaced: an editor, the
    /// consul command, another tool. What is there now and in no entry has a line of its own, without a number.
    ///
    /// The last 100 entries of the cluster's documents are kept, and the last 100 of its nodes', 4 MiB of them at the
    /// most. They hold what the documents held, user_config and all. Who made a change is as they said it themselves (by
    /// SUDO_USER, USER or LOGNAME): who may, Consul's access control says.
    Log {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        #[command(flatten)]
        options: log::Options,
    },
    /// Say what an import would do to which hosts
    ///
    /// DIR is laid out as for import, and nothing is written. A paragraph for each app in each cluster: which documents change,
    /// and how; then what each host does because of it, as far as the agents' reports tell, with hosts that do the same on one
    /// line: what it has to fetch, what it starts, replaces, restarts or stops, how many at a time min_nodes lets go down,
    /// which ports it opens and closes. "but" is what keeps a host from it: an operator's hold or drain, an agent that is dead or
    /// that nobody knows of, what fails there now. What `pp-store check` will find that it does not find now is said, too.
    ///
    /// The last line is a token, for `import --if-plan`: the import is made only if the same would be written over the same
    /// documents, and each host would do the same. It stays the same while nothing of that changes, whatever time passes.
    ///
    /// Exit status: 0 when nothing would change; 2 when something would; 1 when it would be invalid, and there is no token, or
    /// when not all that it takes could be read.
    Plan {
        /// Where to read
        dir: PathBuf,
        /// As of import: also remove the documents under nodes/ and clusters/ that DIR does not have
        #[arg(long)]
        prune: bool,
    },
    /// Make the store's intent what a directory holds
    ///
    /// DIR holds each document as a file: nodes/web1/slug.json, clusters/slug/dev/config.json. Hidden files and those that
    /// do not end in .json are no documents. (A file with all of them, as pt-direct takes it, will do.) Nothing is written
    /// while one of them is not as it has to be. Then documents that differ are written, byte for byte: those of
    /// clusters, then those of nodes; and what `pp-store check` will find that it did not find before is said first. What
    /// has changed in the store since the comparison is not overwritten: import stops there, with exit status 3. It can
    /// be interrupted, and started again, at any time.
    ///
    /// With --if-plan it begins only if it would do what a plan has shown: see `pp-store plan --help`. From then on it goes by
    /// what that was made of: each document that it writes is still as it was then, or import stops there.
    ///
    /// Each change is printed once it is made. With --dry-run the exit status is 0, whether anything differs or not.
    Import {
        /// Where to read
        dir: PathBuf,
        #[command(flatten)]
        options: import::Options,
    },
    /// Make a directory hold the store's intent
    ///
    /// Every document under nodes/ and clusters/ becomes a file of its own, byte for byte: DIR/nodes/web1/slug.json. A file
    /// that is right is not touched, and other files are left alone. Nothing is written through a link. What cannot be
    /// exported is named, the rest is exported, and the exit status is 1.
    ///
    /// Each change is printed once it is made. With --dry-run the exit status is the same, and nothing is written.
    Export {
        /// Where to write; made if it is not there
        dir: PathBuf,
        #[command(flatten)]
        options: export::Options,
    },
    /// Say what is wrong with a store's documents, or with a directory's
    ///
    /// DIR is laid out as for import; nothing is changed anywhere.
    ///
    /// One line for each fault, under the key that has to be changed: the key, what is wrong, what to do, and which apps
    /// are held as they are because of it.
    ///
    /// Invalid is what agents refuse: wrong or missing documents, overlapping basedirs (under the inner one's key), and
    /// with --repo an active version that is not there. Suspicious is what works but was hardly meant: unknown fields and
    /// keys, a min_nodes that the cluster's size can never satisfy, a cluster that no node points at, a port that two apps
    /// of a node want (under the later key), "artifacts" of no version, and with --repo a missing "prep" version. Versions
    /// with a "url" of their own are not looked for.
    ///
    /// In a Consul only nodes/ and clusters/ are looked at; the rest may be somebody else's. Exit status: 0 when nothing
    /// is wrong; 1 when something is invalid, or not all could be read; 2 when something is suspicious, or there is no
    /// intent at all (and, as always, for wrong usage).
    Check {
        /// A directory to check instead of the store
        dir: Option<PathBuf>,
        /// Look for every version in this repository: file:path, http://host/path or https://host/path
        #[arg(long, value_name = "URL")]
        repo: Option<Repo>,
        #[command(flatten)]
        access: Access,
    },
    /// Show how far everything is, in one table
    ///
    /// A line for each app in each cluster: the version that is wanted, how many nodes are to run it, on how many of them
    /// it is prepared, live (it runs) and healthy (clients are sent there), how many seconds the slowest node has been on
    /// its way, and the one reason that the others wait for. What is prepared and live the agents report, under
    /// reality/; a host whose agents only ever ran with --once has reported nothing.
    Status {
        /// Such as slug; without it, all apps
        app: Option<AppName>,
        /// Only in this cluster
        #[arg(long, value_name = "NAME")]
        cluster: Option<ClusterName>,
        /// Only on this node
        #[arg(long, value_name = "NAME")]
        node: Option<NodeName>,
        /// Show it again and again, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Say why an app is not as intent has it, and what has to happen next
    ///
    /// The first line is the reason to look at first. Then each node, with what keeps it, since when, and the last lines that
    /// a failed version logged; and who is down on purpose, who waits for that, and what has failed: see `leases`.
    Why {
        /// Such as slug
        app: AppName,
        /// Such as web1; without it, all nodes
        node: Option<NodeName>,
    },
    /// Say who is down on purpose, who waits for it, and what has failed
    ///
    /// Before an agent takes down an instance that others may count on, it enters its node in its cluster's document,
    /// locks/<app>/<cluster>/shutdown; once the instance passes again, it takes it out. It waits while fewer than
    /// min_nodes other instances pass that are not in it, and while another node, whose host is alive, tries the same
    /// definition for the first time.
    ///
    /// One line says how many instances pass and how many of those min_nodes leaves to spare: so many may go down now. Then a line for each node that is down:
    /// for how long, to which definition (its version, if that is known, and the first digits of its digest), whether it
    /// passes, and whether its host is alive. Then what has failed, with the last lines that it logged: all nodes hold that
    /// definition until its version is no longer active, its check changes, or an operator lets it be tried again.
    ///
    /// What cannot be read or known is named, the rest is shown, and the exit status is 1.
    Leases {
        /// Such as slug; without it, all clusters in which somebody is down or something has failed
        #[arg(requires = "cluster")]
        app: Option<AppName>,
        /// Such as dev
        cluster: Option<ClusterName>,
    },
    /// Take a node that its agent left behind out of those that are down
    ///
    /// For a node whose host is alive while its agent is gone for good: others wait until it has tried a definition, or
    /// its instance passes and does not count. Look with `pp-store leases` first. An agent that works takes its entry out
    /// by itself, and one that hangs goes on where it was once it is restarted. A dead host's entry keeps nobody waiting.
    ///
    /// The risk: others may go down from then on. An agent that has begun a replacement goes on with it without asking
    /// again, also when it comes back after a day, and then fewer than min_nodes instances may pass for a while. While the
    /// instance passes, or that cannot be seen, and the host is not known to be dead, nothing is released without --force.
    Release {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        /// Such as web2
        node: NodeName,
        /// Release also a node whose instance passes, or may
        #[arg(long)]
        force: bool,
    },
    /// Let a definition that has failed be tried again
    ///
    /// For what failed because of something else: a full disk, a database that was away. One node tries it, as at first,
    /// and is out of service meanwhile; min_nodes holds as ever. If it fails again, it is held again.
    ///
    /// Only the active version is tried. Nothing needs to be done where the version, its configuration or its check has
    /// changed since: that is another definition.
    Retry {
        /// Such as slug
        app: AppName,
        /// Such as dev
        cluster: ClusterName,
        /// How its digest begins, as `pp-store leases` shows it, or its version; without it, all that have failed
        #[arg(value_name = "DIGEST")]
        which: Option<Version>,
    },
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// There is no such document.
    Absent,
    /// Somebody else was faster.
    Lost,
    /// Agents refuse something.
    Invalid,
    /// Something was hardly meant as it is.
    Suspicious,
    /// Something would change.
    ToDo,
}

pub(crate) async fn run(args: Args) -> Result<Outcome> {
    if let Command::Check { repo: None, access, .. } = &args.command
        && *access != Access::default()
    {
        let says = "--repo-token, --repo-login and --repo-ca are of use with --repo only";
        Args::command().error(ErrorKind::MissingRequiredArgument, says).exit();
    }
    if let Command::Check { dir: Some(dir), repo, access } = args.command {
        if args.store.is_some() {
            let says = "check either a DIR or the store that --store names";
            Args::command().error(ErrorKind::ArgumentConflict, says).exit();
        }
        return check::run(&Store::Directory(Directory::open(dir)), repo.as_ref().zip(Some(&access)), args.json).await;
    }
    let store = Store::open(args.store.as_deref())?;
    let outcome = run_in(&store, args.command, args.json).await;
    if args.store.is_none() && matches!(store, Store::Directory(_)) && !Path::new("test_data").exists() {
        return outcome
            .context("name a store, by --store or CONSUL_HTTP_ADDR; this is no checkout with one of its own");
    }
    outcome
}

async fn run_in(store: &Store, command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Ls { prefix } => ls::run(store, &prefix, json).await,
        Command::Get { key } => get::run(store, &key, json).await,
        Command::Put { key, document, cas, message } => {
            put::run(store, &key, &document, cas.as_ref(), &message, json).await
        }
        Command::Rm { keys, force, message } => rm::run(store, keys, force, &message, json).await,
        Command::Set { app, cluster, versions, force, wait, message } => {
            let written = set::run(store, (&app, &cluster), &versions, force, &message, json).await?;
            roll::follow_if(wait, store, (&app, &cluster), written).await
        }
        Command::Rollback { app, cluster, number, force, wait, message } => {
            let written = rollback::run(store, &app, &cluster, number, force, &message, json).await?;
            roll::follow_if(wait, store, (&app, &cluster), written).await
        }
        Command::Restart { app, cluster, wait, message } => {
            let written = restart::run(store, &app, &cluster, &message, json).await?;
            roll::follow_if(wait, store, (&app, &cluster), written).await
        }
        Command::Hold { node, app, message } => {
            flag::one(store, (&node, &app), (Flag::Hold, true), &message, json).await
        }
        Command::Unhold { node, app, message } => {
            flag::one(store, (&node, &app), (Flag::Hold, false), &message, json).await
        }
        Command::Drain { node, message } => flag::all(store, &node, (Flag::Drain, true), &message, json).await,
        Command::Undrain { node, message } => flag::all(store, &node, (Flag::Drain, false), &message, json).await,
        Command::Log { app, cluster, options } => log::run(store, &app, &cluster, options, json).await,
        Command::Plan { dir, prune } => plan::run(store, &dir, prune, json).await,
        Command::Import { dir, options } => import::run(store, &dir, options, json).await,
        Command::Export { dir, options } => export::run(store, &dir, options, json).await,
        Command::Check { dir: _, repo, access } => check::run(store, repo.as_ref().zip(Some(&access)), json).await,
        Command::Status { app, cluster, node, watch } => {
            status::run(store, &Which { app, cluster, node }, watch, json).await
        }
        Command::Why { app, node } => why::run(store, &Which { app: Some(app), cluster: None, node }, json).await,
        Command::Leases { app, cluster } => leases::run(store, app.zip(cluster), json).await,
        Command::Release { app, cluster, node, force } => release::run(store, &app, &cluster, &node, force, json).await,
        Command::Retry { app, cluster, which } => {
            retry::run(store, &app, &cluster, which.as_ref().map(Version::as_str), json).await
        }
    }
}

fn expected(token: &str) -> Result<Expected, &'static str> {
    match token {
        "" => Err("no revision; `get --json` tells a document's, and \"absent\" is for none"),
        "absent" => Ok(Expected::Absent),
        revision => Ok(Expected::At(Revision(revision.to_owned()))),
    }
}

/// Writes the answer. A closed pipe is an error, which `main` knows.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes lines of the answer of a command that shall end as it would without a reader: a closed pipe is no error.
fn print_lines(lines: impl IntoIterator<Item = String>) -> Result<()> {
    let text = lines.into_iter().map(|line| legible(&line) + "\n").collect::<String>();
    print_to_whoever_listens(&text)
}

/// Shows what would change.
fn print_diffs(changes: &[Change], sides: &Sides) -> Result<()> {
    print_to_whoever_listens(&changes.iter().map(|change| change.diff(sides)).collect::<String>())
}

fn print_to_whoever_listens(text: &str) -> Result<()> {
    match print(text.as_bytes()) {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        printed => printed,
    }
}

pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A line in which nothing moves a terminal's cursor: keys and documents may be anybody's.
pub(crate) fn legible(line: &str) -> String {
    let legible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    line.chars().map(legible).collect()
}

fn print_json(value: &Value) -> Result<()> {
    print(format!("{value}\n").as_bytes())
}

/// `1 change`, `2 changes`.
fn number_of_changes(count: usize) -> String {
    format!("{count} change{}", if count == 1 { "" } else { "s" })
}

/// Writes something that is worth knowing and does not belong to the answer.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "pp-store: {}", legible(text));
}
