//! From what went wrong while painting to what a client is told.

use diffusion::Error;
use operations_contract::{ApiError, ErrorCode};

/// Every error of the pipeline as clients see it.
#[must_use]
pub fn api_error(error: &Error) -> ApiError {
    let message = error.to_string();
    match error {
        Error::InvalidArgument { field, .. } => ApiError::invalid(field, message),
        Error::UnsupportedByModel(_) => ApiError::new(ErrorCode::UnsupportedByModel, message),
        Error::OutOfMemory { .. } | Error::PictureDoesNotFit { .. } => ApiError::new(ErrorCode::OutOfMemory, message),
        Error::Io { .. }
        | Error::BadFile { .. }
        | Error::Unsupported { .. }
        | Error::MissingTensor { .. }
        | Error::TensorShape { .. } => ApiError::new(ErrorCode::ModelLoadFailed, message),
        Error::Cancelled => ApiError::new(ErrorCode::Cancelled, message),
        // NotFinite, Device and what may come: the request was fine.
        _ => ApiError::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_request_is_named() {
        let error = api_error(&Error::InvalidArgument { field: "strength", reason: "is too low".to_owned() });
        assert_eq!((error.status(), error.param.as_deref()), (422, Some("strength")));
        assert_eq!(api_error(&Error::UnsupportedByModel("no".to_owned())).code, ErrorCode::UnsupportedByModel);
        assert_eq!(api_error(&Error::NotFinite { what: "NaN", step: 3 }).status(), 500);
    }
}
