//! One process, one language model on one device: a prompt or a conversation to text.
//!
//! `run` is the whole worker; the three programs are thin mains over it. The engine is llama.cpp; nothing of it is written
//! again here. Its build needs cmake and libclang, and so it stands behind the features `cpu`, `cuda` and `metal`; without
//! one of them there are only the parts that know no model.

#[cfg(feature = "llama")]
pub mod args;
#[cfg(feature = "llama")]
pub mod backend;
pub mod chat;
#[cfg(feature = "llama")]
mod embedded;
#[cfg(feature = "llama")]
mod embeddings;
#[cfg(feature = "llama")]
pub mod job_router;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
mod start;
pub mod text;

#[cfg(feature = "llama")]
pub use args::{Args, DeviceKind};
#[cfg(feature = "llama")]
pub use start::run;
