//! Registrations that an earlier pass found as they should be, known again by the store's stamp of all of them.
//!
//! Ensures: as [`super`] does, and that whatever a stamp does not show is looked at after [`LASTS`] all the same.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use converge::files;
use sha2::{Digest, Sha256};

use super::{Known, read_ours};

/// For how long one look counts at the most.
const LASTS: Duration = Duration::from_secs(300);

impl Known {
    /// Whether a pass before this one found `all`, what is wanted and the store's stamp of what there is, as it should be,
    /// and no report is due since.
    pub(crate) fn knows_registered(&self, all: &str) -> bool {
        let is_known = || {
            let text = read_ours(&self.registered).ok()?;
            let (until, mark) = text.strip_suffix('\n')?.split_once(' ')?;
            let until = until.parse().ok()?;
            // One that lasts longer is by another clock.
            let left = until_time(until)?.duration_since(SystemTime::now()).ok()?;
            Some(left <= LASTS && mark == self.mark_of_registered(until, all))
        };
        is_known().unwrap_or(false)
    }

    /// Notes that `all` was found as it should be, and that the first report is `due` then.
    pub(crate) fn remember_registered(&self, all: &str, due: Option<SystemTime>) -> Result<()> {
        let latest = SystemTime::now() + LASTS;
        let until = due.map_or(latest, |due| due.min(latest));
        let until = until.duration_since(SystemTime::UNIX_EPOCH).context("it is before 1970")?.as_secs();
        let mark = self.mark_of_registered(until, all);
        files::write("word of what is registered", &self.registered, format!("{until} {mark}\n").as_bytes(), 0o600)
            .map(drop)
    }

    fn mark_of_registered(&self, until: u64, all: &str) -> String {
        let hash = Sha256::new().chain_update(self.who).chain_update(until.to_le_bytes()).chain_update(all);
        format!("{:x}", hash.finalize())
    }
}

fn until_time(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn stage() -> TempDir {
        let stage = tempfile::tempdir().unwrap();
        fs::create_dir(stage.path().join(".platypus")).unwrap();
        stage
    }

    fn known(stage: &TempDir, who: &str) -> Known {
        Known::open(stage.path(), who).unwrap()
    }

    fn ahead(seconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_found_as_it_should_be_is_known_by_the_same_and_nothing_else_is() {
        let stage = stage();
        assert!(!known(&stage, "web1").knows_registered("all"));
        known(&stage, "web1").remember_registered("all", None).unwrap();
        assert!(known(&stage, "web1").knows_registered("all"));
        assert!(!known(&stage, "web1").knows_registered("all but one"));
        assert!(!known(&stage, "web2").knows_registered("all"));
    }

    #[test]
    fn it_is_known_until_a_report_is_due_and_not_for_long_anyway() {
        let stage = stage();
        let known = known(&stage, "web1");
        let until = |due: SystemTime| {
            known.remember_registered("all", Some(due)).unwrap();
            known.knows_registered("all")
        };
        assert!(until(ahead(30)) && until(ahead(100_000)));
        assert!(!until(SystemTime::now()) && !until(SystemTime::UNIX_EPOCH));
        // Written while the clock was ahead.
        let seconds = ahead(2 * LASTS.as_secs()).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let text = format!("{seconds} {}\n", known.mark_of_registered(seconds, "all"));
        files::write("word of what is registered", &known.registered, text.as_bytes(), 0o600).unwrap();
        assert!(!known.knows_registered("all"));
    }

    #[test]
    fn a_hint_that_is_torn_or_could_be_anothers_tells_nothing() {
        let stage = stage();
        let known = known(&stage, "web1");
        known.remember_registered("all", None).unwrap();
        let whole = fs::read(&known.registered).unwrap();
        for length in 0..whole.len() {
            fs::write(&known.registered, &whole[..length]).unwrap();
            assert!(!known.knows_registered("all"), "{length} bytes of {}", whole.len());
        }
        for nonsense in [&b"\xff\xfe"[..], b"\n", b" \n", b"99999999999999999999 \n", b"18446744073709551615 a\n"] {
            fs::write(&known.registered, nonsense).unwrap();
            assert!(!known.knows_registered("all"));
        }
        fs::write(&known.registered, &whole).unwrap();
        assert!(known.knows_registered("all"));
        fs::set_permissions(&known.registered, Permissions::from_mode(0o620)).unwrap();
        assert!(!known.knows_registered("all"));
    }
}
