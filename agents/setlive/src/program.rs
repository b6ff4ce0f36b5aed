//! Running a program of an install for a while: hooks and health checks.
//!
//! Ensures: nothing of it is left when its time is over or the agent ends, unless the agent is killed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use converge::{Group, effect};
use store::AppName;
use store::schema::UserName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tracing::{debug, info};

use crate::definition::Definition;

/// Runs `path`, a program of the definition's install, as its user and with its `CONFIG_PATH` and `DATA_DIR`.
///
/// # Errors
/// When it cannot be started, does not end in time, or does not exit with 0. What it prints goes to the agent's log, a line
/// at a time.
pub(crate) async fn run(
    app: &AppName,
    definition: &Definition,
    path: &str,
    patience: Duration,
    output: Output,
) -> Result<()> {
    let install = definition.install(app);
    let program = install.join(path);
    let mut command = as_user(definition.runas.as_ref(), &program);
    // What the agent may do with the store is not for whoever writes an app.
    command.current_dir(&install).env_remove("CONSUL_HTTP_TOKEN");
    command.env("CONFIG_PATH", definition.config_path()).env("DATA_DIR", definition.data_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = match output {
        Output::Shown => Group::start(path, &mut command),
        Output::Debug => Group::start_to_ask(&mut command),
    };
    let mut group = start.with_context(|| format!("starting {}", program.display()))?;
    let printing = tokio::task::spawn_local(pass_on(group.child.stdout.take(), app.clone(), path.to_owned(), output));
    let complaining =
        tokio::task::spawn_local(pass_on(group.child.stderr.take(), app.clone(), path.to_owned(), output));
    let ended = tokio::time::timeout(patience, group.child.wait()).await;
    // What it printed last; not what something that it left running still prints.
    let _ = tokio::time::timeout(Duration::from_millis(20), async { (printing.await, complaining.await) }).await;
    let Ok(status) = ended else { bail!("{path} did not end within {patience:?}") };
    let status = status.with_context(|| format!("waiting for {}", program.display()))?;
    ensure!(status.success(), "{path} failed: {status}");
    Ok(())
}

/// Runs `path`, a hook, where the install has it. Tells whether it has.
pub(crate) async fn hook(app: &AppName, definition: &Definition, path: &str, patience: Duration) -> Result<bool> {
    if !definition.install(app).join(path).exists() {
        return Ok(false);
    }
    info!(%app, "Running {path} of {}", definition.version);
    run(app, definition, path, patience, Output::Shown).await.map(|()| true)
}

/// Where a program's output goes in the agent's log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// Of a hook, which changes something.
    Shown,
    /// Of a check, which runs over and over.
    Debug,
}

/// Logs what is printed, a line at a time; an endless one in pieces.
async fn pass_on(from: Option<impl AsyncRead + Unpin>, app: AppName, path: String, output: Output) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match (&mut from).take(4096).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        match output {
            Output::Shown => info!(%app, "{path}: {}", line.trim_end()),
            Output::Debug => debug!(%app, "{path}: {}", line.trim_end()),
        }
    }
}

/// Whether this agent can run something as `user`: asked before anything is stopped for it.
pub(crate) async fn can_run_as(user: &UserName) -> Result<()> {
    let output = effect::ask(&mut as_user(Some(user), Path::new("/bin/true"))).await.context("running chpst")?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "deploy_config's runas: cannot run anything as {:?} ({}): create that user, or run this agent as root",
        user.as_str(),
        reason.trim()
    );
    Ok(())
}

fn as_user(user: Option<&UserName>, program: &Path) -> Command {
    match user {
        Some(user) => {
            let mut command = Command::new("chpst");
            command.arg("-u").arg(user.as_str()).arg(program);
            command
        }
        None => Command::new(program),
    }
}
