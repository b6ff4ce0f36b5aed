//! Fetching an artifact, from a file or over HTTP, as something to read.
//!
//! Ensures, over HTTP: it goes from the connection through a few buffers to whoever reads, never to memory or disk as a
//! whole; a body that stops short, stalls or is cut off is an error of the fetch, and the reader never takes it for
//! the end; when the reader goes away the fetch ends, and when the fetch goes away the reader gets an error.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::{Buf, Bytes};
use reqwest::{Client, Response, Url};
use store::repository;
use tokio::sync::mpsc;

/// To the server; also how long it may take to answer a connection that a firewall swallows.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a single byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Chunks between the connection and the reader; the HTTP client makes them at most a few hundred KiB each.
const BUFFERED: usize = 8;

/// What all fetches of an agent share.
#[derive(Debug)]
pub(crate) struct Fetcher {
    stall_timeout: Duration,
    /// Made when it is first needed, since that reads all of the host's CA certificates.
    client: OnceCell<Client>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self { stall_timeout: STALL_TIMEOUT, client: OnceCell::new() }
    }
}

impl Fetcher {
    /// Asks for `url`; `None` when the server says that there is no such thing.
    pub(crate) async fn get(&self, url: &Url) -> Result<Option<Response>> {
        let response = self.client()?.get(url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        Ok(repository::is_there(response.status())?.then_some(response))
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client =
            repository::client(|client| client.connect_timeout(CONNECT_TIMEOUT).read_timeout(self.stall_timeout), None)?;
        Ok(self.client.get_or_init(|| client))
    }
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

/// Passes the body on, to its end or until nobody reads any more.
pub(crate) async fn pump(mut response: Response, to: mpsc::Sender<Bytes>) -> Result<()> {
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        // An empty chunk marks the end, below.
        if !chunk.is_empty() && to.send(chunk).await.is_err() {
            return Ok(());
        }
    }
    // Fails when nobody reads any more, which is no concern of the fetch.
    let _ = to.send(Bytes::new()).await;
    Ok(())
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
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

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
        let fetcher = Fetcher { stall_timeout: Duration::from_millis(100), ..Fetcher::default() };
        let (to, _body) = pipe();
        let fetch = async { pump(fetcher.get(&url).await?.unwrap(), to).await };
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
