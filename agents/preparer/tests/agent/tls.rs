//! Repositories over HTTPS, of authorities that the host does not know.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use fixtures::{Host, pass};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::support::{file, intend, names, preparer};

/// An authority of our own, and a server with a certificate by it that answers everything with the same bytes.
struct Server {
    authority: String,
    port: u16,
}

impl Server {
    /// `head` goes before an answer's `Content-Length`.
    fn start(head: String, body: Vec<u8>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = key.serialize_der().try_into().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { authority: authority.pem(), port: listener.local_addr().unwrap().port() };
        let config = Arc::new(config);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                // A client that does not trust us goes away.
                if (&mut stream).lines().map_while(Result::ok).any(|line| line.is_empty()) {
                    let head =
                        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                    let stream = stream.get_mut();
                    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }
}

#[test]
fn a_repository_of_a_private_authority_is_trusted_by_its_certificate_alone() {
    let host = Host::without_runit();
    intend(&host, "slug", &json!({"1": "active"}));
    let path = host.repo.artifact("slug", "1", |archive| file(archive, "VERSION", b"1"));
    let server = Server::start("200 OK".to_owned(), fs::read(path).unwrap());
    let other = Server::start("200 OK".to_owned(), Vec::new());
    let (ca, other_ca) = (host.path("ca.pem"), host.path("other.pem"));
    fs::write(&ca, &server.authority).unwrap();
    fs::write(&other_ca, &other.authority).unwrap();
    let flags = |ca: &str| ["--once".to_owned(), "--fetch-retries=0".to_owned(), format!("--repo-ca={ca}")];
    let refused = [
        (flags(other_ca.to_str().unwrap())[..].to_vec(), "certificate"),
        (flags("/nonexistent")[..].to_vec(), "--repo-ca /nonexistent: No such file"),
        (flags("/dev/null")[..].to_vec(), "--repo-ca /dev/null: it holds no certificate in PEM"),
        (flags(ca.to_str().unwrap())[..2].to_vec(), "certificate"),
    ];
    for (flags, says) in refused {
        let failed = pass(preparer(&host, &server.url()).args(flags));
        assert!(!failed.ok && failed.log.contains(says), "{says}: {}", failed.log);
        assert_eq!(names(&host, "slug"), [".lock"]);
    }
    let good = pass(preparer(&host, &server.url()).args(flags(ca.to_str().unwrap())));
    assert!(good.ok, "{}", good.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1"]);
    // What intent names may be on that server, too, or on any other.
    let artifacts = json!({"2": {"url": server.url() + "a/2.tar.gz"}});
    host.put("clusters/slug/dev/config", &json!({"versions": {"2": "active"}, "artifacts": artifacts}));
    let mut preparer = preparer(&host, &server.url());
    let good = pass(preparer.args(flags(ca.to_str().unwrap())).args(["--allow-url", &server.url()]));
    assert!(good.ok, "{}", good.log);
    assert_eq!(names(&host, "slug"), [".lock", "slug_1", "slug_2"]);
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let host = Host::without_runit();
    intend(&host, "slug", &json!({"1": "active"}));
    let server = Server::start("302 Found\r\nLocation: http://127.0.0.1:1/a?secret".to_owned(), Vec::new());
    fs::write(host.path("ca.pem"), &server.authority).unwrap();
    let failed = pass(preparer(&host, &server.url()).arg("--once").arg("--repo-ca").arg(host.path("ca.pem")));
    let says = "error following redirect: a redirect from https to http://127.0.0.1:1/a";
    assert!(!failed.ok && failed.log.contains(says) && !failed.log.contains("secret"), "{}", failed.log);
}
