//! `pp-store import` and `export`: intent as a tree of files.

#[macro_use]
mod place;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixtures::{Scratch, Tree, eventually, tree};
use place::command::{json, pp_store, run, said};
use place::{Place, SOON};
use rustix::fs::OFlags;
use serde_json::json;

const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

on_both_stores! {
    what_is_imported_is_exported_byte_for_byte
    a_document_that_agents_would_refuse_stops_an_import_before_it_begins
    only_what_differs_is_written_and_a_dry_run_writes_nothing
    prune_removes_what_the_directory_lacks_but_no_cluster_that_a_host_may_need
    a_tree_that_is_not_all_there_prunes_nothing
    what_somebody_else_changed_meanwhile_is_not_overwritten
    an_import_that_was_killed_is_finished_by_the_next
    export_prunes_only_documents_and_only_when_asked
}

/// A directory beside the store.
struct Dir {
    path: PathBuf,
}

impl Dir {
    fn new(place: &Place, name: &str) -> Self {
        Self { path: place.scratch.path().join(name) }
    }

    fn write(&self, key: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path.join(format!("{key}.json"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn slug(&self) {
        self.write(CONFIG, "{\n  \"versions\": {\"0.1\": \"active\"}\n}\n");
        self.write(DEPLOY, r#"{"basedir": "/srv/slug"}"#);
        self.write("nodes/web1/slug", r#"{"cluster": "dev"}"#);
        self.write("nodes/web2/slug", "{\"cluster\": \"dev\"}\r\n");
    }

    fn remove(&self, key: &str) {
        fs::remove_file(self.path.join(format!("{key}.json"))).unwrap();
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.path.join(format!("{key}.json"))).ok()
    }

    fn arg(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn tree(&self) -> Tree {
        tree(&self.path)
    }
}

/// What one run prints and says, when it ends as it should.
#[track_caller]
fn ends(place: &Place, arguments: &[&str], status: i32) -> (String, String) {
    let (found, out, err) = run(place, arguments);
    assert_eq!(found, status, "{arguments:?}:\n{out}{err}");
    (out, err)
}

fn keys(place: &Place) -> Vec<String> {
    run(place, &["ls"]).1.lines().map(str::to_owned).collect()
}

fn what_is_imported_is_exported_byte_for_byte(place: &Place) {
    let (from, to) = (Dir::new(place, "from"), Dir::new(place, "to"));
    from.slug();
    from.write("nodes/web1/empty", "");
    from.write("nodes/web1/binary", [0, 159, 146, 150, 10, 13]);
    from.write("nodes/web1/large", vec![b'x'; 300 * 1024]);
    // Both a document and the directory of another.
    from.write("nodes/web1/slug/more", "{}");
    let (out, _) = ends(place, &["import", from.arg(), "--force"], 0);
    assert_eq!(out.lines().count(), 8);
    assert_eq!(
        out.lines().take(3).collect::<Vec<_>>(),
        [format!("created {DEPLOY}"), format!("created {CONFIG}"), "created nodes/web1/binary".to_owned()]
    );
    ends(place, &["export", to.arg()], 0);
    let copied = |dir: &Dir| dir.tree().into_iter().map(|(path, entry)| (path, entry.copied())).collect::<Tree>();
    assert_eq!(copied(&from), copied(&to));
    // Once more each way, nothing happens.
    let before = to.tree();
    assert_eq!(ends(place, &["export", to.arg()], 0).0, "");
    assert_eq!(ends(place, &["import", to.arg(), "--force", "--prune"], 0).0, "");
    assert_eq!(before, to.tree());
}

fn a_document_that_agents_would_refuse_stops_an_import_before_it_begins(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    dir.write("nodes/web3/slug", "{\n  \"cluster\": ");
    dir.write("nodes/web3/two words", "{}");
    dir.write("node/web4/slug", r#"{"cluster": "dev"}"#);
    let (out, err) = ends(place, &["import", dir.arg()], 1);
    assert_eq!(out, "");
    for says in [
        format!("nodes/web3/slug: {}/nodes/web3/slug.json:2:13: invalid: this is not JSON", dir.arg()),
        "nodes/web3/two words: invalid: \"two words\" is not a name".to_owned(),
        "node/web4/slug: suspicious: this is no key of intent".to_owned(),
        "nothing was imported: 3 of 7 documents in".to_owned(),
    ] {
        assert!(err.contains(&says), "{err}\ndoes not say {says}");
    }
    assert_eq!(keys(place), [""; 0]);
    // Not everything can be forced.
    ends(place, &["import", dir.arg(), "--force"], 1);
    dir.remove("nodes/web3/two words");
    ends(place, &["import", dir.arg(), "--force"], 0);
    assert_eq!(keys(place), [CONFIG, DEPLOY, "nodes/web1/slug", "nodes/web2/slug", "nodes/web3/slug"]);

    fs::remove_file(dir.path.join("nodes/web3/slug.json")).unwrap();
    fs::remove_dir_all(dir.path.join("node")).unwrap();
    symlink("/no/such/file", dir.path.join("nodes/web3/slug.json")).unwrap();
    assert!(
        ends(place, &["import", dir.arg(), "--force", "--prune"], 1)
            .1
            .contains("is a link whose target cannot be read")
    );
    for empty in ["no-such", "empty"] {
        let empty = Dir::new(place, empty);
        assert!(ends(place, &["import", empty.arg()], 1).1.contains("nothing was imported: "));
        let _ = fs::create_dir(Dir::new(place, "empty").path);
    }
    assert_eq!(keys(place).len(), 5);
}

fn only_what_differs_is_written_and_a_dry_run_writes_nothing(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    ends(place, &["import", dir.arg()], 0);
    let revision = |key: &str| json(place, &["get", key])["revision"].clone();
    let before = [CONFIG, DEPLOY, "nodes/web1/slug", "nodes/web2/slug"].map(revision);
    dir.write(CONFIG, "{\n  \"versions\": {\"0.2\": \"active\"}\n}\n");
    dir.write("nodes/web3/slug", r#"{"cluster": "dev", "colour": "blue"}"#);
    dir.remove("nodes/web1/slug");
    // What others write in a directory that is a store.
    dir.write("reality/web1/setlive", "{}");
    let (out, err) = ends(place, &["import", dir.arg(), "--dry-run", "--prune"], 0);
    for says in [
        "-  \"versions\": {\"0.1\": \"active\"}\n+  \"versions\": {\"0.2\": \"active\"}\n",
        &format!(
            "\n+++ {}/nodes/web3/slug.json\n@@ -0,0 +1 @@\n+{{\"cluster\": \"dev\", \"colour\": \"blue\"}}\n",
            dir.arg()
        ),
        "+++ /dev/null\n@@ -1 +0,0 @@\n-{\"cluster\": \"dev\"}\n",
    ] {
        assert!(out.contains(says), "{out}\ndoes not say {says}");
    }
    for says in [
        "from then on: nodes/web3/slug: suspicious: no agent knows the field \"colour\"",
        "left out: 1 documents",
        "3 changes to make, 2 documents are right",
    ] {
        assert!(err.contains(says), "{err}\ndoes not say {says}");
    }
    assert_eq!(before, [CONFIG, DEPLOY, "nodes/web1/slug", "nodes/web2/slug"].map(revision));
    let shown = json(place, &["import", dir.arg(), "--dry-run"]);
    assert_eq!(shown["changes"][0]["key"], CONFIG);
    assert_eq!((&shown["changes"][0]["change"], &shown["changes"][0]["done"]), (&json!("change"), &json!(false)));
    assert!(shown["changes"][0]["diff"].as_str().unwrap().contains("+  \"versions\""));

    assert_eq!(ends(place, &["import", dir.arg()], 0).0, format!("changed {CONFIG}\ncreated nodes/web3/slug\n"));
    let after = [CONFIG, DEPLOY, "nodes/web1/slug", "nodes/web2/slug"].map(revision);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
    assert_eq!(json(place, &["import", dir.arg()]), json!({"changes": [], "left": [], "identical": 4}));
}

fn prune_removes_what_the_directory_lacks_but_no_cluster_that_a_host_may_need(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    dir.write("nodes/web1/tool", r#"{"cluster": "dev"}"#);
    dir.write("clusters/tool/dev/config", r#"{"versions": {}}"#);
    dir.write("clusters/tool/dev/deploy_config", r#"{"basedir": "/srv/tool"}"#);
    ends(place, &["import", dir.arg()], 0);
    place.write("reality/web1/setlive", b"{}");
    place.write("locks/tool/dev/shutdown", b"{}");
    for key in ["nodes/web1/tool", "clusters/tool/dev/config", "clusters/tool/dev/deploy_config"] {
        dir.remove(key);
    }
    assert_eq!(ends(place, &["import", dir.arg()], 0).0, "", "without --prune nothing goes");
    let (out, err) = ends(place, &["import", dir.arg(), "--prune"], 0);
    assert_eq!(out, "removed nodes/web1/tool\n");
    assert!(err.contains("clusters/tool/dev/config stays: the host of nodes/web1/tool needs it to stop tool"), "{err}");
    // Its hosts have stopped it.
    let (out, _) = ends(place, &["import", dir.arg(), "--prune"], 0);
    assert_eq!(out, "removed clusters/tool/dev/deploy_config\nremoved clusters/tool/dev/config\n");
    assert_eq!(
        keys(place),
        [CONFIG, DEPLOY, "locks/tool/dev/shutdown", "nodes/web1/slug", "nodes/web2/slug", "reality/web1/setlive"]
    );
}

fn a_tree_that_is_not_all_there_prunes_nothing(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    ends(place, &["import", dir.arg()], 0);
    let before = keys(place);
    let partial = Dir::new(place, "partial");
    partial.write(CONFIG, r#"{"versions": {}}"#);
    let (_, err) = ends(place, &["import", partial.arg(), "--prune"], 1);
    assert!(
        err.contains("all that the store has under nodes/ would go, since the directory has nothing there"),
        "{err}"
    );
    assert_eq!(keys(place), before);

    let empty = Place::directory();
    let (_, err) = ends(&empty, &["export", dir.arg(), "--prune"], 1);
    assert!(err.contains("all that the directory has under nodes/ would go, since the store has nothing"), "{err}");
    assert!(dir.read(CONFIG).is_some());
}

/// A pipe that takes no more: whoever writes into it stops there until it is read.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'.'; 1]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Runs a command that stops after its first change until `meanwhile` is done.
fn run_stopped(
    place: &Place,
    arguments: &[&str],
    first_is_made: impl Fn() -> bool,
    meanwhile: impl FnOnce(),
) -> (i32, String, String) {
    let (mut reader, writer) = full_pipe();
    let child = pp_store(&place.url).args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the first change is made", SOON, || first_is_made().then_some(()));
    meanwhile();
    let mut out = String::new();
    reader.read_to_string(&mut out).unwrap();
    let (status, _, err) = said(&child.wait_with_output().unwrap());
    (status, out.trim_start_matches('.').to_owned(), err)
}

fn what_somebody_else_changed_meanwhile_is_not_overwritten(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    ends(place, &["import", dir.arg()], 0);
    dir.write(DEPLOY, r#"{"basedir": "/srv/other"}"#);
    dir.write(CONFIG, r#"{"versions": {"ours": "active"}}"#);
    dir.write("nodes/web1/slug", r#"{"cluster": "live"}"#);
    let theirs = r#"{"versions": {"theirs": "active"}}"#;
    let get = |key: &str| run(place, &["get", key]).1;
    let (status, out, err) = run_stopped(
        place,
        &["import", dir.arg()],
        || get(DEPLOY).contains("/srv/other"),
        || place.write(CONFIG, theirs.as_bytes()),
    );
    assert_eq!((status, out), (3, format!("changed {DEPLOY}\n")), "{err}");
    assert!(err.contains(&format!("{CONFIG} was changed by somebody else meanwhile, and stays")), "{err}");
    assert!(err.contains("1 of 3 changes made, 1 documents were right already; import again for the rest"), "{err}");
    assert_eq!(get(CONFIG), theirs);
    assert_eq!(get("nodes/web1/slug"), r#"{"cluster": "dev"}"#);

    // What is removed here was changed there.
    ends(place, &["import", dir.arg()], 0);
    dir.write(DEPLOY, r#"{"basedir": "/srv/third"}"#);
    dir.remove("nodes/web2/slug");
    let (status, _, err) = run_stopped(
        place,
        &["import", dir.arg(), "--prune"],
        || get(DEPLOY).contains("/srv/third"),
        || place.write("nodes/web2/slug", br#"{"cluster": "dev", "hold": true}"#),
    );
    assert_eq!(status, 3, "{err}");
    assert!(get("nodes/web2/slug").contains("hold"));

    // The other way: a file that is being edited.
    let dir = Dir::new(place, "export");
    dir.slug();
    let (status, out, err) = run_stopped(
        place,
        &["export", dir.arg()],
        || dir.read(CONFIG).is_some_and(|bytes| bytes == get(CONFIG).as_bytes()),
        || dir.write("nodes/web2/slug", "theirs"),
    );
    assert_eq!(status, 3, "{err}");
    assert!(out.contains(&format!("changed {DEPLOY}\n")), "{out}");
    assert_eq!(dir.read("nodes/web2/slug").unwrap(), b"theirs");
}

fn an_import_that_was_killed_is_finished_by_the_next(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    let (reader, writer) = full_pipe();
    let mut child =
        pp_store(&place.url).args(["import", dir.arg()]).stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    eventually("the first change is made", SOON, || (!keys(place).is_empty()).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(reader);
    assert_eq!(keys(place), [DEPLOY]);
    assert_eq!(ends(place, &["import", dir.arg()], 0).0.lines().count(), 3);
    assert_eq!(keys(place).len(), 4);
}

fn export_prunes_only_documents_and_only_when_asked(place: &Place) {
    let dir = Dir::new(place, "dir");
    dir.slug();
    ends(place, &["import", dir.arg()], 0);
    dir.write("nodes/web9/slug", r#"{"cluster": "dev"}"#);
    dir.write("nodes/web9/two words", "somebody's own");
    dir.write("clusters/old/dev/config", "{}");
    dir.write("package", "{}");
    fs::write(dir.path.join("nodes/web1/.slug.json.swp"), "").unwrap();
    fs::write(dir.path.join("README.md"), "").unwrap();
    let before = dir.tree();
    assert_eq!(ends(place, &["export", dir.arg()], 0).0, "");
    let (out, _) = ends(place, &["export", dir.arg(), "--prune", "--dry-run"], 0);
    assert_eq!(out.matches("+++ /dev/null").count(), 2, "{out}");
    assert_eq!(before, dir.tree());
    let (out, _) = ends(place, &["export", dir.arg(), "--prune"], 0);
    assert_eq!(out, "removed clusters/old/dev/config\nremoved nodes/web9/slug\n");
    assert!(!dir.path.join("clusters/old").exists(), "an empty directory goes, too");
    for left in ["nodes/web9/two words.json", "package.json", "nodes/web1/.slug.json.swp", "README.md"] {
        assert!(dir.path.join(left).exists(), "{left}");
    }
}

#[test]
fn nothing_is_written_outside_of_the_directory_and_what_cannot_be_exported_is_named() {
    let place = Place::consul();
    let (source, dir, outside) = (Dir::new(&place, "source"), Dir::new(&place, "dir"), Dir::new(&place, "outside"));
    source.slug();
    source.write("nodes/web3/slug", r#"{"cluster": "dev"}"#);
    ends(&place, &["import", source.arg()], 0);
    let hostile =
        ["nodes/../../outside/x", "nodes/web1/..", "nodes/web1/\u{1b}", "nodes/.store/next", "clusters/a//config"];
    hostile.iter().for_each(|key| place.write_odd(key));
    outside.write("slug", "{}");
    fs::create_dir_all(dir.path.join("nodes/web2")).unwrap();
    symlink(&outside.path, dir.path.join("nodes/web1")).unwrap();
    symlink(outside.path.join("slug.json"), dir.path.join("nodes/web2/slug.json")).unwrap();
    symlink(outside.path.join("new.json"), dir.path.join("nodes/web3")).unwrap();
    let before = outside.tree();
    let (out, err) = ends(&place, &["export", dir.arg(), "--prune"], 1);
    assert_eq!(out, format!("created {CONFIG}\ncreated {DEPLOY}\n"));
    assert_eq!(err.matches("no file can have this name").count(), hostile.len(), "{err}");
    for says in [
        "nodes/web1/slug: web1 is a link, and nothing is written through one",
        "nodes/web2/slug: slug.json is a link",
        "nodes/web3/slug: ",
    ] {
        assert!(err.contains(says), "{err}\ndoes not say {says}");
    }
    assert!(err.contains("8 documents were not exported"), "{err}");
    assert_eq!(before, outside.tree());
}

#[test]
fn a_disk_that_takes_nothing_is_said_once() {
    let place = Place::directory();
    let (source, dir) = (Dir::new(&place, "source"), Dir::new(&place, "dir"));
    source.slug();
    ends(&place, &["import", source.arg()], 0);
    fs::create_dir(&dir.path).unwrap();
    for (options, says) in [
        ("nr_inodes=2", "clusters/slug/dev/config: making the directory slug: No space left on device"),
        ("ro", "clusters/slug/dev/config: making the directory clusters: Read-only file system"),
    ] {
        let mount = r#"mount -t tmpfs -o "$0" none "$1" && exec "$2" --store "$3" export "$1""#;
        let mut export = Command::new("unshare");
        export.args(["--mount", "sh", "-c", mount, options, dir.arg(), env!("CARGO_BIN_EXE_pp-store"), &place.url]);
        let (status, _, err) = said(&export.output().unwrap());
        assert_eq!((status, err.lines().count()), (1, 2), "{err}");
        assert!(err.contains("0 of 4 changes made") && err.contains(says), "{err}");
    }
}

#[test]
fn the_documents_of_one_file_are_told_apart_in_a_difference() {
    let place = Place::directory();
    let file = place.scratch.path().join("all.json");
    fs::write(&file, r#"{"clusters/slug/dev/config": {"versions": {}}, "nodes/web1/slug": {"cluster": "dev"}}"#)
        .unwrap();
    let (out, _) = ends(&place, &["import", file.to_str().unwrap(), "--dry-run"], 0);
    for key in [CONFIG, "nodes/web1/slug"] {
        assert!(out.contains(&format!("+++ {}: {key}\n", file.display())), "{out}");
    }
}

#[test]
fn a_file_that_is_right_is_not_touched_and_a_store_in_use_is_locked_for_each_write() {
    let (place, used) = (Place::directory(), Place::directory());
    let dir = Dir::new(&place, "dir");
    dir.slug();
    ends(&place, &["import", dir.arg()], 0);
    ends(&used, &["import", dir.arg()], 0);
    let into = used.root();
    let inode = |key: &str| fs::metadata(into.join(format!("{key}.json"))).unwrap().ino();
    let before = inode(DEPLOY);
    place.write(CONFIG, br#"{"versions": {}}"#);
    let lock = fs::File::open(into.join(".store/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let child =
        pp_store(&place.url).arg("export").arg(&into).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let files = || fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten();
    let waits = || files().any(|file| fs::read_link(file.path()).is_ok_and(|file| file == into.join(".store/lock")));
    eventually("the export waits for the lock", SOON, || waits().then_some(()));
    std::thread::sleep(place::QUIET);
    assert_ne!(fs::read(into.join(format!("{CONFIG}.json"))).unwrap(), br#"{"versions": {}}"#);
    drop(lock);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(fs::read(into.join(format!("{CONFIG}.json"))).unwrap(), br#"{"versions": {}}"#);
    assert_eq!(inode(DEPLOY), before);
    assert!(!into.join(".pp-store-export").exists());
}

#[test]
fn what_is_planted_where_a_stores_lock_belongs_is_neither_waited_for_nor_written_through() {
    let (place, used) = (Place::directory(), Place::directory());
    let dir = Dir::new(&place, "dir");
    dir.slug();
    ends(&place, &["import", dir.arg()], 0);
    let lock = used.root().join(".store/lock");
    fs::create_dir(lock.parent().unwrap()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let (_, err) = ends(&used, &["import", dir.arg()], 1);
    assert!(err.contains("is not a file: move it away"), "{err}");
    ends(&place, &["export", used.root().to_str().unwrap()], 0);
    fs::remove_file(&lock).unwrap();
    let elsewhere = used.scratch.path().join("elsewhere");
    symlink(&elsewhere, &lock).unwrap();
    used.write("nodes/web1/other", b"");
    ends(&used, &["rm", "nodes/web1/other"], 1);
    assert!(!elsewhere.exists());
}

#[test]
fn an_export_gives_up_on_whoever_holds_the_lock_of_the_store_for_ever() {
    let (place, used) = (Place::directory(), Place::directory());
    let dir = Dir::new(&place, "dir");
    dir.slug();
    ends(&place, &["import", dir.arg()], 0);
    fs::create_dir(used.root().join(".store")).unwrap();
    let lock = fs::File::create(used.root().join(".store/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (_, err) = ends(&place, &["export", used.root().to_str().unwrap()], 1);
    assert!(err.contains("another process holds .store/lock") && err.contains("0 of 4 changes made"), "{err}");
}

#[test]
fn a_token_without_rights_exports_and_imports_nothing() {
    let place = Place::consul_with_access_control();
    let dir = Dir::new(&place, "dir");
    dir.slug();
    let before = dir.tree();
    for arguments in
        [&["import"][..], &["import", "--prune"], &["import", "--dry-run"], &["export"], &["export", "--prune"]]
    {
        let (_, err) = ends(&place, &[arguments, &[dir.arg()]].concat(), 1);
        assert!(err.contains("403: Permission denied"), "{err}");
    }
    assert_eq!(before, dir.tree());
    assert_eq!(place.consul.as_ref().unwrap().get(CONFIG), None);
}

#[test]
fn export_prunes_nothing_that_its_token_may_not_see() {
    let place = Place::consul_with_access_control();
    let dir = Dir::new(&place, "dir");
    dir.slug();
    dir.write("clusters/tool/dev/config", r#"{"versions": {}}"#);
    dir.write("clusters/slug/old/config", r#"{"versions": {}}"#);
    for key in [CONFIG, DEPLOY, "clusters/tool/dev/config", "nodes/web1/slug", "nodes/web2/slug"] {
        place.write(key, &dir.read(key).unwrap());
    }
    let token =
        place.token(r#"key_prefix "nodes/" { policy = "read" } key_prefix "clusters/slug/" { policy = "read" }"#);
    for arguments in [&["export", "--prune", "--dry-run"][..], &["export", "--prune"]] {
        let mut command = pp_store(&place.url);
        command.args(arguments).arg(dir.arg()).env("CONSUL_HTTP_TOKEN", &token);
        let (status, _, err) = said(&command.output().unwrap());
        assert!(status == 1 && err.contains("clusters/tool/dev/config: GET"), "{status} {err}");
        assert!(err.contains("403: Permission denied"), "{err}");
        assert!(dir.read("clusters/tool/dev/config").is_some());
    }
    assert_eq!(dir.read("clusters/slug/old/config"), None, "the store says that this is not there");
}

#[test]
fn a_store_that_goes_away_in_the_middle_is_said_with_how_far_it_went() {
    let place = Place::consul();
    let dir = Dir::new(&place, "dir");
    dir.slug();
    let consul = place.consul.as_ref().unwrap();
    let (status, out, err) =
        run_stopped(&place, &["import", dir.arg()], || consul.get(DEPLOY).is_some(), || consul.kill());
    assert_eq!((status, out), (1, format!("created {DEPLOY}\n")), "{err}");
    // Of the next change, or of its entry in the history.
    assert!(err.contains("1 of 4 changes made") && err.contains(CONFIG) && err.contains("PUT "), "{err}");
}

#[test]
fn whatever_a_store_holds_comes_back_byte_for_byte() {
    // Shared by all cases: each begins with an empty directory.
    let scratch = Scratch::new();
    let document = proptest::collection::vec(proptest::num::u8::ANY, 0..40);
    let key = "(nodes|clusters)(/[a-z0-9][A-Za-z0-9._-]{0,6}){1,4}";
    let trees = proptest::collection::btree_map(key, document, 1..12);
    let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config::with_cases(24));
    let case = std::cell::Cell::new(0);
    let outcome = runner.run(&trees, |documents| {
        case.set(case.get() + 1);
        let at = |name: &str| scratch.path().join(format!("{}-{name}", case.get()));
        let (from, store, to) = (Dir { path: at("from") }, at("store"), Dir { path: at("to") });
        fs::create_dir(&store).unwrap();
        for (key, bytes) in &documents {
            // A name may be that of a document and, with .json, of a directory.
            let clashes = documents.keys().any(|other| other.starts_with(&format!("{key}.json/")));
            if !clashes {
                from.write(key, bytes);
            }
        }
        let pp = |arguments: &[&str]| {
            let output = pp_store(&format!("file:{}", store.display())).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        if from.path.exists() {
            pp(&["import", from.arg(), "--force"]);
            pp(&["export", to.arg()]);
            assert_eq!(contents(&from.path), contents(&to.path));
        }
        Ok(())
    });
    outcome.unwrap();
}

fn contents(dir: &Path) -> Tree {
    tree(dir).into_iter().map(|(path, entry)| (path, entry.copied())).collect()
}
