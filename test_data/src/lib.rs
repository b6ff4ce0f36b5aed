//! What tests and demos start, and what they break: a real Consul, a real runsvdir, a cluster, repositories, faults.
//!
//! Ensures: whatever a test started under a [`Scratch`] is gone when the test ends, also when it fails. Test support:
//! everything blocks, and everything that goes wrong panics with what to do about it. Assumes Linux with `/proc`, and
//! that `kickstart/setup` has run.

mod alone;
mod bare;
mod binary;
mod cluster;
mod consul;
mod cpu;
mod eventually;
mod files;
mod fleet;
mod host;
mod http;
mod listener;
mod median;
mod memory;
mod netns;
mod port;
mod probe;
mod process;
mod proxy;
mod repo;
mod requests;
mod runsvdir;
mod scratch;
mod script;
mod tree;
mod web;

pub use alone::{alone, in_namespaces};
pub use bare::BareHost;
pub use binary::bin;
pub use cluster::{Cluster, kickstart_cluster};
pub use consul::Consul;
pub use cpu::cpu_seconds;
pub use eventually::{eventually, pause};
pub use files::{HttpFault, HttpServer};
pub use fleet::Fleet;
pub use host::{Agent, Host, Pass, SOON, pass};
pub use http::http_get;
pub use median::median;
pub use memory::peak_memory;
pub use netns::{Ask, Namespace, Network, Server};
pub use port::free_port;
pub use probe::{Probe, probing};
pub use process::mentioning;
pub use proxy::{Fault, Proxy};
pub use repo::{Archive, Behaviour, Repo, Slug};
pub use requests::{Requests, Seen};
pub use runsvdir::Runsvdir;
pub use scratch::{Scratch, end_all, reap};
pub use script::script;
pub use tree::{Content, Entry, Kind, Tree, differences, tree, tree_where, without_runits};
pub use web::{WebAnswer, WebRequest, WebServer};
