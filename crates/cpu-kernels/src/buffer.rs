//! Memory that starts on a cache line, and a pool of it for each thread, so that no kernel meets a page fault twice.
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

const ALIGN: usize = 64;
/// From this size on memory is asked for in huge pages.
const LARGE: usize = 4 << 20;
/// From this size on memory comes from the system.
const MAPPED: usize = 256 << 10;

/// A zeroed, fixed-length slice of `f32` that starts on a cache line: vector loads from it never straddle two.
pub struct Buffer {
    start: NonNull<f32>,
    len: usize,
    /// What `start` lies within.
    block: Block,
}

enum Block {
    /// What the allocator gave.
    Allocated(*mut u8),
    /// Large memory comes from the system itself and goes back to it. An allocator that has seen some go keeps the next in its own
    /// heaps, where what stays in between holds it.
    Mapped(#[allow(dead_code)] MmapMut),
}

// SAFETY: a Buffer owns its memory alone, as a Vec<f32> does.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros. Aborts the process where memory is short, as `Vec` does.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            let block = Block::Allocated(std::ptr::null_mut());
            return Self { start: NonNull::<Line>::dangling().cast(), len, block };
        }
        let layout = Self::layout(len);
        if layout.size() >= MAPPED
            && let Ok(mut map) = MmapMut::map_anon(layout.size())
            && let Some(start) = NonNull::new(map.as_mut_ptr().cast())
        {
            let buffer = Self { start, len, block: Block::Mapped(map) };
            advise_huge_pages(&buffer);
            return buffer;
        }
        // SAFETY: the layout's size is not zero.
        let block = unsafe { alloc_zeroed(layout) };
        if block.is_null() {
            handle_alloc_error(layout);
        }
        let start = block.map_addr(|at| at.next_multiple_of(ALIGN));
        let Some(start) = NonNull::new(start.cast::<f32>()) else { handle_alloc_error(layout) };
        let buffer = Self { start, len, block: Block::Allocated(block) };
        advise_huge_pages(&buffer);
        buffer
    }

    /// With room to move the start to a cache line: for a larger alignment the allocator would write all the zeros itself,
    /// instead of taking pages that the system has zeroed, one by one as they are used.
    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(ALIGN));
        let bytes = bytes.expect("a slice's length in bytes fits usize");
        Layout::from_size_align(bytes, align_of::<f32>()).expect("the size was asked for by a slice")
    }
}

/// Asks the system for huge pages behind large memory, best before it is written for the first time. Kernels read many places
/// at once (the rows of a panel, Winograd's 36 matrices), more than the processor remembers the 4 KiB pages of. Where the
/// system has none, nothing happens.
fn advise_huge_pages(memory: &[f32]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let start = memory.as_ptr();
        let first = start.addr().next_multiple_of(PAGE);
        let end = (start.addr() + size_of_val(memory)) / PAGE * PAGE;
        if end.saturating_sub(first) >= LARGE {
            // SAFETY: advice about whole pages of memory that the caller owns; what they hold does not change.
            unsafe { libc::madvise(start.with_addr(first).cast_mut().cast(), end - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[repr(align(64))]
struct Line;

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Block::Allocated(block) = self.block
            && self.len > 0
        {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(block, Self::layout(self.len)) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` zeroed floats live at `start` for as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and self is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

thread_local! {
    static POOL: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Working memory of one task; goes back to its thread's pool when dropped. What it holds at first is left over from earlier use.
pub(crate) struct Scratch {
    buffer: Option<Buffer>,
    len: usize,
}

/// At least `len` floats from this thread's pool.
pub(crate) fn scratch(len: usize) -> Scratch {
    if len == 0 {
        return Scratch { buffer: None, len };
    }
    let pooled = POOL.with_borrow_mut(|pool| {
        // The smallest that is large enough; where none is, the largest goes, so that the pool does not grow by near misses.
        let fit = (0..pool.len()).filter(|&i| pool[i].len() >= len).min_by_key(|&i| pool[i].len());
        match fit {
            Some(i) => Some(pool.swap_remove(i)),
            None => {
                if let Some(i) = (0..pool.len()).max_by_key(|&i| pool[i].len()) {
                    pool.swap_remove(i);
                }
                None
            }
        }
    });
    let buffer = pooled.unwrap_or_else(|| Buffer::zeroed(len));
    Scratch { buffer: Some(buffer), len }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // A thread that is ending has no pool any more; then the memory is simply freed.
            let _ = POOL.try_with(|pool| pool.borrow_mut().push(buffer));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.len])
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..self.len])
    }
}

/// A pointer that tasks share; each writes its own part of what lies behind it.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: whoever writes through it promises to keep to a part of its own (see the uses).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Self(slice.as_mut_ptr())
    }

    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line_and_hold_zeros() {
        for len in [0, 1, 15, 16, 4097] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
            assert!(buffer.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn scratch_is_used_again_and_nested_use_is_apart() {
        let first = scratch(1000);
        let at = first.as_ptr();
        let second = scratch(1000);
        assert_ne!(at, second.as_ptr());
        drop(first);
        assert_eq!(scratch(900).as_ptr(), at);
    }
}
