//! The store as hives and workers use it, against a hub on loopback.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod catalogue;
mod downloads;
mod kill;

#[path = "../support/mod.rs"]
mod support;
