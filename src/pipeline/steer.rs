//! Which worker owns a flow. Reads the frame and the link only, never the snapshot, so that one
//! packet meets one generation: its owner's.

use crate::packet::{FlowHasher, FlowKey, LongAddresses, PackedKey};
use crate::types::WorkerId;

/// Maps flow keys to workers by a keyed hash; both directions of a flow give the same worker.
#[derive(Clone, Debug)]
pub struct Steering {
    hasher: FlowHasher,
    workers: u16,
}

impl Steering {
    /// Steering over `workers` workers (at least 1). The seed must be secret and differ from the
    /// shards' seeds, or each shard would see only hashes that agree in some bits.
    #[must_use]
    pub fn new(seed: [u64; 2], workers: u16) -> Self {
        Self {
            hasher: FlowHasher::new(seed),
            workers: workers.max(1),
        }
    }

    /// The worker that owns the flow; `None` where there is only one.
    #[must_use]
    pub fn owner(&self, key: &FlowKey) -> Option<WorkerId> {
        let (key, beside) = PackedKey::of(key);
        self.owner_packed(&key, &beside)
    }

    /// The same of a packed key.
    #[must_use]
    #[inline]
    pub fn owner_packed(&self, key: &PackedKey, beside: &LongAddresses) -> Option<WorkerId> {
        if self.workers == 1 {
            return None;
        }
        // Multiply-shift maps 32 hash bits evenly onto 0..workers.
        let hash = self.hasher.hash_packed(key, beside);
        let scaled = (hash >> 32).wrapping_mul(u64::from(self.workers)) >> 32;
        Some(WorkerId(u16::try_from(scaled).unwrap_or(0)))
    }
}
