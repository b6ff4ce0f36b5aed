//! Artifacts that are not what they should be, by their digest or their signature, or not where they may be.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use fixtures::{Host, Pass, WebAnswer, WebServer, pass};
use minisign::KeyPair;
use rustix::process::geteuid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{converge, file, intend, names, preparer};

fn host(versions: &[&str]) -> Host {
    let host = Host::without_runit();
    for version in versions {
        host.repo.artifact("slug", version, |archive| file(archive, "VERSION", version.as_bytes()));
    }
    host
}

fn intend_with(host: &Host, versions: &Value, artifacts: &Value) {
    intend(host, "slug", versions);
    host.put("clusters/slug/dev/config", &json!({"versions": versions, "artifacts": artifacts}));
}

fn artifact(host: &Host, version: &str) -> Vec<u8> {
    fs::read(host.repo.path("slug", version)).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A pass with these flags on top that has to fail, saying this, and to install nothing but what is named.
#[track_caller]
fn refuses(host: &Host, preparer: &mut Command, says: &str, installs: &[&str]) {
    let Pass { ok, log, .. } = pass(preparer.args(["--once", "--fetch-retries", "0"]).env("NO_PROXY", "*"));
    assert!(!ok && log.contains(says), "not {says:?}: {log}");
    assert_eq!(names(host, "slug"), [&[".lock"], installs].concat(), "{log}");
}

#[test]
fn an_artifact_is_installed_only_when_its_digest_is_the_one_that_intent_names() {
    let host = host(&["1", "2", "3"]);
    intend(&host, "other", &json!({"1": "active"}));
    host.repo.artifact("other", "1", |archive| file(archive, "VERSION", b"1"));
    let (right, wrong) = (sha256(&artifact(&host, "1")).to_uppercase(), sha256(b"else"));
    let versions = json!({"1": "prep", "2": "active", "3": "prep"});
    intend_with(&host, &versions, &json!({"1": {"sha256": right}, "2": {"sha256": wrong}}));
    let is = sha256(&artifact(&host, "2"));
    let says = format!("slug_2.tar.gz: this is not the artifact that intent means: its sha256 is {is}, not {wrong}");
    refuses(&host, &mut host.preparer(), &says, &["slug_1", "slug_3"]);
    assert_eq!(names(&host, "other"), [".lock", "other_1"]);
    fs::remove_dir_all(host.path("srv/slug")).unwrap();
    let web = WebServer::start({
        let files = ["1", "2", "3"].map(|version| artifact(&host, version));
        move |request| {
            let nth = request.path.strip_prefix("/slug/slug_").map(|rest| usize::from(rest.as_bytes()[0] - b'1'));
            nth.map_or_else(|| WebAnswer::status(404), |nth| WebAnswer::file(request, &files[nth], "\"a\""))
        }
    });
    refuses(&host, &mut preparer(&host, &web.url()), &says, &["slug_1", "slug_3"]);
    intend_with(&host, &versions, &json!({"2": {"sha256": is}}));
    converge(&host);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2", "slug_3"]);
}

#[test]
fn a_wrong_artifact_is_reported_once_and_installed_once_intent_means_it() {
    let host = host(&["1"]);
    let agent = host.watch(host.preparer());
    let wrong = sha256(b"else");
    intend_with(&host, &json!({"1": "active"}), &json!({"1": {"sha256": wrong}}));
    agent.says("this is not the artifact that intent means");
    // That it is tried again shows only where somebody looks closer; a third version tells that it goes on.
    host.repo.artifact("slug", "2", |archive| file(archive, "VERSION", b"2"));
    let both = json!({"1": "active", "2": "prep"});
    intend_with(&host, &both, &json!({"1": {"sha256": wrong}}));
    agent.says("slug: Prepared slug_2 in ");
    intend_with(&host, &both, &json!({"1": {"sha256": sha256(&artifact(&host, "1"))}}));
    agent.says("slug: Prepared slug_1 in ");
    agent.says("slug: converged");
    assert_eq!(agent.log().matches("this is not the artifact").count(), 1, "{}", agent.log());
    agent.stop();
}

/// Answers with the artifact under `/good/…`, and from other places with redirects.
fn elsewhere(bytes: Vec<u8>) -> (WebServer, WebServer) {
    let served = bytes.clone();
    let other = WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\""));
    let to_other = format!("{}/good/a.tar.gz", other.url());
    let web = WebServer::start(move |request| match request.path.as_str() {
        "/good/inside" => WebAnswer::redirect("/good/a.tar.gz"),
        "/good/outside" => WebAnswer::redirect("/bad/a.tar.gz"),
        "/good/up" => WebAnswer::redirect("/good/../bad/a.tar.gz"),
        "/good/encoded" => WebAnswer::redirect("/good/..%2fbad/a.tar.gz"),
        "/good/away" => WebAnswer::redirect(&to_other),
        "/good/scheme" => WebAnswer::redirect("ftp://127.0.0.1/good/a.tar.gz"),
        path if path.ends_with("/a.tar.gz") => WebAnswer::file(request, &bytes, "\"a\""),
        _ => WebAnswer::status(404),
    });
    (web, other)
}

#[test]
fn a_url_of_an_artifact_is_followed_only_as_far_as_the_host_allows() {
    let host = host(&["1"]);
    let bytes = artifact(&host, "1");
    fs::remove_file(host.repo.path("slug", "1")).unwrap();
    let (web, other) = elsewhere(bytes.clone());
    let (url, allowed) = (|path: &str| format!("{}{path}", web.url()), format!("{}/good", web.url()));
    let intend = |url: &str| {
        let spec = json!({"1": {"url": url, "sha256": sha256(&bytes)}});
        intend_with(&host, &json!({"1": "active"}), &spec);
    };
    let preparer = |allowed: &[&str]| {
        let mut preparer = host.preparer();
        for prefix in allowed {
            preparer.args(["--allow-url", prefix]);
        }
        preparer
    };
    intend(&url("/good/a.tar.gz"));
    refuses(&host, &mut preparer(&[]), "/good/a.tar.gz: this host fetches from nowhere but its repository", &[]);
    refuses(
        &host,
        &mut preparer(&["https://elsewhere/", &format!("{}/goo", web.url())]),
        "does not fetch from there",
        &[],
    );
    intend(&url("/bad/a.tar.gz"));
    refuses(&host, &mut preparer(&[&allowed]), "/bad/a.tar.gz: this host does not fetch from there", &[]);
    assert_eq!(web.requests().len(), 0, "what is forbidden is not even asked for");
    for (path, says) in [
        ("/good/outside", "/bad/a.tar.gz: this host does not fetch from there"),
        ("/good/up", "/bad/a.tar.gz: this host does not fetch from there"),
        ("/good/encoded", "this host does not fetch from there"),
        ("/good/away", &format!("a redirect to {}/good/a.tar.gz: this host does not fetch from there", other.url())),
        ("/good/scheme", "neither http nor https"),
    ] {
        intend(&url(path));
        refuses(&host, &mut preparer(&[&allowed]), says, &[]);
    }
    assert!(other.requests().is_empty() && web.requests().iter().all(|request| request.path.starts_with("/good/")));
    intend(&url("/good/inside"));
    let pass = pass(preparer(&["https://elsewhere/", &allowed]).arg("--once").env("NO_PROXY", "*"));
    assert!(pass.ok && pass.log.contains("/good/inside\n"), "{}", pass.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
}

#[test]
fn a_plan_says_what_would_be_fetched_from_where_and_what_would_not() {
    let host = host(&["1"]);
    let artifacts =
        json!({"1": {"url": "https://elsewhere/a/1.tar.gz?x"}, "2": {"url": "https://elsewhere/b/2.tar.gz"}});
    intend_with(&host, &json!({"1": "active", "2": "prep"}), &artifacts);
    let plan = pass(host.preparer().args(["--plan", "--allow-url", "https://elsewhere/a/"]));
    assert!(
        plan.status == Some(2) && plan.out.contains("fetch https://elsewhere/a/1.tar.gz and unpack it to "),
        "{}",
        plan.out
    );
    assert!(
        plan.out.contains("refuse https://elsewhere/b/2.tar.gz: this host does not fetch from there"),
        "{}",
        plan.out
    );
}

/// A host that trusts one key, with its only version signed as a test says.
struct Signing {
    host: Host,
    key: KeyPair,
    keys: PathBuf,
}

impl Signing {
    fn new() -> Self {
        let (host, key) = (host(&["1"]), KeyPair::generate_unencrypted_keypair().unwrap());
        intend(&host, "slug", &json!({"1": "active"}));
        let keys = host.path("keys");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, Permissions::from_mode(0o755)).unwrap();
        let signing = Self { host, key, keys };
        signing.trust("ours.pub", &signing.key);
        fs::write(signing.keys.join("README"), "not a key").unwrap();
        signing
    }

    fn trust(&self, name: &str, key: &KeyPair) {
        fs::write(self.keys.join(name), key.pk.to_box().unwrap().to_string()).unwrap();
        fs::set_permissions(self.keys.join(name), Permissions::from_mode(0o644)).unwrap();
    }

    fn signature(key: &KeyPair, of: &[u8], comment: &str) -> String {
        minisign::sign(Some(&key.pk), &key.sk, of, Some(comment), None).unwrap().to_string()
    }

    fn put(&self, signature: &str) {
        fs::write(self.host.repo.path("slug", "1").with_extension("gz.minisig"), signature).unwrap();
    }

    fn sign(&self, comment: &str) {
        self.put(&Self::signature(&self.key, &artifact(&self.host, "1"), comment));
    }

    fn preparer(&self, flags: &[&str]) -> Command {
        let mut preparer = self.host.preparer();
        preparer.arg("--trusted-keys").arg(&self.keys).args(flags);
        preparer
    }

    #[track_caller]
    fn accepts(&self, flags: &[&str]) {
        let Pass { ok, log, .. } = pass(self.preparer(flags).arg("--once"));
        assert!(ok, "{log}");
        assert_eq!(names(&self.host, "slug"), [".lock", "slug_1"]);
        fs::remove_dir_all(self.host.path("srv/slug")).unwrap();
    }

    #[track_caller]
    fn refuses(&self, says: &str) {
        refuses(&self.host, &mut self.preparer(&[]), says, &[]);
    }
}

const GOOD: &str = "app:slug version:1";

#[test]
fn a_good_signature_is_accepted_and_a_missing_one_unless_it_is_required() {
    let signing = Signing::new();
    signing.accepts(&[]);
    refuses(
        &signing.host,
        &mut signing.preparer(&["--require-signature"]),
        "slug_1.tar.gz: it is not signed: there is no",
        &[],
    );
    for comment in [GOOD, "timestamp:1\tfile:x\tversion:1\tapp:slug\thashed"] {
        signing.sign(comment);
        signing.accepts(&["--require-signature"]);
        signing.accepts(&[]);
    }
    signing.trust("another.pub", &KeyPair::generate_unencrypted_keypair().unwrap());
    signing.accepts(&["--require-signature"]);
}

#[test]
fn a_signature_of_something_else_or_by_somebody_else_is_refused() {
    let signing = Signing::new();
    for comment in ["", "app:slug", "version:1", "app:slug version:2", "app:other version:1", "app:slug version:11"] {
        signing.sign(comment);
        signing.refuses("slug_1.tar.gz.minisig: it is of something else: its trusted comment is");
    }
    signing.sign("app:slug version:1 app:other");
    signing.refuses("it is of something else");
    signing.put(&Signing::signature(&signing.key, b"another artifact", GOOD));
    signing.refuses("slug_1.tar.gz: its signature is of something else: ");
    let stranger = KeyPair::generate_unencrypted_keypair().unwrap();
    signing.put(&Signing::signature(&stranger, &artifact(&signing.host, "1"), GOOD));
    signing.refuses("slug_1.tar.gz.minisig: it is by a key that is not trusted here");
    let good = Signing::signature(&signing.key, &artifact(&signing.host, "1"), "app:slug version:2");
    signing.put(&good.replace("version:2", "version:1"));
    signing.refuses("slug_1.tar.gz: its signature is of something else");
    // In base64, the two letters that tell minisign's newer signatures from its older ones: "ED" and "Ed".
    let good = Signing::signature(&signing.key, &artifact(&signing.host, "1"), GOOD);
    assert!(good.contains("\nRU"), "{good}");
    signing.put(&good.replacen("\nRU", "\nRW", 1));
    signing.refuses("it is of minisign's old kind");
    for nonsense in ["", "nonsense", &good[..good.len() / 2], &"x".repeat(20_000)] {
        signing.put(nonsense);
        signing.refuses("slug_1.tar.gz.minisig: ");
    }
    // As `good` was, so that it was no other fault.
    signing.put(&good);
    signing.accepts(&["--require-signature"]);
}

#[test]
fn an_artifact_that_was_tampered_with_is_refused_over_http_too() {
    let signing = Signing::new();
    signing.sign(GOOD);
    let bytes = artifact(&signing.host, "1");
    let signature = fs::read(signing.host.repo.path("slug", "1").with_extension("gz.minisig")).unwrap();
    // The time in gzip's header: what is unpacked is the same.
    let mut tampered = bytes.clone();
    tampered[4] ^= 1;
    for (served, ok) in [(bytes, true), (tampered, false)] {
        let signature = signature.clone();
        let web = WebServer::start(move |request| match request.path.as_str() {
            "/slug/slug_1.tar.gz" => WebAnswer::file(request, &served, "\"a\""),
            "/slug/slug_1.tar.gz.minisig" => WebAnswer::file(request, &signature, "\"b\""),
            _ => WebAnswer::status(404),
        });
        let mut preparer = preparer(&signing.host, &web.url());
        preparer.arg("--trusted-keys").arg(&signing.keys).arg("--require-signature");
        if ok {
            let Pass { ok, log, .. } = pass(preparer.arg("--once").env("NO_PROXY", "*"));
            assert!(ok, "{log}");
            fs::remove_dir_all(signing.host.path("srv/slug")).unwrap();
        } else {
            refuses(&signing.host, &mut preparer, "its signature is of something else", &[]);
        }
    }
}

#[test]
fn keys_that_others_could_have_written_are_not_trusted() {
    let signing = Signing::new();
    signing.sign(GOOD);
    let key = signing.keys.join("ours.pub");
    let mode = |path: &PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for bad in [0o775, 0o757] {
        mode(&signing.keys, bad);
        signing.refuses("others than its owner can write there");
    }
    mode(&signing.keys, 0o755);
    for bad in [0o664, 0o646] {
        mode(&key, bad);
        signing.refuses("ours.pub: others than its owner can write there");
    }
    mode(&key, 0o644);
    // Only root can make somebody else's files.
    if geteuid().is_root() {
        chown(&key, Some(12_345), None).unwrap();
        signing.refuses("ours.pub: it belongs to another user, 12345");
        chown(&key, Some(0), None).unwrap();
        chown(&signing.keys, Some(12_345), None).unwrap();
        signing.refuses("it belongs to another user, 12345");
        chown(&signing.keys, Some(0), None).unwrap();
    }
    fs::rename(&key, signing.host.path("moved.pub")).unwrap();
    signing.refuses("there is no *.pub in it");
    symlink(signing.host.path("moved.pub"), &key).unwrap();
    signing.refuses("ours.pub: ");
    fs::remove_file(&key).unwrap();
    fs::write(&key, "nonsense").unwrap();
    signing.refuses("ours.pub: it is not a public key of minisign");
    fs::rename(signing.host.path("moved.pub"), &key).unwrap();
    signing.accepts(&["--require-signature"]);
}
