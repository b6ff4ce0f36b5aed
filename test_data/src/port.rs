//! Ports for servers that have to be told theirs.
//!
//! Ensures: no two callers on this machine get the same port while the first one's process lives, and no connection
//! going out takes it either. Assumes that nobody else listens between 10,000 and 32,767 on purpose.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Below the range from which Linux takes the ports of outgoing connections.
const RANGE: std::ops::Range<u16> = 10_000..32_768;

/// An abstract Unix socket per port that we gave away. The kernel frees the name when the process ends, however it
/// ends, and knows it per network namespace, as it does ports: a lock file would do neither.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A TCP and UDP port on which nobody listens, and which no other test gets while this process lives.
pub fn free_port() -> u16 {
    (0..10_000)
        .map(|_| fastrand::u16(RANGE))
        .find(|port| reserve(*port) && unused(*port))
        .expect("a free port between 10000 and 32767")
}

fn reserve(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("platypus-test-port-{port}")).expect("a short name");
    match UnixListener::bind_addr(&name) {
        Ok(listener) => {
            RESERVED.lock().expect("nobody panics with it").push(listener);
            true
        }
        Err(_) => false,
    }
}

fn unused(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_port_is_given_away_only_once() {
        let ports = (0..200).map(|_| free_port()).collect::<BTreeSet<_>>();
        assert_eq!(ports.len(), 200);
        assert!(!reserve(*ports.first().unwrap()));
    }
}
