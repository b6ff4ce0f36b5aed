//! The user that an app runs as and the directory that is its own, on a real host: these tests are root's.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::process::Command;

use fixtures::{Behaviour, Host, SOON, Slug, eventually};
use serde_json::json;

/// The name of a user of this host that is none yet, and is none any more when this is dropped.
struct Absent(String);

impl Absent {
    fn new(what: &str) -> Self {
        let absent = Self(format!("pp-{what}-{}", std::process::id()));
        assert_eq!(absent.entry("passwd"), None);
        absent
    }

    /// Its line in a database of the host.
    fn entry(&self, database: &str) -> Option<String> {
        let found = Command::new("getent").args([database, &self.0]).output().unwrap();
        found.status.success().then(|| String::from_utf8(found.stdout).unwrap().trim().to_owned())
    }

    fn ids(&self) -> (u32, u32) {
        let entry = self.entry("passwd").unwrap();
        let fields = entry.split(':').collect::<Vec<_>>();
        (fields[2].parse().unwrap(), fields[3].parse().unwrap())
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        // Its processes ended with their host, which is dropped first. It may also not have come to be.
        let _ = Command::new("userdel").arg(&self.0).output();
        let _ = Command::new("groupdel").arg(&self.0).output();
    }
}

/// Everybody may walk to the install, as on a real host.
fn open_to_all(host: &Host) {
    use std::os::unix::fs::PermissionsExt;
    for dir in host.path("srv/slug/installs").ancestors().take_while(|dir| dir.starts_with(host.scratch.path())) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn owner(host: &Host, path: &str) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(host.path(path)).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

#[test]
fn a_user_who_is_missing_is_made_with_a_directory_of_its_own_that_neither_upgrade_nor_revert_touches() {
    let user = Absent::new("made");
    let host = Host::new();
    host.deploy_config(json!({"runas": user.0}));
    let note = "id -un > $DATA_DIR/enabled-by; echo $DATA_DIR >> $DATA_DIR/enabled-by";
    host.install(&Slug::new("1", Behaviour::Good).enable(note));
    host.install(&Slug::new("2", Behaviour::Good));
    host.install(&Slug::new("3", Behaviour::NeverHealthy));
    open_to_all(&host);
    host.activate("1", json!({}));
    let plan = fixtures::pass(host.setlive().arg("--plan"));
    assert!(plan.out.starts_with(&format!("slug: create the system user {}\nslug: start 1 (", user.0)), "{}", plan.out);
    assert!(user.entry("passwd").is_none() && !host.path("srv/slug/data").exists());

    let pass = host.converge();
    assert!(pass.log.contains(&format!("slug: Creating the system user {}\n", user.0)), "{}", pass.log);
    let (entry, (uid, gid)) = (user.entry("passwd").unwrap(), user.ids());
    let data = host.path("srv/slug/data");
    assert!(entry.ends_with(&format!(":{}:/usr/sbin/nologin", data.display())), "{entry}");
    assert!(user.entry("group").unwrap().contains(&format!(":{gid}:")) && uid < 1000, "{entry}");
    assert_eq!(owner(&host, "srv/slug/data"), (uid, gid, 0o750));
    assert_eq!(fs::read_to_string(data.join("enabled-by")).unwrap(), format!("{}\n{}\n", user.0, data.display()));
    let environment = fs::read_to_string(format!("/proc/{}/environ", host.pid())).unwrap();
    assert!(environment.contains(&format!("\0DATA_DIR={}\0", data.display())), "{environment:?}");
    assert_eq!(fs::metadata(format!("/proc/{}", host.pid())).unwrap().uid(), uid);

    fs::write(data.join("kept"), "it").unwrap();
    chown(&data, Some(uid), Some(0)).unwrap();
    host.activate("2", json!({}));
    let pass = host.converge();
    assert!(!pass.log.contains("Creating"), "{}", pass.log);
    host.activate("3", json!({}));
    assert!(!host.once().ok);
    host.serves("2");
    assert_eq!(fs::read_to_string(data.join("kept")).unwrap(), "it");
    assert_eq!((user.entry("passwd").unwrap(), owner(&host, "srv/slug/data")), (entry, (uid, 0, 0o750)));
}

#[test]
fn two_apps_of_one_user_make_it_once() {
    let user = Absent::new("shared");
    let host = Host::new();
    for (app, port) in [("one", host.port), ("two", fixtures::free_port())] {
        host.install_as(app, &Slug::new("1", Behaviour::Good));
        host.deploy_config_as(app, json!({"runas": user.0}));
        host.activate_as(app, port, "1", json!({}));
    }
    let pass = host.converge();
    assert!(pass.log.contains("one: 1 is live") && pass.log.contains("two: 1 is live"), "{}", pass.log);
    let (uid, gid) = user.ids();
    assert_eq!([owner(&host, "srv/one/data"), owner(&host, "srv/two/data")], [(uid, gid, 0o750); 2]);
}

#[test]
fn a_user_that_cannot_be_made_is_refused_before_anything_stops() {
    let user = Absent::new("group");
    let host = Host::running("1");
    let pid = host.pid();
    // To put the app into a group that is there would give it rights that nobody spoke of.
    assert!(Command::new("groupadd").args(["--system", &user.0]).status().unwrap().success());
    host.deploy_config(json!({"runas": user.0}));
    let pass = host.once();
    let says = format!("deploy_config's runas: the user {:?} is missing, and useradd cannot make it (", user.0);
    assert!(!pass.ok && pass.log.contains(&says), "{}", pass.log);
    assert_eq!((host.pid(), user.entry("passwd")), (pid, None));
    assert_eq!(host.record()["converging"], json!(null));
}

#[test]
fn who_is_not_root_neither_makes_a_user_nor_stops_anything_for_it() {
    let user = Absent::new("unprivileged");
    let host = Host::new();
    host.deploy_config(json!({"runas": user.0}));
    host.install(&Slug::new("1", Behaviour::Good));
    open_to_all(&host);
    host.activate("1", json!({}));
    for dir in ["store", "stage", "service"] {
        let chowned = Command::new("chown").args(["-R", "nobody"]).arg(host.path(dir)).status().unwrap();
        assert!(chowned.success());
    }
    let setlive = host.setlive();
    let mut unprivileged = Command::new("chpst");
    // Of a copy, since the directory that it was built in may be root's alone.
    fs::copy(setlive.get_program(), host.path("pp-setlive")).unwrap();
    unprivileged.args(["-u", "nobody"]).arg(host.path("pp-setlive")).args(setlive.get_args()).arg("--once");
    let pass = fixtures::pass(unprivileged.current_dir(host.scratch.path()));
    let says = format!("deploy_config's runas: cannot run anything as {:?} (", user.0);
    assert!(!pass.ok && pass.log.contains(&says), "{}", pass.log);
    assert!(pass.log.contains("create that user, or run this agent as root"), "{}", pass.log);
    assert_eq!(user.entry("passwd"), None);
}

#[test]
fn what_stands_where_the_data_belongs_is_refused_before_anything_starts_and_what_runs_goes_on() {
    let host = Host::new();
    host.deploy_config(json!({}));
    host.install(&Slug::new("1", Behaviour::Good));
    host.install(&Slug::new("2", Behaviour::Good));
    let (data, elsewhere) = (host.path("srv/slug/data"), host.path("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &data).unwrap();
    host.activate("1", json!({}));
    let refused = host.once();
    let says = format!("{} is not a directory, but the app's data belongs there: move it away", data.display());
    assert!(!refused.ok && refused.log.contains(&says), "{}", refused.log);
    assert!(!host.path("stage/.platypus/slug.json").exists());
    fs::remove_file(&data).unwrap();
    host.converge();
    let pid = host.pid();
    assert_eq!(owner(&host, "srv/slug/data"), (0, 0, 0o750), "our own where there is no runas");

    fs::remove_dir(&data).unwrap();
    fs::write(&data, "an operator's").unwrap();
    host.converge();
    host.activate("2", json!({}));
    let refused = host.once();
    assert!(!refused.ok && refused.log.contains(&says), "{}", refused.log);
    assert_eq!((host.pid(), fs::read_to_string(&data).unwrap().as_str()), (pid, "an operator's"));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn an_app_that_runs_without_a_directory_of_its_own_gets_one_and_is_not_restarted_for_it() {
    let host = Host::running("1");
    let pid = host.pid();
    // As an agent left it that knew of no such thing.
    let run = fs::read_to_string(host.path("stage/slug/run")).unwrap();
    let (before, after) = run.split_once(" DATA_DIR=").unwrap();
    let older = format!("{before}\n{}", after.split_once('\n').unwrap().1);
    fs::write(host.path("stage/slug/run"), older).unwrap();
    fs::remove_dir(host.path("srv/slug/data")).unwrap();
    host.converge();
    assert_eq!((host.pid(), fs::read_to_string(host.path("stage/slug/run")).unwrap()), (pid, run));
    assert!(host.path("srv/slug/data").is_dir());

    // What was removed behind its back is there again when it is started.
    fs::remove_dir(host.path("srv/slug/data")).unwrap();
    assert!(Command::new("sv").arg("down").arg(host.path("stage/slug")).status().unwrap().success());
    eventually("it is down", SOON, || host.health().is_none().then_some(()));
    host.converge();
    assert!(host.path("srv/slug/data").is_dir());
}
