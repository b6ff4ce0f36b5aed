//! A web server whose answers a test decides, down to the byte at which each breaks off.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::listener::Listener;

/// Answers over plain HTTP, one request a connection.
#[derive(Debug)]
pub struct WebServer {
    listener: Listener,
    requests: Arc<Mutex<Vec<WebRequest>>>,
}

#[derive(Debug, Clone)]
pub struct WebRequest {
    /// As it was asked for: of a proxy, a whole address.
    pub path: String,
    /// How many requests came before.
    pub nth: usize,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct WebAnswer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// After the body, nothing for ever, in place of the end of the connection.
    pub stalls: bool,
}

impl WebServer {
    pub fn start(answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = Listener::start({
            let requests = Arc::clone(&requests);
            move |stream, over| {
                let Some(request) = read(&stream, &requests) else { return };
                // A client that goes away is its own business.
                let _ = answer(&request).send(stream, over);
            }
        });
        Self { listener, requests }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.addr())
    }

    pub fn requests(&self) -> Vec<WebRequest> {
        self.requests.lock().expect("nobody panics with it").clone()
    }
}

fn read(stream: &TcpStream, requests: &Mutex<Vec<WebRequest>>) -> Option<WebRequest> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    let headers = headers.collect();
    let mut requests = requests.lock().expect("nobody panics with it");
    let request = WebRequest { path, nth: requests.len(), headers };
    requests.push(request.clone());
    Some(request)
}

impl WebRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl WebAnswer {
    /// With nothing in it.
    pub fn status(status: u16) -> Self {
        Self { status, headers: BTreeMap::new(), body: Vec::new(), stalls: false }.with("Content-Length", "0")
    }

    pub fn redirect(to: &str) -> Self {
        Self::status(302).with("Location", to)
    }

    /// As a good server sends a file: all of it, or the part that is asked for when it is still the same.
    pub fn file(request: &WebRequest, bytes: &[u8], etag: &str) -> Self {
        let first =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let same = request.header("if-range").is_none_or(|then| then == etag);
        let answer =
            Self { status: 200, headers: BTreeMap::new(), body: bytes.to_vec(), stalls: false }.with("ETag", etag);
        let total = bytes.len();
        let answer = match first.filter(|_| same) {
            None => answer,
            Some(first) if first >= total => return Self::status(416),
            Some(first) => Self { status: 206, body: bytes[first..].to_vec(), ..answer }
                .with("Content-Range", &format!("bytes {first}-{}/{total}", total - 1)),
        };
        let length = answer.body.len().to_string();
        answer.with("Content-Length", &length)
    }

    #[must_use]
    pub fn with(mut self, header: &str, value: &str) -> Self {
        self.headers.insert(header.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn without(mut self, header: &str) -> Self {
        self.headers.remove(header);
        self
    }

    /// Breaks off after so many bytes of the body.
    #[must_use]
    pub fn cut(mut self, at: usize) -> Self {
        self.body.truncate(at);
        self
    }

    /// After so many bytes of the body, nothing comes any more.
    #[must_use]
    pub fn stalling(self, at: usize) -> Self {
        Self { stalls: true, ..self.cut(at) }
    }

    fn send(&self, mut stream: TcpStream, over: &AtomicBool) -> io::Result<()> {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        write!(stream, "HTTP/1.1 {} Answer\r\nConnection: close\r\n{headers}\r\n", self.status)?;
        stream.write_all(&self.body)?;
        while self.stalls && !over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
