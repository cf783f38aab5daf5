//! Whose a chunk is when nobody uses it.

use crate::port::ChunkAddr;
use crate::types::WorkerId;

/// Homes of one link's chunks: each worker that receives on the link has a contiguous range.
#[derive(Clone, Debug)]
pub struct ChunkHomes {
    chunk_size: u64,
    chunks_per_home: u64,
    homes: Vec<WorkerId>,
}

impl ChunkHomes {
    /// Deals `count` chunks of `chunk_size` bytes evenly to `homes` (not empty); what does not
    /// divide evenly goes to the last.
    #[must_use]
    pub fn new(count: u32, chunk_size: u32, homes: Vec<WorkerId>) -> Self {
        debug_assert!(!homes.is_empty(), "somebody receives");
        let chunks_per_home = (u64::from(count) / homes.len().max(1) as u64).max(1);
        Self {
            chunk_size: u64::from(chunk_size).max(1),
            chunks_per_home,
            homes,
        }
    }

    /// The chunk that an address lies in.
    #[must_use]
    pub fn chunk_of(&self, addr: u64) -> ChunkAddr {
        ChunkAddr(addr.wrapping_sub(addr % self.chunk_size))
    }

    /// The home of a chunk.
    #[must_use]
    pub fn home(&self, chunk: ChunkAddr) -> WorkerId {
        let index = chunk.0 / self.chunk_size / self.chunks_per_home;
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
