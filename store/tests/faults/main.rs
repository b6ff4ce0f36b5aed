//! Stores that fail, each in its own way: what is unknown is never taken for absent, and who goes on asking recovers.

mod consul;
mod directory;
#[path = "../place/mod.rs"]
mod place;
