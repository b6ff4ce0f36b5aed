//! The user that an app runs as.
//!
//! Ensures: it is there before anything is started as it, or stopped for it; one that is there is never changed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use converge::{blocking, effect};
use rustix::process::geteuid;
use store::AppName;
use store::schema::UserName;
use tracing::info;

use crate::program::can_run_as;

/// Who a user is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    /// Of its own group.
    pub(crate) gid: u32,
}

/// Makes the user, and a group of the same name, where there is none; `home` need not be there.
///
/// # Errors
/// When nothing can be run as it, and we cannot mend that.
pub(crate) async fn ensure(app: &AppName, user: &UserName, home: &Path) -> Result<()> {
    if !is_to_be_made(user).await? {
        return Ok(());
    }
    info!(%app, "Creating the system user {}", user.as_str());
    let (name, home) = (user.clone(), home.to_owned());
    let made = blocking(move || make(&name, &home)).await;
    // What failed may have done so because somebody else was faster, for another app of the same user.
    match (can_run_as(user).await, made) {
        (Ok(()), _) => Ok(()),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

/// Whether the user is missing, and we may make it; an error when it cannot be used for any other reason.
pub(crate) async fn is_to_be_made(user: &UserName) -> Result<bool> {
    let Err(error) = can_run_as(user).await else { return Ok(false) };
    let name = user.clone();
    let is_missing = blocking(move || look_up(&name)).await.is_ok_and(|found| found.is_none());
    if is_missing && geteuid().is_root() { Ok(true) } else { Err(error) }
}

/// `None` when the host knows no such user. It is the host that is asked, since users need not be in `/etc/passwd`.
pub(crate) fn look_up(user: &UserName) -> Result<Option<Ids>> {
    let mut getent = Command::new("getent");
    let asked = effect::ask_blocking(getent.args(["passwd", user.as_str()])).context("running getent")?;
    match asked.status.code() {
        Some(0) => {}
        // As getent(1) has it: there is no such key.
        Some(2) => return Ok(None),
        _ => bail!("getent passwd {}: {}", user.as_str(), asked.status),
    }
    let line = String::from_utf8_lossy(&asked.stdout);
    let ids = parse(&line).with_context(|| format!("getent passwd {} says {line:?}", user.as_str()))?;
    Ok(Some(ids))
}

/// Out of a line as in passwd(5).
fn parse(line: &str) -> Option<Ids> {
    let mut fields = line.trim_end().split(':').skip(2);
    let mut number = || fields.next()?.parse().ok();
    Some(Ids { uid: number()?, gid: number()? })
}

fn make(user: &UserName, home: &Path) -> Result<()> {
    let mut useradd = Command::new("useradd");
    useradd.args(["--system", "--user-group", "--shell", "/usr/sbin/nologin", "--home-dir"]).arg(home);
    let made = effect::run_blocking("useradd", useradd.arg(user.as_str()))
        .context("deploy_config's runas: running useradd")?;
    ensure!(
        made.status.success(),
        "deploy_config's runas: the user {:?} is missing, and useradd cannot make it ({}): create that user",
        user.as_str(),
        String::from_utf8_lossy(&made.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_its_numbers() {
        assert_eq!(parse("www:x:33:34:www:/var/www:/usr/sbin/nologin\n"), Some(Ids { uid: 33, gid: 34 }));
        for bad in ["", "www:x:33", "www:x:a:b:", "33:34"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let user = |name: &str| look_up(&name.to_owned().try_into().unwrap()).unwrap();
        assert_eq!(user("root"), Some(Ids { uid: 0, gid: 0 }));
        assert_eq!(user("no-such-user"), None);
    }
}
