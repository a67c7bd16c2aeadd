use std::path::Path;

use serde::Deserialize;

use super::*;

/// Written by `tools/reference/image.py` from Pillow and diffusers.
#[derive(Deserialize)]
struct Goldens {
    resizes: Vec<Resize>,
    files: Vec<File>,
    processed: Processed,
    masks: Vec<Mask>,
}

#[derive(Deserialize)]
struct Resize {
    size: [usize; 3],
    to: [usize; 2],
    fnv: String,
    data: Option<String>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    file: String,
    size: [usize; 2],
    rgb: String,
    gray: String,
    alpha: String,
}

#[derive(Deserialize)]
struct Processed {
    preprocessed: Vec<f64>,
    values: Vec<f64>,
    postprocessed: String,
}

#[derive(Deserialize)]
struct Mask {
    size: [usize; 2],
    to: [usize; 2],
    mask: String,
    small: String,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/image.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn fnv(data: &[u8]) -> String {
    let hash = data
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// The same bytes as `noise` in the script.
fn noise(width: usize, height: usize, channels: usize) -> Pixels {
    let byte = |i: u64| (i.wrapping_mul(i).wrapping_mul(31).wrapping_add(i.wrapping_mul(2_654_435_761)) >> 7) as u8;
    Pixels::new(width, height, channels, (0..(width * height * channels) as u64).map(byte).collect())
}

fn png(width: u32, height: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    file
}

#[test]
fn resizing_is_pillows_bit_for_bit() {
    for Resize { size: [width, height, channels], to, fnv: expect, data } in goldens().resizes {
        let resized = resize(&noise(width, height, channels), to[0], to[1]);
        assert_eq!((resized.width(), resized.height(), resized.channels()), (to[0], to[1], channels));
        if let Some(data) = data {
            assert_eq!(resized.data(), bytes(&data), "{width} x {height} x {channels} to {to:?}");
        }
        assert_eq!(fnv(resized.data()), expect, "{width} x {height} x {channels} to {to:?}");
    }
}

#[test]
fn files_decode_as_pillow_decodes_them() {
    for File { name, file, size, rgb, gray, alpha } in goldens().files {
        let decoded = decode("init_image", &bytes(&file)).unwrap();
        assert_eq!([decoded.rgb().width(), decoded.rgb().height()], size, "{name}");
        let (rgb, gray, alpha) = (bytes(&rgb), bytes(&gray), bytes(&alpha));
        let mask = decoded.mask();
        let expected_mask: Vec<u8> =
            if alpha.iter().any(|&alpha| alpha < 255) { alpha.iter().map(|alpha| 255 - alpha).collect() } else { gray };
        // Lossy files leave the rounding to the decoder: libjpeg-turbo and libwebp round and smooth a little otherwise than ours do.
        let lossy = if name.starts_with("jpeg") || name == "webp lossy" { 4 } else { 0 };
        let worst = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
        assert_eq!((decoded.rgb().data().len(), mask.data().len()), (rgb.len(), expected_mask.len()), "{name}");
        assert!(worst(decoded.rgb().data(), &rgb) <= lossy, "{name}: {}", worst(decoded.rgb().data(), &rgb));
        assert!(worst(mask.data(), &expected_mask) <= lossy, "{name}");
    }
}

#[test]
fn of_sixteen_bits_the_upper_eight_count() {
    use png::{BitDepth::Sixteen, ColorType};
    let file = png(2, 1, ColorType::Grayscale, Sixteen, &[0x12, 0xff, 0xfe, 0x01]);
    assert_eq!(decode("init_image", &file).unwrap().rgb().data(), [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]);
    let file = png(1, 1, ColorType::Rgba, Sixteen, &[1, 255, 2, 255, 3, 255, 0x40, 0]);
    let decoded = decode("mask_image", &file).unwrap();
    assert_eq!((decoded.rgb().data(), decoded.mask().data()), (&[1, 2, 3][..], &[0xbf][..]));
}

#[test]
fn values_go_to_the_autoencoder_and_back_as_in_diffusers() {
    let Processed { preprocessed, values, postprocessed } = goldens().processed;
    let gray = Pixels::new(16, 16, 3, (0..=255u8).flat_map(|byte| [byte; 3]).collect());
    let here = preprocess(&gray);
    assert_eq!(here.len(), 3 * 256);
    for (byte, &expect) in preprocessed.iter().enumerate() {
        for channel in 0..3 {
            assert_eq!(here[channel * 256 + byte], expect as f32, "byte {byte}");
        }
    }
    let plane: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let picture = postprocess(&[&plane[..], &plane, &plane].concat(), 32, 24);
    let red: Vec<u8> = picture.data().iter().step_by(3).copied().collect();
    assert_eq!(red, bytes(&postprocessed));
    assert_eq!(postprocess(&[0.0, f32::NAN, f32::INFINITY], 1, 1).data(), [128, 0, 255]);
}

#[test]
fn masks_are_those_of_diffusers() {
    for Mask { size, to, mask: expect, small } in goldens().masks {
        let mask = process_mask(&noise(size[0], size[1], 1), to[0], to[1]);
        let bits = |mask: &[f32]| mask.iter().map(|&value| if value == 1.0 { '1' } else { '0' }).collect::<String>();
        assert_eq!(bits(&mask), expect, "{size:?} to {to:?}");
        assert_eq!(bits(&downsample(&mask, to[0], to[1], 8)), small, "{size:?} to {to:?}");
    }
}

#[test]
fn what_is_no_picture_is_refused_with_the_fields_name() {
    let check = |file: &[u8], expect: &str| {
        let message = decode("init_image", file).unwrap_err().to_string();
        assert!(message.starts_with("init_image ") && message.contains(expect), "{message:?} does not say {expect:?}");
    };
    check(b"", "is not a PNG, JPEG or WebP image");
    check(b"hello", "is not a PNG, JPEG or WebP image");
    check(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "is not a PNG, JPEG or WebP image");
    check(b"BM\x3a\x00\x00\x00", "is not a PNG, JPEG or WebP image");
    check(&vec![0; MAX_BYTES + 1], "has 33554433 bytes, at most 33554432 are allowed");
    for file in goldens().files {
        let whole = bytes(&file.file);
        for cut in [12.min(whole.len()), whole.len() / 4, whole.len() / 2] {
            // A JPEG's decoder may make do with a part; what counts is that nothing panics and what is refused says why.
            if let Err(error) = decode("mask_image", &whole[..cut]) {
                assert!(error.to_string().starts_with("mask_image is not a "), "{}: {error}", file.name);
            } else {
                assert!(file.name.starts_with("jpeg"), "{} cut at {cut}", file.name);
            }
        }
    }
}

/// A small file that says that it is a picture of 65,500 × 65,500 pixels, and one of the largest size that compresses a thousandfold.
#[test]
fn a_decompression_bomb_is_refused_before_memory_is_taken() {
    let mut bomb = png(1, 1, png::ColorType::Grayscale, png::BitDepth::Eight, &[0]);
    bomb[16..24].copy_from_slice(&[0, 0, 255, 220, 0, 0, 255, 220]);
    let crc = bomb[12..29].iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    bomb[29..33].copy_from_slice(&(!crc).to_be_bytes());
    let message = decode("init_image", &bomb).unwrap_err().to_string();
    assert_eq!(message, "init_image has 65500 x 65500 pixels, at most 4096 x 4096 are allowed");
    let wide = png(4097, 1, png::ColorType::Grayscale, png::BitDepth::Eight, &[0; 4097]);
    assert!(decode("init_image", &wide).unwrap_err().to_string().contains("4097 x 1"));
    let large = png(4096, 4096, png::ColorType::Grayscale, png::BitDepth::One, &vec![0; 4096 * 512]);
    assert_eq!(decode("init_image", &large).unwrap().rgb().width(), 4096);
}

#[test]
fn sizes_are_rounded_down_and_large_pictures_scaled() {
    let check = |width, height, side: usize, expect: (usize, usize, bool)| {
        let Fit { width, height, scaled } = fit(width, height, side * side);
        assert_eq!((width, height, scaled), expect);
    };
    check(512, 512, 512, (512, 512, false));
    check(203, 143, 512, (200, 136, false));
    check(1024, 1024, 512, (1024, 1024, false));
    check(2048, 2048, 512, (1024, 1024, true));
    check(4096, 4096, 128, (256, 256, true));
    check(4000, 3000, 512, (1176, 880, true)); // 1182.4 x 886.8
    check(1025, 1024, 512, (1024, 1016, true)); // 1024.5 x 1023.5
    check(4096, 9, 128, (4096, 8, false));
    check(5, 3, 128, (8, 8, false));
}

#[test]
fn a_feathered_mask_shows_all_inside_and_nothing_beyond_its_reach() {
    let (width, height, sigma) = (96, 64, 4.0f32);
    let inside = |x: usize, y: usize| (40..56).contains(&x) && (24..40).contains(&y);
    let mask: Vec<f32> = (0..width * height).map(|at| if inside(at % width, at / width) { 1.0 } else { 0.0 }).collect();
    let alpha = feather(&mask, width, height, sigma);
    let first = noise(width, height, 3);
    let painted = Pixels::new(width, height, 3, first.data().iter().map(|byte| !byte).collect());
    let done = composite(&first, &painted, &alpha);
    for y in 0..height {
        for x in 0..width {
            let far = x + 12 < 40 || x >= 56 + 12 || y + 12 < 24 || y >= 40 + 12;
            if inside(x, y) {
                assert_eq!(done.pixel(x, y), painted.pixel(x, y));
            } else if far {
                assert_eq!(done.pixel(x, y), first.pixel(x, y));
                assert_eq!(alpha[y * width + x], 0.0);
            }
        }
    }
    let row: Vec<f32> = alpha[32 * width..33 * width].to_vec();
    assert!(row[56..68].is_sorted_by(|a, b| a > b) && row[56] < 1.0 && row[67] > 0.0, "it falls with the distance");
    assert_eq!(feather(&mask, width, height, 0.0), mask);
    assert_eq!(composite(&first, &painted, &vec![0.0; width * height]), first);
}

#[test]
fn a_blur_keeps_what_is_even_and_spreads_a_point_as_a_gaussian_does() {
    let even = blur(&[0.75; 20 * 10], 20, 10, 64.0);
    assert!(even.iter().all(|value| (value - 0.75).abs() < 1e-5));
    let mut point = vec![0.0; 41 * 41];
    point[20 * 41 + 20] = 1.0;
    let spread = blur(&point, 41, 41, 3.0);
    assert!((spread.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    // exp(-3² / (2 · 3²)) times the value in the middle, three pixels off it.
    assert!((spread[20 * 41 + 23] / spread[20 * 41 + 20] - (-0.5f32).exp()).abs() < 1e-4);
    assert_eq!(spread[23 * 41 + 20], spread[20 * 41 + 23]);
}
