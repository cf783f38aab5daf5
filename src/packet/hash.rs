//! The keyed hash of a flow key: which worker a flow belongs to, and its bucket in that worker's
//! table. The two have seeds of their own, so that the flows of one worker still spread over all
//! of its buckets.
//!
//! A folded multiplication (64 × 64 → 128 bits, both halves xored) mixes two words at a time, as
//! wyhash and its successors do. Each word is xored with a secret first: whoever sends packets
//! chooses the words but does not know the seed, and sees no hash value, so no set of flows can
//! be chosen that shares a bucket. Everything of a key goes into its words without loss.
//!
//! ```text
//!  a = low | high   b = ports, VLAN, family   c = protocol, link, kind     (packed.rs)
//!  IPv4   mix(mix(a, b), c)                    two multiplications, one after the other
//!  IPv6   mix(mix(mix(low) ^ mix(high), b), c) four, of which the first two run side by side
//! ```

use std::hash::{BuildHasher, Hasher, RandomState};

use super::flow_key::FlowKey;
use super::packed::{LongAddresses, PackedKey};

/// Odd constants without structure (digits of π), so that the seeds' four derived secrets differ
/// even for a seed of zeros.
const SALTS: [u64; 4] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
];

/// An odd multiplier loses nothing; this is 2⁶⁴ over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes flow keys under a secret seed.
#[derive(Clone, Copy, Debug)]
pub struct FlowHasher {
    secrets: [u64; 4],
}

impl FlowHasher {
    /// A hasher that depends on all bits of the seed.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        let [first, second] = seed;
        let [a, b, c, d] = SALTS;
        Self {
            secrets: [
                first ^ a,
                second ^ b,
                mix(first ^ c, second ^ b),
                mix(second ^ d, first ^ a),
            ],
        }
    }

    /// A hasher of an unpredictable seed, for one start of a gateway; not for the data path.
    #[must_use]
    pub fn random() -> Self {
        // The standard library's keys come from the operating system; its hash hides them.
        let word = |salt: u64| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_u64(salt);
            hasher.finish()
        };
        let [a, b, ..] = SALTS;
        Self::new([word(a), word(b)])
    }

    /// The hash; all of its bits are good. Both directions of a flow have the same, because they
    /// have the same key.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let (packed, beside) = PackedKey::of(key);
        self.hash_packed(&packed, &beside)
    }

    /// The hash of a key that is packed already.
    #[must_use]
    #[inline]
    pub fn hash_packed(&self, key: &PackedKey, beside: &LongAddresses) -> u64 {
        let [first, second, third, fourth] = self.secrets;
        let mixed = if key.is_v6() {
            let [low, high] = *beside;
            let low = mix(low_half(low) ^ first, high_half(low) ^ second);
            let high = mix(low_half(high) ^ third, high_half(high) ^ fourth);
            mix(low ^ high ^ first, key.numbers ^ fourth)
        } else {
            mix(key.addresses ^ first, key.numbers ^ second)
        };
        // Spread, since one multiplication does not carry its few bits to all of the hash.
        let service = u64::from(key.service).wrapping_mul(SPREAD);
        mix(mixed ^ third, service ^ fourth)
    }
}

/// The full product of two words, its halves xored. `wrapping_mul` cannot wrap here.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    low_half(product) ^ high_half(product)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
fn low_half(bits: u128) -> u64 {
    bits as u64
}

#[inline]
fn high_half(bits: u128) -> u64 {
    low_half(bits >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::flow_key::KeyKind;
    use crate::packet::headers::{Family, VlanTags};
    use crate::types::{LinkId, protocol};

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    const BUCKETS: usize = 1024;

    fn key(low: u128, high: u128, low_port: u16, high_port: u16, family: Family) -> FlowKey {
        FlowKey {
            family,
            kind: KeyKind::Symmetric,
            protocol: protocol::TCP,
            link: LinkId(0),
            vlan: VlanTags::default(),
            low,
            high,
            low_port,
            high_port,
        }
    }

    /// Chi-square of the counts in `BUCKETS` buckets chosen by `bucket`: about `BUCKETS - 1`, with
    /// a standard deviation of about 45, if hashes are as good as random.
    fn chi_square(hashes: &[u64], bucket: impl Fn(u64) -> usize) -> f64 {
        let mut counts = vec![0_u32; BUCKETS];
        for hash in hashes {
            counts[bucket(*hash)] += 1;
        }
        let expected = hashes.len() as f64 / BUCKETS as f64;
        let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
        counts.iter().map(square).sum()
    }

    fn low_bits(hash: u64) -> usize {
        usize::try_from(hash % BUCKETS as u64).unwrap()
    }

    fn high_bits(hash: u64) -> usize {
        usize::try_from(hash >> 54).unwrap()
    }

    /// Sets of keys that simple hashes do badly on.
    fn key_sets() -> Vec<(&'static str, Vec<FlowKey>)> {
        let n = 0..65_536_u32;
        let port = |n: u32| u16::try_from(n & 0xffff).unwrap();
        let v4 = |low: u32, high: u32, low_port, high_port| {
            key(low.into(), high.into(), low_port, high_port, Family::V4)
        };
        let prefix = 0x2001_0db8_u128 << 96;
        vec![
            (
                "sequential ports",
                n.clone()
                    .map(|n| v4(0x0a00_0001, 0x0a00_0002, port(n), 443))
                    .collect(),
            ),
            (
                "sequential addresses",
                n.clone()
                    .map(|n| v4(0x0a00_0000 + n, 0x0a01_0001, 1024, 80))
                    .collect(),
            ),
            (
                "high bits of addresses only",
                n.clone()
                    .map(|n| v4(n << 16, 0x0a01_0001, 1024, 80))
                    .collect(),
            ),
            (
                "xor of both addresses constant",
                n.clone().map(|n| v4(n, n ^ 0x5555_aaaa, 7, 7)).collect(),
            ),
            (
                "address and port move together",
                n.clone()
                    .map(|n| v4(0x0a00_0000 + n, 0x0a01_0001, port(n), 80))
                    .collect(),
            ),
            (
                "port pairs",
                n.clone()
                    .map(|n| v4(1, 2, port(n & 0xff), port(n >> 8)))
                    .collect(),
            ),
            (
                "IPv6 interface ids",
                n.clone()
                    .map(|n| {
                        key(
                            prefix | u128::from(n),
                            prefix | 1 << 64,
                            1024,
                            80,
                            Family::V6,
                        )
                    })
                    .collect(),
            ),
            (
                "IPv6 subnets",
                n.clone()
                    .map(|n| key(prefix | u128::from(n) << 64, prefix, 1024, 80, Family::V6))
                    .collect(),
            ),
            (
                "IPv6 both ends alike",
                n.map(|n| {
                    let address = prefix | u128::from(n) << 32;
                    key(address, address, port(n), port(n), Family::V6)
                })
                .collect(),
            ),
        ]
    }

    #[test]
    fn hashes_spread_over_low_and_high_bits() {
        for seed in [SEED, [0, 0], [1, 0], [u64::MAX, u64::MAX]] {
            let hasher = FlowHasher::new(seed);
            for (name, keys) in key_sets() {
                let hashes: Vec<u64> = keys.iter().map(|key| hasher.hash(key)).collect();
                for bits in [low_bits, high_bits] {
                    let chi_square = chi_square(&hashes, bits);
                    // Six standard deviations; better than random would be suspect as well.
                    assert!(
                        (750.0..1300.0).contains(&chi_square),
                        "{name}: {chi_square}"
                    );
                }
            }
        }
    }

    #[test]
    fn workers_and_buckets_are_independent() {
        let (steer, shard) = (FlowHasher::new(SEED), FlowHasher::new([SEED[1], SEED[0]]));
        for (name, keys) in key_sets() {
            let of_one_worker = keys.iter().filter(|key| steer.hash(key) >> 62 == 0);
            let hashes: Vec<u64> = of_one_worker.map(|key| shard.hash(key)).collect();
            let chi_square = chi_square(&hashes, low_bits);
            assert!(
                (750.0..1300.0).contains(&chi_square),
                "{name}: {chi_square}"
            );
        }
    }

    #[test]
    fn every_bit_of_a_key_changes_half_of_the_hash() {
        let hasher = FlowHasher::new(SEED);
        let flips: Vec<fn(&mut FlowKey)> = vec![
            |key| key.protocol ^= 1,
            |key| key.protocol ^= 128,
            |key| key.link.0 ^= 1,
            |key| key.link.0 ^= 32,
            |key| key.kind = KeyKind::QueryFromLow,
            |key| key.kind = KeyKind::QueryFromHigh,
            |key| key.vlan.outer = Some(0),
            |key| key.vlan.outer = Some(2048),
            |key| key.vlan.inner = Some(0),
            |key| key.low_port ^= 1,
            |key| key.low_port ^= 0x8000,
            |key| key.high_port ^= 1,
            |key| key.high_port ^= 0x8000,
            |key| key.low ^= 1,
            |key| key.low ^= 1 << 31,
            |key| key.high ^= 1,
            |key| key.high ^= 1 << 31,
            |key| std::mem::swap(&mut key.low, &mut key.high),
            |key| std::mem::swap(&mut key.low_port, &mut key.high_port),
        ];
        for family in [Family::V4, Family::V6] {
            for (index, flip) in flips.iter().enumerate() {
                let mut changed = [0_u32; 64];
                for n in 0..4096_u32 {
                    let low = u128::from(n.wrapping_mul(0x9e37_79b1));
                    let port = u16::try_from(n).unwrap();
                    let before = key(low, low ^ 0xffff, port, 443, family);
                    let mut after = before;
                    flip(&mut after);
                    let difference = hasher.hash(&before) ^ hasher.hash(&after);
                    for (bit, count) in changed.iter_mut().enumerate() {
                        *count += u32::from(difference >> bit & 1 == 1);
                    }
                }
                // 2048 ± 6 standard deviations (32).
                for (bit, count) in changed.iter().enumerate() {
                    let is_half = (1856..2240).contains(count);
                    assert!(
                        is_half,
                        "{family:?} flip {index} bit {bit}: {count} of 4096"
                    );
                }
            }
        }
    }

    #[test]
    fn seeds_give_unrelated_hashes() {
        let keys = key_sets().swap_remove(0).1;
        let base = FlowHasher::new(SEED);
        for bit in 0..64 {
            for seed in [[SEED[0] ^ 1 << bit, SEED[1]], [SEED[0], SEED[1] ^ 1 << bit]] {
                let other = FlowHasher::new(seed);
                let hashes: Vec<u64> = keys
                    .iter()
                    .take(16_384)
                    .map(|key| base.hash(key) ^ other.hash(key))
                    .collect();
                let chi_square = chi_square(&hashes, low_bits);
                assert!(
                    (750.0..1300.0).contains(&chi_square),
                    "bit {bit}: {chi_square}"
                );
            }
        }
    }

    #[test]
    fn families_do_not_meet() {
        let hasher = FlowHasher::new(SEED);
        let v4 = key(1, 2, 3, 4, Family::V4);
        let v6 = key(1, 2, 3, 4, Family::V6);
        assert_ne!(hasher.hash(&v4), hasher.hash(&v6));
    }

    #[test]
    fn random_hashers_differ() {
        let key = key(1, 2, 3, 4, Family::V4);
        assert_ne!(
            FlowHasher::random().hash(&key),
            FlowHasher::random().hash(&key)
        );
    }
}
