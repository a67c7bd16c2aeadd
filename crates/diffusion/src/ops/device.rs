//! Where a network lives.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cpu_kernels::{ConvAlgorithm, Isa, Precision};

use super::buffer::{Buffer, BufferPool, Memory};
#[cfg(feature = "candle")]
use super::candle::CandleDevice;
use super::cpu;
#[cfg(feature = "candle")]
use crate::weights::Dtype;
use crate::weights::Weights;
use crate::{Error, Result};

/// Where a network lives and is computed. Cheap to clone: clones share threads and memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    Cpu(CpuDevice),
    /// A device of candle's: a GPU or, for tests, candle's own processor.
    #[cfg(feature = "candle")]
    Candle(CandleDevice),
}

/// A processor: its threads, its instruction set (the one in use where it is made) and the memory of its activations.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    shared: Arc<Shared>,
}

/// How a processor computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads of its own; `None` takes one for each core that this process may use.
    pub threads: Option<usize>,
    /// Keep the weights of convolutions as large as they are stored. Otherwise those of 3 x 3 kernels are transformed, to
    /// as much as eight times that size, so that less is multiplied.
    pub low_memory: bool,
    /// How exact the products are.
    pub precision: Precision,
}

#[derive(Debug)]
struct Shared {
    threads: rayon::ThreadPool,
    isa: Isa,
    buffers: Arc<BufferPool>,
    low_memory: bool,
    precision: Precision,
    /// What [`Device::weight_bytes`] tells.
    weights: AtomicU64,
}

impl Device {
    /// This machine's processor.
    ///
    /// # Errors
    /// [`Error::Device`] when the system gives no threads, or the processor lacks the precision.
    pub fn cpu(options: CpuOptions) -> Result<Self> {
        let CpuOptions { threads, low_memory, precision } = options;
        if !precision.is_available() {
            let reason =
                "it cannot multiply in bf16, which takes AMX or AVX-512 with BF16; leave --precision at f32".into();
            return Err(Error::Device { device: "cpu".into(), reason });
        }
        let wanted = threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(wanted)
            .thread_name(|index| format!("diffusion-{index}"))
            .build()
            .map_err(|error| Error::Device { device: "cpu".into(), reason: format!("{wanted} threads: {error}") })?;
        let (buffers, weights, isa) = (Arc::default(), AtomicU64::new(0), Isa::current());
        let shared = Shared { threads, isa, buffers, low_memory, precision, weights };
        Ok(Device::Cpu(CpuDevice { shared: Arc::new(shared) }))
    }

    /// NVIDIA's GPU number `index`, counted from 0; the networks compute in `dtype`.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such GPU, or its driver does not start.
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize, dtype: Dtype) -> Result<Self> {
        let open = || candle_core::Device::new_cuda(index);
        CandleDevice::new(open, format!("cuda:{index}"), dtype, false).map(Self::Candle)
    }

    /// Apple's GPU number `index`, counted from 0; the networks compute in `dtype`. `fused_attention`: by one kernel for
    /// heads of the sizes that it takes.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such GPU; always elsewhere than on macOS.
    #[cfg(feature = "metal")]
    pub fn metal(index: usize, dtype: Dtype, fused_attention: bool) -> Result<Self> {
        let name = format!("metal:{index}");
        if cfg!(not(target_os = "macos")) {
            return Err(Error::Device { device: name, reason: "only macOS has Metal".into() });
        }
        let open = || candle_core::Device::new_metal(index);
        CandleDevice::new(open, name, dtype, fused_attention).map(Self::Candle)
    }

    /// Candle's own processor, to test without a GPU what GPUs compute; the networks compute in `dtype`.
    ///
    /// # Errors
    /// None; the signature is that of the others.
    #[cfg(feature = "candle")]
    pub fn candle_cpu(dtype: Dtype) -> Result<Self> {
        CandleDevice::new(|| Ok(candle_core::Device::Cpu), "candle".into(), dtype, false).map(Self::Candle)
    }

    /// What people know it by: of a processor what its maker calls it, where the system tells, and the instruction set that
    /// the kernels take; of others their name.
    pub fn description(&self) -> String {
        match self {
            Device::Cpu(_) => format!("{} ({})", cpu::model_name(), cpu_kernels::Isa::current().name()),
            #[cfg(feature = "candle")]
            Device::Candle(device) => device.name().into(),
        }
    }

    /// The device's name: `cpu`, `cuda:0`.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".into(),
            #[cfg(feature = "candle")]
            Device::Candle(device) => device.name().into(),
        }
    }

    /// The same device, computing in single precision: for networks whose activations leave the range of 16 bits.
    #[must_use]
    pub fn single_precision(&self) -> Self {
        match self {
            Device::Cpu(_) => self.clone(),
            #[cfg(feature = "candle")]
            Device::Candle(device) => Device::Candle(device.single_precision()),
        }
    }

    /// Bytes of the host's memory that all of `weights` will take once they are loaded: none for a GPU.
    pub fn packed_bytes(&self, weights: &Weights) -> u64 {
        match self {
            Device::Cpu(device) => cpu::packed_bytes(weights, device),
            #[cfg(feature = "candle")]
            Device::Candle(_) => 0,
        }
    }

    /// Bytes of the host's memory that the weights of living linear layers and convolutions take: none for a GPU.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Device::Cpu(cpu) => cpu.shared.weights.load(Ordering::Relaxed),
            #[cfg(feature = "candle")]
            Device::Candle(_) => 0,
        }
    }

    /// How many threads of the host compute.
    pub fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.shared.threads.current_num_threads(),
            #[cfg(feature = "candle")]
            Device::Candle(_) => 1,
        }
    }

    /// Runs `work` on the device's threads. The networks do so themselves; work that uses the operations of this module
    /// directly runs on whichever rayon pool is current otherwise. Nesting costs nothing.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(cpu) => cpu.shared.threads.install(|| cpu.shared.isa.with(work)),
            #[cfg(feature = "candle")]
            Device::Candle(_) => work(),
        }
    }

    /// What activations take, where this crate keeps their memory itself: on the processor.
    pub fn memory(&self) -> Memory {
        match self {
            Device::Cpu(cpu) => cpu.shared.buffers.memory(),
            #[cfg(feature = "candle")]
            Device::Candle(_) => Memory::default(),
        }
    }

    /// Gives the memory of dead activations back to the system, for example when a picture is done: the next one may have
    /// another size.
    pub fn trim(&self) {
        match self {
            Device::Cpu(cpu) => cpu.shared.buffers.trim(),
            #[cfg(feature = "candle")]
            Device::Candle(_) => {}
        }
    }
}

impl CpuDevice {
    pub(super) fn buffer(&self, len: usize) -> Result<Buffer> {
        self.shared.buffers.take(len)
    }

    pub(super) fn precision(&self) -> Precision {
        self.shared.precision
    }

    pub(super) fn conv_algorithm(&self) -> ConvAlgorithm {
        if self.shared.low_memory { ConvAlgorithm::Gemm } else { ConvAlgorithm::Auto }
    }

    /// Counts the `bytes` of a layer's weights for as long as it lives.
    pub(super) fn hold<T>(&self, layer: T, bytes: usize) -> Held<T> {
        let bytes = bytes as u64;
        self.shared.weights.fetch_add(bytes, Ordering::Relaxed);
        Held { layer, bytes, device: self.clone() }
    }
}

/// A layer whose weights its device counts.
#[derive(Debug)]
pub(super) struct Held<T> {
    layer: T,
    bytes: u64,
    device: CpuDevice,
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.layer
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.device.shared.weights.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(threads: usize) -> Device {
        Device::cpu(CpuOptions { threads: Some(threads), ..CpuOptions::default() }).unwrap()
    }

    #[test]
    fn work_runs_on_the_devices_own_threads() {
        let device = cpu(3);
        assert_eq!(device.threads(), 3);
        assert_eq!(device.install(rayon::current_num_threads), 3);
        let nested = device.install(|| device.install(|| std::thread::current().name().map(str::to_owned)));
        assert!(nested.unwrap().starts_with("diffusion-"));
    }

    #[test]
    fn no_threads_means_one() {
        assert_eq!(cpu(0).threads(), 1);
    }
}
