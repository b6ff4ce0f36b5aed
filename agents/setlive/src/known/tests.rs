use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::json;
use store::Store;
use store::intent::{Incoming, Timeouts};
use tempfile::TempDir;

use super::*;
use crate::decide::Goal;
use crate::definition::Definition;
use crate::record::{Record, Records};
use crate::service::Places;

/// A host with one app, which is converged.
struct Live {
    dir: TempDir,
    app: Arc<App>,
    /// The end of the pipe by which runsv shows that it is there.
    runsv: Option<File>,
}

impl Live {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["srv/installs/slug_1/bin", "stage/slug/supervise", "stage/.platypus", "runit"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("srv/installs/slug_1/bin/launch"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(path("srv/installs/slug_1/bin/launch"), Permissions::from_mode(0o755)).unwrap();
        let app = Arc::new(app(&path("srv"), &json!({"port": 80})));
        let mut live = Self { dir, app, runsv: None };
        let ok = live.path("stage/slug/supervise/ok");
        mknodat(CWD, &ok, FileType::Fifo, 0o600.into(), 0).unwrap();
        live.runsv = Some(OpenOptions::new().read(true).write(true).open(ok).unwrap());
        live.status(std::process::id().cast_signed(), b'u');
        live.write();
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All that an agent writes for the app.
    fn write(&self) {
        let site = self.site();
        let to = Definition::new(&self.app, self.app.active.as_ref().unwrap()).unwrap();
        site.places.stage(&self.app.name, &to).unwrap().put().unwrap();
        let record = Record::new(&site.node, site.source, &to).begun(&to).arrived(&to);
        site.records.save(&self.app.name, &record).unwrap();
    }

    fn status(&self, pid: i32, wanted: u8) {
        let status = [&[0; 12], &pid.to_le_bytes()[..], &[0, wanted, 0, 1]].concat();
        fs::write(self.path("stage/slug/supervise/status"), status).unwrap();
    }

    /// As a new process has it.
    fn site(&self) -> Site {
        self.site_where(|_| {})
    }

    fn site_where(&self, change: impl Fn(&mut Site)) -> Site {
        let stage = self.path("stage");
        let mut site = Site {
            node: "web1".parse().unwrap(),
            source: Source::Store,
            records: Records::open(&stage),
            places: Places { stage, runit: self.path("runit"), builder: None },
            control: Control::Supervise,
            program: None,
            alone: true,
            passing_timeout: Duration::ZERO,
            adopt: false,
            known: None,
        };
        change(&mut site);
        site.known = site.known();
        site
    }

    fn is_known(&self) -> bool {
        self.site().knows(&self.app)
    }

    fn is_settled(&self) -> bool {
        self.site().is_settled(&self.app.name, &Wanted::App(self.app.clone())).unwrap()
    }

    /// What a pass does that finds the app converged.
    fn pass(&self) {
        self.pass_of(Some(&intent("1")));
    }

    /// And all there is, if that is all of an intent.
    fn pass_of(&self, all_of: Option<&Fingerprint>) {
        let site = self.site();
        let _ = site.knows(&self.app);
        site.remember(&[self.app.name.clone()].into(), all_of).unwrap();
    }

    /// What a pass begins with.
    fn is_left_so(&self, intent: &Fingerprint) -> bool {
        let site = self.site();
        let known = site.known.as_ref().unwrap();
        site.look_at_noted(known);
        site.is_left_so(known, intent)
    }
}

fn intent(cluster: &str) -> Fingerprint {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("nodes/web1")).unwrap();
    fs::write(dir.path().join("nodes/web1/slug.json"), json!({"cluster": cluster}).to_string()).unwrap();
    let store = Store::open(Some(&format!("file:{}", dir.path().display()))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let incoming = async { Incoming::begin(&store, &"web1".parse().unwrap()).await?.fingerprint().await };
    runtime.block_on(incoming).unwrap()
}

fn app(basedir: &Path, user_config: &serde_json::Value) -> App {
    let seconds = |seconds: f64| seconds.try_into().unwrap();
    App {
        name: "slug".parse().unwrap(),
        cluster: "dev".parse().unwrap(),
        hold: false,
        drain: false,
        active: Some("1".parse().unwrap()),
        prep: Vec::new(),
        artifacts: BTreeMap::new(),
        min_nodes: 0,
        user_config: user_config.as_object().unwrap().clone(),
        restart: None,
        health: None,
        timeouts: Timeouts { stop: seconds(10.0), enable: seconds(30.0), disable: seconds(30.0), drain: None },
        basedir: basedir.to_str().unwrap().to_owned().try_into().unwrap(),
        runas: None,
        ports: Vec::new(),
        allow_setuid: false,
        limits: store::schema::Limits::default(),
    }
}

/// Other bytes, as many as there were, and the time of the last change as it was.
fn edit(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] = b'~';
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn what_was_found_converged_is_known_again_by_the_next_process_which_then_writes_nothing() {
    let live = Live::new();
    assert!(!live.is_known() && live.is_settled());
    live.pass();
    assert!(live.is_known());
    let written = || fs::metadata(live.path("stage/.platypus/.known")).unwrap().ino();
    let before = written();
    live.pass();
    assert_eq!(written(), before);
}

#[test]
fn what_changed_in_any_way_is_looked_at_in_full() {
    let replace = |path: &Path, put: &dyn Fn(&Path)| {
        let next = path.with_extension("next");
        put(&next);
        fs::rename(next, path).unwrap();
    };
    let config = |live: &Live| {
        let entry = fs::read_dir(live.path("srv/config")).unwrap().next().unwrap().unwrap();
        entry.path()
    };
    type Change<'a> = (&'a str, bool, &'a dyn Fn(&Live));
    let changes: [Change<'_>; 14] = [
        ("an edited file", false, &|live| edit(&live.path("stage/slug/run"))),
        ("another edited file", false, &|live| edit(&live.path("stage/slug/log/run"))),
        ("edited by another name of it", false, &|live| {
            fs::hard_link(config(live), live.path("other")).unwrap();
            edit(&live.path("other"));
        }),
        ("a file in its place", false, &|live| {
            let (path, modified) = (config(live), fs::metadata(config(live)).unwrap().modified().unwrap());
            replace(&path, &|next| {
                fs::write(next, vec![b' '; fs::read(&path).unwrap().len()]).unwrap();
                File::options().write(true).open(next).unwrap().set_modified(modified).unwrap();
            });
        }),
        ("a mode", false, &|live| {
            fs::set_permissions(live.path("stage/slug/run"), Permissions::from_mode(0o644)).unwrap();
        }),
        ("a flipped link", false, &|live| {
            replace(&live.path("srv/current"), &|next| symlink("installs/slug_2", next).unwrap());
        }),
        ("a link to another service", false, &|live| {
            replace(&live.path("runit/slug"), &|next| symlink(live.path("stage/gone"), next).unwrap());
        }),
        ("a link that is gone", false, &|live| fs::remove_file(live.path("runit/slug")).unwrap()),
        ("a record of something begun", false, &|live| {
            let (site, to) = (live.site(), Definition::new(&live.app, live.app.active.as_ref().unwrap()).unwrap());
            let record = site.records.load(&live.app.name).unwrap().unwrap().begun(&to);
            site.records.save(&live.app.name, &record).unwrap();
        }),
        ("a launch script that is none", false, &|live| {
            fs::set_permissions(live.path("srv/installs/slug_1/bin/launch"), Permissions::from_mode(0o644)).unwrap();
        }),
        ("a service that is down", false, &|live| live.status(0, b'd')),
        ("a process that is gone", false, &|live| live.status(i32::MAX, b'u')),
        ("a link to another app's service", true, &|live| {
            symlink(live.path("stage/other"), live.path("runit/other")).unwrap();
        }),
        ("the same, written again", true, &|live| {
            let run = live.path("stage/slug/run");
            fs::write(&run, fs::read(&run).unwrap()).unwrap();
        }),
    ];
    for (what, settled, change) in changes {
        let live = Live::new();
        live.pass();
        assert!(live.is_left_so(&intent("1")));
        change(&live);
        assert_eq!((live.is_known(), live.is_settled()), (false, settled), "{what}");
        assert!(!live.is_left_so(&intent("1")), "{what}");
        live.pass();
        assert_eq!((live.is_known(), live.is_left_so(&intent("1"))), (settled, settled), "{what}");
    }
}

#[test]
fn a_service_without_its_runsv_is_looked_at_in_full() {
    let mut live = Live::new();
    live.pass();
    live.runsv = None;
    assert!(!live.is_known() && !live.is_settled() && !live.is_left_so(&intent("1")));
}

#[test]
fn all_is_as_it_was_left_for_the_intent_that_it_was_all_of_and_while_nothing_more_is_there() {
    let live = Live::new();
    let [one, other] = ["1", "2"].map(intent);
    live.pass_of(None);
    assert!(live.is_known() && !live.is_left_so(&one), "nobody said that it is all");
    live.pass_of(Some(&one));
    assert!(live.is_left_so(&one) && !live.is_left_so(&other));
    live.pass_of(None);
    assert!(live.is_known() && !live.is_left_so(&one), "a later pass did not find it so");
    live.pass_of(Some(&other));
    assert!(!live.is_left_so(&one) && live.is_left_so(&other));

    let site = live.site();
    site.remember(&[live.app.name.clone()].into(), Some(&one)).unwrap();
    assert!(!live.is_left_so(&one), "of what nobody looked at nobody knows that it is of this one");
    live.pass_of(Some(&other));

    let (record, more) = (live.path("stage/.platypus/slug.json"), live.path("stage/.platypus/more.json"));
    fs::copy(&record, &more).unwrap();
    assert!(live.is_known() && !live.is_left_so(&other), "one more");
    live.pass_of(Some(&one));
    assert!(!live.is_left_so(&one), "of which nothing is known");
    fs::remove_file(&more).unwrap();
    live.pass_of(Some(&other));
    assert!(live.is_left_so(&other));
    fs::remove_file(&record).unwrap();
    assert!(!live.is_left_so(&other), "none");
    fs::remove_file(live.path("stage/.platypus/.known")).unwrap();
    assert!(!live.is_left_so(&other), "and nothing known");
}

#[test]
fn what_goes_while_a_pass_looks_is_missed_by_the_next() {
    for is_known_before in [false, true] {
        let live = Live::new();
        if is_known_before {
            live.pass_of(Some(&intent("1")));
        }
        let site = live.site();
        assert_eq!(site.knows(&live.app), is_known_before);
        fs::remove_file(live.path("stage/.platypus/slug.json")).unwrap();
        site.remember(&[live.app.name.clone()].into(), Some(&intent("2"))).unwrap();
        let noted = fs::read_to_string(live.path("stage/.platypus/.known")).unwrap_or_default();
        assert_eq!(noted, "");
    }
}

#[test]
fn each_script_of_several_that_are_launched_counts() {
    let mut live = Live::new();
    let (launch, ok) = (live.path("srv/installs/slug_1/bin/launch"), live.path("stage/slug/supervise/ok"));
    fs::remove_file(&launch).unwrap();
    fs::create_dir(&launch).unwrap();
    for script in ["a", "b"] {
        fs::write(launch.join(script), "#!/bin/sh\n").unwrap();
        fs::set_permissions(launch.join(script), Permissions::from_mode(0o755)).unwrap();
        let service = live.path(&format!("stage/slug@{script}"));
        fs::create_dir_all(service.join("supervise")).unwrap();
        fs::hard_link(&ok, service.join("supervise/ok")).unwrap();
        fs::copy(live.path("stage/slug/supervise/status"), service.join("supervise/status")).unwrap();
    }
    live.write();
    live.pass();
    assert!(live.is_known() && live.is_left_so(&intent("1")));
    fs::set_permissions(launch.join("b"), Permissions::from_mode(0o644)).unwrap();
    assert!(!live.is_known() && !live.is_left_so(&intent("1")));
    fs::set_permissions(launch.join("b"), Permissions::from_mode(0o755)).unwrap();
    live.pass();
    assert!(live.is_known());
    live.runsv = None;
    assert!(!live.is_known());
}

#[test]
fn what_is_wanted_otherwise_or_by_another_is_looked_at_in_full() {
    let live = Live::new();
    live.pass();
    assert!(!live.site_where(|site| site.node = "web2".parse().unwrap()).knows(&live.app));
    assert!(!live.site_where(|site| site.alone = false).knows(&live.app));
    assert!(!live.site_where(|site| site.source = Source::Direct).knows(&live.app));
    assert!(!live.site_where(|site| site.control = Control::Sv("sv".into())).knows(&live.app));
    let wanted = |change: &dyn Fn(&mut App)| {
        let mut app = App::clone(&live.app);
        change(&mut app);
        live.site().knows(&Arc::new(app))
    };
    assert!(wanted(&|_| {}));
    let unneeded = |app: &mut App| (app.min_nodes, app.allow_setuid) = (3, true);
    assert!(wanted(&unneeded), "nor does it for what nothing here depends on");
    let [stop, config] =
        ["5.5", r#"{"port": 81}"#].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    assert!(!wanted(&|app| app.timeouts.stop = stop.as_f64().unwrap().try_into().unwrap()));
    assert!(!wanted(&|app| app.user_config = config.as_object().unwrap().clone()));
    assert!(!wanted(&|app| app.drain = true));
    assert!(!wanted(&|app| app.restart = Some("now".to_owned())));
    assert!(!wanted(&|app| app.runas = Some("www".to_owned().try_into().unwrap())));
    assert!(!wanted(&|app| app.health = serde_json::from_value(json!({"tcp": {"port": 1}})).unwrap()));
    assert!(!wanted(&|app| app.active = None));
}

#[test]
fn what_is_drained_runs_here_no_more_once_the_cluster_lets_it_go_unless_no_version_is_active() {
    let goal_of = |change: &dyn Fn(&mut App)| {
        let mut app = app(Path::new("/srv/slug"), &json!({}));
        change(&mut app);
        crate::goal(&app.name.clone(), &Wanted::App(Arc::new(app)))
    };
    let heeds = |goal| match goal {
        Goal::Nothing { heeds_minimum, .. } => Some(heeds_minimum),
        _ => None,
    };
    assert_eq!(heeds(goal_of(&|app| app.drain = true)), Some(true));
    assert_eq!(heeds(goal_of(&|app| (app.drain, app.active) = (true, None))), Some(false));
    assert_eq!(heeds(goal_of(&|_| {})), None);
}

#[test]
fn a_hint_that_is_torn_tells_nothing() {
    let live = Live::new();
    live.pass();
    let path = live.path("stage/.platypus/.known");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(!live.is_known(), "{length} bytes of {}", whole.len());
    }
    for nonsense in [&b"\xff\xfe"[..], b"slug", b"slug ", b"\n\n\n", b"slug  \nslug\n"] {
        fs::write(&path, nonsense).unwrap();
        assert!(!live.is_known());
    }
    live.pass();
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_hint_that_another_could_have_written_is_not_believed() {
    let live = Live::new();
    live.pass();
    let (path, copy) = (live.path("stage/.platypus/.known"), live.path("copy"));
    let mode = |mode: u32| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    for wrong in [0o620, 0o602, 0o644] {
        mode(wrong);
        assert!(!live.is_known(), "{wrong:o}");
    }
    mode(0o600);
    assert!(live.is_known());
    fs::rename(&path, &copy).unwrap();
    symlink(&copy, &path).unwrap();
    assert!(!live.is_known(), "a link");
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(!live.is_known(), "a pipe");
    fs::rename(&copy, &path).unwrap();
    assert!(live.is_known());
    // Only root can give a file away.
    if geteuid().is_root() {
        chown(&path, Some(65534), None).unwrap();
        assert!(!live.is_known(), "another's");
    }
}

#[test]
fn what_changes_while_a_pass_looks_is_not_taken_for_converged() {
    let live = Live::new();
    let site = live.site();
    assert!(!site.knows(&live.app));
    edit(&live.path("stage/slug/run"));
    site.remember(&[live.app.name.clone()].into(), None).unwrap();
    assert!(!live.is_known());
    live.write();
    live.pass();
    assert!(live.is_known());
}

#[test]
fn what_did_not_converge_is_not_noted_and_what_has_gone_is_forgotten() {
    let live = Live::new();
    let site = live.site();
    assert!(!site.knows(&live.app));
    site.remember(&BTreeSet::new(), Some(&intent("1"))).unwrap();
    assert!(!live.is_left_so(&intent("1")));
    let path = live.path("stage/.platypus/.known");
    fs::write(&path, "gone 0123\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    live.pass();
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(lines, ["#", "slug"], "{text}");
}
