//! The one seam where a device is chosen.
