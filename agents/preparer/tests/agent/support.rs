//! What the tests of the whole agent share.

use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::{Archive, Host, Pass, Tree, bin, pass, tree};
use serde_json::{Value, json};
use tar::Header;

/// Has `app` on the host in these versions, as in `{"1": "active", "2": "prep"}`.
pub(crate) fn intend(host: &Host, app: &str, versions: &Value) {
    host.deploy_config_as(app, json!({}));
    host.put(&format!("clusters/{app}/dev/config"), &json!({"versions": versions}));
    host.put(&format!("nodes/web1/{app}"), &json!({"cluster": "dev"}));
}

/// A `pp-preparer` that fetches from another repository than the host's.
pub(crate) fn preparer(host: &Host, repo: &str) -> Command {
    let mut preparer = Command::new(bin("pp-preparer"));
    preparer.args(["--node", "web1", "--store", &host.store_url(), "--repo", repo]);
    // A proxy that this machine may be behind is of no use on 127.0.0.1.
    preparer.env("NO_PROXY", "*");
    preparer
}

pub(crate) fn once(host: &Host) -> Pass {
    pass(host.preparer().arg("--once"))
}

/// One pass that has to succeed.
pub(crate) fn converge(host: &Host) -> Pass {
    let pass = once(host);
    assert!(pass.ok, "{}", pass.log);
    pass
}

pub(crate) fn file(archive: &mut Archive, path: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(1_400_000_000);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

/// What is in an app's directory of installs, without the notes of since when intent names something no more.
pub(crate) fn names(host: &Host, app: &str) -> Vec<String> {
    let installs = fs::read_dir(host.path("srv").join(app).join("installs")).unwrap();
    let names = installs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names = names.filter(|name| !name.starts_with(".unwanted-")).collect::<Vec<_>>();
    names.sort();
    names
}

/// A tree without what two copies of it do not share, but with the times of its files.
pub(crate) fn copied(root: &Path) -> Tree {
    let mut tree = tree(root);
    for entry in tree.values_mut() {
        let mtime = if matches!(entry.kind, fixtures::Kind::File(_)) { entry.mtime } else { (0, 0) };
        *entry = fixtures::Entry { mtime, inode: 0, ..entry.clone() };
    }
    tree
}
