//! The whole agent, `pp-preparer`, on a host of its own.

mod cost;
mod gnu_tar;
mod http;
mod interrupted;
mod limits;
mod prepare;
mod support;
