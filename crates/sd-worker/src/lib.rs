//! One process, one image model on one device: text, image and mask to picture.
//!
//! [`run`] is the whole worker; the three programs and `rbee worker sd` are thin mains over it.

pub mod args;
pub mod backend;
pub mod embedded;
pub mod job_router;
pub mod png_info;

pub use args::{Args, DeviceKind};

mod estimate;
mod model;
mod preview;
mod start;

pub use start::run;
