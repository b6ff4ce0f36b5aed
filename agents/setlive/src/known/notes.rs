//! What passes note, as a file has it: for which intent it is all there is, and a line for each app, in their order.
//!
//! Ensures: what is torn is as if it had not been noted, since its hash is another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use store::{AppName, Gather};

use crate::definition::{Entries, entry};

/// No app's name begins with it.
const ALL_OF: &str = "# ";

#[derive(Debug, Default)]
pub(super) struct Notes {
    text: String,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    app: Range<usize>,
    note: Range<usize>,
    /// Whether the app is as it was found then; once somebody looked.
    pub(super) is_so: OnceLock<bool>,
    /// Somebody saw that it is, and that just this is wanted.
    pub(super) is_known: AtomicBool,
}

/// How an app was found that is converged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note<'a> {
    /// Of its definition.
    pub(super) digest: &'a str,
    /// A hash of what was wanted.
    pub(super) wanted: &'a str,
    /// A hash of who found it so, and of all that there was.
    pub(super) found: &'a str,
    services: &'a str,
    pub(super) basedir: &'a str,
}

impl Notes {
    pub(super) fn new(text: String) -> Self {
        let (mut lines, mut start) = (Vec::new(), 0);
        for line in text.split_terminator('\n') {
            let end = start + line.len();
            if let Some((app, _)) = line.split_once(' ').filter(|_| !line.starts_with(ALL_OF)) {
                let app = start..start + app.len();
                let (is_so, is_known) = (OnceLock::new(), AtomicBool::new(false));
                lines.push(Line { note: app.end + 1..end, app, is_so, is_known });
            }
            start = end + 1;
        }
        Self { text, lines }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As they are kept.
    pub(super) fn written(all_of: Option<&str>, notes: &BTreeMap<AppName, String>) -> String {
        let all_of = all_of.map(|all_of| format!("{ALL_OF}{all_of}\n"));
        all_of.into_iter().chain(notes.iter().map(|(app, note)| format!("{app} {note}\n"))).collect()
    }

    /// The intent of which it is all.
    pub(super) fn all_of(&self) -> Option<&str> {
        self.text.lines().next()?.strip_prefix(ALL_OF)
    }

    pub(super) fn of(&self, app: &AppName) -> Option<&Line> {
        let at = self.lines.partition_point(|line| self.app(line) < app.as_str());
        self.lines.get(at).filter(|line| self.app(line) == app.as_str())
    }

    pub(super) fn apps(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| self.app(line))
    }

    pub(super) fn app(&self, line: &Line) -> &str {
        &self.text[line.app.clone()]
    }

    pub(super) fn note(&self, line: &Line) -> Option<Note<'_>> {
        let mut parts = self.text[line.note.clone()].splitn(5, ' ');
        let mut next = || parts.next();
        Some(Note { digest: next()?, wanted: next()?, found: next()?, services: next()?, basedir: next()? })
    }

    pub(super) fn all(&self) -> BTreeMap<AppName, String> {
        let lines = self.lines.iter().map(|line| (self.app(line), &self.text[line.note.clone()]));
        lines.filter_map(|(app, note)| Some((app.parse().ok()?, note.to_owned()))).gather()
    }
}

impl<'a> Note<'a> {
    /// `services` are parted by commas. `None` where no line can hold it.
    pub(super) fn new(digest: &'a str, wanted: &'a str, services: &'a str, basedir: &'a str) -> Option<Self> {
        (!basedir.contains('\n')).then_some(Self { digest, wanted, found: "", services, basedir })
    }

    /// With what was found.
    pub(super) fn text(&self, found: &str) -> String {
        let Self { digest, wanted, found: _, services, basedir } = self;
        [*digest, wanted, found, services, basedir].join(" ")
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.services.split(',')
    }

    pub(super) fn entries(&self) -> Entries {
        self.services().map(|service| (service.to_owned(), entry(service))).collect()
    }
}
