use crate::{ApiError, Base64Bytes, ErrorCode, Operation, limits};
use serde::Serialize;
use std::fmt::Display;
use std::io::Cursor;
use std::ops::{Deref, RangeInclusive};

/// A request whose every limit was checked.
///
/// Only [`Request::validate`] (and [`Operation::validate`]) makes one, and it cannot be changed afterwards except
/// in ways that keep it valid; whoever takes a `Validated` need not ask again.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Validated<T>(T);

impl<T> Validated<T> {
    /// Gives the request up; what comes back has to be validated again.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Wraps a part of what was validated as a whole.
    pub(crate) fn part(part: T) -> Self {
        Self(part)
    }
}

impl<T> Deref for Validated<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Validated<Operation> {
    /// Stores a seed where the request has none, so that a second attempt paints the same picture. Returns the seed
    /// that now stands there; an operation without a seed has none.
    pub fn fill_seed(&mut self, draw: impl FnOnce() -> u64) -> Option<u64> {
        let seed = match &mut self.0 {
            Operation::ImageGeneration(request) => &mut request.seed,
            Operation::ImageTransform(request) => &mut request.seed,
            Operation::ImageInpaint(request) => &mut request.seed,
            Operation::Infer(request) => &mut request.seed,
            Operation::Status(_)
            | Operation::QueenCheck(_)
            | Operation::HiveCheck(_)
            | Operation::WorkerSpawn(_)
            | Operation::WorkerProcessList(_)
            | Operation::WorkerProcessGet(_)
            | Operation::WorkerProcessDelete(_)
            | Operation::ModelDownload(_)
            | Operation::ModelList(_)
            | Operation::ModelGet(_)
            | Operation::ModelDelete(_) => return None,
        };
        Some(*seed.get_or_insert_with(draw))
    }

    /// Takes the routing out of a request that goes on to one worker: which hive and which worker were chosen, and
    /// the model, which is that worker's own.
    pub fn clear_route(&mut self) {
        let (hive_id, worker_id, model) = match &mut self.0 {
            Operation::ImageGeneration(request) => (&mut request.hive_id, &mut request.worker_id, &mut request.model),
            Operation::ImageTransform(request) => (&mut request.hive_id, &mut request.worker_id, &mut request.model),
            Operation::ImageInpaint(request) => (&mut request.hive_id, &mut request.worker_id, &mut request.model),
            Operation::Infer(request) => (&mut request.hive_id, &mut request.worker_id, &mut request.model),
            Operation::Status(_)
            | Operation::QueenCheck(_)
            | Operation::HiveCheck(_)
            | Operation::WorkerSpawn(_)
            | Operation::WorkerProcessList(_)
            | Operation::WorkerProcessGet(_)
            | Operation::WorkerProcessDelete(_)
            | Operation::ModelDownload(_)
            | Operation::ModelList(_)
            | Operation::ModelGet(_)
            | Operation::ModelDelete(_) => return,
        };
        (*hive_id, *worker_id, *model) = (None, None, None);
    }
}

/// The request of one operation.
pub trait Request: Sized + Into<Operation> {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first limit that does not hold, with its field.
    fn check(&self) -> Result<(), ApiError>;

    /// The only door to a checked request.
    ///
    /// # Errors
    /// As [`Request::check`].
    fn validate(self) -> Result<Validated<Self>, ApiError> {
        self.check()?;
        Ok(Validated(self))
    }
}

impl Operation {
    /// The only door to a checked operation. Decodes the images in it, which takes a moment for large ones.
    ///
    /// # Errors
    /// The first limit that does not hold, with its field.
    pub fn validate(self) -> Result<Validated<Self>, ApiError> {
        self.check()?;
        Ok(Validated(self))
    }
}

/// The checks that requests are made of. Each names the field, the limit and what was given.
pub(crate) struct Check;

impl Check {
    pub(crate) fn range<T: PartialOrd + Display + Copy>(
        &self,
        param: &str,
        value: T,
        range: &RangeInclusive<T>,
    ) -> Result<(), ApiError> {
        if range.contains(&value) {
            return Ok(());
        }
        let (min, max) = (range.start(), range.end());
        Err(ApiError::invalid(param, format!("{param} must be between {min} and {max}, got {value}")))
    }

    pub(crate) fn optional_range<T: PartialOrd + Display + Copy>(
        &self,
        param: &str,
        value: Option<T>,
        range: &RangeInclusive<T>,
    ) -> Result<(), ApiError> {
        value.map_or(Ok(()), |value| self.range(param, value, range))
    }

    pub(crate) fn at_least(&self, param: &str, value: u32, min: u32) -> Result<(), ApiError> {
        if value >= min {
            return Ok(());
        }
        Err(ApiError::invalid(param, format!("{param} must be at least {min}, got {value}")))
    }

    pub(crate) fn side(&self, param: &str, value: Option<u32>) -> Result<(), ApiError> {
        let Some(value) = value else { return Ok(()) };
        self.range(param, value, &limits::SIDE)?;
        if value.is_multiple_of(limits::SIDE_MULTIPLE) {
            return Ok(());
        }
        let multiple = limits::SIDE_MULTIPLE;
        Err(ApiError::invalid(param, format!("{param} must be a multiple of {multiple}, got {value}")))
    }

    pub(crate) fn strength(&self, param: &str, value: f64) -> Result<(), ApiError> {
        if value > 0.0 && value <= 1.0 {
            return Ok(());
        }
        Err(ApiError::invalid(param, format!("{param} must be above 0 and at most 1, got {value}")))
    }

    pub(crate) fn text(&self, param: &str, text: &str, max: usize) -> Result<(), ApiError> {
        if text.len() <= max {
            return Ok(());
        }
        Err(ApiError::invalid(param, format!("{param} may have at most {max} bytes, got {}", text.len())))
    }

    /// JSON of a bounded size.
    pub(crate) fn json(&self, param: &str, json: &impl Serialize, max: usize) -> Result<(), ApiError> {
        let size = serde_json::to_vec(json).map_or(usize::MAX, |text| text.len());
        if size <= max {
            return Ok(());
        }
        Err(ApiError::invalid(param, format!("{param} may have at most {max} bytes as JSON, got {size}")))
    }

    pub(crate) fn one_of(&self, param: &str, value: Option<&str>, known: &[&str]) -> Result<(), ApiError> {
        match value {
            Some(value) if !known.contains(&value) => {
                let message = format!("{param} {} is not known; known are {}", quoted(value), known.join(", "));
                Err(ApiError::invalid(param, message))
            }
            _ => Ok(()),
        }
    }

    /// Ids become file names and parts of URLs.
    pub(crate) fn id(&self, param: &str, id: &str) -> Result<(), ApiError> {
        let fault = if id.is_empty() {
            "must not be empty".to_owned()
        } else if id.len() > limits::ID_BYTES {
            format!("may have at most {} bytes, got {}", limits::ID_BYTES, id.len())
        } else if id.contains(['/', '\\']) {
            format!("must not contain a path separator, got {}", quoted(id))
        } else if id == "." || id == ".." || id.contains(|char: char| char.is_control() || char == ':') {
            format!("must be a plain name, got {}", quoted(id))
        } else {
            return Ok(());
        };
        Err(ApiError::invalid(param, format!("{param} {fault}")))
    }

    pub(crate) fn optional_id(&self, param: &str, id: Option<&str>) -> Result<(), ApiError> {
        id.map_or(Ok(()), |id| self.id(param, id))
    }

    /// A model's name may be a path and so hold nearly everything.
    pub(crate) fn model(&self, param: &str, model: &str) -> Result<(), ApiError> {
        if model.trim().is_empty() {
            return Err(ApiError::invalid(param, format!("{param} must not be empty")));
        }
        self.text(param, model, limits::MODEL_BYTES)?;
        if model.contains(char::is_control) {
            let message = format!("{param} holds a control character: {}", quoted(model));
            return Err(ApiError::invalid(param, message));
        }
        Ok(())
    }

    pub(crate) fn optional_model(&self, param: &str, model: Option<&str>) -> Result<(), ApiError> {
        model.map_or(Ok(()), |model| self.model(param, model))
    }

    /// Really of its format, and no bomb: the header tells the size before anything is decoded.
    pub(crate) fn image(&self, param: &str, file: &Base64Bytes) -> Result<(), ApiError> {
        if file.is_empty() {
            return Err(ApiError::invalid(param, format!("{param} is empty; give a PNG, JPEG or WebP in base64")));
        }
        if file.len() > limits::IMAGE_BYTES {
            let message = format!("{param} may have at most {} bytes, got {}", limits::IMAGE_BYTES, file.len());
            return Err(ApiError::new(ErrorCode::PayloadTooLarge, message).with_param(param));
        }
        let Ok(format) = image::guess_format(file) else {
            return Err(ApiError::invalid(param, format!("{param} is not a PNG, JPEG or WebP")));
        };
        if !matches!(format, image::ImageFormat::Png | image::ImageFormat::Jpeg | image::ImageFormat::WebP) {
            let message = format!("{param} is {format:?}; only PNG, JPEG and WebP are read");
            return Err(ApiError::invalid(param, message));
        }
        let broken = |error: image::ImageError| ApiError::invalid(param, format!("{param} cannot be decoded: {error}"));
        let reader = || image::ImageReader::with_format(Cursor::new(&**file), format);
        let (width, height) = reader().into_dimensions().map_err(broken)?;
        let max = limits::IMAGE_SIDE;
        if width == 0 || height == 0 || width > max || height > max {
            let message = format!("{param} may be at most {max} x {max} pixels, got {width} x {height}");
            return Err(ApiError::invalid(param, message));
        }
        reader().decode().map(drop).map_err(broken)
    }
}

/// What somebody sent, short enough to be repeated to them.
fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
