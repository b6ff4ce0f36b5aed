//! What is wrong with one document by itself.

use anyhow::Error;

use super::{Finding, Position, some_of, twice::twice};
use crate::name::BadName;
use crate::schema::{Config, IntentKey, NotUtf8, Parse, SeveralActive, is_reality};
use crate::{Document, Version};

/// What is wrong with the document under `key`, whatever else there is.
pub fn document(key: &str, found: &Result<Document, String>) -> Vec<Finding> {
    if is_reality(key) {
        return Vec::new();
    }
    let bytes = match found {
        Ok(document) => &document.bytes,
        Err(reason) => return vec![Finding::invalid(key, reason, "make it readable, or remove it")],
    };
    match IntentKey::parse(key) {
        Ok(intent) => contents(&intent, key, bytes),
        Err(error) if error.is::<BadName>() => {
            vec![Finding::invalid(key, error.to_string(), "agents do not read it: rename or remove it")]
        }
        Err(_) => vec![Finding::suspicious(
            key,
            "this is no key of intent, and no agent reads it",
            "is it misspelt? There are nodes/<node>/<app>, clusters/<app>/<cluster>/config and \
             clusters/<app>/<cluster>/deploy_config",
        )],
    }
}

fn contents(intent: &IntentKey, key: &str, bytes: &[u8]) -> Vec<Finding> {
    let unknown = match intent.check(bytes) {
        Ok(unknown) => unknown,
        Err(error) => return vec![refused(key, bytes, &error)],
    };
    let unknown = unknown.into_iter().map(|field| {
        let advice = "is it misspelt? Otherwise remove it";
        Finding::suspicious(key, format!("no agent knows the field {field:?}"), advice)
    });
    let twice = twice(bytes).into_iter().map(|field| {
        Finding::suspicious(key, format!("{field} is there twice, and the last one counts"), "remove one of the two")
    });
    unknown.chain(twice).chain(unwanted(intent, key, bytes)).collect()
}

/// What is said of artifacts that no host fetches.
fn unwanted(intent: &IntentKey, key: &str, bytes: &[u8]) -> Option<Finding> {
    let (IntentKey::Config(..), Ok(config)) = (intent, Config::parse(bytes)) else { return None };
    let unwanted = config.artifacts.keys().filter(|version| !config.versions.contains_key(*version));
    let unwanted = unwanted.map(Version::as_str).collect::<Vec<_>>();
    (!unwanted.is_empty()).then(|| {
        let reason = format!("\"artifacts\" has {}, and \"versions\" has not", some_of(&unwanted));
        Finding::suspicious(key, reason, "is the version misspelt? Otherwise remove it from \"artifacts\"")
    })
}

/// What agents refuse, in the words in which they do.
fn refused(key: &str, bytes: &[u8], error: &Error) -> Finding {
    let position = position(error);
    let reason = format!("{error:#}");
    match (error.downcast_ref::<SeveralActive>(), position) {
        (Some(SeveralActive(one, two)), _) => {
            Finding::invalid(key, format!("two active versions, {one} and {two}"), "make all but one \"prep\"")
        }
        (None, Some(Position { line, column })) => {
            let broken = reason.trim_end_matches(&format!(" at line {line} column {column}"));
            let finding = Finding::invalid(key, format!("this is not JSON: {broken}"), "correct it there");
            let position = Some(Position { line: line.max(1), column: column.max(1) });
            Finding { position, ..finding }
        }
        (None, None) if bytes.iter().all(u8::is_ascii_whitespace) => {
            Finding::invalid(key, reason, "write it, or remove the key")
        }
        (None, None) => Finding::invalid(key, reason, "correct it"),
    }
}

/// Where the document stops being JSON, if that is what is wrong.
fn position(error: &Error) -> Option<Position> {
    let in_field =
        error.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>().map(serde_path_to_error::Error::inner);
    if let Some(NotUtf8 { line, column }) = error.downcast_ref() {
        return Some(Position { line: *line, column: *column });
    }
    let error = in_field.or_else(|| error.downcast_ref::<serde_json::Error>())?;
    (error.is_syntax() || error.is_eof()).then(|| Position { line: error.line(), column: error.column() })
}
