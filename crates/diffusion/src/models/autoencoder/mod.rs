//! Between pictures and latents.

mod kl;
mod tiles;
mod tiny;

pub use kl::AutoencoderKlConfig;
pub use tiny::AutoencoderTinyConfig;

use kl::AutoencoderKl;
use serde::Deserialize;
use tiny::AutoencoderTiny;

use crate::models::config::{parse, unsupported};
use crate::ops::Device;
use crate::weights::Weights;
use crate::{Error, Result};

/// An autoencoder of either kind, by the `_class_name` of its config.
#[derive(Debug)]
pub struct Autoencoder {
    network: Network,
    latent_space: LatentSpace,
    in_channels: usize,
}

#[derive(Debug)]
enum Network {
    Kl(Box<AutoencoderKl>),
    Tiny(AutoencoderTiny),
}

/// What a pipeline must know of latents. The autoencoder itself neither scales nor shifts.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentSpace {
    /// Channels of the latents.
    pub channels: usize,
    /// Pixels of the picture for one of the latents, along each side.
    pub factor: usize,
    /// The network that denoises sees the latents times this.
    pub scaling_factor: f32,
    /// SDXL's finetunes may have the mean of each channel.
    pub latents_mean: Option<Vec<f32>>,
    /// SDXL's finetunes may have the standard deviation of each channel.
    pub latents_std: Option<Vec<f32>>,
}

/// What an encoder makes of pictures; numbers `(n, channels, height / factor, width / factor)`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded {
    /// A normal distribution for each number.
    Gaussian {
        /// The means.
        mean: Vec<f32>,
        /// The standard deviations.
        std: Vec<f32>,
    },
    /// The latents themselves.
    Latents(Vec<f32>),
}

#[derive(Debug, Deserialize)]
struct Class {
    #[serde(rename = "_class_name", default = "kl_class")]
    name: String,
}

/// What the widest activations of a tile take: rows enough that those that two tiles share cost little.
const TILE_BYTES: usize = 32 << 20;

fn kl_class() -> String {
    "AutoencoderKL".into()
}

impl Autoencoder {
    /// Parses a `config.json`, which `file` stands for in errors, and reads the weights.
    ///
    /// # Errors
    /// [`Error::BadFile`], [`Error::Unsupported`], [`Error::MissingTensor`], [`Error::TensorShape`], or what the device says.
    pub fn load(json: &str, file: &str, weights: &Weights, device: &Device) -> Result<Self> {
        // The activations of SDXL's autoencoder leave the range of half precision, and bfloat16 shows in the picture.
        let device = &device.single_precision();
        device.install(|| match parse::<Class>(json, file, &[])?.name.as_str() {
            "AutoencoderKL" => {
                let config = AutoencoderKlConfig::parse(json, file)?;
                let network = Network::Kl(Box::new(AutoencoderKl::load(&config, file, weights, device)?));
                Ok(Self { network, in_channels: config.in_channels, latent_space: config.latent_space() })
            }
            "AutoencoderTiny" => {
                let config = AutoencoderTinyConfig::parse(json, file)?;
                let network = Network::Tiny(AutoencoderTiny::load(&config, file, weights, device)?);
                Ok(Self { network, in_channels: config.in_channels, latent_space: config.latent_space() })
            }
            other => Err(unsupported(file, "_class_name", other, "only AutoencoderKL and AutoencoderTiny are")),
        })
    }

    /// What a pipeline must know of the latents.
    pub fn latent_space(&self) -> &LatentSpace {
        &self.latent_space
    }

    /// Encodes pictures `(n, 3, height, width)`, row-major, in −1 to 1; sides are multiples of the factor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the numbers are not as many as the size says or a side is no multiple, or what the
    /// device says.
    pub fn encode(&self, image: &[f32], n: usize, height: usize, width: usize) -> Result<Encoded> {
        let factor = self.latent_space.factor;
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            return Err(Error::InvalidArgument {
                field: "image",
                reason: format!("is {width} x {height}; sides must be multiples of {factor}"),
            });
        }
        let shape = checked("image", image, [n, self.in_channels, height, width])?;
        match &self.network {
            Network::Kl(network) => network.encode(image, &shape),
            Network::Tiny(network) => network.encode(image, &shape),
        }
    }

    /// Decodes latents `(n, channels, height, width)`, row-major, to pictures
    /// `(n, 3, height * factor, width * factor)`, row-major, about −1 to 1.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the numbers are not as many as the size says, or what the device says.
    pub fn decode(&self, latents: &[f32], n: usize, height: usize, width: usize) -> Result<Vec<f32>> {
        let shape = checked("latents", latents, [n, self.latent_space.channels, height, width])?;
        match &self.network {
            Network::Kl(network) => network.decode(latents, &shape),
            Network::Tiny(network) => network.decode(latents, &shape),
        }
    }

    /// As [`Autoencoder::decode`], the same numbers but for rounding, in a fraction of the memory and in more time. A tiny
    /// autoencoder takes little memory as it is.
    ///
    /// # Errors
    /// As [`Autoencoder::decode`].
    pub fn decode_tiled(&self, latents: &[f32], n: usize, height: usize, width: usize) -> Result<Vec<f32>> {
        match &self.network {
            Network::Kl(network) => {
                let shape = checked("latents", latents, [n, self.latent_space.channels, height, width])?;
                network.decode_tiled(latents, &shape, TILE_BYTES)
            }
            Network::Tiny(_) => self.decode(latents, n, height, width),
        }
    }
}

fn checked(field: &'static str, data: &[f32], shape: [usize; 4]) -> Result<[usize; 4]> {
    let expected: usize = shape.iter().product();
    if data.len() != expected || expected == 0 {
        return Err(Error::InvalidArgument { field, reason: format!("has {} numbers for {shape:?}", data.len()) });
    }
    Ok(shape)
}
