use std::fmt::Write as _;

/// Levels of each channel of the palette: 6 × 6 × 6 = 216 colours, which every sixel terminal has.
const LEVELS: usize = 6;
/// Bayer's 4 × 4 matrix: ordered dither needs no neighbours and does not crawl.
const BAYER: [[i32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// Encodes 8-bit RGB pixels: bands of six rows, in each band one pass for every colour that occurs there.
pub(super) fn encode(rgb: &[u8], width: u32, height: u32) -> String {
    let (width, height) = (width as usize, height as usize);
    let indices: Vec<u8> = (0..width * height)
        .map(|i| {
            let pixel = &rgb[i * 3..i * 3 + 3];
            let threshold = BAYER[i / width % 4][i % width % 4] * 2 + 1 - 16;
            let level = |value: u8| {
                let dithered = (i32::from(value) + threshold * 51 / 32).clamp(0, 255);
                (dithered as usize * (LEVELS - 1) + 127) / 255
            };
            ((level(pixel[0]) * LEVELS + level(pixel[1])) * LEVELS + level(pixel[2])) as u8
        })
        .collect();

    // 1:1 pixels; a raster attribute tells the size before the data.
    let mut out = format!("\x1bPq\"1;1;{width};{height}");
    for index in 0..LEVELS * LEVELS * LEVELS {
        let percent = |level: usize| level * 100 / (LEVELS - 1);
        let (r, g, b) = (index / LEVELS / LEVELS, index / LEVELS % LEVELS, index % LEVELS);
        let _ = write!(out, "#{index};2;{};{};{}", percent(r), percent(g), percent(b));
    }
    for band in indices.chunks(width * 6) {
        let mut present = [false; LEVELS * LEVELS * LEVELS];
        band.iter().for_each(|&index| present[usize::from(index)] = true);
        for colour in (0..present.len()).filter(|&colour| present[colour]) {
            let _ = write!(out, "#{colour}");
            let column = |x: usize| {
                let bits = (0..band.len() / width).filter(|y| usize::from(band[y * width + x]) == colour);
                bits.fold(0, |bits, y| bits | 1 << y)
            };
            push_runs(&mut out, (0..width).map(column));
            out.push('$');
        }
        out.push('-');
    }
    out.push_str("\x1b\\\n");
    out
}

/// A sixel is a character from `?` on; more than three alike are written with their count.
fn push_runs(out: &mut String, sixels: impl Iterator<Item = u8>) {
    let mut sixels = sixels.peekable();
    while let Some(sixel) = sixels.next() {
        let mut count = 1;
        while sixels.next_if_eq(&sixel).is_some() {
            count += 1;
        }
        let character = char::from(b'?' + sixel);
        if count > 3 {
            let _ = write!(out, "!{count}{character}");
        } else {
            out.extend(std::iter::repeat_n(character, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_white_column_of_seven_rows_is_two_bands() {
        let picture = encode(&[255; 7 * 3], 1, 7);
        let (_, data) = picture.split_once("#215;2;100;100;100").unwrap();
        // `~` has all six bits, `@` the first alone.
        assert_eq!(data, "#215~$-#215@$-\x1b\\\n");
    }

    #[test]
    fn long_runs_are_counted() {
        let picture = encode(&[0; 5 * 3], 5, 1);
        assert!(picture.contains("#0!5@$-"));
    }
}
