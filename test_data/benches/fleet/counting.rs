//! What is asked of Consul and what it answers, counted on the way, by what it is for.
//!
//! Whoever goes this way takes longer, so times are not measured on it. Assumes HTTP/1.1 clients that send a request only once
//! the one before is answered: all that goes over a connection belongs to its last request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use fixtures::Requests;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Many come at once.
const BACKLOG: u32 = 4096;

/// Some requests and their answers, in bytes as they go over a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) to_store: u64,
    pub(crate) from_store: u64,
}

/// By what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counts {
    /// That wait until something changes.
    pub(crate) watches: Tally,
    pub(crate) reads: Tally,
    /// What agents say of what they do.
    pub(crate) reports: Tally,
    /// That agents are alive.
    pub(crate) beats: Tally,
}

impl Tally {
    /// Both ways.
    pub(crate) fn bytes(self) -> f64 {
        (self.to_store + self.from_store) as f64
    }

    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            to_store: self.to_store - before.to_store,
            from_store: self.from_store - before.from_store,
        }
    }
}

impl Counts {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            watches: self.watches.since(before.watches),
            reads: self.reads.since(before.reads),
            reports: self.reports.since(before.reports),
            beats: self.beats.since(before.beats),
        }
    }

    fn of(&mut self, line: &str) -> &mut Tally {
        match line.split_once(' ') {
            Some(("PUT", rest)) if rest.starts_with("/v1/agent/") => &mut self.beats,
            Some(("PUT", rest)) if rest.starts_with("/v1/kv/reality/") => &mut self.reports,
            // With 0 nothing is waited for.
            Some(("GET", rest)) if rest.contains("index=") && !rest.contains("index=0&") => &mut self.watches,
            _ => &mut self.reads,
        }
    }
}

/// On a port of its own, until it is dropped.
pub(crate) struct Counting {
    addr: SocketAddr,
    counts: Arc<Mutex<Counts>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Counting {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let counts = Arc::<Mutex<Counts>>::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(BACKLOG).unwrap()
        });
        let addr = listener.local_addr().unwrap();
        let counted = counts.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    never = forward(listener, target, counted) => match never {},
                }
            });
        });
        Self { addr, counts, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn addr(&self) -> String {
        self.addr.to_string()
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn forward(listener: TcpListener, target: SocketAddr, counts: Arc<Mutex<Counts>>) -> std::convert::Infallible {
    loop {
        let (client, _) = listener.accept().await.expect("there are descriptors for all");
        let counts = counts.clone();
        // Whichever side goes, the other sees its connection end.
        tokio::spawn(async move { carry(client, target, &counts).await });
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, counts: &Mutex<Counts>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut requests, mut last) = (Requests::default(), String::new());
    let (mut asked, mut answered) = ([0; 4096], [0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let piece = &asked[..read?];
                if piece.is_empty() {
                    return Ok(());
                }
                for line in requests.feed(piece).lines {
                    counts.lock().unwrap().of(&line).requests += 1;
                    last = line;
                }
                counts.lock().unwrap().of(&last).to_store += piece.len() as u64;
                server.write_all(piece).await?;
            }
            read = server.read(&mut answered) => {
                let piece = &answered[..read?];
                if piece.is_empty() {
                    return Ok(());
                }
                counts.lock().unwrap().of(&last).from_store += piece.len() as u64;
                client.write_all(piece).await?;
            }
        }
    }
}
