//! The packet filter, with both kinds of iptables, in network namespaces that each test makes for itself; and what stands
//! in for it.

mod authority;
mod drift;
mod intent;
mod rules;
mod support;
mod traffic;
