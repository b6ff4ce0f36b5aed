//! Network namespaces of a test's own: two hosts and the cable between them.
//!
//! Ensures: what happens in them reaches nothing else on this machine, and they are gone when the test ends, also when it
//! fails: they have no names and last as long as the processes in them, which the [`Scratch`] ends. Assumes root, and
//! the programs of util-linux and iproute2.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Scratch;
use crate::process::installed;

/// How long an answer that does not come is waited for: on this cable one that comes takes well below a millisecond.
const PATIENCE: Duration = Duration::from_millis(250);

/// A network namespace, for as long as the process lives that was started in it.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    pub fn new(scratch: &Scratch) -> Self {
        assert!(installed("unshare") && installed("nsenter"), "util-linux is not installed");
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep infinity"])
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let made = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line);
        assert!(made.is_ok_and(|bytes| bytes == 1), "no network namespace can be made here: run this as root");
        Self { holder }
    }

    /// A command to run in here; it becomes the program, with the same process id.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command in here that has to succeed; what it prints.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.command(words[0]).args(&words[1..]).output().expect("nsenter starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}: {complaint}", output.status);
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// Does something on a thread that is in here. Sockets that it makes stay in here.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within_network_of(self.holder.id(), work)
    }
}

/// Does something on a thread that is in the network namespace of this process.
pub(crate) fn within_network_of<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("the namespace is there");
    thread::scope(|scope| {
        let work = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("it is ours");
            work()
        });
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Two namespaces joined by a cable: `host` has 10.77.0.1 and fd77::1, `peer` has 10.77.0.2 and fd77::2.
#[derive(Debug)]
pub struct Network {
    pub host: Namespace,
    pub peer: Namespace,
}

/// How something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Tcp,
    Udp,
}

impl Network {
    /// The host's addresses.
    pub const HOST: [&'static str; 2] = ["10.77.0.1", "fd77::1"];

    pub fn new(scratch: &Scratch) -> Self {
        assert!(installed("ip"), "iproute2 is not installed: run kickstart/setup");
        let (host, peer) = (Namespace::new(scratch), Namespace::new(scratch));
        let far_end = peer.holder.id().to_string();
        host.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &far_end]);
        for (namespace, number) in [(&host, 1), (&peer, 2)] {
            for link in ["lo", "eth0"] {
                namespace.run(&["ip", "link", "set", link, "up"]);
            }
            namespace.run(&["ip", "address", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"]);
            // On a cable with two ends nobody else has the address: no need to wait until that is sure.
            namespace.run(&["ip", "address", "add", &format!("fd77::{number}/64"), "dev", "eth0", "nodad"]);
        }
        Self { host, peer }
    }

    /// Answers on the host's port, TCP and UDP, IPv4 and IPv6, until it is dropped.
    pub fn serve(&self, port: u16) -> Server {
        let sockets = self.host.within(|| (TcpListener::bind(("::", port)), UdpSocket::bind(("::", port))));
        Server::start(sockets.0.expect("the port is free"), sockets.1.expect("the port is free"))
    }

    /// Whether the peer gets an answer from this address.
    pub fn answers(&self, ask: Ask, address: &str, port: u16) -> bool {
        let address = SocketAddr::new(address.parse().expect("an address"), port);
        self.peer.within(|| match ask {
            Ask::Tcp => tcp(address),
            Ask::Udp => udp(address),
        })
    }
}

fn tcp(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}

fn udp(address: SocketAddr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", address)?;
        socket.recv(&mut [0])
    };
    ask().is_ok()
}

/// Something that answers a byte to whoever asks.
#[derive(Debug)]
pub struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(tcp: TcpListener, udp: UdpSocket) -> Self {
        tcp.set_nonblocking(true).expect("a socket can be made so");
        udp.set_nonblocking(true).expect("a socket can be made so");
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::SeqCst) {
                    if let Ok((mut stream, _)) = tcp.accept() {
                        // Whoever has gone by now does not want it.
                        let _ = stream.write_all(b"!");
                    }
                    if let Ok((_, from)) = udp.recv_from(&mut [0]) {
                        let _ = udp.send_to(b"!", from);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{eventually, mentioning};

    #[test]
    fn what_one_serves_the_other_hears() {
        let scratch = Scratch::new();
        let network = Network::new(&scratch);
        let server = network.serve(80);
        for address in Network::HOST {
            for ask in [Ask::Tcp, Ask::Udp] {
                let heard = || network.answers(ask, address, 80).then_some(());
                eventually("an answer", Duration::from_secs(20), heard);
                assert!(!network.answers(ask, address, 81));
            }
        }
        drop(server);
        assert!(!network.answers(Ask::Tcp, "10.77.0.1", 80));
    }

    #[test]
    fn it_is_gone_with_what_was_started_in_it() {
        let scratch = Scratch::new();
        let namespace = Namespace::new(&scratch);
        let link = format!("/proc/{}/ns/net", namespace.holder.id());
        assert_ne!(std::fs::read_link(&link).unwrap(), std::fs::read_link("/proc/self/ns/net").unwrap());
        drop(namespace);
        assert!(!Path::new(&link).exists());
        assert_eq!(mentioning(scratch.path()), [0; 0]);
    }
}
