//! The broker over HTTP, for hives on other machines: they ask, so that no machine with a GPU needs an open port.
//!
//! [`hive_routes`] is the queen's side, [`HttpBroker`] the hive's. Every call is one request that may be sent again:
//! what names it (the claim's id, the attempt and the number of an event, a blob's hash) is the client's.
//!
//! | call | |
//! |---|---|
//! | `POST /v1/hive/enlist` `{"hive": {…}, "ttl_ms": 30000}` | 204 |
//! | `POST /v1/hive/retire` `{"hive_id", "incarnation"}` | 204 |
//! | `POST /v1/hive/claim` a [`ClaimRequest`](crate::ClaimRequest) | the [`Claim`](crate::Claim), or 204 after a while |
//! | `POST /v1/hive/renew` `{"job_id", "number"}` | `{"cancelled"}` |
//! | `POST /v1/hive/cancelled` `{"attempt", "patience_ms"}` | `{"cancelled"}`, after a while |
//! | `POST /v1/hive/append` `{"attempt", "sequence", "events"}` | `{"last_event_id", "cancelled"}` |
//! | `POST /v1/hive/finish` `{"attempt", "ending"}` | 204 |
//! | `POST /v1/hive/give_back` `{"attempt", "why"}` | 204 |
//! | `PUT /v1/hive/blobs/{sha256}` bytes | 204 |
//! | `GET /v1/hive/blobs/{sha256}` | the bytes |
//!
//! A refusal has the body of every answer that is an error, and beside it under `broker` the [`BrokerError`] itself.
//!
//! [`BrokerError`]: crate::BrokerError

mod client;
mod server;
mod wire;

pub use client::HttpBroker;
pub use server::hive_routes;
