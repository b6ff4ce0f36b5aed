//! The README's chapter for operators, on a cluster of its own: each command, word for word and in its order, prints what
//! the README says.
//!
//! What only looks is typed again until it does, as a person would: agents take a moment.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fixtures::{SOON, Scratch, bin, kickstart_cluster, pause};

use super::same::{AND_SO_ON, is_same};
use super::section;

/// What only looks.
const LOOKS: [&str; 3] = ["pp-store status", "pp-store why", "curl "];
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Which no command prints.
const BELL: u8 = 7;

#[test]
fn the_operators_chapter_goes_as_it_is_written() {
    let steps = steps(&section("Operating a cluster"));
    for command in ["set", "status", "why", "rollback", "drain", "undrain", "log"] {
        let is_there = |step: &Step| step.command.starts_with(&format!("pp-store {command} "));
        assert!(command == "status" || steps.iter().any(is_there), "{command} is shown");
    }
    let elided = steps.iter().filter(|step| step.output.contains(AND_SO_ON)).map(|step| &step.command);
    assert_eq!(elided.collect::<Vec<_>>(), ["kickstart/cluster up 3"]);

    let scratch = Scratch::new();
    let _cluster = Checkout::at(scratch.path());
    let mut shell = Shell::start(scratch.path());
    for step in &steps {
        let deadline = Instant::now() + SOON * 2;
        loop {
            let said = shell.run(&step.command);
            if is_same(&said, &step.output) {
                break;
            }
            let may_come = LOOKS.iter().any(|look| step.command.starts_with(look)) && Instant::now() < deadline;
            assert!(may_come, "$ {}\n{said}\n--- but the README says\n{}", step.command, step.output);
            pause(PAUSE);
        }
    }
    shell.end();
    assert!(!scratch.path().join("target/cluster").exists(), "the chapter cleans up");
}

/// A command of the chapter, and what it prints.
struct Step {
    command: String,
    output: String,
}

fn steps(chapter: &str) -> Vec<Step> {
    let blocks = chapter.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let mut steps = Vec::<Step>::new();
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), output: String::new() }),
            (None, Some(step)) => step.output += &format!("{line}\n"),
            (None, None) => panic!("{line:?} is of no command"),
        }
    }
    steps
}

/// A checkout's root as far as the chapter needs one, so that the cluster which is up in the real one is not disturbed.
struct Checkout<'a>(&'a Path);

impl<'a> Checkout<'a> {
    fn at(root: &'a Path) -> Self {
        for part in ["kickstart", "test_data"] {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part), root.join(part)).unwrap();
        }
        Self(root)
    }
}

impl Drop for Checkout<'_> {
    fn drop(&mut self) {
        // What this leaves is the scratch directory's to end.
        let _ = kickstart_cluster(&self.0.join("target/cluster")).arg("down").output();
    }
}

/// What the reader types into. Another shell that is started there is typed into from then on, until it ends.
struct Shell {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", "exec timeout 300 bash 2>&1"]).current_dir(dir);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_")) {
            command.env_remove(name);
        }
        command.env_remove("CARGO_TARGET_DIR").env("BIN", bin("pp-store").parent().unwrap());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        Self { shell, input, output }
    }

    /// What a command prints.
    fn run(&mut self, command: &str) -> String {
        write!(self.input, "{command}\nprintf '\\a'\n").unwrap();
        let mut said = Vec::new();
        self.output.read_until(BELL, &mut said).unwrap();
        assert_eq!(said.pop(), Some(BELL), "the shell has ended: {}", String::from_utf8_lossy(&said));
        String::from_utf8(said).unwrap()
    }

    fn end(mut self) {
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.shell.wait().unwrap().success() && rest.is_empty(), "{rest}");
    }
}
