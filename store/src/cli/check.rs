//! `pp-store check`: reads everything, and says what is wrong with it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use store::check::{self, Finding, Severity};
use store::repository::{Access, Repo, ask};
use store::{Documents, Key, Prefix, Store};

use super::{Outcome, finding, intent, note, print_lines};

/// Between two words about how far we are.
const PROGRESS: Duration = Duration::from_secs(5);

pub(super) async fn run(store: &Store, repo: Option<(&Repo, &Access)>, in_json: bool) -> Result<Outcome> {
    let documents = observe(store).await?;
    let mut findings = check::check(&documents);
    let unknown = match repo {
        Some((repo, access)) => missing(repo, access, &documents, &mut findings).await?,
        None => None,
    };
    check::sort(&mut findings);
    show(store, &findings, in_json)?;
    if let Some(unknown) = unknown {
        bail!(unknown);
    }
    let intent = documents.keys().filter(|key| intent::TREES.iter().any(|tree| key.starts_with(tree))).count();
    Ok(conclude(&findings, intent))
}

/// Everything that is there. In a directory that is all of it, so that a misspelt `cluster/` is found; a Consul holds
/// other programs' keys, too.
async fn observe(store: &Store) -> Result<Documents> {
    let mut documents = match store {
        Store::Directory(_) => store.read(&[Prefix::everything()]).await?.0,
        Store::Consul(_) => intent::read(store).await?,
    };
    // A listing leaves out what a token may not read, and a read of the one key does not.
    if matches!(store, Store::Consul(_)) {
        for key in check::absent(&documents) {
            let found = match store.get(&Key::parse(&key)?).await {
                Ok(None) => continue,
                Ok(Some(document)) => Ok(document),
                Err(error) => Err(format!("{error:#}")),
            };
            documents.insert(key, found);
        }
    }
    Ok(documents)
}

/// Adds a finding for every version that `repo` says it has not. What it does not say anything about comes back, as an
/// error's text.
async fn missing(
    repo: &Repo,
    access: &Access,
    documents: &Documents,
    findings: &mut Vec<Finding>,
) -> Result<Option<String>> {
    let named = check::versions(documents);
    let wanted = named.iter().map(|named| (named.app.clone(), named.version.clone())).collect::<Vec<_>>();
    let mut told = Instant::now();
    let answers = ask(repo, access, &wanted, |asked| {
        if told.elapsed() > PROGRESS {
            note(&format!("{repo} was asked for {asked} of {} versions", wanted.len()));
            told = Instant::now();
        }
    });
    let (mut missing, mut errors) = (0, Vec::new());
    for (named, answer) in named.iter().zip(answers.await?) {
        match answer {
            Ok(true) => {}
            Ok(false) => {
                findings.push(named.missing_from(repo));
                missing += 1;
            }
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if missing > 1 && missing == named.len() {
        note(&format!("{repo} has none of the {missing} versions: is it the right repository?"));
    }
    let unknown = |first: &String| {
        format!("whether {repo} has {} of {} versions cannot be known: {first}", errors.len(), named.len())
    };
    Ok(errors.first().map(unknown))
}

fn show(store: &Store, findings: &[Finding], in_json: bool) -> Result<()> {
    if in_json {
        let findings = findings.iter().map(|found| finding::json(store, found)).collect::<Value>();
        return print_lines([findings.to_string()]);
    }
    print_lines(findings.iter().map(|found| finding::line(store, found)))
}

/// How it ends, with one line about all of it.
fn conclude(findings: &[Finding], documents: usize) -> Outcome {
    if findings.is_empty() && documents == 0 {
        note("there is no intent at all: no document under nodes/ or clusters/");
        return Outcome::Suspicious;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (invalid, suspicious) = (count(Severity::Invalid), count(Severity::Suspicious));
    note(&format!("{invalid} invalid, {suspicious} suspicious, in {documents} documents"));
    match (invalid, suspicious) {
        (0, 0) => Outcome::Done,
        (0, _) => Outcome::Suspicious,
        _ => Outcome::Invalid,
    }
}
