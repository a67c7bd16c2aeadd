//! Times the networks of a model on this machine's processor, one command after the other.
//!
//! `cargo run --release -p diffusion --example measure -- MODEL_FOLDER [--threads N] [--precision f32|bf16] [--low-memory]`
//!
//! Each line on standard input is a command, each line on standard output its answer in JSON, with the `seconds` of that one
//! call or with an `error`; sizes of latents are in latent pixels:
//!
//! ```text
//! unet HEIGHT WIDTH BATCH     one call of the U-Net; what is computed once a picture stands beside it as context_seconds
//! decode HEIGHT WIDTH         latents to a picture
//! encode HEIGHT WIDTH         a picture, sizes in pixels, to latents
//! text ROWS                   every text encoder, over so many prompts of 77 tokens, one after the other
//! save PATH                   writes the last result as raw f32, so that it can be compared with others'
//! load                        reads every network that was not used before
//! peak                        floating-point operations a second of this machine's threads
//! memory                      the most that this process has had in memory, in bytes
//! quit
//! ```
//!
//! Networks are read when they are first used; inputs follow from a formula that `tools/bench/inputs.py` has too.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use diffusion::models::{
    Autoencoder, ClipTextConfig, ClipTextModel, Conditioning, Context, Encoded, TextTime, UNet2DConditionModel,
    UNetConfig,
};
use diffusion::ops::{CpuOptions, Device, Precision, Tensor};
use diffusion::pipeline::ModelSource;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TOKENS: usize = 77;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut folder, mut options) = (None, CpuOptions::default());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => options.threads = Some(arguments.next().ok_or("--threads needs a number")?.parse()?),
            "--low-memory" => options.low_memory = true,
            "--precision" => {
                options.precision = match arguments.next().as_deref() {
                    Some("f32") => Precision::F32,
                    Some("bf16") => Precision::Bf16.fastest(),
                    other => return Err(format!("--precision {other:?}: give f32 or bf16").into()),
                }
            }
            _ if folder.is_none() => folder = Some(argument),
            _ => return Err(format!("{argument}: unknown argument").into()),
        }
    }
    let folder = folder.ok_or("give the folder of a model")?;
    let mut networks = Networks {
        source: ModelSource::folder(Path::new(&folder))?,
        device: Device::cpu(options)?,
        unet: None,
        contexts: HashMap::new(),
        autoencoder: None,
        text_encoders: Vec::new(),
        last: Vec::new(),
    };
    println!("{}", json!({ "ready": true, "isa": cpu_kernels::isa(), "threads": networks.device.threads() }));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            break;
        }
        let answer = networks.run(&words).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{answer}");
    }
    Ok(())
}

struct Networks {
    source: ModelSource,
    device: Device,
    unet: Option<UNet2DConditionModel>,
    /// By height, width and batch.
    contexts: HashMap<[usize; 3], (Context, f64)>,
    autoencoder: Option<Autoencoder>,
    text_encoders: Vec<ClipTextModel>,
    last: Vec<f32>,
}

impl Networks {
    fn run(&mut self, words: &[&str]) -> Result<Value> {
        if let ["save", path] = words {
            let bytes: Vec<u8> = self.last.iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(path, bytes)?;
            return Ok(json!({}));
        }
        let [command, numbers @ ..] = words else { return Err("an empty line is no command".into()) };
        let numbers = numbers.iter().map(|word| word.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
        match (*command, numbers.as_slice()) {
            ("unet", &[h, w, batch]) => self.step(h, w, batch),
            ("decode", &[h, w]) => {
                let autoencoder = autoencoder(&mut self.autoencoder, &self.source, &self.device)?;
                let latents = input(4, autoencoder.latent_space().channels * h * w);
                let start = Instant::now();
                self.last = autoencoder.decode(&latents, 1, h, w)?;
                Ok(seconds(start))
            }
            ("encode", &[h, w]) => {
                let autoencoder = autoencoder(&mut self.autoencoder, &self.source, &self.device)?;
                let image: Vec<f32> = input(5, 3 * h * w).into_iter().map(|x| x.clamp(-1.0, 1.0)).collect();
                let start = Instant::now();
                self.last = match autoencoder.encode(&image, 1, h, w)? {
                    Encoded::Gaussian { mean, .. } => mean,
                    Encoded::Latents(latents) => latents,
                };
                Ok(seconds(start))
            }
            ("text", &[rows]) => self.encode_text(rows),
            ("load", &[]) => {
                let start = Instant::now();
                unet(&mut self.unet, &self.source, &self.device)?;
                autoencoder(&mut self.autoencoder, &self.source, &self.device)?;
                self.load_text_encoders()?;
                Ok(seconds(start))
            }
            ("peak", &[]) => Ok(json!({ "flops": self.device.install(cpu_kernels::peak) })),
            ("memory", &[]) => Ok(json!({ "bytes": peak_memory()? })),
            _ => Err(format!("{}: no such command, or not so many numbers", words.join(" ")).into()),
        }
    }

    fn step(&mut self, h: usize, w: usize, batch: usize) -> Result<Value> {
        let unet = unet(&mut self.unet, &self.source, &self.device)?;
        if !self.contexts.contains_key(&[h, w, batch]) {
            let start = Instant::now();
            let context = context(unet, &self.device, h, w, batch)?;
            self.contexts.insert([h, w, batch], (context, start.elapsed().as_secs_f64()));
        }
        let (context, context_seconds) = &self.contexts[&[h, w, batch]];
        let sample = input(1, batch * unet.config().in_channels * h * w);
        let start = Instant::now();
        self.last = unet.forward(&sample, h, w, 500.0, context)?;
        let mut answer = seconds(start);
        answer["context_seconds"] = json!(context_seconds);
        Ok(answer)
    }

    fn encode_text(&mut self, rows: usize) -> Result<Value> {
        self.load_text_encoders()?;
        let ids = token_ids();
        let start = Instant::now();
        for _ in 0..rows {
            for encoder in &self.text_encoders {
                self.last = encoder.forward(&ids, 1)?.last_hidden_state.to_host()?;
            }
        }
        Ok(seconds(start))
    }

    fn load_text_encoders(&mut self) -> Result<()> {
        if !self.text_encoders.is_empty() {
            return Ok(());
        }
        for folder in ["text_encoder", "text_encoder_2"] {
            let file = format!("{folder}/config.json");
            let Some(config) = self.source.text(&file)? else { continue };
            let config = ClipTextConfig::parse(&config, &file)?;
            let weights = self.source.weights(folder, "model")?;
            self.text_encoders.push(ClipTextModel::load(&config, &weights, &self.device)?);
        }
        Ok(())
    }
}

fn unet<'a>(
    slot: &'a mut Option<UNet2DConditionModel>,
    source: &ModelSource,
    device: &Device,
) -> Result<&'a UNet2DConditionModel> {
    if slot.is_none() {
        let config = UNetConfig::parse(&source.required_text("unet/config.json")?, "unet/config.json")?;
        let weights = source.weights("unet", "diffusion_pytorch_model")?;
        *slot = Some(UNet2DConditionModel::load(&config, &weights, device)?);
    }
    Ok(slot.as_ref().expect("was set above"))
}

fn autoencoder<'a>(
    slot: &'a mut Option<Autoencoder>,
    source: &ModelSource,
    device: &Device,
) -> Result<&'a Autoencoder> {
    if slot.is_none() {
        let config = source.required_text("vae/config.json")?;
        let weights = source.weights("vae", "diffusion_pytorch_model")?;
        *slot = Some(Autoencoder::load(&config, "vae/config.json", &weights, device)?);
    }
    Ok(slot.as_ref().expect("was set above"))
}

/// A text, SDXL's pooled text and sizes, and an LCM's guidance embedding, as far as the U-Net takes them.
fn context(unet: &UNet2DConditionModel, device: &Device, h: usize, w: usize, batch: usize) -> Result<Context> {
    let config = unet.config();
    let width = config.context_width();
    let hidden = Tensor::from_host(device, &input(2, batch * TOKENS * width), &[batch, TOKENS, width])?;
    let (height, width) = ((8 * h) as f32, (8 * w) as f32);
    let time_ids = [height, width, 0.0, 0.0, height, width].repeat(batch);
    let pooled_width = match (config.projection_class_embeddings_input_dim, config.addition_time_embed_dim) {
        (Some(all), Some(each)) => all - 6 * each,
        _ => 0,
    };
    let pooled = input(3, batch * pooled_width);
    let cond = config.time_cond_proj_dim.map(|width| input(6, batch * width));
    Ok(unet.prepare_context(&Conditioning {
        encoder_hidden_states: &hidden,
        text_time: (pooled_width > 0).then_some(TextTime { pooled: &pooled, time_ids: &time_ids }),
        timestep_cond: cond.as_deref(),
    })?)
}

/// Numbers of variance 1 that look random: a uniform distribution by the last steps of MurmurHash3.
fn input(seed: u32, count: usize) -> Vec<f32> {
    let hash = |i: u32| {
        let mut x = i.wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(0x7f4a_7c15));
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^ (x >> 16)
    };
    (0..count as u32).map(|i| ((hash(i) >> 8) as f32 / 8_388_608.0 - 1.0) * 3f32.sqrt()).collect()
}

/// A prompt of 75 tokens between CLIP's first and last.
fn token_ids() -> Vec<u32> {
    let text = (0..TOKENS as u32 - 2).map(|i| 320 + 577 * i);
    std::iter::once(49406).chain(text).chain(std::iter::once(49407)).collect()
}

fn seconds(start: Instant) -> Value {
    json!({ "seconds": start.elapsed().as_secs_f64() })
}

fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system tells no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
