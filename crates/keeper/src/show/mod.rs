//! Pictures on the terminal: kitty's graphics protocol, iTerm2's inline images, sixel.

mod detect;
mod sixel;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Cursor, Write};

pub(crate) use detect::Terminal;

/// How a terminal takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// <https://sw.kovidgoyal.net/kitty/graphics-protocol/>
    Kitty,
    /// <https://iterm2.com/documentation-images.html>
    Iterm2,
    /// <https://vt100.net/docs/vt3xx-gp/chapter14.html>
    Sixel,
}

/// Why a picture cannot be drawn.
#[derive(Debug)]
pub(crate) enum ShowError {
    /// What should be drawn is no picture that can be read.
    Picture(image::ImageError),
    /// The terminal went away.
    Io(io::Error),
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picture(error) => write!(f, "the picture cannot be decoded: {error}"),
            Self::Io(error) => write!(f, "the terminal cannot be written to: {error}"),
        }
    }
}

impl Terminal {
    /// Draws a PNG or JPEG at its own size, smaller where the terminal is narrower, and leaves the cursor below it.
    ///
    /// # Errors
    /// The picture cannot be decoded, or the terminal not be written to.
    pub(crate) fn draw(&self, file: &[u8], out: &mut dyn Write) -> Result<(), ShowError> {
        let sequence = self.sequence(file).map_err(ShowError::Picture)?;
        out.write_all(sequence.as_bytes()).and_then(|()| out.flush()).map_err(ShowError::Io)
    }

    fn sequence(&self, file: &[u8]) -> Result<String, image::ImageError> {
        Ok(match self.protocol {
            Protocol::Kitty => kitty(&as_png(file)?, self.columns_for(file)?),
            Protocol::Iterm2 => iterm2(file, self.columns_for(file)?),
            Protocol::Sixel => {
                let (rgb, width, height) = decode_rgb(file)?;
                let (rgb, width, height) = shrink(rgb, width, height, self.width_in_pixels());
                sixel::encode(&rgb, width, height)
            }
        })
    }

    /// The columns that the picture is squeezed into where it is wider than the terminal.
    fn columns_for(&self, file: &[u8]) -> Result<Option<u16>, image::ImageError> {
        let (width, _) = image::ImageReader::new(Cursor::new(file)).with_guessed_format()?.into_dimensions()?;
        Ok((width > self.width_in_pixels()).then_some(self.columns))
    }
}

/// The whole file in chunks of 4096 base64 characters, as the protocol wants; `f=100` is PNG, `a=T` transmits and
/// displays, `q=2` asks for no answer, which nobody would read.
fn kitty(png: &[u8], columns: Option<u16>) -> String {
    let encoded = STANDARD.encode(png);
    let mut out = String::with_capacity(encoded.len() + encoded.len() / 128 + 64);
    let mut rest = encoded.as_str();
    let mut control = "a=T,f=100,q=2".to_owned();
    if let Some(columns) = columns {
        let _ = write!(control, ",c={columns}");
    }
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(4096));
        let more = u8::from(!after.is_empty());
        let _ = write!(out, "\x1b_G{control}{}m={more};{chunk}\x1b\\", if control.is_empty() { "" } else { "," });
        if after.is_empty() {
            out.push('\n');
            return out;
        }
        rest = after;
        control.clear();
    }
}

fn iterm2(png: &[u8], columns: Option<u16>) -> String {
    let width = columns.map_or_else(|| "auto".to_owned(), |columns| columns.to_string());
    let size = png.len();
    format!("\x1b]1337;File=inline=1;size={size};width={width};preserveAspectRatio=1:{}\x07\n", STANDARD.encode(png))
}

/// 8-bit RGB, whatever the file holds; what is transparent is shown on black, as terminals mostly are.
fn decode_rgb(file: &[u8]) -> Result<(Vec<u8>, u32, u32), image::ImageError> {
    let picture = image::load_from_memory(file)?.into_rgba8();
    let over_black = |value: u8, alpha: u8| (u16::from(value) * u16::from(alpha) / 255) as u8;
    let rgb = picture.pixels().flat_map(|image::Rgba([r, g, b, a])| [r, g, b].map(|value| over_black(*value, *a)));
    Ok((rgb.collect(), picture.width(), picture.height()))
}

/// kitty reads PNG; previews are JPEG.
fn as_png(file: &[u8]) -> Result<Cow<'_, [u8]>, image::ImageError> {
    if image::guess_format(file)? == image::ImageFormat::Png {
        return Ok(Cow::Borrowed(file));
    }
    let mut png = Cursor::new(Vec::new());
    image::load_from_memory(file)?.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(Cow::Owned(png.into_inner()))
}

/// The mean of the pixels that fall into one, where the picture is wider than `max_width`.
fn shrink(rgb: Vec<u8>, width: u32, height: u32, max_width: u32) -> (Vec<u8>, u32, u32) {
    if width <= max_width || max_width == 0 {
        return (rgb, width, height);
    }
    let new_height = (u64::from(height) * u64::from(max_width) / u64::from(width)).max(1) as u32;
    let span = |i: u32, old: u32, new: u32| {
        let from = u64::from(i) * u64::from(old) / u64::from(new);
        let to = (u64::from(i + 1) * u64::from(old) / u64::from(new)).max(from + 1);
        from as usize..to as usize
    };
    let mut out = Vec::with_capacity((max_width * new_height * 3) as usize);
    for y in 0..new_height {
        let rows = span(y, height, new_height);
        for x in 0..max_width {
            let columns = span(x, width, max_width);
            for channel in 0..3 {
                let mut sum = 0;
                for row in rows.clone() {
                    for column in columns.clone() {
                        sum += usize::from(rgb[(row * width as usize + column) * 3 + channel]);
                    }
                }
                out.push((sum / (rows.len() * columns.len())) as u8);
            }
        }
    }
    (out, max_width, new_height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgba);
        let pixels: Vec<u8> = (0..width * height).flat_map(|i| [i as u8, 100, 200, 128]).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        file
    }

    #[test]
    fn kitty_gets_the_file_in_chunks_that_say_whether_more_follows() {
        let file = vec![7; 10_000];
        let out = kitty(&file, Some(80));
        let chunks: Vec<&str> = out.trim_end().split_terminator("\x1b\\").collect();
        assert_eq!(chunks.len(), 13336_usize.div_ceil(4096));
        assert!(chunks[0].starts_with("\x1b_Ga=T,f=100,q=2,c=80,m=1;"));
        assert!(chunks[1].starts_with("\x1b_Gm=1;"));
        assert!(chunks[3].starts_with("\x1b_Gm=0;"));
        let sent: String = chunks.iter().map(|chunk| chunk.split_once(';').unwrap().1).collect();
        assert_eq!(STANDARD.decode(sent).unwrap(), file);
    }

    #[test]
    fn a_wide_picture_is_squeezed_and_a_small_one_is_not() {
        let terminal = Terminal { protocol: Protocol::Iterm2, columns: 4, cell_width: 8 };
        let drawn = |width| {
            let mut out = Vec::new();
            terminal.draw(&png(width, 3), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(drawn(32).contains("width=auto"));
        assert!(drawn(33).contains("width=4;"));
    }

    #[test]
    fn shrinking_takes_the_mean() {
        let rgb = vec![0, 0, 0, 100, 100, 100, 50, 60, 70, 150, 160, 170];
        assert_eq!(shrink(rgb.clone(), 2, 2, 1), (vec![75, 80, 85], 1, 1));
        assert_eq!(shrink(rgb.clone(), 2, 2, 2), (rgb, 2, 2));
    }

    #[test]
    fn half_transparent_pixels_are_shown_over_black() {
        let (rgb, width, height) = decode_rgb(&png(2, 1)).unwrap();
        assert_eq!((rgb, width, height), (vec![0, 50, 100, 0, 50, 100], 2, 1));
    }

    #[test]
    fn a_jpeg_reaches_kitty_as_png() {
        let mut jpeg = Cursor::new(Vec::new());
        image::RgbImage::new(8, 8).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        assert!(as_png(jpeg.get_ref()).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        let terminal = Terminal { protocol: Protocol::Sixel, columns: 80, cell_width: 8 };
        assert!(terminal.draw(b"GIF89a", &mut Vec::new()).is_err());
    }
}
