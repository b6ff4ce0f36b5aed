//! `pp-store log`: what `pp-store` has changed of a cluster, and what became of it.
//!
//! Ensures: that a change was made is said only where the documents show it; what something else has written is shown as
//! that; what cannot be read is named, and the rest is shown.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use store::history::{
    Entry, Now, Numbered, State, clusters, digest, entry_key, history_prefix, is_from_outside, judge, number,
};
use store::schema::{Config, IntentKey, Parse};
use store::{AppName, ClusterName, Document, Documents, Key, Prefix, Revision, Store};

use super::change::{Action, Change, Sides};
use super::{Outcome, note, print_json, print_lines, print_to_whoever_listens};

/// What to show.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Options {
    /// How many of the newest entries to show
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Show what each one changed, as diff -u does
    #[arg(long)]
    diff: bool,
}

pub(super) async fn run(
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    options: Options,
    in_json: bool,
) -> Result<Outcome> {
    let history = History::read(store, app, cluster).await?;
    let there = documents(store, app, cluster, &history).await?;
    if history.entries.is_empty() && history.broken.is_empty() {
        note(&format!("nothing is recorded of {app} {cluster}: pp-store has changed nothing of it, or long ago"));
        if in_json {
            print_json(&json!([]))?;
        }
        return Ok(Outcome::Absent);
    }
    let rows = rows(&history.entries, &there, options.n.unwrap_or(usize::MAX));
    if in_json {
        let broken = history.broken.iter().map(|(key, error)| json!({"key": key, "error": error}));
        let rows = rows.iter().map(|row| row.json(&history.entries, options.diff));
        print_json(&rows.chain(broken).collect::<Value>())?;
    } else {
        for row in &rows {
            print_lines([row.line()])?;
            if options.diff {
                print_to_whoever_listens(&row.diff(&history.entries))?;
            }
        }
        history.broken.iter().for_each(|(key, error)| note(&format!("{key}: {error}")));
    }
    ensure!(history.broken.is_empty(), "{} of these cannot be read", history.broken.len());
    Ok(Outcome::Done)
}

/// A cluster's entries, in the order of their numbers.
pub(super) struct History {
    pub(super) entries: Vec<Numbered>,
    /// What is no entry, or cannot be read, with the reason.
    pub(super) broken: Vec<(String, String)>,
}

impl History {
    pub(super) async fn read(store: &Store, app: &AppName, cluster: &ClusterName) -> Result<Self> {
        let (documents, _) = store.read(&[history_prefix(app, cluster)]).await?;
        if documents.is_empty() {
            // To a token without rights the listing looks like this, too: then the key itself is refused.
            store.get(&entry_key(app, cluster, 1)).await?;
        }
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for (key, document) in documents {
            let entry = document.and_then(|document| Entry::parse(&document));
            match (number(&key), entry) {
                // Who may write one cluster's history has nothing to tell of another's documents.
                (_, Ok(entry)) if !is_of(&entry.key, app, cluster) => {
                    broken.push((key, format!("it says that it is of {}, which is not of this cluster", entry.key)));
                }
                (Some(number), Ok(entry)) => entries.push(Numbered { number, entry }),
                (None, Ok(_)) => broken.push((key, "its name is no number".to_owned())),
                (_, Err(reason)) => broken.push((key, reason)),
            }
        }
        entries.sort_by_key(|it| it.number);
        Ok(Self { entries, broken })
    }
}

/// Whether the document under `key` is, or may have been, of this cluster.
fn is_of(key: &str, app: &AppName, cluster: &ClusterName) -> bool {
    match IntentKey::parse(key) {
        Ok(IntentKey::Config(named, of) | IntentKey::DeployConfig(named, of)) => named == *app && of == *cluster,
        Ok(IntentKey::Node(_, named)) => named == *app,
        Err(_) => false,
    }
}

/// The documents that are of this cluster, or that entries are about, by key: `None` where nothing is, and an error where
/// that cannot be known.
type There = BTreeMap<String, Result<Option<Document>, String>>;

async fn documents(store: &Store, app: &AppName, cluster: &ClusterName, history: &History) -> Result<There> {
    let own = [IntentKey::Config(app.clone(), cluster.clone()), IntentKey::DeployConfig(app.clone(), cluster.clone())];
    let mut keys = own.iter().map(|key| key.key().to_string()).collect::<BTreeSet<_>>();
    keys.extend(history.entries.iter().map(|it| it.entry.key.clone()));
    let (nodes, _) = store.read(&[Prefix::parse("nodes")?]).await?;
    let mut there = pointing(&nodes, app, cluster);
    // A listing leaves out what a token may not read, and a read of the one key does not.
    for key in keys.iter().filter(|key| !there.contains_key(*key)).collect::<Vec<_>>() {
        let Ok(parsed) = Key::parse(key) else { continue };
        let found = store.get(&parsed).await.map_err(|error| format!("{error:#}"));
        let left = history.entries.iter().rev().find(|it| it.entry.key == *key);
        let left = left.filter(|it| is_of_another(&parsed, it.entry.document.as_deref(), cluster));
        let found = match (found, left) {
            // What became of it since is in that cluster's history.
            (Ok(found), Some(left)) if is_of_another(&parsed, found.as_ref().map(|it| &it.bytes[..]), cluster) => {
                let document = |bytes: &Vec<u8>| Document { bytes: bytes.clone(), revision: Revision(String::new()) };
                Ok(left.entry.document.as_ref().map(document))
            }
            (found, _) => found,
        };
        there.insert(key.clone(), found);
    }
    Ok(there)
}

/// Whether it is a node's document, which this cluster has nothing to do with: the node has left it.
fn is_of_another(key: &Key, document: Option<&[u8]>, cluster: &ClusterName) -> bool {
    let is_node = matches!(IntentKey::parse(key.as_str()), Ok(IntentKey::Node(..)));
    is_node && clusters(key, None, document).iter().all(|(_, named)| named != cluster)
}

/// The documents of nodes that name this cluster.
fn pointing(nodes: &Documents, app: &AppName, cluster: &ClusterName) -> There {
    let ours = nodes.iter().filter_map(|(key, document)| {
        let (parsed, document) = (Key::parse(key).ok()?, document.as_ref().ok()?);
        let named = clusters(&parsed, None, Some(&document.bytes));
        named.contains(&(app.clone(), cluster.clone())).then(|| (key.clone(), Ok(Some(document.clone()))))
    });
    ours.collect()
}

fn now(there: &There) -> impl Fn(&str) -> Now {
    |key| match there.get(key) {
        Some(Ok(document)) => Now::Is(document.as_ref().map(|document| digest(&document.bytes))),
        Some(Err(_)) | None => Now::Unknown,
    }
}

/// One thing to say.
enum Row<'a> {
    Entry(&'a Numbered, State),
    /// A document that no entry has, although there are some of its key.
    Outside(&'a str, Option<&'a Document>),
    /// A document of which there is no entry.
    Unrecorded(&'a str),
}

/// The newest first.
fn rows<'a>(entries: &'a [Numbered], there: &'a There, most: usize) -> Vec<Row<'a>> {
    let is_recorded = |key: &str| entries.iter().any(|it| it.entry.key == key);
    let mut rows = Vec::new();
    for (key, document) in there.iter().filter_map(|(key, found)| Some((key, found.as_ref().ok()?.as_ref()))) {
        let now = document.map(|document| digest(&document.bytes));
        match document {
            _ if is_recorded(key) && is_from_outside(entries, key, &now) => rows.push(Row::Outside(key, document)),
            Some(_) if !is_recorded(key) => rows.push(Row::Unrecorded(key)),
            Some(_) | None => {}
        }
    }
    let states = judge(entries, now(there));
    rows.extend(entries.iter().zip(states).rev().take(most).map(|(entry, state)| Row::Entry(entry, state)));
    rows
}

impl Row<'_> {
    fn line(&self) -> String {
        match self {
            Self::Entry(Numbered { number, entry }, state) => {
                let Entry { key, who, at, message, .. } = entry;
                let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
                format!("{number}  {at}  {who}  {key}: {}{}{message}", what(entry), in_brackets(*state))
            }
            Self::Outside(key, document) => {
                let becomes = document.map_or("removed".to_owned(), |document| says(key, &document.bytes));
                format!("-  {key}: changed outside, not by pp-store: {becomes}")
            }
            Self::Unrecorded(key) => {
                format!("-  {key}: not in this history: written before it begins, or not by pp-store")
            }
        }
    }

    fn json(&self, entries: &[Numbered], with_diff: bool) -> Value {
        let mut value = match self {
            Self::Entry(Numbered { number, entry }, state) => {
                let Entry { key, who, at, message, was, is, document } = entry;
                let document = document.as_deref().map(content);
                json!({"number": number, "key": key, "who": who, "at": at, "message": message, "was": was, "is": is,
                    "document": document, "state": name(*state)})
            }
            Self::Outside(key, document) => {
                let document = document.map(|document| content(&document.bytes));
                json!({"key": key, "document": document, "state": "changed outside"})
            }
            Self::Unrecorded(key) => json!({"key": key, "state": "not recorded"}),
        };
        if with_diff && !matches!(self, Self::Unrecorded(_)) {
            value["diff"] = self.diff(entries).into();
        }
        value
    }

    /// From what was there before to what it is.
    fn diff(&self, entries: &[Numbered]) -> String {
        let of = |key: &str| entries.iter().rev().filter(move |it| it.entry.key == key).collect::<Vec<_>>();
        let document = |bytes: &[u8]| Document { bytes: bytes.to_vec(), revision: Revision(String::new()) };
        let (key, from, to, to_name) = match self {
            Self::Unrecorded(_) => return String::new(),
            Self::Outside(key, found) => {
                let last = of(key).into_iter().find(|it| it.entry.document.is_some());
                (*key, last, found.map(|found| found.bytes.clone()), "now".to_owned())
            }
            Self::Entry(Numbered { number, entry }, _) => {
                let is_before = |it: &&Numbered| it.number < *number && it.entry.is == entry.was;
                let before = of(&entry.key).into_iter().find(is_before);
                let is_kept = |it: &Numbered| it.entry.is.is_none() || it.entry.document.is_some();
                if entry.is.is_some() && entry.document.is_none() {
                    return format!("({} is too large to be kept here)\n", entry.key);
                }
                if entry.was.is_some() && !before.is_some_and(is_kept) {
                    return format!("(what it replaced is not in this history)\n{}\n", text(entry.document.as_deref()));
                }
                (entry.key.as_str(), before, entry.document.clone(), number.to_string())
            }
        };
        let Ok(key) = Key::parse(key) else { return String::new() };
        let from_name = from.map(|it| it.number.to_string()).unwrap_or_default();
        let action = match (from.and_then(|it| it.entry.document.as_deref()), to) {
            (None, None) => return String::new(),
            (None, Some(to)) => Action::Create { to },
            (Some(from), Some(to)) => Action::Replace { from: document(from), to },
            (Some(from), None) => Action::Remove { from: document(from) },
        };
        let sides = Sides { from: &|key| format!("{from_name}: {key}"), to: &|key| format!("{to_name}: {key}") };
        Change { key, action }.diff(&sides)
    }
}

/// What an entry's document says that people look for.
pub(super) fn what(entry: &Entry) -> String {
    match (&entry.document, &entry.is) {
        (Some(bytes), _) => says(&entry.key, bytes),
        (None, Some(_)) => "a document too large to be kept here".to_owned(),
        (None, None) => "removed".to_owned(),
    }
}

fn says(key: &str, bytes: &[u8]) -> String {
    let field = |name: &str| serde_json::from_slice::<Value>(bytes).ok()?.get(name).cloned();
    let text = |name: &str| field(name)?.as_str().map(|text| format!("{name} {text}"));
    let set = |name: &str| (field(name)? == json!(true)).then(|| format!(", {name}"));
    let said = match IntentKey::parse(key) {
        Ok(IntentKey::Config(..)) => Config::parse(bytes).ok().and_then(|config| {
            let active =
                config.active().ok()?.map_or("no version active".to_owned(), |active| format!("{active} active"));
            Some(config.restart.map_or(active.clone(), |restart| format!("{active}, restart {restart}")))
        }),
        Ok(IntentKey::DeployConfig(..)) => text("basedir"),
        Ok(IntentKey::Node(..)) => {
            let flags = ["hold", "drain"].into_iter().filter_map(set).collect::<String>();
            text("cluster").map(|cluster| cluster + &flags)
        }
        Err(_) => None,
    };
    said.unwrap_or_else(|| "what agents refuse".to_owned())
}

fn name(state: State) -> &'static str {
    match state {
        State::Current => "current",
        State::Applied => "applied",
        State::NotApplied => "not applied",
        State::ChangedOutside => "changed outside since",
        State::Unknown => "unknown",
    }
}

fn in_brackets(state: State) -> String {
    match state {
        State::Applied => String::new(),
        State::Current | State::NotApplied | State::ChangedOutside => format!(" ({})", name(state)),
        State::Unknown => " (the document cannot be read)".to_owned(),
    }
}

/// A document as `--json` shows it: JSON where it is an object, else text.
fn content(bytes: &[u8]) -> Value {
    let object = serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object);
    object.unwrap_or_else(|| String::from_utf8_lossy(bytes).into())
}

fn text(bytes: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    text.lines().map(super::legible).collect::<Vec<_>>().join("\n")
}
