//! `pp-store rollback`: a cluster's config as it was, version and all.
//!
//! Ensures: what comes back is what was recorded, byte for byte; without a number it is one that was in force.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use store::history::{Now, Numbered, State, digest, judge};
use store::schema::{Config, IntentKey, Parse};
use store::{AppName, ClusterName, Key, Store};

use super::change::{Action, Change};
use super::log::{History, what};
use super::roll::Written;
use super::write::{Message, TRIES, Writer};
use super::{Outcome, note, print_json, print_lines};

pub(super) async fn run(
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    number: Option<u64>,
    force: bool,
    message: &Message,
    in_json: bool,
) -> Result<Written> {
    let intent = IntentKey::Config(app.clone(), cluster.clone());
    let key = intent.key();
    for _ in 0..TRIES {
        // In this order: an entry is older than its document, so that the history has that of whatever is found.
        let found = store.get(&key).await?;
        let history = History::read(store, app, cluster).await?;
        let now = found.as_ref().map(|found| digest(&found.bytes));
        let chosen = choose(&history.entries, &key, &now, number)?;
        let to = chosen.entry.document.clone().context("only what is kept is chosen")?;
        intent.check(&to).with_context(|| format!("nothing was written, since entry {} is no {key}", chosen.number))?;
        ensure!(
            force || !stops_all(found.as_ref().map(|found| &found.bytes[..]), &to),
            "nothing was written: entry {} has no active version, so that all hosts would stop what they run, at once, whatever \
             min_nodes says; give --force, or the number of another entry",
            chosen.number
        );
        let active = Config::parse(&to).ok().and_then(|config| config.active().ok()?.cloned());
        let is_so = chosen.entry.is == now;
        let action =
            found.map_or_else(|| Action::Create { to: to.clone() }, |from| Action::Replace { from, to: to.clone() });
        let message = message.or(&format!("rollback to {}", chosen.number));
        if !is_so && !Writer::new(store, &message).make(&Change { key: key.clone(), action }).await? {
            continue;
        }
        if in_json {
            print_json(&json!({"key": key.as_str(), "written": !is_so, "number": chosen.number}))?;
        } else if !is_so {
            let what = what(&chosen.entry);
            print_lines([format!("{app} {cluster}: {what}, as of {} ({})", chosen.entry.at, chosen.number)])?;
        }
        if is_so {
            note(&format!("nothing to do: {key} is as entry {} has it", chosen.number));
        }
        return Ok((Outcome::Done, active));
    }
    note(&format!("nothing was written: others changed {key} each time; try again"));
    Ok((Outcome::Lost, None))
}

/// Whether a version is active before, and none after.
fn stops_all(before: Option<&[u8]>, after: &[u8]) -> bool {
    let has_active =
        |bytes| Config::parse(bytes).is_ok_and(|config| config.active().is_ok_and(|active| active.is_some()));
    before.is_some_and(has_active) && !has_active(after)
}

/// The entry whose document comes back: the one that is asked for, or the newest one that was in force and is not now.
fn choose<'a>(entries: &'a [Numbered], key: &Key, now: &Option<String>, number: Option<u64>) -> Result<&'a Numbered> {
    let Some(number) = number else {
        let states = judge(entries, |of| if of == key.as_str() { Now::Is(now.clone()) } else { Now::Unknown });
        let was_in_force = |state: State| match state {
            State::Current | State::Applied | State::ChangedOutside => true,
            State::NotApplied | State::Unknown => false,
        };
        let earlier = entries.iter().zip(states).rfind(|(Numbered { entry, .. }, state)| {
            entry.key == key.as_str() && was_in_force(*state) && entry.document.is_some() && entry.is != *now
        });
        let nothing =
            || format!("nothing was written: the history has no other {key} that was in force; see pp-store log");
        return earlier.map(|(entry, _)| entry).with_context(nothing);
    };
    let Some(chosen) = entries.iter().find(|it| it.number == number) else {
        bail!("nothing was written: there is no entry {number}; see pp-store log")
    };
    let entry = &chosen.entry;
    ensure!(entry.key == key.as_str(), "nothing was written: entry {number} is of {}, and not of {key}", entry.key);
    ensure!(entry.document.is_some(), "nothing was written: entry {number} has no document: {}", what(entry));
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use store::history::Entry;

    use super::*;

    const CONFIG: &str = "clusters/slug/dev/config";

    /// Entries of a key: what each replaces, and what it becomes.
    fn entries(changes: &[(&str, Option<&str>, Option<&str>)]) -> Vec<Numbered> {
        let entry = |(number, (key, was, is)): (usize, &(&str, Option<&str>, Option<&str>))| {
            let (key, was, is) = ((*key).to_owned(), was.map(str::to_owned), is.map(str::to_owned));
            let document = is.clone().map(String::into_bytes);
            let (who, at) = (String::new(), String::new());
            Numbered { number: number as u64 + 1, entry: Entry { key, who, at, message: None, was, is, document } }
        };
        changes.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn what_comes_back_was_in_force_and_differs_from_what_is_there() {
        let key = Key::parse(CONFIG).unwrap();
        let (a, b, c, x) = (Some("a"), Some("b"), Some("c"), Some("x"));
        let node = ("nodes/web1/slug", None, Some("n"));
        for (changes, now, number, expected) in [
            (&[(CONFIG, None, a), (CONFIG, a, b), node][..], b, None, Ok(1)),
            // Never made.
            (&[(CONFIG, None, a), (CONFIG, a, b), (CONFIG, b, c)], b, None, Ok(1)),
            // By an editor: back to what pp-store wrote last.
            (&[(CONFIG, None, a), (CONFIG, a, b)], x, None, Ok(2)),
            // There and back again.
            (&[(CONFIG, None, a), (CONFIG, a, b), (CONFIG, b, a)], a, None, Ok(2)),
            (&[(CONFIG, None, a), (CONFIG, a, None)], None, None, Ok(1)),
            (&[(CONFIG, None, a)], a, None, Err("no other clusters/slug/dev/config")),
            (&[], a, None, Err("no other clusters/slug/dev/config")),
            (&[(CONFIG, None, a), (CONFIG, a, b), (CONFIG, b, c)], b, Some(3), Ok(3)),
            (&[(CONFIG, None, a), node], a, Some(2), Err("entry 2 is of nodes/web1/slug")),
            (&[(CONFIG, None, a), (CONFIG, a, None)], None, Some(2), Err("entry 2 has no document: removed")),
            (&[(CONFIG, None, a)], a, Some(7), Err("there is no entry 7")),
        ] {
            let entries = entries(changes);
            let chosen = choose(&entries, &key, &now.map(str::to_owned), number).map(|chosen| chosen.number);
            match (chosen, expected) {
                (Ok(chosen), Ok(expected)) => assert_eq!(chosen, expected, "{changes:?} {now:?}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (chosen, _) => panic!("{changes:?} {now:?}: {chosen:?}"),
            }
        }
    }
}
