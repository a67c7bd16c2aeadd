//! One range of memory for all activations of a device.
//!
//! Blocks are placed by what is free alone, so a network that takes and gives back the same blocks in the same order gets the
//! same places each time: from its second run on it meets no page that it has not touched before. An arena without memory
//! places blocks all the same, which tells beforehand how much a network will need.
use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

/// Floats of a cache line: blocks begin on one.
const LINE: usize = 16;
/// The smallest range that is worth having.
const SMALLEST: usize = 64 << 20;

/// A range of addresses, and which parts of it are taken. The system gives memory to those that were written to.
pub struct Arena {
    map: Option<MmapRaw>,
    /// Length in floats.
    capacity: usize,
    state: Mutex<State>,
}

/// `len` floats of an arena; they go back to it when dropped. A fresh block holds whatever was there before, and none at all
/// where the arena has no memory.
pub struct Block {
    arena: Arc<Arena>,
    start: usize,
    len: usize,
}

/// What is taken of an arena, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaUse {
    /// Held by blocks.
    pub in_use: u64,
    /// From the arena's start to the end of the farthest block since [`Arena::trim`]: what the system may have given.
    pub extent: u64,
    /// The greatest extent that ever was.
    pub peak: u64,
}

#[derive(Debug, Default)]
struct State {
    layout: Layout,
    in_use: usize,
    extent: usize,
    peak: usize,
}

/// Which parts of a range without end are free.
#[derive(Debug, Default)]
struct Layout {
    /// Length by start; no two touch, and none touches `end`.
    holes: BTreeMap<usize, usize>,
    /// Everything from here on is free.
    end: usize,
}

impl Arena {
    /// A range of `bytes`, or of half as much, and so on, where the system does not give as many addresses. No memory is taken
    /// yet.
    ///
    /// # Errors
    /// What the system says where it gives not even 64 MiB.
    pub fn reserve(bytes: u64) -> io::Result<Self> {
        let mut len = usize::try_from(bytes).unwrap_or(usize::MAX / 2).max(SMALLEST);
        let map = loop {
            match MmapOptions::new().len(len).no_reserve_swap().map_anon() {
                Ok(map) => break map,
                Err(error) if len <= SMALLEST => return Err(error),
                Err(_) => len = (len / 2).max(SMALLEST),
            }
        };
        // Large pages make it a few hundred faults instead of a few hundred thousand; without them it works as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Some(map.into()), capacity: len / size_of::<f32>(), state: Mutex::default() })
    }

    /// An arena that only tells where blocks would lie.
    pub fn without_memory() -> Self {
        Self { map: None, capacity: usize::MAX, state: Mutex::default() }
    }

    /// Whether blocks have memory.
    pub fn has_memory(&self) -> bool {
        self.map.is_some()
    }

    /// A block of `len` floats of unspecified value, `None` where there is no room. `admit` is asked first where the arena has
    /// to reach `bytes` farther than it did.
    ///
    /// # Errors
    /// Those of `admit`.
    pub fn take<E>(self: &Arc<Self>, len: usize, admit: impl FnOnce(u64) -> Result<(), E>) -> Result<Option<Block>, E> {
        let Some(room) = len.checked_next_multiple_of(LINE) else { return Ok(None) };
        let mut state = self.lock();
        let Some(start) = state.layout.find(room).filter(|start| room <= self.capacity - start) else {
            return Ok(None);
        };
        let end = start + room;
        if end > state.extent {
            admit(bytes(end - state.extent))?;
            state.extent = end;
            state.peak = state.peak.max(end);
        }
        state.layout.take(start, room);
        state.in_use += room;
        drop(state);
        Ok(Some(Block { arena: Arc::clone(self), start, len }))
    }

    /// What is taken.
    pub fn usage(&self) -> ArenaUse {
        let state = self.lock();
        ArenaUse { in_use: bytes(state.in_use), extent: bytes(state.extent), peak: bytes(state.peak) }
    }

    /// Gives the memory of free parts back to the system.
    pub fn trim(&self) {
        let mut state = self.lock();
        let rest = state.extent - state.layout.end;
        let holes = state.layout.holes.iter().map(|(&start, &len)| (start, len));
        for (start, len) in holes.chain([(state.layout.end, rest)]) {
            self.forget(start, len);
        }
        state.extent = state.layout.end;
    }

    /// Takes the pages that lie wholly within a free part from the process.
    #[cfg(unix)]
    fn forget(&self, start: usize, len: usize) {
        /// A multiple of every page size in use.
        const PAGE: usize = 64 << 10;
        let Some(map) = &self.map else { return };
        let first = (start * size_of::<f32>()).next_multiple_of(PAGE);
        let end = (start + len) * size_of::<f32>() / PAGE * PAGE;
        if first < end {
            // SAFETY: no block holds this part, and the lock keeps others from taking it; it reads as zeros afterwards.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
        }
    }

    #[cfg(not(unix))]
    fn forget(&self, _: usize, _: usize) {}

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layout {
    /// Where `len` would lie: in the smallest hole that is large enough, or at the end.
    fn find(&self, len: usize) -> Option<usize> {
        let hole = self.holes.iter().filter(|&(_, &hole)| hole >= len).min_by_key(|&(_, &hole)| hole);
        let start = hole.map_or(self.end, |(&start, _)| start);
        start.checked_add(len).map(|_| start)
    }

    fn take(&mut self, start: usize, len: usize) {
        match self.holes.remove(&start) {
            Some(hole) if hole > len => {
                self.holes.insert(start + len, hole - len);
            }
            Some(_) => {}
            None => self.end += len,
        }
    }

    fn give_back(&mut self, mut start: usize, mut len: usize) {
        if len == 0 {
            return;
        }
        if let Some(next) = self.holes.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &hole)) = self.holes.range(..start).next_back()
            && before + hole == start
        {
            self.holes.remove(&before);
            (start, len) = (before, hole + len);
        }
        if start + len == self.end {
            self.end = start;
        } else {
            self.holes.insert(start, len);
        }
    }
}

impl Block {
    /// Number of floats, also where there is no memory for them.
    pub fn floats(&self) -> usize {
        self.len
    }
}

impl Deref for Block {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let Some(map) = &self.arena.map else { return &[] };
        // SAFETY: the block lies within the mapping, which is readable, lives as long as the arena and only holds floats; nobody
        // else has this part.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<f32>().add(self.start), self.len) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [f32] {
        let Some(map) = &self.arena.map else { return &mut [] };
        // SAFETY: as in `deref`; the mapping is writable, and self is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast::<f32>().add(self.start), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.arena.lock();
        let room = self.len.next_multiple_of(LINE);
        state.in_use -= room;
        state.layout.give_back(self.start, room);
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("has_memory", &self.has_memory()).field("usage", &self.usage()).finish()
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("start", &self.start).field("len", &self.len).finish_non_exhaustive()
    }
}

fn bytes(floats: usize) -> u64 {
    (floats as u64).saturating_mul(size_of::<f32>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(arena: &Arc<Arena>, len: usize) -> Block {
        arena.take(len, |_| Ok::<_, ()>(())).unwrap().unwrap()
    }

    #[test]
    fn what_was_given_back_is_used_again_and_trimmed_memory_is_zero() {
        let arena = Arc::new(Arena::reserve(1 << 30).unwrap());
        let mut first = take(&arena, 100_000);
        let mut second = take(&arena, 50_000);
        assert_eq!((first.as_ptr() as usize % 64, second.as_ptr() as usize % 64), (0, 0));
        first.fill(1.0);
        second.fill(2.0);
        let at = first.as_ptr();
        drop(first);
        assert_eq!(arena.usage(), ArenaUse { in_use: 200_000, extent: 600_000, peak: 600_000 });
        arena.trim();
        let again = take(&arena, 99_990);
        assert_eq!((again.as_ptr(), again[50_000]), (at, 0.0));
        assert!(second.iter().all(|&x| x == 2.0));
        drop((again, second));
        arena.trim();
        assert_eq!(arena.usage(), ArenaUse { in_use: 0, extent: 0, peak: 600_000 });
    }

    #[test]
    fn what_is_not_admitted_or_not_there_is_not_taken() {
        let arena = Arc::new(Arena::reserve(64 << 20).unwrap());
        assert_eq!(arena.take(100, Err).unwrap_err(), 448);
        assert!(arena.take(usize::MAX, |_| Ok::<_, ()>(())).unwrap().is_none());
        assert!(arena.take(1 << 40, |_| Ok::<_, ()>(())).unwrap().is_none());
        assert_eq!(arena.usage(), ArenaUse::default());
        assert!(take(&arena, 0).is_empty());
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_lie_where_an_arena_without_memory_says(
            steps in prop::collection::vec((any::<bool>(), 0..2000usize), 1..200),
        ) {
            let (real, planned) = (Arc::new(Arena::reserve(64 << 20).unwrap()), Arc::new(Arena::without_memory()));
            let mut blocks: Vec<(Block, Block, f32)> = Vec::new();
            for (i, (give_back, n)) in steps.into_iter().enumerate() {
                if give_back && !blocks.is_empty() {
                    let (block, ..) = blocks.swap_remove(n % blocks.len());
                    drop(block);
                } else {
                    let (mut block, plan) = (take(&real, n), take(&planned, n));
                    prop_assert_eq!((block.start, block.floats(), plan.len()), (plan.start, n, 0));
                    block.fill(i as f32);
                    blocks.push((block, plan, i as f32));
                }
                prop_assert!(blocks.iter().all(|(block, _, value)| block.iter().all(|x| x == value)));
                prop_assert_eq!(real.usage(), planned.usage());
            }
            blocks.clear();
            prop_assert_eq!(real.usage().in_use, 0);
            prop_assert_eq!(real.lock().layout.end, 0);
        }
    }
}
