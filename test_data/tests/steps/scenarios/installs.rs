//! Of pp-preparer: versions that come and go; and of pt-direct, which does all that the agents do.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tar::EntryType;

use super::{SCRIPT, Scenario, scenario};
use crate::site::Site;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("an artifact", &[preparer]).when(|site| {
            add_artifact(site, "1");
            prepare(site, &json!({"1": "active"}));
        }),
        scenario("an install that intent names no more", &[pruning])
            .after(|site| {
                prepare(site, &json!({"1": "active"}));
                add_artifact(site, "1");
                site.pass(preparer(site));
            })
            .when(|site| {
                add_artifact(site, "2");
                prepare(site, &json!({"2": "active"}));
            }),
        scenario("an install that intent has not named for long", &[pruning]).after(unwanted).when(for_long),
        scenario("an unwanted install that somebody links", &[pruning])
            .after(unwanted)
            .when(for_long)
            .meanwhile(|site| symlink("installs/parcel_1", site.host.path("srv/parcel/current")).unwrap())
            .only(&["rename install back"]),
        scenario("a file of intent", &[direct]).when(|site| {
            add_artifact(site, "1");
            let intent = json!({
                "nodes/web1/parcel": {"cluster": "dev"},
                "clusters/parcel/dev/config": {"versions": {"1": "active"}, "health": SCRIPT.json(site)},
                "clusters/parcel/dev/deploy_config": {"basedir": site.host.path("srv/parcel"), "ports": [80]},
            });
            fs::write(site.host.path("intent.json"), intent.to_string()).unwrap();
        }),
    ]
}

fn preparer(site: &Site) -> Command {
    site.host.preparer()
}

fn pruning(site: &Site) -> Command {
    let mut preparer = preparer(site);
    preparer.args(["--keep", "0"]);
    preparer
}

fn direct(site: &Site) -> Command {
    let mut direct = site.host.direct();
    direct.arg("--rules").arg(site.host.path("rules"));
    direct
}

/// Noted as such by a pass before.
fn unwanted(site: &Site) {
    add_artifact(site, "1");
    add_artifact(site, "2");
    prepare(site, &json!({"1": "prep", "2": "active"}));
    site.pass(preparer(site));
    prepare(site, &json!({"2": "active"}));
    site.pass(pruning(site));
}

fn for_long(site: &Site) {
    let note = site.host.path("srv/parcel/installs/.unwanted-parcel_1");
    let since = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(note).unwrap().set_modified(since).unwrap();
}

fn prepare(site: &Site, versions: &Value) {
    site.host.deploy_config_as("parcel", json!({"allow_setuid": true}));
    site.host.put("clusters/parcel/dev/config", &json!({"versions": versions}));
    site.host.put("nodes/web1/parcel", &json!({"cluster": "dev"}));
}

/// Everything that an artifact can hold, in a few entries; and it runs.
fn add_artifact(site: &Site, version: &str) {
    site.host.repo.artifact("parcel", version, |archive| {
        let mut add = |kind: EntryType, path: &str, mode: u32, target: Option<&str>, content: &[u8]| {
            let mut header = header(kind, mode, content.len() as u64);
            match target {
                Some(target) => archive.append_link(&mut header, path, target).unwrap(),
                None => archive.append_data(&mut header, path, content).unwrap(),
            }
        };
        add(EntryType::Directory, "bin/", 0o755, None, b"");
        add(EntryType::Regular, "bin/launch", 0o755, None, b"#!/bin/sh\nexec sleep 1000\n");
        add(EntryType::Regular, "bin/check", 0o755, None, b"#!/bin/sh\n");
        add(EntryType::Regular, "bin/lends", 0o4755, None, b"#!/bin/sh\n");
        add(EntryType::Regular, "deep/down/data", 0o644, None, &[b'x'; 100_000]);
        add(EntryType::Link, "same", 0o644, Some("deep/down/data"), b"");
        add(EntryType::Symlink, "link", 0o777, Some("nowhere"), b"");
        add(EntryType::Symlink, "link", 0o777, Some("deep"), b"");
        // Of a million bytes, a hundred thousand in the middle are there.
        let mut sparse = header(EntryType::GNUSparse, 0o644, 100_000);
        sparse.set_path("sparse").unwrap();
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_real_size(1_000_000);
        gnu.sparse[0].set_offset(500_000);
        gnu.sparse[0].set_length(100_000);
        sparse.set_cksum();
        archive.append(&sparse, &[b'x'; 100_000][..]).unwrap();
    });
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_400_000_000);
    header.set_size(size);
    header
}
