//! A TCP proxy before a store, that fails in each way a network or a server can.
//!
//! Ensures: what arrives after [`Proxy::set`] has returned meets the new fault. What is under way already meets it within
//! milliseconds.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;

use crate::listener::Listener;
use crate::requests::Requests;

/// How often a connection on which nothing happens looks whether the fault has changed.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Connections are closed at once, those there are too, as by a server that has gone.
    Refuse,
    /// Connections are reset, those there are too.
    Reset,
    /// Connections are accepted, requests read, and nothing is ever answered. What stalls so goes on when it is over.
    Hang,
    /// Each request is answered with this status, those that wait for an answer too.
    Status(u16),
}

/// A proxy on a loopback port of its own.
#[derive(Debug)]
pub struct Proxy {
    listener: Listener,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    fault: Mutex<Fault>,
    lines: Mutex<Vec<String>>,
}

impl Proxy {
    /// Forwards to `target`, `host:port`, which need not be there yet.
    pub fn start(target: String) -> Self {
        let state = Arc::new(State::default());
        let listener = Listener::start({
            let state = Arc::clone(&state);
            move |client, over| Connection::new(client, &target, &state).run(over)
        });
        Self { listener, state }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        self.listener.addr()
    }

    /// As `--store` takes it.
    pub fn url(&self) -> String {
        format!("consul://{}", self.addr())
    }

    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().expect("nobody panics with it") = fault;
    }

    /// How many requests clients have sent, answered or not.
    pub fn requests(&self) -> u64 {
        self.state.lines().len() as u64
    }

    /// What clients asked for, in order: `GET /v1/kv/nodes/web1/?recurse HTTP/1.1`.
    pub fn request_lines(&self) -> Vec<String> {
        self.state.lines().clone()
    }
}

impl State {
    fn fault(&self) -> Fault {
        *self.fault.lock().expect("nobody panics with it")
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("nobody panics with it")
    }
}

/// One client's connection, and the one to the target once there was something to forward.
struct Connection<'a> {
    client: TcpStream,
    server: Option<TcpStream>,
    target: &'a str,
    state: &'a State,
    requests: Requests,
    /// Read from the client, not forwarded yet.
    pending: Vec<u8>,
    /// Requests that the client has sent, and of which it has seen no part of an answer.
    unanswered: usize,
}

impl<'a> Connection<'a> {
    fn new(client: TcpStream, target: &'a str, state: &'a State) -> Self {
        // A client that never reads must not keep this thread for ever.
        let _ = client.set_write_timeout(Some(Duration::from_secs(10)));
        // It is the client's latency through us that tests measure.
        let _ = client.set_nodelay(true);
        let (pending, requests) = (Vec::new(), Requests::default());
        Self { client, server: None, target, state, requests, pending, unanswered: 0 }
    }

    /// Until one side is done, or the fault ends it: the end of this value closes both.
    fn run(mut self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) && self.step().is_ok() {}
    }

    fn step(&mut self) -> io::Result<()> {
        // Looked at after the wait, so that what comes after a change of the fault meets the new one.
        let (from_client, from_server) = self.wait()?;
        match self.state.fault() {
            Fault::None => {
                if from_server {
                    self.answer()?;
                }
                if from_client {
                    self.receive()?;
                }
                self.forward()
            }
            Fault::Refuse => Err(io::ErrorKind::ConnectionAborted.into()),
            Fault::Reset => {
                // A close without lingering sends a reset.
                set_socket_linger(&self.client, Some(Duration::ZERO))?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fault::Hang => {
                if from_client {
                    self.receive()
                } else {
                    Ok(())
                }
            }
            Fault::Status(status) => {
                if from_client {
                    self.receive()?;
                }
                self.refuse(status)
            }
        }
    }

    /// Which side has sent something; neither, after a while.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(&self.client, PollFlags::IN)];
        // While we hang, its answers wait where they are.
        if self.state.fault() != Fault::Hang {
            fds.extend(self.server.as_ref().map(|server| PollFd::new(server, PollFlags::IN)));
        }
        poll(&mut fds, Some(&GLANCE))?;
        Ok((!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty())))
    }

    fn receive(&mut self) -> io::Result<()> {
        let piece = read_some(&mut self.client)?;
        let seen = self.requests.feed(&piece);
        self.state.lines().extend(seen.lines);
        self.unanswered += seen.complete;
        self.pending.extend(piece);
        Ok(())
    }

    fn forward(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.server.is_none() {
            let server = TcpStream::connect(self.target)?;
            server.set_nodelay(true)?;
            self.server = Some(server);
        }
        let server = self.server.as_mut().expect("connected above");
        server.write_all(&std::mem::take(&mut self.pending))
    }

    fn answer(&mut self) -> io::Result<()> {
        let server = self.server.as_mut().expect("something came from it");
        let piece = read_some(server)?;
        self.unanswered = 0;
        self.client.write_all(&piece)
    }

    fn refuse(&mut self, status: u16) -> io::Result<()> {
        self.server = None;
        self.pending.clear();
        let body = format!("the proxy says {status}\n");
        let length = body.len();
        for _ in 0..std::mem::take(&mut self.unanswered) {
            let answer = format!("HTTP/1.1 {status} Fault\r\nContent-Length: {length}\r\n\r\n{body}");
            self.client.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

/// Some bytes; the end of the stream is an error.
fn read_some(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; 64 * 1024];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => {
            piece.truncate(length);
            Ok(piece)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;
    use crate::{HttpServer, Scratch, eventually};

    const SOON: Duration = Duration::from_secs(10);

    fn served(scratch: &Scratch) -> (HttpServer, Proxy) {
        std::fs::write(scratch.path().join("file"), "content").unwrap();
        let server = HttpServer::start(scratch.path());
        let proxy = Proxy::start(server.addr());
        (server, proxy)
    }

    fn get(proxy: &Proxy) -> io::Result<(u16, String)> {
        request(&proxy.addr(), "GET", "/file", "", b"").map(|response| (response.status, response.body))
    }

    #[test]
    fn without_a_fault_it_forwards_and_counts() {
        let scratch = Scratch::new();
        let (server, proxy) = served(&scratch);
        for _ in 0..3 {
            assert_eq!(get(&proxy).unwrap(), (200, "content".to_owned()));
        }
        assert_eq!((proxy.requests(), server.requests()), (3, 3));
        assert_eq!(proxy.request_lines()[0], "GET /file HTTP/1.0");
    }

    #[test]
    fn a_status_is_answered_in_the_servers_place() {
        let scratch = Scratch::new();
        let (server, proxy) = served(&scratch);
        proxy.set(Fault::Status(500));
        assert_eq!(second_status(&proxy), 500);
        assert_eq!(server.requests(), 0);
        proxy.set(Fault::None);
        assert_eq!(get(&proxy).unwrap().0, 200);
    }

    /// The status of a second request over one connection: as clients that keep theirs see it.
    fn second_status(proxy: &Proxy) -> u16 {
        let mut stream = TcpStream::connect(proxy.addr()).unwrap();
        let mut status = 0;
        for _ in 0..2 {
            stream.write_all(b"GET /file HTTP/1.1\r\n\r\n").unwrap();
            let answer = String::from_utf8(read_some(&mut stream).unwrap()).unwrap();
            status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        }
        status
    }

    #[test]
    fn a_refused_and_a_reset_connection_end_differently() {
        let scratch = Scratch::new();
        let (_server, proxy) = served(&scratch);
        for (fault, expected) in [(Fault::Refuse, Ok(0)), (Fault::Reset, Err(io::ErrorKind::ConnectionReset))] {
            proxy.set(Fault::None);
            let mut existing = TcpStream::connect(proxy.addr()).unwrap();
            existing.set_read_timeout(Some(SOON)).unwrap();
            proxy.set(fault);
            assert_eq!(existing.read(&mut [0]).map_err(|error| error.kind()), expected, "{fault:?}");
            assert!(get(&proxy).is_err(), "{fault:?}");
        }
    }

    #[test]
    fn what_hangs_is_seen_and_goes_on_when_it_is_over() {
        let scratch = Scratch::new();
        let (server, proxy) = served(&scratch);
        proxy.set(Fault::Hang);
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| get(&proxy));
            eventually("the request is seen", SOON, || (proxy.requests() == 1).then_some(()));
            assert_eq!(server.requests(), 0);
            proxy.set(Fault::None);
            assert_eq!(answer.join().unwrap().unwrap().1, "content");
        });
    }

    #[test]
    fn a_target_that_is_not_there_is_a_closed_connection() {
        let proxy = Proxy::start(format!("127.0.0.1:{}", crate::free_port()));
        assert!(get(&proxy).is_err());
    }
}
