//! Artifacts over HTTP, and all that can go wrong on the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use fixtures::{Host, HttpFault, HttpServer, Pass, SOON, eventually, free_port, pass};
use serde_json::json;

use crate::support::{copied, file, intend, names, preparer};

/// A pass that gives up at the first thing that goes wrong.
fn once(host: &Host, repo: &str) -> Pass {
    pass(preparer(host, repo).args(["--once", "--fetch-retries", "0"]))
}

/// Some 300 kB in 30 files, more than all buffers on its way hold together.
fn artifact(host: &Host, app: &str, version: &str) {
    let mut random = fastrand::Rng::with_seed(7);
    host.repo.artifact(app, version, |archive| {
        for n in 0..30 {
            let content = (0..10_000).map(|_| random.u8(..)).collect::<Vec<_>>();
            file(archive, &format!("d{}/f{n}", n % 7), &content);
        }
    });
}

fn host() -> (Host, HttpServer) {
    let host = Host::without_runit();
    artifact(&host, "slug", "1");
    intend(&host, "slug", &json!({"1": "active"}));
    let server = HttpServer::start(host.repo.dir());
    (host, server)
}

#[test]
fn an_install_over_http_is_the_same_as_one_from_a_file() {
    let (host, server) = host();
    assert!(pass(host.preparer().arg("--once")).ok);
    let install = host.path("srv/slug/installs/slug_1");
    let from_file = copied(&install);
    for url in [server.url(), server.url() + "/"] {
        fs::remove_dir_all(&install).unwrap();
        let pass = once(&host, &url);
        assert!(pass.ok, "{}", pass.log);
        assert!(pass.log.contains(&format!("slug: Fetching {}/slug/slug_1.tar.gz", server.url())), "{}", pass.log);
        assert_eq!(copied(&install), from_file);
    }
    let requests = server.requests();
    assert_eq!(once(&host, &server.url()).log, "");
    assert_eq!(server.requests(), requests, "a converged pass asks for nothing");
}

#[test]
fn a_download_that_fails_is_an_error_that_names_the_address_and_leaves_nothing() {
    let (host, server) = host();
    let length = usize::try_from(fs::metadata(host.repo.path("slug", "1")).unwrap().len()).unwrap();
    let table = [
        (HttpFault::Status(503), "the server answers 503"),
        (HttpFault::Status(403), "the server answers 403"),
        (HttpFault::Status(204), "the server answers 204"),
        (HttpFault::Status(404), "no such artifact, "),
        (HttpFault::Truncate(0), "end of file before message length reached"),
        (HttpFault::Truncate(1), "end of file before message length reached"),
        (HttpFault::Truncate(length / 2), "end of file before message length reached"),
        (HttpFault::Truncate(length - 1), "end of file before message length reached"),
    ];
    let address = format!("{}/slug/slug_1.tar.gz: ", server.url());
    for (fault, says) in table {
        server.set(fault);
        let failed = once(&host, &server.url());
        assert!(!failed.ok && failed.log.contains(&address) && failed.log.contains(says), "{fault:?}: {}", failed.log);
        assert_eq!(names(&host, "slug"), [".lock"], "{fault:?}");
    }
    server.set(HttpFault::None);
    assert!(once(&host, &server.url()).ok);
}

#[test]
fn a_server_that_is_not_there_is_an_error_that_names_it() {
    let (host, _server) = host();
    let url = format!("http://127.0.0.1:{}", free_port());
    let failed = once(&host, &url);
    let says = format!("slug: {url}/slug/slug_1.tar.gz: ");
    assert!(!failed.ok && failed.log.contains(&says) && failed.log.contains("refused"), "{}", failed.log);
}

#[test]
fn an_artifact_that_is_refused_ends_its_download() {
    let (host, server) = host();
    let path = host.repo.path("slug", "1");
    // Refused at its start, with more to come than all buffers hold.
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] = b'x';
    bytes.extend(vec![0; 20 << 20]);
    fs::write(&path, bytes).unwrap();
    let failed = once(&host, &server.url());
    assert!(!failed.ok && failed.log.contains("at its start, where a tar archive is expected"), "{}", failed.log);
    assert_eq!(names(&host, "slug"), [".lock"]);
}

#[test]
fn sigterm_ends_the_agent_at_once_in_the_middle_of_a_stalled_download() {
    let (host, server) = host();
    for stalled_after in [0, 100_000] {
        server.set(HttpFault::Stall(stalled_after));
        let requests = server.requests();
        let agent = host.watch(preparer(&host, &server.url()));
        eventually("the download begins", SOON, || (server.requests() > requests).then_some(()));
        let staged = || stalled_after == 0 || host.path("srv/slug/installs/.stage-slug_1/d0").exists();
        eventually("what came is unpacked", SOON, || staged().then_some(()));
        agent.stop();
    }
    server.set(HttpFault::None);
    assert!(once(&host, &server.url()).ok);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
}

#[test]
fn a_stalled_download_delays_no_other_app() {
    let host = Host::without_runit();
    artifact(&host, "other", "1");
    let server = Server::start([
        ("/slug/slug_1.tar.gz", Answer::Stall),
        ("/other/other_1.tar.gz", Answer::File(fs::read(host.repo.path("other", "1")).unwrap())),
    ]);
    let agent = host.watch(preparer(&host, &server.url()));
    intend(&host, "slug", &json!({"1": "active"}));
    eventually("the stalled download begins", SOON, || server.asked("/slug/slug_1.tar.gz").then_some(()));
    intend(&host, "other", &json!({"1": "active"}));
    agent.says("other: Prepared other_1");
    assert!(!agent.log().contains("Prepared slug"));
    agent.stop();
}

#[test]
fn new_intent_overtakes_a_stalled_download_and_unrelated_intent_does_not() {
    let host = Host::without_runit();
    artifact(&host, "slug", "2");
    let server = Server::start([
        ("/slug/slug_1.tar.gz", Answer::Stall),
        ("/slug/slug_2.tar.gz", Answer::File(fs::read(host.repo.path("slug", "2")).unwrap())),
    ]);
    let agent = host.watch(preparer(&host, &server.url()));
    intend(&host, "slug", &json!({"1": "active"}));
    eventually("the stalled download begins", SOON, || server.asked("/slug/slug_1.tar.gz").then_some(()));
    // Version 1 is still the first to be prepared.
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    intend(&host, "slug", &json!({"1": "prep", "2": "active"}));
    agent.says("slug: Gave up preparing slug_1: intent has changed");
    agent.says("slug: Prepared slug_2");
    assert_eq!(agent.log().matches("slug_1: intent has changed").count(), 1, "{}", agent.log());
    // And goes on with what is left.
    eventually("version 1 is tried again", SOON, || (agent.log().matches("slug_1.tar.gz").count() == 2).then_some(()));
    intend(&host, "slug", &json!({"2": "active"}));
    eventually("only version 2 is left", SOON, || (names(&host, "slug") == [".lock", "slug_2"]).then_some(()));
    agent.stop();
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let host = Host::without_runit();
    artifact(&host, "slug", "1");
    intend(&host, "slug", &json!({"1": "active", "2": "prep", "3": "prep", "4": "prep"}));
    let server = Server::start([
        ("/slug/slug_1.tar.gz", Answer::Redirect("/elsewhere")),
        ("/elsewhere", Answer::File(fs::read(host.repo.path("slug", "1")).unwrap())),
        ("/slug/slug_2.tar.gz", Answer::Redirect("/slug/slug_2.tar.gz")),
        ("/slug/slug_3.tar.gz", Answer::Redirect("file:///etc/passwd")),
        ("/slug/slug_4.tar.gz", Answer::Redirect("ftp://127.0.0.1/x?secret")),
    ]);
    let failed = once(&host, &server.url());
    assert!(!failed.ok && failed.log.contains("too many redirects"), "{}", failed.log);
    for says in [
        "/slug/slug_3.tar.gz: the server answers 302 Found, with an address that is none of http or https",
        "/slug/slug_4.tar.gz: error following redirect: a redirect to ftp://127.0.0.1/x, which is neither http nor https",
    ] {
        assert!(failed.log.contains(says), "{}", failed.log);
    }
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
}

#[test]
fn a_body_of_unknown_length_is_whole_when_its_gzip_is() {
    let host = Host::without_runit();
    artifact(&host, "slug", "1");
    intend(&host, "slug", &json!({"1": "active", "2": "prep"}));
    let whole = fs::read(host.repo.path("slug", "1")).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    let server = Server::start([
        ("/slug/slug_1.tar.gz", Answer::Unmeasured(whole)),
        ("/slug/slug_2.tar.gz", Answer::Unmeasured(half)),
    ]);
    let failed = once(&host, &server.url());
    assert!(!failed.ok && failed.log.contains("slug_2.tar.gz: "), "{}", failed.log);
    assert!(failed.log.contains("reading the artifact"), "{}", failed.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
}

#[test]
fn a_host_without_any_ca_certificates_can_fetch_from_a_plain_server() {
    let (host, server) = host();
    let mut preparer = preparer(&host, &server.url());
    preparer.arg("--once").env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    let pass = pass(&mut preparer);
    assert!(pass.ok, "{}", pass.log);
}

/// What a server answers to one path.
enum Answer {
    File(Vec<u8>),
    /// A head, half of what it promises, and then nothing for ever.
    Stall,
    Redirect(&'static str),
    /// The end of the connection is the end of the file.
    Unmeasured(Vec<u8>),
}

/// Answers each path in its own way, each connection on a thread of its own until the test ends.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start<const N: usize>(answers: [(&'static str, Answer); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answers, asked) = (Arc::new(BTreeMap::from(answers)), Arc::new(Mutex::new(Vec::new())));
        let server = Self { port, asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                thread::spawn(move || {
                    // A client that goes away is what some tests are about.
                    let Some(path) = request(&stream) else { return };
                    let answer = &answers[path.as_str()];
                    asked.lock().unwrap().push(path);
                    let _ = respond(stream, answer);
                });
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn asked(&self, path: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == path)
    }
}

fn request(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    lines.find(String::is_empty)?;
    Some(first.split(' ').nth(1)?.to_owned())
}

fn respond(mut stream: TcpStream, answer: &Answer) -> io::Result<()> {
    let head = |status: &str, rest: String| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{rest}\r\n");
    match answer {
        Answer::File(bytes) => {
            stream.write_all(head("200 OK", format!("Content-Length: {}\r\n", bytes.len())).as_bytes())?;
            stream.write_all(bytes)
        }
        Answer::Unmeasured(bytes) => {
            stream.write_all(head("200 OK", String::new()).as_bytes())?;
            stream.write_all(bytes)
        }
        Answer::Redirect(to) => {
            stream.write_all(head("302 Found", format!("Location: {to}\r\nContent-Length: 0\r\n")).as_bytes())
        }
        Answer::Stall => {
            stream.write_all(head("200 OK", "Content-Length: 1000\r\n".to_owned()).as_bytes())?;
            stream.write_all(&[0x1f, 0x8b, 8, 0])?;
            loop {
                thread::park();
            }
        }
    }
}
