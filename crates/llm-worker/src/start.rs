//! The whole of a worker's life.

use std::sync::Arc;

use anyhow::{Context, bail};
use job_server::{JobRegistry, Port, RegistryLimits};
use llama_cpp_2::{
    LlamaBackendDevice, LlamaBackendDeviceType, LogOptions, list_llama_ggml_backend_devices, send_logs_to_tracing,
};
use operations_contract::{ApiError, DeviceInfo, LLM_WORKER_PORT, WORKER_JOBS};
use worker_engine::{Precision, WorkerIdentity, serve_worker_routes};

use crate::args::{Args, DeviceKind};
use crate::backend::{GenerationEngine, LoadOptions, Loader, RequestQueue};
use crate::job_router::{AppState, Facts, create_router};
use crate::model::{self, Model};

/// Layers of any model: what llama.cpp takes for all.
const ALL_LAYERS: u32 = 999;

/// Serves one model until it is told to stop.
///
/// # Errors
/// Flags that cannot be followed, a model that is not there and may not be downloaded, a port that is taken. A model that
/// is broken or cannot be downloaded is not an error here: the worker serves, and says what is wrong with it.
pub async fn run(kind: DeviceKind, args: Args) -> anyhow::Result<()> {
    check_flags(kind, &args)?;
    check_processor()?;
    let Model { mut origin, name, names } =
        model::find(args.worker.model.as_deref(), &args.store).context("--model cannot be served")?;
    let (listener, access) = args.worker.listen.listen(Port::FirstFrom(LLM_WORKER_PORT)).await?;
    // What llama.cpp says at the level `info` is a page for every model: RBEE_LOG=llama_cpp_2=info shows it.
    send_logs_to_tracing(LogOptions::default());

    let threads = args.worker.threads_or_all();
    let options = LoadOptions {
        slots: args.slots,
        context: args.context,
        gpu_layers: match kind {
            DeviceKind::Cpu => 0,
            DeviceKind::Cuda | DeviceKind::Metal => args.gpu_layers.unwrap_or(ALL_LAYERS),
        },
        gpu: args.worker.device as i32,
        threads,
    };
    let loader = Loader::new(name.clone(), options)?;
    let device = device(kind, args.worker.device)?;
    let label = match kind {
        DeviceKind::Cpu => kind.name().to_owned(),
        DeviceKind::Cuda | DeviceKind::Metal => format!("{}:{}", kind.name(), args.worker.device),
    };
    let identity =
        Arc::new(WorkerIdentity { worker_id: args.worker.worker_id_or_random(), model: name, device: label });
    let (queue, receiver) = RequestQueue::new();
    let facts = Facts {
        server: format!("llm-worker-{}", kind.name()),
        model_names: names,
        device: DeviceInfo {
            kind: kind.name().to_owned(),
            index: args.worker.device,
            name: device.map(|device| device.description),
        },
        threads,
    };
    let registry = JobRegistry::new(RegistryLimits::in_memory(WORKER_JOBS));
    let state = AppState::new(queue.clone(), registry.clone(), Arc::clone(&identity), facts);
    let loaded = state.clone();
    let (runtime, reporter) = (tokio::runtime::Handle::current(), receiver.load_reporter());
    let load = move || {
        let file = origin.obtain(&runtime, &reporter).map_err(|error| ApiError::from(&error))?;
        let (pipeline, reader) = loader.load(file.path())?;
        loaded.loaded(reader);
        Ok(pipeline)
    };
    GenerationEngine::loading(load, receiver).start().context("no thread for the engine")?;
    let app = create_router(state, &access);
    serve_worker_routes((app, registry), queue, &identity, &args.worker, listener).await.context("serving failed")
}

/// Flags that this worker or this build cannot follow.
fn check_flags(kind: DeviceKind, args: &Args) -> anyhow::Result<()> {
    if let Some(precision) = args.worker.precision {
        let precision = Precision::as_str(precision);
        bail!("--precision {precision}: a GGUF file brings its own; choose the file instead");
    }
    if args.worker.low_memory {
        bail!(
            "--low-memory: weights are read from the file as they are needed already; a smaller --context or --slots saves more"
        );
    }
    match kind {
        DeviceKind::Cpu => {
            if args.worker.device != 0 {
                bail!("--device {}: there is one CPU, number 0", args.worker.device);
            }
            if let Some(layers) = args.gpu_layers.filter(|layers| *layers > 0) {
                bail!("--gpu-layers {layers}: llm-worker-cpu has no GPU; start llm-worker-cuda or llm-worker-metal");
            }
        }
        DeviceKind::Cuda => {
            if !cfg!(feature = "cuda") {
                bail!(
                    "this llm-worker-cuda was built without CUDA; build it with: cargo build --release -p llm-worker-rbee --features cuda"
                );
            }
        }
        DeviceKind::Metal => {
            if !cfg!(feature = "metal") {
                bail!(
                    "this llm-worker-metal was built without Metal; build it on macOS with: cargo build --release -p llm-worker-rbee --features metal"
                );
            }
        }
    }
    Ok(())
}

/// llama.cpp is built for one set of instructions; without them it would die of the first that is missing.
fn check_processor() -> anyhow::Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("f16c", std::arch::is_x86_feature_detected!("f16c")),
            ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
        ];
        let missing: Vec<_> = has.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            bail!(
                "this processor has no {}, which llm-worker-cpu was built with; build it here with: RUSTFLAGS=-Ctarget-cpu=native cargo build --release -p llm-worker-rbee --features cpu",
                missing.join(" and ")
            );
        }
    }
    Ok(())
}

/// What llama.cpp computes with.
fn device(kind: DeviceKind, index: u32) -> anyhow::Result<Option<LlamaBackendDevice>> {
    let is_gpu = |device: &LlamaBackendDevice| {
        matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    };
    let devices = list_llama_ggml_backend_devices();
    if kind == DeviceKind::Cpu {
        return Ok(devices.into_iter().find(|device| matches!(device.device_type, LlamaBackendDeviceType::Cpu)));
    }
    let gpus: Vec<_> = devices.into_iter().filter(is_gpu).collect();
    let count = gpus.len();
    match gpus.into_iter().nth(index as usize) {
        Some(device) => Ok(Some(device)),
        None => bail!("--device {index}: llama.cpp finds {count} {} devices here", kind.name()),
    }
}
