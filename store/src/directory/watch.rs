//! Waiting until the tree of files says something else.
//!
//! Every directory is armed *before* it is listed, so that no change falls between the two; every event only makes us
//! list and compare again, so that no event has to be understood. Directories that do not exist yet are watched for in
//! the nearest one that does. inotify sees neither another host's writes to a shared file system nor what hides behind
//! a link to a link; a sweep each ten seconds does, and one each second when inotify is exhausted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::{blocking, tree};
use crate::{Gather, Prefix, Token};

/// Between two sweeps while inotify watches everything.
const SWEEP: Duration = Duration::from_secs(10);
/// Between two sweeps while it does not.
const POLL: Duration = Duration::from_secs(1);

/// All that can change what a directory holds, and nothing that reading it does.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// The kernel's ear, or `None` when all of its instances are in use.
#[expect(deprecated, reason = "`register` is unsafe; what is wrong with `new` concerns descriptors that are not owned")]
pub(super) fn inotify() -> Option<AsyncFd<OwnedFd>> {
    inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok().and_then(|fd| AsyncFd::new(fd).ok())
}

/// Returns once the documents under the token's prefixes differ from what it was made of.
pub(super) async fn changed(root: &Path, token: &Token, inotify: Option<AsyncFd<OwnedFd>>) -> Result<()> {
    let mut watch = Watch { exhausted: inotify.is_none(), inotify, interests: HashMap::new() };
    let all = token.prefixes().cloned().gather::<BTreeSet<_>>();
    let mut suspects = all.clone();
    loop {
        let (root, token) = (root.to_owned(), token.clone());
        let compared = blocking(move || {
            let differ = watch.differ(&root, &token, &suspects)?;
            Ok((watch, differ))
        });
        let differ;
        (watch, differ) = compared.await?;
        if differ {
            return Ok(());
        }
        let sweep = if watch.exhausted { POLL } else { SWEEP };
        suspects = tokio::time::timeout(sweep, watch.suspects()).await.unwrap_or_else(|_| all.clone());
    }
}

/// What is armed, and for whom.
struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
    /// By the kernel's number for a directory.
    interests: HashMap<i32, HashSet<Interest>>,
    /// Some directory could not be armed.
    exhausted: bool,
}

/// Why a directory is armed.
#[derive(PartialEq, Eq, Hash)]
struct Interest {
    prefix: Prefix,
    /// On the way to the prefix only the next step matters; below it, everything.
    only: Option<OsString>,
}

impl Watch {
    /// Arms all directories of `suspects`, then compares what is in them with the token.
    fn differ(&mut self, root: &Path, token: &Token, suspects: &BTreeSet<Prefix>) -> Result<bool> {
        for prefix in suspects {
            self.arm_way(root, prefix);
            let documents =
                tree::read(root, std::slice::from_ref(prefix), &mut |directory| self.arm(directory, prefix, None))?;
            if token.differs(prefix, &documents) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Arms the directories above the prefix's own, and the root's own, whose entry may be moved or be a link.
    fn arm_way(&mut self, root: &Path, prefix: &Prefix) {
        if let (Some(parent), Some(name)) = (root.parent(), root.file_name()) {
            let parent = if parent == Path::new("") { Path::new(".") } else { parent };
            self.arm(parent, prefix, Some(name));
        }
        let mut directory = root.to_owned();
        for name in prefix.as_str().split_terminator('/') {
            self.arm(&directory, prefix, Some(OsStr::new(name)));
            directory.push(name);
        }
    }

    fn arm(&mut self, directory: &Path, prefix: &Prefix, only: Option<&OsStr>) {
        let Some(inotify) = &self.inotify else { return };
        match inotify::add_watch(inotify.get_ref(), directory, CHANGES) {
            Ok(number) => {
                let interest = Interest { prefix: prefix.clone(), only: only.map(OsStr::to_owned) };
                self.interests.entry(number).or_default().insert(interest);
            }
            // The directory above it, which is armed, will tell of its return or of its new mode.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(_) => self.exhausted = true,
        }
    }

    /// The prefixes under which something may have changed, once there are any. Never without inotify.
    async fn suspects(&mut self) -> BTreeSet<Prefix> {
        loop {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            ready.clear_ready();
            let suspects = read_events(inotify.get_ref(), &self.interests);
            if !suspects.is_empty() {
                return suspects;
            }
        }
    }
}

/// The kernel takes some ten milliseconds to close an inotify that watches something. Neither the runtime nor whoever
/// waits for the change shall wait for that.
impl Drop for Watch {
    fn drop(&mut self) {
        if let (Some(inotify), Ok(runtime)) = (self.inotify.take(), Handle::try_current()) {
            let inotify = inotify.into_inner();
            runtime.spawn_blocking(move || drop(inotify));
        }
    }
}

/// The prefixes that all events so far are about.
fn read_events(inotify: &OwnedFd, interests: &HashMap<i32, HashSet<Interest>>) -> BTreeSet<Prefix> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut suspects = BTreeSet::new();
    while let Ok(event) = events.next() {
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        let overflow = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        let interests = interests.iter().filter(|(number, _)| overflow || **number == event.wd()).flat_map(|(_, i)| i);
        let about = interests.filter(|interest| overflow || interest.is_about(name));
        suspects.extend(about.map(|interest| interest.prefix.clone()));
    }
    suspects
}

impl Interest {
    /// Whether an event about `name` in this directory, or about the directory itself, concerns the prefix.
    fn is_about(&self, name: Option<&OsStr>) -> bool {
        match (&self.only, name) {
            (Some(only), Some(name)) => only == name,
            (None, _) | (_, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Directory;

    #[tokio::test]
    async fn a_change_that_inotify_cannot_tell_of_is_found_by_a_sweep() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path().to_owned());
        let prefix = Prefix::parse("nodes/web1/").unwrap();
        let token = Token::of(
            std::slice::from_ref(&prefix),
            &directory.documents(std::slice::from_ref(&prefix)).await.unwrap(),
        );
        let mut changed = std::pin::pin!(changed(root.path(), &token, None));
        assert!(tokio::time::timeout(POLL * 2, &mut changed).await.is_err());
        std::fs::create_dir_all(root.path().join("nodes/web1")).unwrap();
        std::fs::write(root.path().join("nodes/web1/slug.json"), "{}").unwrap();
        tokio::time::timeout(POLL * 5, changed).await.unwrap().unwrap();
    }

    #[test]
    fn on_the_way_to_a_prefix_only_the_next_step_matters() {
        let interest = |only: Option<&str>| Interest { prefix: Prefix::everything(), only: only.map(Into::into) };
        for (only, name, matters) in [
            (Some("web1"), Some("web1"), true),
            (Some("web1"), Some("web10"), false),
            (Some("web1"), None, true),
            (None, Some("slug.json"), true),
            (None, None, true),
        ] {
            assert_eq!(interest(only).is_about(name.map(OsStr::new)), matters, "{only:?} {name:?}");
        }
    }
}
