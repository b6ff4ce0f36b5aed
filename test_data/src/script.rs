//! Programs that a test writes and has run.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program for the shell, over what was there, which can be run at once.
///
/// By a process of its own: while a file is open for writing no kernel runs it ("Text file busy"), and what another thread
/// of ours forks meanwhile keeps open for a moment what we have open.
pub fn script(path: &Path, lines: &str) {
    let mut writer = Command::new("sh");
    writer.args(["-c", r#"cat >"$1" && chmod 755 "$1""#, "sh"]).arg(path).stdin(Stdio::piped());
    let mut child = writer.spawn().expect("there is a shell");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    write!(stdin, "#!/bin/sh\n{lines}\n").expect("the shell reads");
    drop(stdin);
    assert!(child.wait().expect("it is ours").success(), "{} cannot be written", path.display());
}
