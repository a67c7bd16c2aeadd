//! The hub's side: what a repository holds, and one connection to any of its files.

mod api;
mod client;
mod connector;

pub(crate) use api::{Hub, Plan, Planned, strong_etag};
pub(crate) use client::{Answer, Fault, Tries};
