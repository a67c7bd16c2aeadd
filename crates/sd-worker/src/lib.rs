//! One process, one image model on one device.
