//! PNG files that tell how they were painted, in the form that the web UI of AUTOMATIC1111 writes and other tools read:
//! a text chunk `parameters` with the prompt, a line `Negative prompt: …`, and a line `Steps: 20, Sampler: Euler a, …`.
//!
//! The form is that of `create_infotext` in
//! <https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/processing.py>.

use std::fmt::Display;
use std::io::Cursor;

use diffusion::image::Pixels;
use diffusion::samplers::{SamplerKind, Schedule};

const KEYWORD: &str = "parameters";

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The longest text that is read, in bytes; two prompts of the greatest length and all settings have far less.
const MAX_TEXT: usize = 4 << 20;

/// What a picture was painted with.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// What was to be painted.
    pub prompt: &'a str,
    /// What was not; an empty one is as none.
    pub negative_prompt: Option<&'a str>,
    /// Denoising steps, as asked for.
    pub steps: usize,
    /// The sampler that was used, named in the request or the model's own.
    pub scheduler: SamplerKind,
    /// The spacing of noise levels, where one was asked for.
    pub schedule: Option<Schedule>,
    /// The weight of the prompt.
    pub guidance_scale: f64,
    /// The noise.
    pub seed: u64,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// The model's name.
    pub model: &'a str,
    /// How much of the first image was painted over, where there was one.
    pub strength: Option<f64>,
    /// The mask's feather, where there was a mask.
    pub mask_blur: Option<f64>,
    /// Layers of the text encoder that were left out, counted as diffusers does.
    pub clip_skip: Option<usize>,
    /// The networks' numbers: `f32`, `f16` or `bf16`.
    pub precision: &'a str,
}

impl Settings<'_> {
    /// The text of the chunk.
    pub fn parameters(&self) -> String {
        let mut fields: Vec<String> = Vec::new();
        let mut field = |name: &str, value: &dyn Display| fields.push(format!("{name}: {}", quote(&value.to_string())));
        field("Steps", &self.steps);
        field("Sampler", &sampler_name(self.scheduler));
        if let Some(schedule) = self.schedule {
            field("Schedule type", &schedule_name(schedule));
        }
        field("CFG scale", &self.guidance_scale);
        field("Seed", &self.seed);
        field("Size", &format!("{}x{}", self.size.0, self.size.1));
        field("Model", &self.model);
        if let Some(strength) = self.strength {
            field("Denoising strength", &strength);
        }
        if let Some(skip) = self.clip_skip.filter(|&skip| skip > 0) {
            // The web UI counts the layers from 1, diffusers those that are left out.
            field("Clip skip", &(skip + 1));
        }
        // The noise is what a generator on a CPU draws, whatever the device.
        field("RNG", &"CPU");
        if let Some(blur) = self.mask_blur {
            field("Mask blur", &blur);
        }
        if self.precision != "f32" {
            field("Precision", &self.precision);
        }
        field("Version", &concat!("rbee ", env!("CARGO_PKG_VERSION")));
        let negative = self.negative_prompt.filter(|negative| !negative.is_empty());
        let negative = negative.map(|negative| format!("\nNegative prompt: {negative}")).unwrap_or_default();
        format!("{}{negative}\n{}", self.prompt, fields.join(", ")).trim().to_owned()
    }
}

/// The name that the web UI has for a sampler, or would have.
pub fn sampler_name(sampler: SamplerKind) -> &'static str {
    match sampler {
        SamplerKind::Ddim => "DDIM",
        SamplerKind::Ddpm => "DDPM",
        SamplerKind::Pndm => "PLMS",
        SamplerKind::Lms => "LMS",
        SamplerKind::Euler => "Euler",
        SamplerKind::EulerA => "Euler a",
        SamplerKind::Heun => "Heun",
        SamplerKind::Dpm2 => "DPM2",
        SamplerKind::Dpm2A => "DPM2 a",
        SamplerKind::Dpmpp2m => "DPM++ 2M",
        SamplerKind::Dpmpp2mSde => "DPM++ 2M SDE",
        SamplerKind::Dpmpp2s => "DPM++ 2S",
        SamplerKind::Unipc => "UniPC",
        SamplerKind::Deis => "DEIS",
        SamplerKind::Lcm => "LCM",
        SamplerKind::Tcd => "TCD",
    }
}

fn schedule_name(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Karras => "Karras",
        Schedule::Exponential => "Exponential",
    }
}

/// As the web UI's `quote`: a value that would end its field early becomes a JSON string.
fn quote(value: &str) -> String {
    if !value.contains([',', '\n', ':']) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0'..' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A PNG file of an RGB picture that carries `parameters`: as `tEXt` where the text is Latin-1, else as `iTXt`, as Pillow does.
///
/// # Errors
/// Where memory is short, as the encoder says.
///
/// # Panics
/// Where the picture has not three channels.
pub fn encode(image: &Pixels, parameters: &str) -> Result<Vec<u8>, png::EncodingError> {
    assert_eq!(image.channels(), 3, "channels of a picture");
    // A zero byte would end the text.
    let text = parameters.replace('\0', " ");
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, image.width() as u32, image.height() as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if text.chars().all(|c| u32::from(c) < 256) {
        encoder.add_text_chunk(KEYWORD.to_owned(), text)?;
    } else {
        encoder.add_itxt_chunk(KEYWORD.to_owned(), text)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.data())?;
    writer.finish()?;
    Ok(file)
}

/// The `parameters` that a PNG file carries. The file may be anything: it is only looked at, no pixel is decoded, and a text of more than
/// four million bytes counts as none. The text may have control characters; who prints it on a terminal must look after them.
pub fn parameters(file: &[u8]) -> Option<String> {
    let mut rest = file.strip_prefix(SIGNATURE)?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if let Some(text) = chunk_text(kind, data) {
            return text.filter(|text| text.len() <= MAX_TEXT).or_else(|| compressed(file));
        }
        rest = after.get(4..)?;
    }
    None
}

/// The text of a chunk, where it is the one that is sought; `Some(None)` where it is compressed.
fn chunk_text(kind: &[u8; 4], data: &[u8]) -> Option<Option<String>> {
    let data = data.strip_prefix(KEYWORD.as_bytes())?.strip_prefix(b"\0")?;
    match kind {
        b"tEXt" => Some(Some(data.iter().map(|&byte| char::from(byte)).collect())),
        b"zTXt" => Some(None),
        b"iTXt" => {
            let (&[flag, _method], languages) = data.split_first_chunk::<2>()?;
            if flag != 0 {
                return Some(None);
            }
            let mut parts = languages.splitn(3, |&byte| byte == 0);
            let (_language, _translated) = (parts.next()?, parts.next()?);
            Some(Some(String::from_utf8_lossy(parts.next()?).into_owned()))
        }
        _ => None,
    }
}

/// A compressed text, which stands before the pixels; other tools write such.
fn compressed(file: &[u8]) -> Option<String> {
    let limits = png::Limits { bytes: 2 * MAX_TEXT };
    let reader = png::Decoder::new_with_limits(Cursor::new(file), limits).read_info().ok()?;
    let info = reader.info();
    let mut latin = info.compressed_latin1_text.iter().filter(|chunk| chunk.keyword == KEYWORD).cloned();
    let mut utf8 = info.utf8_text.iter().filter(|chunk| chunk.keyword == KEYWORD).cloned();
    if let Some(mut chunk) = latin.next() {
        chunk.decompress_text_with_limit(MAX_TEXT).ok()?;
        return chunk.get_text().ok();
    }
    let mut chunk = utf8.next()?;
    chunk.decompress_text_with_limit(MAX_TEXT).ok()?;
    chunk.get_text().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings<'static> {
        Settings {
            prompt: "a red circle on a blue background",
            negative_prompt: None,
            steps: 20,
            scheduler: SamplerKind::EulerA,
            schedule: None,
            guidance_scale: 7.5,
            seed: 42,
            size: (128, 96),
            model: "tiny-scenes",
            strength: None,
            mask_blur: None,
            clip_skip: None,
            precision: "f32",
        }
    }

    fn picture() -> Pixels {
        Pixels::new(4, 2, 3, (0..24).collect())
    }

    #[test]
    fn settings_are_written_as_the_web_ui_writes_them() {
        let version = concat!("Version: rbee ", env!("CARGO_PKG_VERSION"));
        let plain = "a red circle on a blue background\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Size: 128x96, \
                     Model: tiny-scenes, RNG: CPU, ";
        assert_eq!(settings().parameters(), format!("{plain}{version}"));
        let all = Settings {
            prompt: "a cat,\nsitting",
            negative_prompt: Some("dog: \"big\""),
            scheduler: SamplerKind::Dpmpp2mSde,
            schedule: Some(Schedule::Karras),
            guidance_scale: 7.0,
            seed: u64::MAX,
            model: "C:\\models\\my \"best\", really",
            strength: Some(0.8),
            mask_blur: Some(4.0),
            clip_skip: Some(1),
            precision: "f16",
            ..settings()
        };
        let expect = r#"a cat,
sitting
Negative prompt: dog: "big"
Steps: 20, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7, Seed: 18446744073709551615, Size: 128x96, "#
            .to_owned()
            + r#"Model: "C:\\models\\my \"best\", really", Denoising strength: 0.8, Clip skip: 2, RNG: CPU, Mask blur: 4, "#
            + "Precision: f16, ";
        assert_eq!(all.parameters(), expect + version);
        let empty = Settings { prompt: "", negative_prompt: Some(""), ..settings() };
        assert!(empty.parameters().starts_with("Steps: 20, "));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in
            ["a cat\nSteps: 20", "", "caf\u{e9} \u{ff}", "\u{65e5}\u{672c}\u{8a9e} \u{1f44d}", &"x".repeat(200_000)]
        {
            let file = encode(&picture(), text).unwrap();
            assert_eq!(parameters(&file).as_deref(), Some(text));
            let latin = text.chars().all(|c| u32::from(c) < 256);
            let kind: &[u8] = if latin { b"tEXtparameters\0" } else { b"iTXtparameters\0" };
            assert!(file.windows(kind.len()).any(|window| window == kind), "Pillow's choice of the chunk");
            let mut reader = png::Decoder::new(Cursor::new(&file)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, picture().data());
        }
        assert_eq!(parameters(&encode(&picture(), "a\0b").unwrap()).as_deref(), Some("a b"));
    }

    #[test]
    fn compressed_texts_of_other_tools_are_read_and_bombs_are_not() {
        let file = |utf8: bool, text: &str| {
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, 4, 2);
            encoder.set_color(png::ColorType::Rgb);
            if utf8 {
                let mut chunk = png::text_metadata::ITXtChunk::new(KEYWORD, text);
                chunk.compressed = true;
                let mut writer = encoder.write_header().unwrap();
                writer.write_text_chunk(&chunk).unwrap();
                writer.write_image_data(picture().data()).unwrap();
                writer.finish().unwrap();
            } else {
                encoder.add_ztxt_chunk(KEYWORD.to_owned(), text.to_owned()).unwrap();
                let mut writer = encoder.write_header().unwrap();
                writer.write_image_data(picture().data()).unwrap();
                writer.finish().unwrap();
            }
            file
        };
        for utf8 in [false, true] {
            assert_eq!(parameters(&file(utf8, "a cat\nSteps: 4")).as_deref(), Some("a cat\nSteps: 4"));
            assert_eq!(parameters(&file(utf8, &"x".repeat(MAX_TEXT + 1))), None);
        }
    }

    #[test]
    fn a_hostile_file_is_read_without_harm() {
        let whole = encode(&picture(), "a cat").unwrap();
        assert_eq!(parameters(b""), None);
        assert_eq!(parameters(b"\xff\xd8\xff not a PNG"), None);
        for cut in 0..whole.len() {
            let _ = parameters(&whole[..cut]);
            let mut broken = whole.clone();
            broken[cut] ^= 0xff;
            let _ = parameters(&broken);
        }
        let endless = [SIGNATURE, b"\xff\xff\xff\xfftEXtparameters\0"].concat();
        assert_eq!(parameters(&endless), None);
        let mut many = SIGNATURE.to_vec();
        (0..100_000).for_each(|_| many.extend_from_slice(b"\0\0\0\0tEXt\0\0\0\0"));
        assert_eq!(parameters(&many), None);
        assert_eq!(parameters(&[SIGNATURE, b"\0\0\0\x0dtEXtparametersX\0 \0\0\0\0"].concat()), None);
        let large = encode(&picture(), &"x".repeat(MAX_TEXT + 1)).unwrap();
        assert_eq!(parameters(&large), None);
    }
}
