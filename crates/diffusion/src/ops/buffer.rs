//! Memory for activations that is used again, so that a denoising loop stops asking the system for pages after its
//! first steps.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory;
use crate::{Error, Result};

/// What the activations of a device take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by living tensors.
    pub in_use: u64,
    /// Kept for the next tensors.
    pub idle: u64,
    /// The most that was ever held by living tensors.
    pub peak: u64,
}

/// Free buffers by their size.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: BTreeMap<usize, Vec<Vec<f32>>>,
    memory: Memory,
}

/// `len` floats from a pool; they go back to it on drop. A fresh buffer holds whatever its last user left there.
#[derive(Debug)]
pub(super) struct Buffer {
    data: Vec<f32>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A buffer of `len` floats of unspecified value.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the allocator has no room.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Result<Buffer> {
        let data = match self.reuse(len) {
            Some(data) => data,
            None => allocate(len)?,
        };
        let mut state = self.lock();
        state.memory.in_use += bytes(data.len());
        state.memory.peak = state.memory.peak.max(state.memory.in_use);
        drop(state);
        Ok(Buffer { data, len, pool: Arc::clone(self) })
    }

    /// Gives every free buffer back to the system.
    pub(super) fn trim(&self) {
        let mut state = self.lock();
        state.memory.idle = 0;
        let idle = std::mem::take(&mut state.idle);
        drop(state); // unmapping pages takes a while: not under the lock
        drop(idle);
    }

    pub(super) fn memory(&self) -> Memory {
        self.lock().memory
    }

    /// The smallest free buffer that fits and wastes no more than half of itself.
    fn reuse(&self, len: usize) -> Option<Vec<f32>> {
        let mut state = self.lock();
        let size = *state.idle.range(len..=len.saturating_mul(2)).next()?.0;
        let free = state.idle.get_mut(&size)?;
        let data = free.pop()?;
        if free.is_empty() {
            state.idle.remove(&size);
        }
        state.memory.idle -= bytes(size);
        Some(data)
    }

    fn give_back(&self, data: Vec<f32>) {
        let mut state = self.lock();
        let size = data.len();
        state.memory.in_use -= bytes(size);
        state.memory.idle += bytes(size);
        state.idle.entry(size).or_default().push(data);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

/// From this size on the system is asked first whether it has the memory.
const LARGE: u64 = 16 << 20;

fn allocate(len: usize) -> Result<Vec<f32>> {
    let needed = bytes(len);
    if needed >= LARGE {
        memory::ensure(needed)?;
    }
    let mut data = Vec::new();
    let refused = |_| Error::OutOfMemory { needed, available: memory::available().unwrap_or(0) };
    data.try_reserve_exact(len).map_err(refused)?;
    cpu_kernels::advise_huge_pages(data.spare_capacity_mut());
    data.resize(len, 0.0);
    Ok(data)
}

fn bytes(floats: usize) -> u64 {
    (floats as u64) * size_of::<f32>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Arc::new(BufferPool::default());
        let first = pool.take(1000).unwrap();
        let address = first.as_ptr();
        drop(first);
        let second = pool.take(600).unwrap();
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), 600);
        assert_eq!(pool.memory(), Memory { in_use: 4000, idle: 0, peak: 4000 });
    }

    #[test]
    fn a_buffer_that_would_waste_more_than_half_is_left_alone() {
        let pool = Arc::new(BufferPool::default());
        drop(pool.take(1000).unwrap());
        let small = pool.take(499).unwrap();
        assert_eq!(pool.memory(), Memory { in_use: 4 * 499, idle: 4000, peak: 4000 });
        drop(small);
        pool.trim();
        assert_eq!(pool.memory(), Memory { in_use: 0, idle: 0, peak: 4000 });
    }

    #[test]
    fn more_than_there_is_is_an_error_and_leaves_the_books_in_order() {
        let pool = Arc::new(BufferPool::default());
        let error = pool.take(usize::MAX / 8).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { needed, .. } if needed > 1 << 60), "{error}");
        assert_eq!(pool.memory(), Memory::default());
    }

    #[test]
    fn an_empty_buffer_is_a_buffer() {
        let pool = Arc::new(BufferPool::default());
        assert!(pool.take(0).unwrap().is_empty());
    }
}
