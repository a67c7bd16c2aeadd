//! Where a network lives.

use std::sync::Arc;

use super::buffer::{Buffer, BufferPool, Memory};
use crate::{Error, Result};

/// Where a network lives and is computed. Cheap to clone: clones share threads and memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    Cpu(CpuDevice),
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

    /// The device's name: `cpu`.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".into(),
        }
    }

    /// How many threads of the host compute.
    pub fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.shared.threads.current_num_threads(),
        }
    }

    /// Runs `work` on the device's threads. The networks do so themselves; work that uses the operations of this module
    /// directly runs on whichever rayon pool is current otherwise. Nesting costs nothing.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(cpu) => cpu.shared.threads.install(work),
        }
    }

    /// What activations take.
    pub fn memory(&self) -> Memory {
        match self {
            Device::Cpu(cpu) => cpu.shared.buffers.memory(),
        }
    }

    /// Gives the memory of dead activations back to the system, for example when a picture is done: the next one may have
    /// another size.
    pub fn trim(&self) {
        match self {
            Device::Cpu(cpu) => cpu.shared.buffers.trim(),
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
