//! Layers over a feature map in tiles, without seams.
//!
//! A convolution sees only its neighbourhood, but a group norm sees the whole map. So a run of layers is done several times,
//! each time as far as the next norm whose moments are not known yet; the last time with all of them to the end. Tiles are as
//! wide as the map, because rows lie one behind the other in memory, and begin and end with rows that are computed for both
//! neighbours. The result is that of the whole map but for rounding; only the input, the output and one tile are in memory.

use std::ops::Range;

use crate::Result;
use crate::models::resnet::{ResnetBlock2D, Upsample2D};
use crate::ops::{Activation, Conv2d, GroupNorm, Moments, RowsWriter, Tensor};

/// A layer that can be computed in tiles.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// Only as the first of a run.
    Upsample(&'a Upsample2D),
    Resnet(&'a ResnetBlock2D),
    /// A norm with SiLU, and a convolution.
    Out(&'a GroupNorm, &'a Conv2d),
}

/// The least rows of a tile, below which those that are computed twice outweigh it.
const LEAST_ROWS: usize = 8;

/// `steps` one after the other over one feature map; the widest activations of a tile take about `tile_bytes`.
pub(super) fn run(steps: &[Step<'_>], x: Tensor, tile_bytes: usize) -> Result<Tensor> {
    let scale = if matches!(steps.first(), Some(Step::Upsample(_))) { 2 } else { 1 };
    let convolutions: usize = steps.iter().map(|step| step.convolutions()).sum();
    let norms: usize = steps.iter().map(|step| step.norms()).sum();
    let (_, c, height, w) = x.feature_map_shape();
    let row_bytes = scale * scale * w * c * size_of::<f32>();
    let rows = (tile_bytes / row_bytes.max(1)).max(LEAST_ROWS);
    if rows >= height {
        return steps.iter().try_fold(x, |x, step| step.forward(&x));
    }
    let tile = |first: usize| {
        let core = first..height.min(first + rows);
        // Each convolution spoils one row at an edge that is none of the map's.
        let halo = convolutions.div_ceil(scale);
        Tile { input: core.start.saturating_sub(halo)..height.min(core.end + halo), core, scale }
    };
    let tiles = (0..height).step_by(rows).map(tile);

    let mut known: Vec<Vec<Moments>> = Vec::new();
    // The first norm of a run that does not begin by upsampling is that of its input.
    match steps.first() {
        Some(Step::Resnet(resnet)) => known.push(resnet.first_norm().moments(&x, 0..height)?),
        Some(Step::Out(norm, _)) => known.push(norm.moments(&x, 0..height)?),
        Some(Step::Upsample(_)) | None => {}
    }
    while known.len() < norms {
        let mut next = Vec::new();
        for tile in tiles.clone() {
            tile.compute(steps, &x, &known, &mut next)?;
        }
        known.push(next);
    }
    let mut out: Option<RowsWriter> = None;
    for tile in tiles {
        let part = tile.compute(steps, &x, &known, &mut Vec::new())?.expect("the moments of every norm are known");
        let writer = match &mut out {
            Some(writer) => writer,
            None => out.insert(RowsWriter::like(&part, scale * height)?),
        };
        writer.write(&part, tile.core_rows(scale))?;
    }
    Ok(out.expect("a feature map has rows").finish())
}

impl Step<'_> {
    /// Over the whole map.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Step::Upsample(upsampler) => {
                let (_, _, h, w) = x.feature_map_shape();
                upsampler.forward(x, 2 * h, 2 * w)
            }
            Step::Resnet(resnet) => resnet.forward(x, None),
            Step::Out(norm, conv) => conv.forward(&norm.forward(x, Activation::Silu)?),
        }
    }

    fn convolutions(&self) -> usize {
        match self {
            Step::Upsample(_) | Step::Out(..) => 1,
            Step::Resnet(_) => 2,
        }
    }

    fn norms(&self) -> usize {
        match self {
            Step::Upsample(_) => 0,
            Step::Resnet(_) => 2,
            Step::Out(..) => 1,
        }
    }
}

/// Rows of the input of a run.
struct Tile {
    /// Those that are this tile's own.
    core: Range<usize>,
    /// And those around them that they depend on.
    input: Range<usize>,
    /// Rows of the output for one of the input.
    scale: usize,
}

impl Tile {
    /// Where the tile's own rows lie among those that are computed, at `scale` rows for one of the input.
    fn core_rows(&self, scale: usize) -> Range<usize> {
        scale * (self.core.start - self.input.start)..scale * (self.core.end - self.input.start)
    }

    /// All steps, or as far as the first norm whose moments are not `known`; those of the tile's own rows join `next`.
    fn compute(
        &self,
        steps: &[Step<'_>],
        x: &Tensor,
        known: &[Vec<Moments>],
        next: &mut Vec<Moments>,
    ) -> Result<Option<Tensor>> {
        let mut known = known.iter();
        let mut normalize = |norm: &GroupNorm, x: &Tensor, activation| match known.next() {
            Some(moments) => norm.forward_with(x, moments, activation).map(Some),
            None => {
                let moments = norm.moments(x, self.core_rows(self.scale))?;
                next.resize(moments.len(), Moments::default());
                for (next, moments) in next.iter_mut().zip(moments) {
                    *next = next.join(moments);
                }
                Ok(None)
            }
        };
        let mut x = x.rows(self.input.clone())?;
        for step in steps {
            let computed = match step {
                Step::Upsample(_) => Some(step.forward(&x)?),
                Step::Resnet(resnet) => resnet.forward_by(&x, None, &mut normalize)?,
                Step::Out(norm, conv) => match normalize(norm, &x, Activation::Silu)? {
                    Some(normed) => Some(conv.forward(&normed)?),
                    None => None,
                },
            };
            match computed {
                Some(computed) => x = computed,
                None => return Ok(None),
            }
        }
        Ok(Some(x))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::kl::{AutoencoderKl, AutoencoderKlConfig};
    use crate::ops::{CpuOptions, Device};
    use crate::weights::Weights;

    /// The autoencoder that is shipped, over something that looks like no picture in tiles of the least height, and of a height
    /// that does not divide the map's.
    #[test]
    fn tiles_show_no_seams() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes/vae"));
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config = AutoencoderKlConfig::parse(&config, "config.json").unwrap();
        let weights = Weights::open(folder, "diffusion_pytorch_model").unwrap();
        let device = Device::cpu(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
        let network =
            device.install(|| AutoencoderKl::load(&config, "config.json", &weights, &device)).expect("it is whole");
        let shape = [2, config.latent_channels, 18, 11];
        let count: usize = shape.iter().product();
        // Brighter to the bottom, so that the moments of a tile are not those of the whole.
        let latents: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() * 2.0 + (i % 198) as f32 / 66.0).collect();
        let whole = network.decode(&latents, &shape).unwrap();
        let most = whole.iter().fold(0f32, |most, x| most.max(x.abs()));
        for tile_bytes in [1, 300_000] {
            let tiled = network.decode_tiled(&latents, &shape, tile_bytes).unwrap();
            let apart = tiled.iter().zip(&whole).fold(0f32, |apart, (a, b)| apart.max((a - b).abs()));
            assert!(apart < 1e-4 * most, "tiles of {tile_bytes} bytes: {apart} apart, values up to {most}");
        }
    }
}
