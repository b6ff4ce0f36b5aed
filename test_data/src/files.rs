//! A web server for artifacts, that breaks off in each way a download can.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::listener::Listener;
use crate::requests::Requests;

/// What is wrong with downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpFault {
    #[default]
    None,
    /// The whole length is promised, so many bytes are sent, and the connection is closed.
    Truncate(usize),
    /// The whole length is promised, so many bytes are sent, and then nothing until the fault is another one.
    Stall(usize),
    /// This status, and no file.
    Status(u16),
}

/// Serves the files under a directory over plain HTTP.
#[derive(Debug)]
pub struct HttpServer {
    listener: Listener,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    fault: Mutex<HttpFault>,
    requests: AtomicU64,
}

impl HttpServer {
    pub fn start(dir: &Path) -> Self {
        let state = Arc::new(State { dir: dir.to_owned(), fault: Mutex::default(), requests: AtomicU64::new(0) });
        let listener = Listener::start({
            let state = Arc::clone(&state);
            move |stream, over| {
                // A client that goes away is its own business.
                let _ = state.serve(stream, over);
            }
        });
        Self { listener, state }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        self.listener.addr()
    }

    /// `http://127.0.0.1:port`, as `--repo` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    pub fn set(&self, fault: HttpFault) {
        *self.state.fault.lock().expect("nobody panics with it") = fault;
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }
}

impl State {
    fn fault(&self) -> HttpFault {
        *self.fault.lock().expect("nobody panics with it")
    }

    /// Answers one request and closes the connection.
    fn serve(&self, mut stream: TcpStream, over: &AtomicBool) -> io::Result<()> {
        // Against clients that connect and say nothing.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let line = request_line(&mut stream)?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault();
        let (status, body) = match (fault, self.file(&line)) {
            (HttpFault::Status(status), _) => (status, b"no file today\n".to_vec()),
            (_, Some(content)) => (200, content),
            (_, None) => (404, b"no such file\n".to_vec()),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.set_nodelay(true)?;
        stream.write_all(head.as_bytes())?;
        match fault {
            _ if line.starts_with("HEAD ") => Ok(()),
            HttpFault::None | HttpFault::Status(_) => stream.write_all(&body),
            HttpFault::Truncate(bytes) => stream.write_all(&body[..bytes.min(length)]),
            HttpFault::Stall(bytes) => {
                stream.write_all(&body[..bytes.min(length)])?;
                while self.fault() == fault && !over.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            }
        }
    }

    /// The file that a request asks for, if it is under the directory.
    fn file(&self, line: &str) -> Option<Vec<u8>> {
        let path = Path::new(line.split(' ').nth(1)?.strip_prefix('/')?);
        let inside = path.components().all(|component| matches!(component, Component::Normal(_)));
        inside.then(|| fs::read(self.dir.join(path)).ok())?
    }
}

fn request_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut requests = Requests::default();
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = requests.feed(&piece[..length]);
        // All of it, since closing on what is unread would reset the connection.
        if seen.complete > 0 {
            return seen.lines.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;
    use crate::{Scratch, eventually};

    fn get(server: &HttpServer, path: &str) -> Option<(u16, String)> {
        let response = request(&server.addr(), "GET", path, "", b"").ok()?;
        Some((response.status, response.body))
    }

    fn served(scratch: &Scratch) -> HttpServer {
        let dir = scratch.path().join("served");
        fs::create_dir_all(dir.join("slug")).unwrap();
        fs::write(dir.join("slug/file"), "content").unwrap();
        fs::write(scratch.path().join("secret"), "secret").unwrap();
        HttpServer::start(&dir)
    }

    #[test]
    fn files_are_served_and_nothing_outside() {
        let scratch = Scratch::new();
        let server = served(&scratch);
        assert_eq!(get(&server, "/slug/file").unwrap(), (200, "content".to_owned()));
        for other in ["/slug", "/slug/none", "/../secret", "//etc/hostname"] {
            assert_eq!(get(&server, other).unwrap().0, 404, "{other}");
        }
        assert_eq!(server.requests(), 5);
    }

    #[test]
    fn a_truncated_file_and_a_status_are_seen_as_such() {
        let scratch = Scratch::new();
        let server = served(&scratch);
        server.set(HttpFault::Truncate(3));
        assert_eq!(get(&server, "/slug/file"), None);
        server.set(HttpFault::Status(503));
        assert_eq!(get(&server, "/slug/file").unwrap().0, 503);
    }

    #[test]
    fn a_stalled_download_lasts_as_long_as_the_fault() {
        let scratch = Scratch::new();
        let server = served(&scratch);
        server.set(HttpFault::Stall(3));
        thread::scope(|scope| {
            let stalled = scope.spawn(|| get(&server, "/slug/file"));
            eventually("the request is seen", Duration::from_secs(10), || (server.requests() == 1).then_some(()));
            assert!(!stalled.is_finished());
            server.set(HttpFault::None);
            assert_eq!(stalled.join().unwrap(), None);
        });
    }
}
