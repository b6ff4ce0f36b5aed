//! The whole agent, `pp-preparer`, on a host of its own.

mod cost;
mod download;
mod http;
mod interrupted;
mod limits;
mod prepare;
mod progress;
mod prune;
mod report;
mod support;
mod tls;
mod verify;
