//! Whatever somebody calls a picture: decoded or refused, never a panic.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use image::{ImageFormat, RgbImage};
use operations_contract::{ImageTransformRequest, Request as _};
use proptest::prelude::*;
use std::io::Cursor;
use std::sync::LazyLock;

static PICTURES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let pixels = RgbImage::from_fn(24, 16, |x, y| image::Rgb([(x * 9) as u8, (y * 13) as u8, (x * y) as u8]));
    let write = |format| {
        let mut file = Cursor::new(Vec::new());
        pixels.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(write).to_vec()
});

fn is_taken(file: Vec<u8>) -> bool {
    ImageTransformRequest { init_image: file.into(), ..ImageTransformRequest::default() }.validate().is_ok()
}

#[test]
fn the_pictures_that_are_damaged_below_are_whole() {
    assert!(PICTURES.iter().all(|file| is_taken(file.clone())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_picture_is_decoded_or_refused(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        length in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut file = PICTURES[which].clone();
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Some(length) = length {
            file.truncate(length.index(file.len()));
        }
        is_taken(file);
    }

    #[test]
    fn noise_is_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!is_taken(file));
    }
}
