//! Where a network lives.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cpu_kernels::{Arena, Block, ConvAlgorithm, Isa, Precision};

use super::buffer::{self, Memory};
#[cfg(feature = "candle")]
use super::candle::CandleDevice;
use super::cpu;
use super::memory;
use super::packed::Pack;
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

/// A processor: its threads, its instruction set (the one in use where it is made) and the memory of its activations.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    shared: Arc<Shared>,
    /// Whether [`Device::pack_some`] packs what is loaded onto this one.
    prepares: bool,
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

struct Shared {
    /// `None` where nothing is computed.
    threads: Option<rayon::ThreadPool>,
    thread_count: usize,
    arena: Arc<Arena>,
    isa: Isa,
    low_memory: bool,
    precision: Precision,
    /// What [`Device::weight_bytes`] tells.
    weights: AtomicU64,
    /// What [`Device::used_weight_bytes`] tells.
    used_weights: AtomicU64,
    /// Layers in the order in which they were loaded, those that are packed already among them.
    layers: Mutex<VecDeque<Weak<dyn Pack>>>,
    /// What [`Device::working_bytes`] tells: the most of one call, and of one call in each thread.
    working: [AtomicU64; 2],
}

impl Device {
    /// This machine's processor.
    ///
    /// # Errors
    /// [`Error::Device`] when the system gives no threads, or the processor lacks the precision.
    pub fn cpu(options: CpuOptions) -> Result<Self> {
        let CpuOptions { threads, precision, .. } = options;
        if !precision.is_available() {
            let reason =
                "it cannot multiply in bf16, which takes AMX or AVX-512 with BF16; leave --precision at f32".into();
            return Err(Error::Device { device: "cpu".into(), reason });
        }
        let wanted = thread_count(threads);
        let refuse = |reason: String| Error::Device { device: "cpu".into(), reason };
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(wanted)
            .thread_name(|index| format!("diffusion-{index}"))
            .build()
            .map_err(|error| refuse(format!("{wanted} threads: {error}")))?;
        let arena = Arena::reserve(memory::total().unwrap_or(UNKNOWN_MEMORY))
            .map_err(|error| refuse(format!("no addresses for activations: {error}")))?;
        Ok(Device::Cpu(CpuDevice::new(Some(threads), arena, options)))
    }

    /// A processor that computes nothing: networks read no weights on it and their results are zeros, but
    /// [`Device::memory`], [`Device::weight_bytes`] and [`Device::working_bytes`] tell what they would be on a
    /// [`Device::cpu`] with these options.
    pub fn planner(options: CpuOptions) -> Self {
        Device::Cpu(CpuDevice::new(None, Arena::without_memory(), options))
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

    /// Bytes of the host's memory that the weights of living linear layers and convolutions take, or will take once all are
    /// packed: none for a GPU.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Device::Cpu(cpu) => cpu.shared.weights.load(Ordering::Relaxed),
            #[cfg(feature = "candle")]
            Device::Candle(_) => 0,
        }
    }

    /// Of [`Device::weight_bytes`], those of layers that were used so far. Known to a [`Device::planner`].
    pub fn used_weight_bytes(&self) -> u64 {
        match self {
            Device::Cpu(cpu) => cpu.shared.used_weights.load(Ordering::Relaxed),
            #[cfg(feature = "candle")]
            Device::Candle(_) => 0,
        }
    }

    /// The same device, for layers that not every picture needs: [`Device::pack_some`] leaves them to their first use.
    #[must_use]
    pub fn unprepared(&self) -> Self {
        match self {
            Device::Cpu(cpu) => Device::Cpu(CpuDevice { prepares: false, ..cpu.clone() }),
            #[cfg(feature = "candle")]
            Device::Candle(_) => self.clone(),
        }
    }

    /// About how many bytes the kernels keep for themselves after what was computed so far. Known to a [`Device::planner`].
    pub fn working_bytes(&self) -> u64 {
        match self {
            Device::Cpu(cpu) => {
                let [shared, each] = cpu.shared.working.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
                shared + each * cpu.shared.thread_count as u64
            }
            #[cfg(feature = "candle")]
            Device::Candle(_) => 0,
        }
    }

    /// Packs the next layer that is not packed yet; false when there is none. A layer that nobody packed is packed by its
    /// first use.
    ///
    /// # Errors
    /// Where its file has changed since it was opened; the next call goes on with the next layer.
    pub fn pack_some(&self) -> Result<bool> {
        match self {
            Device::Cpu(cpu) => self.install(|| cpu.pack_some()),
            #[cfg(feature = "candle")]
            Device::Candle(_) => Ok(false),
        }
    }

    /// Whether it computes; a [`Device::planner`] does not.
    pub fn computes(&self) -> bool {
        match self {
            Device::Cpu(cpu) => cpu.computes(),
            #[cfg(feature = "candle")]
            Device::Candle(_) => true,
        }
    }

    /// How it computes, where it is a processor.
    pub fn cpu_options(&self) -> Option<CpuOptions> {
        match self {
            Device::Cpu(cpu) => {
                let Shared { thread_count, low_memory, precision, .. } = *cpu.shared;
                Some(CpuOptions { threads: Some(thread_count), low_memory, precision })
            }
            #[cfg(feature = "candle")]
            Device::Candle(_) => None,
        }
    }

    /// How many threads of the host compute.
    pub fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.shared.thread_count,
            #[cfg(feature = "candle")]
            Device::Candle(_) => 1,
        }
    }

    /// Runs `work` on the device's threads. The networks do so themselves; work that uses the operations of this module
    /// directly runs on whichever rayon pool is current otherwise. Nesting costs nothing.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(cpu) => match &cpu.shared.threads {
                Some(threads) => threads.install(|| cpu.shared.isa.with(work)),
                None => cpu.shared.isa.with(work),
            },
            #[cfg(feature = "candle")]
            Device::Candle(_) => work(),
        }
    }

    /// What activations take, where this crate keeps their memory itself: on the processor.
    pub fn memory(&self) -> Memory {
        match self {
            Device::Cpu(cpu) => buffer::memory(&cpu.shared.arena),
            #[cfg(feature = "candle")]
            Device::Candle(_) => Memory::default(),
        }
    }

    /// Gives the memory of dead activations back to the system, for example when no picture follows for a while: one that did
    /// would use it again, without pages that the system has to clear first.
    pub fn trim(&self) {
        match self {
            Device::Cpu(cpu) => cpu.shared.arena.trim(),
            #[cfg(feature = "candle")]
            Device::Candle(_) => {}
        }
    }
}

impl CpuDevice {
    fn new(threads: Option<rayon::ThreadPool>, arena: Arena, options: CpuOptions) -> Self {
        let CpuOptions { threads: wanted, low_memory, precision } = options;
        let shared = Shared {
            threads,
            thread_count: thread_count(wanted),
            isa: Isa::current(),
            arena: Arc::new(arena),
            low_memory,
            precision,
            weights: AtomicU64::new(0),
            used_weights: AtomicU64::new(0),
            layers: Mutex::default(),
            working: Default::default(),
        };
        Self { shared: Arc::new(shared), prepares: true }
    }

    /// Whether there are numbers to compute with; a planner only counts.
    pub(super) fn computes(&self) -> bool {
        self.shared.threads.is_some()
    }

    pub(super) fn buffer(&self, len: usize) -> Result<Block> {
        buffer::take(&self.shared.arena, len)
    }

    pub(super) fn precision(&self) -> Precision {
        self.shared.precision
    }

    pub(super) fn conv_algorithm(&self) -> ConvAlgorithm {
        if self.shared.low_memory { ConvAlgorithm::Gemm } else { ConvAlgorithm::Auto }
    }

    /// Whether it convolves maps of so many channels at twice their size without making those. Their weights take more memory
    /// than they are stored in.
    pub(super) fn doubles(&self, channels: usize) -> bool {
        !self.shared.low_memory && cpu_kernels::Conv2d::doubling_pays(channels, channels, self.precision())
    }

    /// Tells that a kernel needs so many bytes for itself, and so many in each thread.
    pub(super) fn works_with(&self, shared: usize, each: usize) {
        for (most, bytes) in self.shared.working.iter().zip([shared, each]) {
            most.fetch_max(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Counts the `bytes` of a layer's weights until [`CpuDevice::let_go`].
    pub(super) fn hold(&self, bytes: u64, layer: Weak<dyn Pack>) {
        self.shared.weights.fetch_add(bytes, Ordering::Relaxed);
        if !self.prepares {
            return;
        }
        let mut layers = self.shared.layers.lock().unwrap_or_else(PoisonError::into_inner);
        while layers.front().is_some_and(|layer| layer.strong_count() == 0) {
            layers.pop_front();
        }
        layers.push_back(layer);
    }

    /// Counts the `bytes` of a layer that a planner came by for the first time.
    pub(super) fn uses(&self, bytes: u64) {
        self.shared.used_weights.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn let_go(&self, bytes: u64) {
        self.shared.weights.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn pack_some(&self) -> Result<bool> {
        if !self.computes() {
            return Ok(false);
        }
        loop {
            let next = self.shared.layers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                None => return Ok(false),
                Some(layer) => match layer.upgrade() {
                    Some(layer) if layer.pack()? => return Ok(true),
                    _ => {}
                },
            }
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { thread_count, arena, low_memory, precision, weights, .. } = self;
        f.debug_struct("Shared")
            .field("threads", thread_count)
            .field("arena", arena)
            .field("low_memory", low_memory)
            .field("precision", precision)
            .field("weights", weights)
            .finish_non_exhaustive()
    }
}

/// Addresses that are reserved where the system does not tell how much memory it has.
const UNKNOWN_MEMORY: u64 = 64 << 30;

fn thread_count(wanted: Option<usize>) -> usize {
    wanted.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1)
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
