//! Running a command to its end.
//!
//! Ensures: it ends within its deadline, or is killed with all that it started in its process group; when the agent is
//! stopped meanwhile it ends too, and no zombie of it is left. What it complains of is in the error.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use converge::Group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How long after its end what a command had written is read: it is all there by then.
const REST: Duration = Duration::from_millis(500);

/// Runs `program`, which changes something, with these arguments and this standard input.
///
/// # Errors
/// When it cannot be started, does not end in time or does not exit with 0, with what it wrote to standard error.
pub(crate) async fn run(
    what: &str,
    program: &Path,
    arguments: &[&str],
    input: &str,
    output: Stdio,
    patience: Duration,
) -> Result<()> {
    let start = |command: &mut Command| Group::start(what, command);
    start_and_wait(start, program, arguments, input, output, patience).await.map(drop)
}

/// As [`run`], of one that changes nothing; returns what it printed.
pub(crate) async fn ask(program: &Path, arguments: &[&str], patience: Duration) -> Result<String> {
    start_and_wait(Group::start_to_ask, program, arguments, "", Stdio::piped(), patience).await
}

async fn start_and_wait(
    start: impl FnOnce(&mut Command) -> std::io::Result<Group>,
    program: &Path,
    arguments: &[&str],
    input: &str,
    output: Stdio,
    patience: Duration,
) -> Result<String> {
    let name = || [&[&*program.to_string_lossy()], arguments].concat().join(" ");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", path(std::env::var_os("PATH")))
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped());
    let mut group = start(&mut command).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("there is no {}: install it", program.display()),
        _ => anyhow!(error).context(format!("starting {}", program.display())),
    })?;
    let Ok(ended) = tokio::time::timeout(patience, talk(&mut group.child, input)).await else {
        bail!("{} did not end within {patience:?}, and was killed", name());
    };
    let (status, printed, complaint) = ended.with_context(|| format!("running {}", name()))?;
    let complaint = String::from_utf8_lossy(&complaint);
    if !status.success() {
        bail!("{} failed ({status}): {}", name(), complaint.trim());
    }
    String::from_utf8(printed).with_context(|| format!("reading what {} prints", name()))
}

/// Where an ordinary user's shell does not look for what only root is thought to need. A directory without a name would be
/// the one that we are in, and whatever lies there would run as root.
fn path(own: Option<OsString>) -> OsString {
    let mut path = own.filter(|own| !own.is_empty()).unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Everything in and out at once, so that neither side waits for the other. It is over when the command has ended:
/// what it started and left behind may keep its outputs open for ever.
async fn talk(child: &mut Child, input: &str) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut printed, mut complaint) = (Vec::new(), Vec::new());
    let write = async {
        if let Some(stdin) = &mut stdin {
            // One that does not want to read it all says so by its exit status.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        drop(stdin.take());
    };
    let read = async {
        match &mut stdout {
            Some(stdout) => stdout.read_to_end(&mut printed).await.map(drop),
            None => Ok(()),
        }
    };
    let complain = async {
        match &mut stderr {
            Some(stderr) => stderr.read_to_end(&mut complaint).await.map(drop),
            None => Ok(()),
        }
    };
    let status = {
        let mut streams = pin!(async { tokio::join!(write, read, complain) });
        let (status, streamed) = tokio::select! {
            streamed = &mut streams => (child.wait().await?, Some(streamed)),
            status = child.wait() => (status?, tokio::time::timeout(REST, streams).await.ok()),
        };
        if let Some(((), read, complained)) = streamed {
            read.and(complained)?;
        }
        status
    };
    Ok((status, printed, complaint))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::process::{Pid, Signal};

    use super::*;

    async fn sh(script: &str, input: &str, patience: Duration) -> Result<String> {
        let arguments = ["-c", script];
        start_and_wait(Group::start_to_ask, Path::new("sh"), &arguments, input, Stdio::piped(), patience).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_it_prints_comes_back_and_what_it_complains_of_is_the_error() {
        let much = "x".repeat(1 << 20);
        assert_eq!(sh("cat", &much, LONG).await.unwrap(), much);
        let error = sh("echo oh >&2; exit 3", &much, LONG).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with(": oh"), "{error}");
        let error = ask(Path::new("no-such-command"), &[], LONG).await.unwrap_err();
        assert!(error.to_string().contains("there is no no-such-command"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > {}; wait", pids.display());
        let begun = Instant::now();
        let error = sh(&script, "", Duration::from_millis(500)).await.unwrap_err().to_string();
        assert!(error.contains("did not end within 500ms") && begun.elapsed() < LONG, "{error}");
        let pids = std::fs::read_to_string(&pids).unwrap();
        let mut pids = pids.split_whitespace();
        let running = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        assert_eq!(running(pids.next().unwrap()), None, "it is not even a zombie");
        let child = pids.next().unwrap().to_owned();
        let dead = || running(&child).is_none_or(|stat| stat.contains(") Z "));
        fixtures::eventually("what it started is dead", LONG, || dead().then_some(()));
    }

    #[tokio::test]
    async fn one_that_leaves_something_running_has_ended_all_the_same() {
        let begun = Instant::now();
        let printed = sh("sleep 20 & echo done; echo $!", "", LONG).await.unwrap();
        let (done, pid) = printed.trim().split_once('\n').unwrap();
        assert!(done == "done" && begun.elapsed() < Duration::from_secs(15), "{printed}");
        // It was left running on purpose.
        let pid = pid.parse().ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn where_we_are_is_never_searched_for_a_command() {
        for own in [None, Some("".into())] {
            assert_eq!(path(own), "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
        }
        assert_eq!(path(Some("/opt/bin".into())), "/opt/bin:/usr/local/sbin:/usr/sbin:/sbin");
    }
}
