//! The whole of a worker's life.

use std::sync::Arc;

use anyhow::{Context, bail};
use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{LoadOptions, Pipeline};
use job_server::{JobRegistry, Port, RegistryLimits};
use operations_contract::{ApiError, DeviceInfo, ErrorCode, SD_WORKER_PORT, WORKER_JOBS};
use std::io::Write as _;
use std::ops::ControlFlow;
use worker_engine::{Precision, WorkerIdentity, serve_worker};

use crate::args::{Args, DeviceKind};
use crate::backend::{GenerationEngine, InferencePipeline, RequestQueue, api_error};
use crate::job_router::{AppState, Facts};
use crate::{estimate, model};

/// Serves one model until it is told to stop.
///
/// # Errors
/// Flags that cannot be followed, a model that is not there and may not be downloaded, a port that is taken. A model that
/// is broken or cannot be downloaded is not an error here: the worker serves, and says what is wrong with it.
pub async fn run(kind: DeviceKind, args: Args) -> anyhow::Result<()> {
    let precision = precision(kind, &args)?;
    if args.use_flash_attn && kind == DeviceKind::Cuda {
        bail!(
            "--use-flash-attn: not for cuda, because candle's kernel for it downloads CUTLASS while it builds; leave the flag out, attention is then computed in slices"
        );
    }
    if args.vae_tiling && kind != DeviceKind::Cpu {
        bail!("--vae-tiling: only the processor decodes in tiles; leave the flag out");
    }
    let options = LoadOptions { low_memory: args.worker.low_memory, vae_tiling: args.vae_tiling };
    if args.estimate {
        let report = estimate::report(kind, &args, cpu_options(&args, precision), options)?;
        return Ok(writeln!(std::io::stdout(), "{report}")?);
    }
    let device = device(kind, &args, precision)?;
    let model =
        model::find(args.worker.model.as_deref(), args.sd_version, &args.store).context("--model cannot be served")?;
    let (listener, access) = args.worker.listen.listen(Port::FirstFrom(SD_WORKER_PORT)).await?;

    let label = match kind {
        DeviceKind::Cpu => kind.name().to_owned(),
        DeviceKind::Cuda | DeviceKind::Metal => format!("{}:{}", kind.name(), args.worker.device),
    };
    let identity = Arc::new(WorkerIdentity {
        worker_id: args.worker.worker_id_or_random(),
        model: model.name.clone(),
        device: label,
    });
    let (queue, receiver) = RequestQueue::new();
    let facts = Facts {
        server: format!("sd-worker-{}", kind.name()),
        model_names: model.names,
        device: DeviceInfo {
            kind: kind.name().to_owned(),
            index: args.worker.device,
            name: Some(device.description()),
        },
        threads: device.threads(),
        precision: precision.as_str(),
    };
    let registry = JobRegistry::new(RegistryLimits::in_memory(WORKER_JOBS));
    let state = AppState::new(queue.clone(), registry, Arc::clone(&identity), facts);

    let (mut origin, name, version) = (model.origin, model.name, args.sd_version);
    let (runtime, reporter) = (tokio::runtime::Handle::current(), receiver.load_reporter());
    let loaded = state.clone();
    let load = move || {
        let mut observer = |event| {
            tracing::debug!("{name}: {event:?}");
            ControlFlow::Continue(())
        };
        let source = origin.obtain(&runtime, &reporter).map_err(|error| ApiError::from(&error))?;
        let pipeline = Pipeline::load(&source, &device, options, &mut observer).map_err(|error| api_error(&error))?;
        if let Some(contradiction) = version.and_then(|version| version.contradiction(pipeline.info())) {
            return Err(ApiError::new(ErrorCode::ModelLoadFailed, contradiction));
        }
        loaded.loaded(pipeline.info().clone(), pipeline.foresight().cloned());
        Ok(InferencePipeline::new(pipeline, name.clone(), precision.as_str()))
    };
    GenerationEngine::loading(load, receiver).start().context("no thread for the engine")?;
    serve_worker(state, queue, &identity, &args.worker, (listener, access)).await.context("serving failed")
}

/// The precision that the flags ask for, where the device has it.
fn precision(kind: DeviceKind, args: &Args) -> anyhow::Result<Precision> {
    let asked = match (args.worker.precision, args.use_f16) {
        (Some(Precision::F32 | Precision::Bf16), true) => {
            bail!("--use-f16 contradicts --precision; it is the same as --precision f16")
        }
        (_, true) => Some(Precision::F16),
        (asked, false) => asked,
    };
    match (kind, asked) {
        (_, None | Some(Precision::F32)) => Ok(Precision::F32),
        (DeviceKind::Cpu, Some(Precision::F16)) => {
            bail!(
                "--precision f16: a CPU computes in f32, or in bf16 where it can; leave the flag out (16-bit weights stay 16-bit in memory)"
            )
        }
        (DeviceKind::Cpu, Some(Precision::Bf16))
            if diffusion::ops::Precision::Bf16.fastest() == diffusion::ops::Precision::F32 =>
        {
            tracing::warn!(
                "--precision bf16: this processor multiplies faster in f32, which is also more exact; computing in f32"
            );
            Ok(Precision::F32)
        }
        // Whether the processor has it is the device's to say.
        (DeviceKind::Cpu, Some(Precision::Bf16)) => Ok(Precision::Bf16),
        (DeviceKind::Cuda | DeviceKind::Metal, Some(asked)) => Ok(asked),
    }
}

fn device(kind: DeviceKind, args: &Args, precision: Precision) -> anyhow::Result<Device> {
    let index = args.worker.device;
    match kind {
        DeviceKind::Cpu => {
            if index != 0 {
                bail!("--device {index}: there is one CPU, number 0");
            }
            Device::cpu(cpu_options(args, precision)).context("this processor cannot serve")
        }
        DeviceKind::Cuda => cuda(index, precision),
        DeviceKind::Metal => metal(index, precision, args.use_flash_attn),
    }
}

fn cpu_options(args: &Args, precision: Precision) -> CpuOptions {
    let precision = match precision {
        Precision::Bf16 => diffusion::ops::Precision::Bf16,
        Precision::F32 | Precision::F16 => diffusion::ops::Precision::F32,
    };
    CpuOptions { threads: Some(args.worker.threads_or_all()), low_memory: args.worker.low_memory, precision }
}

#[cfg(feature = "cuda")]
fn cuda(index: u32, precision: Precision) -> anyhow::Result<Device> {
    Device::cuda(index as usize, dtype(precision)).with_context(|| format!("--device {index} cannot be used"))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: u32, _: Precision) -> anyhow::Result<Device> {
    bail!(
        "this sd-worker-cuda was built without CUDA; build it with: cargo build --release --bin sd-worker-cuda --features cuda"
    )
}

#[cfg(feature = "metal")]
fn metal(index: u32, precision: Precision, fused_attention: bool) -> anyhow::Result<Device> {
    Device::metal(index as usize, dtype(precision), fused_attention)
        .with_context(|| format!("--device {index} cannot be used"))
}

#[cfg(not(feature = "metal"))]
fn metal(_: u32, _: Precision, _: bool) -> anyhow::Result<Device> {
    bail!(
        "this sd-worker-metal was built without Metal; build it on macOS with: cargo build --release --bin sd-worker-metal --features metal"
    )
}

#[cfg(any(feature = "cuda", feature = "metal"))]
fn dtype(precision: Precision) -> diffusion::weights::Dtype {
    use diffusion::weights::Dtype;
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
        Precision::Bf16 => Dtype::Bf16,
    }
}
