//! Flags from a file: of an agent that is itself an app, whose intent says how it runs.
//!
//! Ensures: what the file says stands before what the command line says, and is checked as if it stood there.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::error::ErrorKind;
use serde_json::{Map, Value};

const FLAG: &str = "--settings";

/// The process's flags, with those of the file that `--settings` names; wrong ones end the process.
pub fn parse<C: Parser>() -> C {
    match with_settings(std::env::args_os().collect()) {
        Ok(arguments) => C::parse_from(arguments),
        Err(error) => C::command().error(ErrorKind::Io, format!("{FLAG}: {error:#}")).exit(),
    }
}

fn with_settings(mut arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(file) = file(&arguments) else { return Ok(arguments) };
    let path = Path::new(&file).display();
    let text = fs::read(&file).with_context(|| format!("reading {path}"))?;
    let settings = serde_json::from_slice::<Map<_, _>>(&text).with_context(|| format!("{path} is no JSON object"))?;
    let program = arguments.first().and_then(|program| Path::new(program).file_name()?.to_str()).unwrap_or_default();
    let flags = flags(&settings, program).with_context(|| path.to_string())?;
    arguments.splice(1..1, flags.into_iter().map(OsString::from));
    Ok(arguments)
}

fn file(arguments: &[OsString]) -> Option<OsString> {
    let at = arguments.iter().position(|argument| argument == FLAG);
    let inline = |argument: &OsString| Some(argument.to_str()?.strip_prefix(FLAG)?.strip_prefix('=')?.into());
    at.and_then(|at| arguments.get(at + 1).cloned()).or_else(|| arguments.iter().find_map(inline))
}

/// `{"store": "file:/x", "pp-setlive": {"adopt": true}}` is `--store=file:/x` for all agents, and `--adopt` for pp-setlive.
fn flags(settings: &Map<String, Value>, program: &str) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    for (name, value) in settings {
        match value {
            Value::Object(own) if name == program => {
                for (name, value) in own {
                    add(&mut flags, name, value)?;
                }
            }
            Value::Object(_) => {}
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                add(&mut flags, name, value)?;
            }
        }
    }
    Ok(flags)
}

fn add(flags: &mut Vec<String>, name: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) => flags.push(format!("--{name}")),
        Value::Number(number) => flags.push(format!("--{name}={number}")),
        Value::String(text) => flags.push(format!("--{name}={text}")),
        Value::Array(values) => return values.iter().try_for_each(|value| add(flags, name, value)),
        Value::Object(_) => bail!("{name:?}: a flag takes a string, a number, true, or a list of those"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_flags_of_all_agents_or_of_one() {
        let settings = json!({
            "store": "file:/x",
            "interval": 0.5,
            "pp-setlive": {"adopt": true, "runit": "/srv/a b"},
            "pp-preparer": {"allow-url": ["https://a/", "https://b/"], "require-signature": false},
        });
        let of = |program: &str| flags(settings.as_object().unwrap(), program).unwrap();
        assert_eq!(of("pp-setlive"), ["--interval=0.5", "--adopt", "--runit=/srv/a b", "--store=file:/x"]);
        assert_eq!(of("pp-preparer")[1..3], ["--allow-url=https://a/", "--allow-url=https://b/"]);
        assert_eq!(of("pp-iptables").len(), 2);
        let nested = json!({"pp-setlive": {"runit": {"dir": "/x"}}});
        assert!(flags(nested.as_object().unwrap(), "pp-setlive").is_err());
    }

    #[test]
    fn what_the_command_line_says_comes_after_what_the_file_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, r#"{"store": "file:/x"}"#).unwrap();
        let path = file.path().to_str().unwrap();
        for named in [vec!["--settings".to_owned(), path.to_owned()], vec![format!("--settings={path}")]] {
            let given = [vec!["/usr/bin/pp-setlive".to_owned()], named, vec!["--once".to_owned()]].concat();
            let with = with_settings(given.iter().map(OsString::from).collect()).unwrap();
            assert_eq!(with[1], "--store=file:/x");
            assert_eq!((with.len(), with.last().unwrap()), (given.len() + 1, &OsString::from("--once")));
        }
        assert!(with_settings(["pp-setlive", "--settings", "/no/such"].map(OsString::from).to_vec()).is_err());
        assert_eq!(with_settings(vec!["pp-setlive".into()]).unwrap(), ["pp-setlive"]);
    }
}
