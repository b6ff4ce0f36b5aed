//! Downloads that break, whose server changes its mind, and that are nobody else's business. `SEED` replays a run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Mutex;

use fixtures::{Host, Pass, WebAnswer, WebRequest, WebServer, bin, pass};
use serde_json::json;

use crate::support::{copied, file, intend, names, preparer};

/// A host with the artifact of the active version 1, some 300 kB, and what its install has to be.
fn host() -> (Host, Vec<u8>, fixtures::Tree) {
    let host = Host::without_runit();
    let bytes = artifact(&host, "1", 7);
    intend(&host, "slug", &json!({"1": "active"}));
    assert!(pass(host.preparer().arg("--once")).ok);
    let tree = installed(&host);
    (host, bytes, tree)
}

fn artifact(host: &Host, version: &str, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let path = host.repo.artifact("slug", version, |archive| {
        for n in 0..30 {
            let content = (0..10_000).map(|_| random.u8(..)).collect::<Vec<_>>();
            file(archive, &format!("d{}/f{n}", n % 7), &content);
        }
    });
    fs::read(path).unwrap()
}

/// Takes the install away.
fn installed(host: &Host) -> fixtures::Tree {
    let tree = copied(&host.path("srv/slug/installs/slug_1"));
    fs::remove_dir_all(host.path("srv/slug")).unwrap();
    tree
}

fn once(host: &Host, server: &WebServer, flags: &[&str]) -> Pass {
    pass(preparer(host, &server.url()).arg("--once").args(flags))
}

#[test]
fn a_download_cut_at_random_positions_ends_in_the_right_tree() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (host, bytes, tree) = host();
    for round in 0..8 {
        let (random, served) = (Mutex::new(random.fork()), bytes.clone());
        let server = WebServer::start(move |request| {
            let answer = WebAnswer::file(request, &served, "\"a\"");
            let at = random.lock().unwrap().usize(..=answer.body.len());
            match request.nth {
                5.. => answer,
                4 => answer.stalling(at),
                _ => answer.cut(at),
            }
        });
        let pass = once(&host, &server, &["--stall-timeout", "0.3"]);
        assert!(pass.ok, "round {round}: {}", pass.log);
        assert_eq!(pass.log.lines().count(), 2, "that it broke is no news: {}", pass.log);
        assert_eq!(installed(&host), tree, "round {round}");
    }
}

#[test]
fn an_artifact_that_changes_under_way_is_unpacked_anew() {
    let (host, first, tree) = host();
    let second = artifact(&host, "1", 8);
    for ignores_ranges in [false, true] {
        let (first, second) = (first.clone(), second.clone());
        let server = WebServer::start(move |request| {
            let request = if ignores_ranges { &WebRequest { headers: [].into(), ..request.clone() } } else { request };
            match request.nth {
                0 => WebAnswer::file(request, &first, "\"a\"").cut(200_000),
                _ => WebAnswer::file(request, &second, "\"b\""),
            }
        });
        let pass = once(&host, &server, &[]);
        assert!(pass.ok, "{}", pass.log);
        assert_eq!(server.requests()[1].header("range"), Some("bytes=200000-"));
        assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
        let now = installed(&host);
        assert!(now.len() == tree.len() && now != tree);
    }
}

#[test]
fn a_server_that_lies_makes_a_clear_error_and_leaves_nothing() {
    let (host, bytes, _) = host();
    type Lie = fn(&WebRequest, WebAnswer) -> WebAnswer;
    let table: [(Lie, &str); 7] = [
        (|_, answer| answer.with("Content-Length", "900000"), "cannot resume it"),
        (|_, answer| answer.with("Content-Length", "100000"), "reading the artifact: "),
        (
            |request, answer| {
                if request.nth == 0 { answer.cut(9) } else { answer.with("Content-Range", "bytes 0-8/9") }
            },
            "the server contradicts itself, or does not answer what it was asked: a Content-Range from byte 0",
        ),
        (
            |request, answer| if request.nth == 0 { answer.cut(9) } else { answer.without("Content-Range") },
            "no readable Content-Range",
        ),
        (
            |request, answer| if request.nth == 0 { answer.cut(9) } else { answer.with("Content-Length", "5") },
            "a Content-Length that is not that of its Content-Range",
        ),
        (|_, answer| answer.stalling(99_999).with("ETag", "W/\"a\""), "timed out"),
        (|request, answer| answer.cut(9).with("ETag", &format!("\"{}\"", request.nth)), "cannot resume it"),
    ];
    for (lie, says) in table {
        let served = bytes.clone();
        let server = WebServer::start(move |request| lie(request, WebAnswer::file(request, &served, "\"a\"")));
        let failed = once(&host, &server, &["--stall-timeout", "0.2", "--fetch-retries", "1"]);
        let address = format!("slug: {}/slug/slug_1.tar.gz: ", server.url());
        assert!(!failed.ok && failed.log.contains(&address) && failed.log.contains(says), "{says}: {}", failed.log);
        assert_eq!(names(&host, "slug"), [".lock"], "{says}");
    }
}

#[test]
fn a_download_that_takes_too_long_as_a_whole_is_given_up() {
    let (host, bytes, _) = host();
    let server = WebServer::start(move |request| WebAnswer::file(request, &bytes, "\"a\"").cut(10));
    let failed = once(&host, &server, &["--fetch-timeout", "0.5"]);
    assert!(!failed.ok && failed.log.contains("not fetched within 0.5 s, as --fetch-timeout has it"), "{}", failed.log);
    assert_eq!(names(&host, "slug"), [".lock"]);
}

#[test]
fn a_token_or_a_password_is_for_the_repository_alone() {
    let (host, bytes, _) = host();
    let (token, login) = (host.path("token"), host.path("login"));
    fs::write(&token, "t0ken\n").unwrap();
    fs::write(&login, "user:pass:word\n").unwrap();
    let with_user = |url: &str| url.replace("http://", "http://user:pass%3Aword@");
    let table: [(&[&str], bool, &str); 3] = [
        (&["--repo-token", token.to_str().unwrap()], false, "Bearer t0ken"),
        (&["--repo-login", login.to_str().unwrap()], false, "Basic dXNlcjpwYXNzOndvcmQ="),
        (&[], true, "Basic dXNlcjpwYXNzOndvcmQ="),
    ];
    for (flags, in_address, expected) in table {
        let served = bytes.clone();
        let other = WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\""));
        let to = format!("{}/moved", other.url());
        let repo = WebServer::start(move |request| match request.path.as_str() {
            "/moved" => WebAnswer::redirect(&to),
            _ => WebAnswer::redirect("/moved"),
        });
        let address = if in_address { with_user(&repo.url()) } else { repo.url() };
        let pass = pass(preparer(&host, &address).arg("--once").args(flags));
        assert!(pass.ok, "{}", pass.log);
        assert!(!pass.log.contains("pass") && !pass.log.contains("t0ken"), "{}", pass.log);
        let shown = |server: &WebServer| {
            let requests = server.requests();
            requests.iter().map(|request| request.header("authorization").map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&repo), [Some(expected.to_owned()), Some(expected.to_owned())]);
        assert_eq!(shown(&other), [None]);
        installed(&host);
        // What developers name is asked for as by anybody, unless it is in the repository.
        let served = bytes.clone();
        let other = WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\""));
        let artifacts = json!({"1": {"url": format!("{}/a.tar.gz", other.url())}});
        host.put("clusters/slug/dev/config", &json!({"versions": {"1": "active"}, "artifacts": artifacts}));
        let pass = fixtures::pass(preparer(&host, &address).args(["--once", "--allow-url", &other.url()]).args(flags));
        assert!(pass.ok, "{}", pass.log);
        assert_eq!(shown(&other), [None]);
        intend(&host, "slug", &json!({"1": "active"}));
        installed(&host);
    }
}

#[test]
fn a_token_that_cannot_be_read_is_an_error_that_names_the_file_and_not_what_is_in_it() {
    let (host, bytes, _) = host();
    let server = WebServer::start(move |request| WebAnswer::file(request, &bytes, "\"a\""));
    let token = host.path("token");
    for (content, says) in
        [(None, "No such file"), (Some(""), "it is empty"), (Some("se\ncret"), "it has more than one line")]
    {
        content.iter().for_each(|content| fs::write(&token, content).unwrap());
        let failed = once(&host, &server, &["--repo-token", token.to_str().unwrap()]);
        let says = format!("--repo-token {}: {says}", token.display());
        assert!(!failed.ok && failed.log.contains(&says) && !failed.log.contains("cret"), "{}", failed.log);
    }
    assert!(server.requests().is_empty());
    let url = server.url().replace("http://", "http://u:p@");
    let both = pass(preparer(&host, &url).args(["--once", "--repo-token", token.to_str().unwrap()]));
    assert!(!both.ok && both.log.contains("--repo has a user in it"), "{}", both.log);
}

#[test]
fn a_proxy_is_asked_where_the_environment_names_one() {
    let (host, bytes, tree) = host();
    let proxy = WebServer::start(move |request| match request.path.as_str() {
        "http://artifacts.invalid/slug/slug_1.tar.gz" => WebAnswer::file(request, &bytes, "\"a\""),
        _ => WebAnswer::status(502),
    });
    let mut preparer = preparer(&host, "http://artifacts.invalid/");
    preparer.arg("--once").env_remove("NO_PROXY").env_remove("no_proxy").env("http_proxy", proxy.url());
    let pass = pass(&mut preparer);
    assert!(pass.ok, "{}", pass.log);
    assert_eq!(installed(&host), tree);
}

/// In a mount namespace of its own, in which `srv` is a file system of one MB.
fn on_a_small_file_system(host: &Host, repo: &str) -> Pass {
    let srv = host.path("srv");
    fs::create_dir_all(&srv).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=1m tmpfs \"$0\" && \"$@\"; status=$?; ls -A \"$0/slug/installs\"; exit $status",
    ]);
    unshare.arg(&srv).arg(bin("pp-preparer"));
    unshare.args(["--once", "--node", "web1", "--store", &host.store_url(), "--repo", repo]).env("NO_PROXY", "*");
    pass(&mut unshare)
}

#[test]
fn what_does_not_fit_is_refused_before_it_comes_or_once_the_file_system_is_full() {
    let host = Host::without_runit();
    // Not compressed, so that it can be seen before that it does not fit.
    host.repo.artifact("slug", "1", |archive| file(archive, "large", &vec![b'x'; 2 << 20]));
    intend(&host, "slug", &json!({"1": "active"}));
    let served = fs::read(host.repo.path("slug", "1")).unwrap();
    let server = WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\""));
    let length = fs::metadata(host.repo.path("slug", "1")).unwrap().size();
    for repo in [host.repo.url(), server.url()] {
        let failed = on_a_small_file_system(&host, &repo);
        let says = format!("slug_1.tar.gz: not enough room on the file system at {}: ", host.path("srv").display());
        assert!(!failed.ok && failed.log.contains(&says), "{}", failed.log);
        assert!(failed.log.contains(&format!("takes 2.1 MB ({length} bytes) at the least")), "{}", failed.log);
        assert_eq!(failed.out, ".lock\n");
    }
    let served = fs::read(host.repo.path("slug", "1")).unwrap();
    let unmeasured =
        WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\"").without("Content-Length"));
    let failed = on_a_small_file_system(&host, &unmeasured.url());
    let says = format!("slug_1.tar.gz: the file system at {} is full, with 1.0 MB free", host.path("srv").display());
    assert!(!failed.ok && failed.log.contains(&says) && failed.log.contains("No space left"), "{}", failed.log);
    assert_eq!(failed.out, ".lock\n");
}
