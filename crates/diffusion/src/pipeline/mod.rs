//! From a request to a picture.
