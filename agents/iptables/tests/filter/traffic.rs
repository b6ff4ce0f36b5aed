//! What another host can reach, and what it cannot.

use std::net::{TcpListener, TcpStream};
use std::thread;

use fixtures::{Ask, Host, Network, SOON, eventually};
use serde_json::json;

use crate::support::{Site, VARIANTS};

/// Whether the peer gets through to a port, over TCP and UDP, by IPv4 and IPv6, in this order.
fn reached(network: &Network, port: u16) -> [bool; 4] {
    let [v4, v6] = Network::HOST;
    thread::scope(|scope| {
        [(Ask::Tcp, v4), (Ask::Tcp, v6), (Ask::Udp, v4), (Ask::Udp, v6)]
            .map(|(ask, address)| scope.spawn(move || network.answers(ask, address, port)))
            .map(|answer| answer.join().unwrap())
    })
}

#[track_caller]
fn reaches(network: &Network, port: u16, expected: [bool; 4]) {
    eventually(&format!("{port}: {expected:?}"), SOON, || (reached(network, port) == expected).then_some(()));
}

const ALL: [bool; 4] = [true; 4];
const NONE: [bool; 4] = [false; 4];

fn on_a_network(work: impl Fn(&Site<'_>, &Network) + Sync) {
    thread::scope(|scope| {
        for variant in VARIANTS {
            let work = &work;
            scope.spawn(move || {
                let host = Host::without_runit();
                let network = Network::new(&host.scratch);
                work(&Site { host: &host, namespace: &network.host, variant }, &network);
            });
        }
    });
}

#[test]
fn with_default_drop_what_intent_names_is_reached_and_nothing_else() {
    on_a_network(|site, network| {
        let _servers = [80, 81, 82, 83, 84, 22].map(|port| network.serve(port));
        site.open(
            "slug",
            json!([
                80,
                {"port": 81, "protocol": "udp"},
                {"port": 82, "source": "10.77.0.0/24"},
                {"port": 83, "source": "fd77::/64"},
            ]),
        );
        site.open("far", json!([{"port": 84, "source": "192.0.2.0/24"}, {"port": 84, "source": "2001:db8::/32"}]));
        reaches(network, 84, ALL);
        site.converge(&["--default-drop"]);
        reaches(network, 80, [true, true, false, false]);
        reaches(network, 81, [false, false, true, true]);
        reaches(network, 82, [true, false, false, false]);
        reaches(network, 83, [false, true, false, false]);
        assert_eq!(reached(network, 84), NONE, "{}", site.save());
        reaches(network, 22, [true, true, false, false]);
        // What the host asks for itself is answered, and neighbours are found, which in IPv6 takes ICMP.
        for namespace in [&network.host, &network.peer] {
            namespace.run(&["ip", "-6", "neighbour", "flush", "dev", "eth0"]);
        }
        let _elsewhere = network.peer.within(|| TcpListener::bind("[::]:7000")).unwrap();
        for address in ["10.77.0.2:7000", "[fd77::2]:7000"] {
            network.host.within(|| TcpStream::connect_timeout(&address.parse().unwrap(), SOON)).unwrap();
        }
        // Over its own loopback all is reached.
        let own = network.host.within(|| TcpStream::connect("127.0.0.1:84").is_ok());
        assert!(own);

        site.converge(&["--default-drop", "--keep", "84/udp"]);
        assert_eq!(reached(network, 22), NONE, "--keep replaces its default");
        reaches(network, 84, [false, false, true, true]);
        site.converge(&[]);
        reaches(network, 22, ALL);
    });
}

#[test]
fn without_it_ports_are_opened_before_the_hosts_own_rules_and_nothing_else_changes() {
    on_a_network(|site, network| {
        let _servers = [80, 81, 82].map(|port| network.serve(port));
        site.by_hand("-A INPUT -p tcp --dport 82 -j ACCEPT");
        site.by_hand("-A INPUT -p tcp -j DROP");
        reaches(network, 82, ALL);
        assert_eq!(reached(network, 80), [false, false, true, true]);
        site.open("slug", json!([80]));
        site.converge(&[]);
        reaches(network, 80, ALL);
        reaches(network, 82, ALL);
        assert_eq!(reached(network, 81), [false, false, true, true]);
    });
}
