//! Weights in the form that the kernels of a processor read.
//!
//! They are made of the stored ones when they are first needed, so that a model is ready as soon as its files were looked
//! through. Who has time before that makes them with [`Device::pack_some`](super::Device::pack_some).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::device::CpuDevice;
use crate::Result;

/// A layer whose weights are packed once. Its device counts their bytes for as long as it lives.
pub(super) struct Packed<T> {
    layer: Arc<Layer<T>>,
    bytes: u64,
    /// Whether a planner came by.
    planned: AtomicBool,
    device: CpuDevice,
}

struct Layer<T> {
    packed: OnceLock<T>,
    pack: Box<dyn Fn() -> Result<T> + Send + Sync>,
}

/// A layer that may have to be packed.
pub(super) trait Pack: Send + Sync {
    /// Packs it if nobody did; false where somebody had.
    fn pack(&self) -> Result<bool>;
}

impl<T: Send + Sync + 'static> Packed<T> {
    /// A layer that `pack` makes, and that will take `bytes`.
    pub(super) fn new(device: &CpuDevice, bytes: usize, pack: impl Fn() -> Result<T> + Send + Sync + 'static) -> Self {
        let layer = Arc::new(Layer { packed: OnceLock::new(), pack: Box::new(pack) });
        let weak: Weak<Layer<T>> = Arc::downgrade(&layer);
        let bytes = bytes as u64;
        device.hold(bytes, weak);
        Self { layer, bytes, planned: AtomicBool::new(false), device: device.clone() }
    }

    /// Counts the layer among those that are used.
    pub(super) fn plan(&self) {
        if !self.planned.swap(true, Ordering::Relaxed) {
            self.device.uses(self.bytes);
        }
    }

    /// The layer, packed now if it was not.
    ///
    /// # Errors
    /// Where its file has changed since it was opened.
    pub(super) fn get(&self) -> Result<&T> {
        self.layer.pack()?;
        Ok(self.layer.packed.get().expect("was just packed"))
    }
}

impl<T: Send + Sync> Pack for Layer<T> {
    fn pack(&self) -> Result<bool> {
        if self.packed.get().is_some() {
            return Ok(false);
        }
        // Not under the lock of the OnceLock: packing runs on several threads, and one of them could come back here.
        let packed = (self.pack)()?;
        Ok(self.packed.set(packed).is_ok())
    }
}

impl<T> Drop for Packed<T> {
    fn drop(&mut self) {
        self.device.let_go(self.bytes);
    }
}

impl<T: fmt::Debug> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Packed").field(&self.layer.packed.get()).finish()
    }
}
