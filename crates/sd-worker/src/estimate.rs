//! What a worker would take of memory, told without serving anything: a hive asks before it starts one.

use std::path::Path;

use anyhow::bail;
use diffusion::ops::CpuOptions;
use diffusion::pipeline::{Footprint, LoadOptions, ModelSource, estimate};
use operations_contract::{DEFAULT_IMAGE_MODEL, same_model};
use serde_json::{Value, json};

use crate::args::{Args, DeviceKind};
use crate::embedded;

/// `peak_bytes` is what the process holds at the worst moment of a picture of the model's own size; the others are its parts.
pub(crate) fn report(kind: DeviceKind, args: &Args, cpu: CpuOptions, options: LoadOptions) -> anyhow::Result<Value> {
    if kind != DeviceKind::Cpu {
        bail!("--estimate: only what the processor takes is foreseen; leave the flag out");
    }
    let given = args.worker.model.as_deref().filter(|given| !same_model(given, DEFAULT_IMAGE_MODEL));
    let source = match given {
        None if args.sd_version.is_none() => embedded::tiny_scenes(),
        Some(path) if Path::new(path).exists() => ModelSource::open(Path::new(path), false)?,
        _ => bail!("--estimate: give a model that is on this machine by its path: --model PATH"),
    };
    let footprint = estimate(&source, cpu, options)?;
    let Footprint { weights, activations, other } = footprint;
    Ok(json!({
        "peak_bytes": footprint.peak(), "weight_bytes": weights, "activation_bytes": activations, "other_bytes": other
    }))
}
