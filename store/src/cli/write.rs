//! The one way by which `pp-store` changes intent: what is not recorded in the history is not written.
//!
//! Ensures: the entry of a change is in the store before the change; a document is changed only if it is still what the
//! entry says that it was; what is known not to have been made is taken out of the history again. After a `kill -9`
//! between the two `pp-store log` shows the entry as not applied.

use std::env;

use anyhow::{Context, Result};
use store::history::{Entry, Recorder, UNREADABLE, clusters, digest, history_prefix};
use store::{Document, Expected, Key, Refused, Store};
use time::OffsetDateTime;

use super::age::stamp;
use super::change::{Action, Change};
use super::note;

/// How often a change is made anew to what somebody else has just written.
pub(super) const TRIES: usize = 8;

/// For the commands that write.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Message {
    /// Why, for whoever reads `pp-store log`
    #[arg(short, long, value_name = "TEXT", value_parser = message)]
    pub(super) message: Option<String>,
}

impl Message {
    /// Where nothing is said.
    pub(super) fn or(&self, message: &str) -> Self {
        Self { message: self.message.clone().or_else(|| Some(message.to_owned())) }
    }
}

fn message(text: &str) -> Result<String, String> {
    const MOST: usize = 1000;
    let length = text.chars().count();
    if length > MOST { Err(format!("{length} characters, and {MOST} are the most")) } else { Ok(text.to_owned()) }
}

/// Makes one command's changes.
pub(super) struct Writer<'a> {
    store: &'a Store,
    recorder: Recorder,
    message: Option<String>,
    who: String,
}

impl<'a> Writer<'a> {
    pub(super) fn new(store: &'a Store, message: &Message) -> Self {
        let message = message.message.clone().filter(|message| !message.is_empty());
        Self { store, recorder: Recorder::new(store.clone()), message, who: who() }
    }

    /// Makes a change if the document is still what it replaces; false, and nothing changed, if it is not.
    pub(super) async fn make(&mut self, change: &Change) -> Result<bool> {
        let (was, is) = match &change.action {
            Action::Create { to } => (None, Some(to)),
            Action::Replace { from, to } => (Some(&from.bytes), Some(to)),
            Action::Remove { from } => (Some(&from.bytes), None),
        };
        let (was, is) = (was.map(Vec::as_slice), is.map(Vec::as_slice));
        let entries = self.record(&change.key, was, was.map(digest), is).await?;
        let key = &change.key;
        let made = match &change.action {
            Action::Create { to } => self.store.compare_and_set(key, to, &Expected::Absent).await,
            Action::Replace { from, to } => {
                self.store.compare_and_set(key, to, &Expected::At(from.revision.clone())).await
            }
            Action::Remove { from } => self.store.compare_and_delete(key, &from.revision).await,
        };
        self.conclude(entries, key, was, is, &made).await;
        made
    }

    /// Writes or removes a document of which nothing can be read: in a directory, a link that leads nowhere.
    pub(super) async fn overwrite(&mut self, key: &Key, to: Option<&[u8]>) -> Result<()> {
        let entries = self.record(key, None, Some(UNREADABLE.to_owned()), to).await?;
        let made = match to {
            Some(to) => self.store.put(key, to).await,
            None => self.store.delete(key).await,
        };
        let made = made.map(|()| true);
        self.conclude(entries, key, None, to, &made).await;
        made.map(drop)
    }

    /// Changes a document into what `next` makes of it, and again while somebody else is faster: each time of what is
    /// there then. Writes nothing where that is the same, or `None`. What comes back is what `next` said with it, or
    /// `None` if others were faster each time.
    pub(super) async fn change<T>(
        &mut self,
        key: &Key,
        mut next: impl AsyncFnMut(Option<&Document>) -> Result<(Option<Vec<u8>>, T)>,
    ) -> Result<Option<T>> {
        for _ in 0..TRIES {
            let found = self.store.get(key).await?;
            let (to, said) = next(found.as_ref()).await?;
            let action = match (found, to) {
                (_, None) => return Ok(Some(said)),
                (Some(from), Some(to)) if from.bytes == to => return Ok(Some(said)),
                (Some(from), Some(to)) => Action::Replace { from, to },
                (None, Some(to)) => Action::Create { to },
            };
            if self.make(&Change { key: key.clone(), action }).await? {
                return Ok(Some(said));
            }
        }
        Ok(None)
    }

    /// Writes an entry into each history that the change belongs to.
    async fn record(
        &mut self,
        key: &Key,
        was: Option<&[u8]>,
        before: Option<String>,
        is: Option<&[u8]>,
    ) -> Result<Vec<Key>> {
        let entry = Entry {
            key: key.to_string(),
            who: self.who.clone(),
            at: stamp(OffsetDateTime::now_utc()),
            message: self.message.clone(),
            was: before,
            is: is.map(digest),
            document: is.map(Vec::from),
        };
        let mut entries = Vec::new();
        for (app, cluster) in clusters(key, was, is) {
            match self.recorder.record(&app, &cluster, &entry).await {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    self.take_back(entries).await;
                    let mut why = format!("{key} was left as it is, since a change is recorded before it is made");
                    if error.is::<Refused>() {
                        let prefix = history_prefix(&app, &cluster);
                        why += &format!(", which takes key_prefix \"{prefix}\" {{ policy = \"write\" }}");
                    }
                    return Err(error).context(why);
                }
            }
        }
        Ok(entries)
    }

    /// After the change, or what was to be one. Where it is not known whether it was made, the entry stays.
    async fn conclude(
        &mut self,
        entries: Vec<Key>,
        key: &Key,
        was: Option<&[u8]>,
        is: Option<&[u8]>,
        made: &Result<bool>,
    ) {
        match made {
            Ok(true) => {
                for (app, cluster) in clusters(key, was, is) {
                    if let Err(error) = self.recorder.tidy(&app, &cluster).await {
                        note(&format!("{key} was written, but its history is not tidied up: {error:#}"));
                    }
                }
            }
            Ok(false) => self.take_back(entries).await,
            Err(error) if error.is::<Refused>() => self.take_back(entries).await,
            Err(_) => {}
        }
    }

    async fn take_back(&mut self, entries: Vec<Key>) {
        for entry in entries {
            if let Err(error) = self.recorder.take_back(&entry).await {
                note(&format!("{entry} stays, and pp-store log shows it as not applied: {error:#}"));
            }
        }
    }
}

/// Who runs this, as the environment says: for people, not for access control.
fn who() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().filter_map(|name| env::var(name).ok());
    let user = named.filter(|user| !user.is_empty()).map(|user| user.chars().take(100).collect::<String>()).next();
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn no_command_writes_a_document_past_its_history() {
        let writing = [".put(", ".compare_and_set(", ".compare_and_delete(", ".delete("];
        let writers = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")).into_iter().filter(|file| {
            let text = fs::read_to_string(file).unwrap();
            writing.iter().any(|call| text.contains(call))
        });
        let writers = writers.map(|file| file.file_name().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(writers, ["write.rs"]);
    }
}
