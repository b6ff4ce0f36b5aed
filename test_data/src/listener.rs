//! A TCP server in this process: a thread per connection, all told to end when it is dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

#[derive(Debug)]
pub(crate) struct Listener {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a free loopback port and calls `serve` for each connection. `serve` is given a flag that is set when
    /// all is over: it has to look at it every few milliseconds.
    pub(crate) fn start(serve: impl Fn(TcpStream, &AtomicBool) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let over = Arc::new(AtomicBool::new(false));
        let serve = Arc::new(serve);
        let accepting = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                for stream in listener.incoming().flatten() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (serve, over) = (Arc::clone(&serve), Arc::clone(&over));
                    thread::spawn(move || serve(stream, &over));
                }
            }
        });
        Self { addr, over, accepting: Some(accepting) }
    }

    pub(crate) fn addr(&self) -> String {
        self.addr.to_string()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // So that it wakes and sees it.
        let _ = TcpStream::connect(self.addr);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}
