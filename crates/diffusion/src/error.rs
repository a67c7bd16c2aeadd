//! What can go wrong while a model is read or a picture is painted.

use std::path::PathBuf;

/// Every error of this crate; the operands stand in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there, but is not what it should be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model's config asks for something that this crate does not do.
    #[error("{config}: {field} = {value} is not supported; {hint}")]
    Unsupported {
        /// The config, for example `unet/config.json`.
        config: String,
        /// The key in it.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        hint: String,
    },
    /// A weight that the model needs is absent.
    #[error("tensor {name} is missing in {file}")]
    MissingTensor {
        /// The weight's full name.
        name: String,
        /// Where it was looked for.
        file: String,
    },
    /// A weight has another shape than the config says.
    #[error("tensor {name} in {file} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// The weight's full name.
        name: String,
        /// Where it stands.
        file: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that follows from the config.
        expected: Vec<usize>,
    },
    /// An argument of a call is out of its range.
    #[error("{field} {reason}")]
    InvalidArgument {
        /// The argument's name as the user knows it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The loaded model cannot do this operation.
    #[error("{0}")]
    UnsupportedByModel(String),
    /// The latents stopped being numbers.
    #[error(
        "the latents contain {what} after step {step}: the model's weights or the settings are broken; try another scheduler or precision f32"
    )]
    NotFinite {
        /// `NaN` or `infinity`.
        what: &'static str,
        /// The denoising step, from 1.
        step: usize,
    },
    /// The work does not fit.
    #[error("needs {needed} bytes of memory, {available} are available")]
    OutOfMemory {
        /// Bytes that the work needs.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A picture of this size does not fit into memory; told before any work.
    #[error(
        "a picture of {width} x {height} needs {} of memory, and {} could be had; {advice}",
        gigabytes(*needed),
        gigabytes(*available)
    )]
    PictureDoesNotFit {
        /// Its width in pixels.
        width: usize,
        /// Its height in pixels.
        height: usize,
        /// Bytes that this process would hold.
        needed: u64,
        /// Bytes that it could hold.
        available: u64,
        /// What would help.
        advice: String,
    },
    /// The device or its library failed.
    #[error("{device}: {reason}")]
    Device {
        /// The device's name.
        device: String,
        /// What it said.
        reason: String,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
