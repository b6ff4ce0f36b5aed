//! The directory that is the app's to write in: `<basedir>/data`.
//!
//! Ensures: it is there before the app is started, as a whole or not at all; once it is there nothing of ours touches it,
//! whosever it is by then: no upgrade, no way back, no pruning of installs. Assumes that `basedir` itself is not the app's
//! user's to write in, as it is not where we made it, so that nothing in it was planted; where it is all the same, no link is
//! followed, and no more is given away than what is in `basedir`.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use converge::{effect, files};
use rustix::fs::OFlags;

use crate::definition::Definition;
use crate::user::{self, Ids};

/// Its user's and, to read, its group's.
const MODE: u32 = 0o750;

/// Makes it unless it is there: `runas`'s, or our own.
pub(crate) fn ensure(definition: &Definition) -> Result<()> {
    let path = definition.data_dir();
    if is_there(&path)? {
        return Ok(());
    }
    let owner = definition.runas.as_ref().map(|user| {
        let found = user::look_up(user)?;
        found.with_context(|| format!("deploy_config's runas: there is no user {:?}", user.as_str()))
    });
    let owner = owner.transpose()?;
    make(&path, owner).with_context(|| format!("creating {}", path.display()))
}

/// Whether it is there already.
///
/// # Errors
/// When something else is in its place.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => {
            ensure!(
                found.is_dir(),
                "{} is not a directory, but the app's data belongs there: move it away; where the data is elsewhere, \
                 mount it there instead of linking to it",
                path.display()
            );
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

/// Beside its place first: killed in between, we would never make it the user's.
fn make(path: &Path, owner: Option<Ids>) -> Result<()> {
    let next = path.with_file_name(".data.next");
    files::remove_directory("data that was not finished", &next)?;
    let make = || -> io::Result<()> {
        effect::make_directory("data", &next, 0o700)?;
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(&next)?;
        if let Some(Ids { uid, gid }) = owner {
            effect::set_owner("data", &dir, uid, gid)?;
        }
        effect::set_mode("data", &dir, MODE)?;
        effect::rename("data", &next, path)?;
        files::sync_parent(path)
    };
    Ok(make()?)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::definition::tests::definition;

    #[test]
    fn it_is_made_once_and_left_as_it_is_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut definition = definition("1");
        definition.basedir = dir.path().to_str().unwrap().to_owned().try_into().unwrap();
        // As a killed attempt leaves it.
        fs::create_dir(dir.path().join(".data.next")).unwrap();
        ensure(&definition).unwrap();
        let data = dir.path().join("data");
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
        ensure(&definition).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o777);
    }

    #[test]
    fn what_is_in_its_place_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (elsewhere, data) = (dir.path().join("elsewhere"), dir.path().join("data"));
        fs::create_dir(&elsewhere).unwrap();
        let found = || is_there(&data).map_err(|error| error.to_string());
        assert_eq!(found(), Ok(false));
        symlink(&elsewhere, &data).unwrap();
        assert!(found().unwrap_err().contains("data is not a directory"));
        fs::remove_file(&data).unwrap();
        symlink("nowhere", &data).unwrap();
        assert!(found().is_err(), "also a link that leads nowhere");
        fs::remove_file(&data).unwrap();
        fs::write(&data, "").unwrap();
        assert!(found().is_err());
    }

    #[test]
    fn no_link_is_followed_where_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (elsewhere, basedir) = (dir.path().join("elsewhere"), dir.path().join("basedir"));
        for dir in [&elsewhere, &basedir] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(elsewhere.join("file"), "").unwrap();
        symlink(&elsewhere, basedir.join(".data.next")).unwrap();
        make(&basedir.join("data"), None).unwrap();
        assert!(elsewhere.join("file").exists() && fs::symlink_metadata(basedir.join("data")).unwrap().is_dir());
        assert_ne!(fs::metadata(&elsewhere).unwrap().mode() & 0o7777, MODE);
    }
}
