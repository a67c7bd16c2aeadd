//! Pictures in and out: decoding, resizing as Pillow does, masks.
