//! Fetching an artifact, from a file or over HTTP, as something to read.
//!
//! Ensures, over HTTP: it goes from the connection through a few buffers to whoever reads, never to memory or disk as a
//! whole; a body that stops short, stalls or is cut off is taken up again or an error of the fetch, and the reader never
//! takes it for the end; when the reader goes away the fetch ends, and when the fetch goes away the reader gets an error.
//! What the repository is told of a token or a password, no other host is told.

mod answer;
#[cfg(test)]
mod broken;
mod download;

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Error, Result, ensure};
use bytes::{Buf, Bytes};
use reqwest::header::ACCEPT_ENCODING;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use store::repository::{self, Access, Repo, UrlPrefix};
use tokio::sync::mpsc;

use crate::sources::{Origin, Sources};

pub(crate) use download::{Download, Streamed};

/// Chunks between the connection and the reader; the HTTP client makes them at most a few hundred KiB each.
const BUFFERED: usize = 8;

/// Before what broke is taken up again for the first time; then twice as long each time.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MOST_DELAY: Duration = Duration::from_secs(10);

/// What all fetches of an agent share.
#[derive(Debug)]
pub(crate) struct Fetcher {
    limits: Limits,
    /// Whom the token or the password is for.
    repo: Option<Url>,
    access: Access,
    allowed: Vec<UrlPrefix>,
    /// Made when they are first needed, since that reads all of the host's CA certificates.
    to_repo: OnceCell<Client>,
    to_others: OnceCell<Client>,
}

#[derive(Debug, Clone)]
struct Limits {
    /// For a connection; also how long it may take to answer one that a firewall swallows.
    connect: Duration,
    /// Without a single byte.
    stall: Duration,
    /// For one artifact as a whole.
    total: Duration,
    /// In a row.
    retries: u32,
    /// Before the first of them.
    delay: Duration,
}

impl Fetcher {
    pub(crate) fn new(sources: &Sources) -> Self {
        let limits = Limits {
            connect: sources.connect_timeout,
            stall: sources.stall_timeout,
            total: sources.fetch_timeout,
            retries: sources.fetch_retries,
            delay: FIRST_DELAY,
        };
        let repo = match &sources.repo {
            Repo::Http(url) => Some(url.clone()),
            Repo::Directory(_) => None,
        };
        Self {
            limits,
            repo,
            access: sources.access.clone(),
            allowed: sources.allow_url.clone(),
            to_repo: OnceCell::new(),
            to_others: OnceCell::new(),
        }
    }

    /// Asks for `url`; `None` when the server says that there is no such thing.
    pub(crate) async fn download<'a>(&'a self, url: &'a Url, origin: Origin) -> Result<Option<Download<'a>>> {
        Download::begin(self, url, origin).await
    }

    /// All of something of at most so many bytes.
    pub(crate) async fn small(&self, url: &Url, origin: Origin, most: usize) -> Result<Option<Vec<u8>>> {
        download::small(self, url, origin, most).await
    }

    fn request(&self, url: &Url, origin: Origin) -> Result<RequestBuilder> {
        // What a part is a part of is the artifact, not what somebody on the way makes of it.
        let request = self.client(origin)?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        let to_repo = self.repo.as_ref().is_some_and(|repo| repo.origin() == url.origin());
        // The client leaves it out again when it is redirected to another host.
        if to_repo { self.access.apply(request) } else { Ok(request) }
    }

    fn client(&self, origin: Origin) -> Result<&Client> {
        let (made, allowed) = match origin {
            Origin::Repo => (&self.to_repo, None),
            Origin::Intent => (&self.to_others, Some(&self.allowed[..])),
        };
        if let Some(client) = made.get() {
            return Ok(client);
        }
        let authorities = self.access.authorities()?;
        let settings = |client: ClientBuilder| {
            let client = client.connect_timeout(self.limits.connect).read_timeout(self.limits.stall);
            match (&authorities, origin) {
                (None, _) => client,
                (Some(authorities), Origin::Repo) => client.tls_certs_only(authorities.clone()),
                // What is elsewhere has a certificate as everybody's, or is on the repository's own host.
                (Some(authorities), Origin::Intent) => client.tls_certs_merge(authorities.clone()),
            }
        };
        let client = repository::client(settings, allowed)?;
        Ok(made.get_or_init(|| client))
    }
}

/// Without the address, which may hold what is secret and is said elsewhere.
fn short(error: reqwest::Error) -> Error {
    error.without_url().into()
}

/// Opens a file; `None` when there is no such thing.
pub(crate) fn open(path: &Path) -> Result<Option<File>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Opening a pipe, say, would wait for whoever writes to it.
        Ok(metadata) => ensure!(metadata.is_file(), "not a file"),
        Err(error) => return Err(error.into()),
    }
    Ok(Some(File::open(path)?))
}

/// Two ends: what [`pump`] puts into one, a thread reads from the other.
pub(crate) fn pipe() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, chunks) = mpsc::channel(BUFFERED);
    (sender, Body { chunks, current: Bytes::new(), ended: false })
}

/// The body of an answer. Blocks: only for threads that may.
pub(crate) struct Body {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
    ended: bool,
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended {
            let stopped = || io::Error::new(io::ErrorKind::ConnectionAborted, "the fetch was stopped");
            self.current = self.chunks.blocking_recv().ok_or_else(stopped)?;
            self.ended = self.current.is_empty();
        }
        let length = self.current.len().min(to.len());
        self.current.copy_to_slice(&mut to[..length]);
        Ok(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use clap::Parser;

    use super::*;

    pub(crate) fn fetcher(flags: &[&str]) -> Fetcher {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            sources: Sources,
        }
        Fetcher::new(&Cli::try_parse_from([&["x"], flags].concat()).unwrap().sources)
    }

    fn read(chunks: &'static [&[u8]]) -> io::Result<Vec<u8>> {
        let (sender, mut body) = pipe();
        let sending = thread::spawn(move || {
            for chunk in chunks {
                sender.blocking_send(Bytes::from_static(chunk)).unwrap();
            }
        });
        let mut all = Vec::new();
        let read = body.read_to_end(&mut all);
        sending.join().unwrap();
        read.map(|_| all)
    }

    #[test]
    fn a_body_is_read_as_it_was_sent() {
        assert_eq!(read(&[b"ab", b"c", b""]).unwrap(), b"abc");
        assert_eq!(read(&[b""]).unwrap(), b"");
    }

    /// Fetches from a server that accepts, says `head` and then nothing, until the fetch fails.
    async fn fetch_from_one_that_only_says(head: &'static str) -> String {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a", server.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let request = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(request.map_while(io::Result::ok).any(|line| line.is_empty()), "the request is whole");
            stream.write_all(head.as_bytes()).unwrap();
            // Until the other side has given up, and the runtime has closed its end.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let fetcher = fetcher(&["--stall-timeout", "0.1", "--fetch-retries", "0"]);
        let (to, _body) = pipe();
        let fetch = async { fetcher.download(&url, Origin::Repo).await?.unwrap().stream(to).await };
        format!("{:#}", fetch.await.unwrap_err())
    }

    #[tokio::test]
    async fn a_server_that_stalls_is_given_up() {
        for head in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
            let error = fetch_from_one_that_only_says(head).await;
            assert!(error.contains("timed out"), "after {head:?}: {error}");
        }
    }

    #[test]
    fn a_fetch_that_went_away_is_not_taken_for_the_end() {
        assert_eq!(read(&[b"ab"]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(read(&[]).is_err());
    }
}
