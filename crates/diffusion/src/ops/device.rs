//! Where a network lives.

use std::sync::Arc;

use super::buffer::{Buffer, BufferPool, Memory};
#[cfg(feature = "candle")]
use super::candle::CandleDevice;
#[cfg(feature = "candle")]
use crate::weights::Dtype;
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

/// A processor: its threads and the memory of its activations.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    threads: rayon::ThreadPool,
    buffers: Arc<BufferPool>,
}

impl Device {
    /// A processor with `threads` threads of its own; `None` takes one for each core that this process may use.
    ///
    /// # Errors
    /// [`Error::Device`] when the system gives no threads.
    pub fn cpu(threads: Option<usize>) -> Result<Self> {
        let wanted = threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(wanted)
            .thread_name(|index| format!("diffusion-{index}"))
            .build()
            .map_err(|error| Error::Device { device: "cpu".into(), reason: format!("{wanted} threads: {error}") })?;
        Ok(Device::Cpu(CpuDevice { shared: Arc::new(Shared { threads, buffers: Arc::default() }) }))
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

    /// Whether weights take the memory of the host, as large again as their files.
    pub fn packs_in_host_memory(&self) -> bool {
        matches!(self, Device::Cpu(_))
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
            Device::Cpu(cpu) => cpu.shared.threads.install(work),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_the_devices_own_threads() {
        let device = Device::cpu(Some(3)).unwrap();
        assert_eq!(device.threads(), 3);
        assert_eq!(device.install(rayon::current_num_threads), 3);
        let nested = device.install(|| device.install(|| std::thread::current().name().map(str::to_owned)));
        assert!(nested.unwrap().starts_with("diffusion-"));
    }

    #[test]
    fn no_threads_means_one() {
        assert_eq!(Device::cpu(Some(0)).unwrap().threads(), 1);
    }
}
