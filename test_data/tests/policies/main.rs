//! The policies of `kickstart/consul`, in a real Consul in which nobody may do anything without a token; what reaches it
//! only by certificates of a private authority; and that tokens stay where they belong.

mod agents;
mod place;
mod roles;
mod secrets;
mod tls;
