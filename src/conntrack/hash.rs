//! Stand-in for the keyed hash of `packet`, of the same shape: two rounds of folded multiplication
//! over the key's words.

use crate::packet::{Family, FlowKey};

/// Hashes flow keys under a secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowHasher {
    /// The secret.
    pub(super) seed: [u64; 2],
}

impl FlowHasher {
    /// The hash of a key; equal keys have equal hashes.
    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        let [first, second] = self.seed;
        let ports = u64::from(key.low_port) << 16 | u64::from(key.high_port);
        let kind = u64::from(key.protocol) << 8 | key.kind as u64;
        let family = u64::from(key.family == Family::V6);
        let tag = |id: Option<u16>| id.map_or(0, |id| u64::from(id) | 0x1000);
        let wire = u64::from(key.link.0) << 32 | tag(key.vlan.outer) << 16 | tag(key.vlan.inner);
        let mut state = fold(first ^ ports ^ kind << 32, second ^ wire ^ family << 48);
        state = fold(state ^ word(key.low), first ^ word(key.high));
        state = fold(state ^ word(key.low >> 64), second ^ word(key.high >> 64));
        fold(state ^ first, second ^ 0x9e37_79b9_7f4a_7c15)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low word is what is asked for"
)]
fn word(bits: u128) -> u64 {
    bits as u64
}

/// Product of 128 bits, folded to 64.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    word(product) ^ word(product >> 64)
}
