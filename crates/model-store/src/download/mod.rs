//! Downloads: several files at once, taken up again where they broke off, checked, and visible only when whole.

mod file;
mod flight;
mod meter;
mod part;
mod run;
mod space;

pub use flight::Download;
pub(crate) use flight::Flight;
pub use meter::{Progress, Stage};
