//! `kickstart/pack` and `kickstart/host`: a bare host becomes one that follows a store, by one command.

mod hosts;
mod site;
mod upgrade;
mod walk;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use fixtures::{SOON, Scratch, eventually, tree};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use site::{PROGRAMS, Site, pack};

#[test]
fn a_bare_host_serves_by_one_command_and_a_second_changes_nothing_and_what_is_removed_is_gone() {
    let (site, consul) = Site::on_consul();
    let (begun, bare) = (Instant::now(), site.disks());
    let said = site.kickstart(&[]);
    println!("{said}from the command to its end: {:?}", begun.elapsed());
    assert!(said.contains("web1 runs platypus") && said.contains("\nIt took "), "{said}");
    site.follows();
    site.serves();

    // Of intent: what agents report comes when it will.
    let index = || site.host.within(|| ["nodes/", "clusters/"].map(|prefix| consul.index(prefix)));
    let (before, keys, services) = (site.disks(), index(), site.services());
    let again = site.kickstart(&[]);
    assert!(again.starts_with("Nothing to do: "), "{again}");
    site.assert_unchanged(&before);
    assert_eq!((index(), site.services()), (keys, services));

    assert_eq!(site.running("sesame"), [""; 0]);
    let told = site.host.command("grep").args(["-rlaF", "sesame", "/srv", "/var", "/mnt/kickstart"]).output().unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "");

    site.refuses(&["--basedir", "/srv/elsewhere"], 1, "has another --basedir than /srv/elsewhere");
    // Without a store nobody knows whether all is as it should be.
    site.refuses(&["--store", "consul://127.0.0.1:1"], 1, "does not tell clusters/platypus/main/deploy_config");

    fs::write(site.host.disk("srv/slug/data/diary"), "dear").unwrap();
    let removed = site.host.run(&["/mnt/kickstart/host", "--remove"]);
    println!("{removed}");
    assert!(removed.contains("What is left: /srv/slug/data, "), "{removed}");
    assert_eq!(site.host.processes(), [""; 0]);
    assert!(!site.host.run(&["/usr/sbin/iptables", "-S"]).contains("PLATYPUS"));
    let changed = bare.iter().zip(site.disks()).flat_map(|(bare, after)| {
        let new = after.into_keys().filter(|path| !bare.contains_key(path)).collect::<Vec<_>>();
        new.into_iter().filter(|path| !path.starts_with("repo"))
    });
    assert_eq!(changed.collect::<Vec<_>>(), ["slug", "slug/data", "slug/data/diary"].map(PathBuf::from));
    let left = site.host.within(|| consul.http("GET", "/v1/kv/nodes/web1/?keys", b"").0);
    let services = site.host.within(|| consul.http("GET", "/v1/agent/services", b"").1);
    assert_eq!((left, services.trim()), (404, "{}"));
    let nothing = site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert!(nothing.starts_with("Nothing to do: "), "{nothing}");
}

#[test]
fn one_that_is_interrupted_anywhere_or_loses_its_power_is_finished_by_the_next() {
    let mut site = Site::new();
    for (at, path) in [
        ("it has made directories", "srv/platypus/data/node"),
        ("it unpacks", "srv/platypus/installs"),
        ("services are linked", "var/lib/platypus/service/platypus@pp-setlive"),
        ("the first key is written", "mnt/store/clusters/platypus/main/deploy_config.json"),
    ] {
        site.interrupted(&[], at, path);
    }
    let said = site.kickstart(&[]);
    assert!(said.contains("web1 runs platypus"), "{said}");
    site.follows();
    site.serves();
    assert_eq!(site.host.run(&["ls", "/tmp"]), "", "what those that were killed had left there is gone, too");

    // Nobody here starts anything at boot.
    site.host.restart();
    assert_eq!(site.host.processes(), [""; 0]);
    let said = site.kickstart(&[]);
    assert!(said.contains("started runsvdir"), "{said}");
    site.follows();
    site.answers();

    let removal = site.host.disk("var/lib/platypus/kickstart/basedirs");
    let mut remove = site.host.command("/mnt/kickstart/host");
    let mut run = remove.arg("--remove").process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let stopped = || removal.exists() && site.running("bin/pp-setlive --settings").is_empty();
    eventually("it has stopped the agents", SOON, || stopped().then_some(()));
    kill_process_group(Pid::from_child(&run), Signal::KILL).unwrap();
    run.wait().unwrap();
    // Whoever changes his mind gets all of it back.
    site.kickstart(&[]);
    site.follows();
    site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert_eq!(site.host.processes(), [""; 0]);
    assert_eq!(
        tree(&site.host.disk("srv")).into_keys().collect::<Vec<_>>(),
        ["", "slug", "slug/data"].map(PathBuf::from)
    );
}

#[test]
fn while_something_is_wrong_nothing_is_changed_and_what_it_is_is_said() {
    let site = Site::new();
    for (options, says) in [
        (&["--store", ""][..], "where is intent?"),
        (&["--store", "https://example.com"], "--store https://example.com: one of consul://*"),
        (&["--repo", "ftp://example.com/"], "--repo ftp://example.com/: one of"),
        (&["--repo", "https://me:secret@example.com/"], "passwords, which everybody on the host could read"),
        (&["--sha256", "abc"], "64 digits"),
        (&["--node", "a/b"], "--node a/b: up to 100 letters"),
        (&["--node", "web1\n\"}"], "--node takes a single line"),
        (&["--cluster", "a b"], "--cluster a b: up to 100 letters"),
        (&["--dir", "var/lib"], "--dir var/lib: an absolute path"),
        (&["--dir", "/var/lib/../x"], "an absolute path"),
        (&["--basedir", "/"], "--basedir /: an absolute path"),
        (&["--basedir", "/var/lib/platypus/own"], "is in --dir"),
        (&["--dir", "/srv/platypus/own"], "is in --basedir"),
        (&["--consul-join", "a;b"], "--consul-join a;b: an address"),
        (&["--consul-bind", "127.0.0.1"], "--consul-bind is for --consul-join"),
        (&["--timeout", "0"], "--timeout 0: whole seconds"),
        (&["--frobnicate"], "what is --frobnicate?"),
        (&["--node"], "--node takes a value"),
    ] {
        site.refuses(options, 2, says);
    }
    let other = "0".repeat(64);
    fs::write(site.host.disk("mnt/text"), "no archive").unwrap();
    let text = site.host.run(&["sha256sum", "/mnt/text"])[..64].to_owned();
    fs::create_dir_all(site.host.disk("srv/other/work")).unwrap();
    fs::create_dir_all(site.host.disk("srv/home/.ssh")).unwrap();
    for (options, says) in [
        (&["--artifact", "/mnt/none"][..], "there is no file /mnt/none"),
        (&["--artifact", "http://127.0.0.1:1/p.tar.gz"], "http://127.0.0.1:1/p.tar.gz cannot be fetched"),
        (&["--sha256", &other], "is not what --sha256 says"),
        (&["--artifact", "/mnt/text", "--sha256", &text], "is no .tar.gz"),
        (&["--basedir", "/srv/other"], "/srv/other is somebody else's: /srv/other/work is in it"),
        (&["--basedir", "/srv/home"], "/srv/home is somebody else's: /srv/home/.ssh is in it"),
    ] {
        site.refuses(options, 1, says);
    }
    let mut with_token = site.host.command("env");
    let output = with_token.args(["CONSUL_HTTP_TOKEN=hush", "/mnt/kickstart/host", "--store", "consul://127.0.0.1:1"]);
    let output = output.args(["--repo", "file:/r", "--artifact", "/a", "--sha256", &other]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("name that by CONSUL_HTTP_TOKEN_FILE"), "{said}");
    assert!(!said.contains("hush"));

    // What the store says already counts.
    let config = site.host.disk("mnt/store/clusters/platypus/main/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"versions": {"another": "active"}}"#).unwrap();
    site.refuses(&[], 1, "--artifact and the store disagree: clusters/platypus/main/config does not say");
    fs::write(config.with_file_name("deploy_config.json"), r#"{"basedir": "/srv/elsewhere"}"#).unwrap();
    site.refuses(&[], 1, r#"does not say "basedir":"/srv/platypus""#);
    assert_eq!(site.host.processes(), [""; 0]);
}

#[test]
fn a_consul_client_that_joins_is_an_app_of_its_own_and_leaves_with_the_rest() {
    let mut site = Site::new();
    let server = site.host.consul(
        r#"{"node_name": "server1", "bind_addr": "127.0.0.2", "advertise_addr": "127.0.0.2",
            "ports": {"server": 8300, "serf_lan": 8301}}"#,
    );
    site.store = "consul://127.0.0.1:8500".to_owned();
    let join = ["--consul-join", "127.0.0.2", "--consul-bind", "127.0.0.1"];
    site.interrupted(&join, "services are linked", "var/lib/platypus/service/platypus@pp-setlive");
    println!("{}", site.kickstart(&join));
    site.follows();
    let alive = |what: &str| {
        let (_, members) = site.host.within(|| server.http("GET", "/v1/agent/members", b""));
        let members = serde_json::from_str::<Vec<Value>>(&members).unwrap();
        members.iter().any(|member| member["Name"] == what && member["Status"] == 1)
    };
    assert!(alive("web1"));
    site.serves();
    let (_, instances) = site.host.within(|| server.http("GET", "/v1/health/service/slug?passing", b""));
    assert!(instances.contains("\"web1\""), "{instances}");

    // Nor is it forgotten by one that does not name it.
    let consul = site.running("consul agent");
    assert!(site.kickstart(&[]).starts_with("Nothing to do: "));
    assert_eq!((consul.len(), site.running("consul agent")), (1, consul));
    site.host.run(&["/mnt/kickstart/host", "--remove"]);
    assert_eq!(site.host.processes(), [""; 0]);
    eventually("it has left", SOON, || (!alive("web1")).then_some(()));
    assert!(site.host.disk("srv/consul/data").is_dir() && !site.host.disk("srv/consul/installs").exists());
}

#[test]
fn what_is_packed_depends_on_nothing_but_its_content() {
    let scratch = Scratch::new();
    let programs = |name: &str, mode: u32, text: &str| {
        let dir = scratch.path().join(name);
        fs::create_dir(&dir).unwrap();
        for program in PROGRAMS.iter().rev() {
            fs::write(dir.join(program), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(dir.join(program), Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(dir.join("share/man/man1")).unwrap();
        fs::write(dir.join("share/man/man1/pp-store.1"), text).unwrap();
        fs::set_permissions(dir.join("share/man/man1/pp-store.1"), Permissions::from_mode(mode)).unwrap();
        dir
    };
    let repo = |name: &str| scratch.path().join(name);
    let one = pack(&programs("one", 0o700, "true"), &repo("a"));
    let same = pack(&programs("same", 0o775, "true"), &repo("b"));
    assert_eq!((&one.version, &one.sha256), (&same.version, &same.sha256));
    assert_eq!(fs::read(&one.path).unwrap(), fs::read(&same.path).unwrap());
    assert!(one.path.ends_with(format!("platypus/platypus_{}.tar.gz", one.version)));
    let other = pack(&programs("other", 0o755, "false"), &repo("a"));
    assert_ne!(one.version, other.version);

    let listed = Command::new("tar").arg("-tf").arg(&one.path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let agents = ["pp-iptables", "pp-preparer", "pp-setlive"].map(|agent| format!("bin/launch/{agent}"));
    let files = listed.lines().filter(|line| !line.ends_with('/')).map(str::to_owned).collect::<Vec<_>>();
    let programs = PROGRAMS.map(|program| format!("bin/{program}"));
    let ours = ["kickstart/host".to_owned(), "kickstart/setup".to_owned()];
    let pages = ["share/man/man1/pp-store.1".to_owned()];
    assert_eq!(files, [&agents[..], &programs[..], &ours[..], &pages[..]].concat());
}

#[test]
fn the_unit_for_systemd_is_one() {
    let scratch = Scratch::new();
    let host = concat!(env!("CARGO_MANIFEST_DIR"), "/../kickstart/host");
    let printed = Command::new(host).args(["--print-unit", "--dir", "/srv/own"]).output().unwrap();
    let unit = scratch.path().join("platypus.service");
    fs::write(&unit, &printed.stdout).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output();
    let verified = verified.expect("systemd-analyze is installed: run kickstart/setup");
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success() && !said.contains("platypus.service"), "{said}");
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains(" -P /srv/own/service\n") && text.contains("\nKillMode=process\n"), "{text}");
}
