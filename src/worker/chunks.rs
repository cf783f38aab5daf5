//! Whose a chunk is when nobody uses it.

use std::num::NonZeroU64;

use crate::port::ChunkAddr;
use crate::types::WorkerId;

/// Homes of one link's chunks: each worker that receives on the link has a contiguous range.
#[derive(Clone, Debug)]
pub struct ChunkHomes {
    /// Chunk sizes are powers of two: 2048 or 4096 bytes.
    chunk_size_log2: u32,
    chunks_per_home: NonZeroU64,
    homes: Vec<WorkerId>,
}

impl ChunkHomes {
    /// Deals `count` chunks of `chunk_size` bytes evenly to `homes` (not empty); what does not
    /// divide evenly goes to the last.
    ///
    /// # Panics
    /// Where the chunk size is no power of two.
    #[must_use]
    pub fn new(count: u32, chunk_size: u32, homes: Vec<WorkerId>) -> Self {
        assert!(chunk_size.is_power_of_two(), "chunks are aligned");
        debug_assert!(!homes.is_empty(), "somebody receives");
        let homes_count = NonZeroU64::new(homes.len() as u64).unwrap_or(NonZeroU64::MIN);
        let chunks_per_home =
            NonZeroU64::new(u64::from(count) / homes_count).unwrap_or(NonZeroU64::MIN);
        Self {
            chunk_size_log2: chunk_size.trailing_zeros(),
            chunks_per_home,
            homes,
        }
    }

    /// How many chunks each home has at least.
    #[must_use]
    pub fn chunks_per_home(&self) -> usize {
        usize::try_from(self.chunks_per_home.get()).unwrap_or(usize::MAX)
    }

    /// The chunk that an address lies in.
    #[must_use]
    #[inline]
    pub fn chunk_of(&self, addr: u64) -> ChunkAddr {
        ChunkAddr((addr >> self.chunk_size_log2) << self.chunk_size_log2)
    }

    /// The home of a chunk.
    #[must_use]
    #[inline]
    pub fn home(&self, chunk: ChunkAddr) -> WorkerId {
        if let &[only] = self.homes.as_slice() {
            return only;
        }
        let index = (chunk.0 >> self.chunk_size_log2) / self.chunks_per_home;
        let last = self.homes.len().saturating_sub(1);
        let index = usize::try_from(index).unwrap_or(last).min(last);
        self.homes.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_one_home_and_the_last_takes_the_rest() {
        let homes = ChunkHomes::new(7, 2048, vec![WorkerId(2), WorkerId(5), WorkerId(9)]);
        let dealt: Vec<u16> = (0..7).map(|i| homes.home(ChunkAddr(i * 2048)).0).collect();
        assert_eq!(dealt, [2, 2, 5, 5, 9, 9, 9]);
        assert_eq!(homes.chunk_of(2048 * 3 + 256), ChunkAddr(2048 * 3));
    }
}
