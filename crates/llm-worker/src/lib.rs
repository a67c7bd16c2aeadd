//! One process, one language model on one device: a prompt or a conversation to text.
//!
//! [`run`] is the whole worker; the three programs are thin mains over it. The engine is llama.cpp; nothing of it is written
//! again here.

pub mod args;
pub mod backend;
pub mod chat;
pub mod embedded;
mod embeddings;
pub mod job_router;
pub mod model;
mod start;

pub use args::{Args, DeviceKind};
pub use start::run;
