//! Flow keys in three words, as packets are looked up by and as connection tables hold them: 18
//! bytes, of IPv6 only the low 32 bits of the addresses, which are then kept beside it.
//!
//! ```text
//!  addresses  63–32 low address, 31–0 high address   (of IPv6 the low 32 bits of each)
//!  numbers    63–48 low port, 47–32 high port, 31–27 not the key's,
//!             26 IPv6, 25–13 inner VLAN, 12–0 outer VLAN (12 bits of id, one for "tagged")
//!  service    15–8 protocol, 7–2 link, 1–0 kind
//! ```

use super::flow_key::{FlowKey, KeyKind};
use super::headers::{Family, VlanTags};
use crate::types::LinkId;

const VLAN_BITS: u32 = 13;
const VLAN_TAGGED: u32 = 1 << 12;
const V6: u64 = 1 << 26;

const _: () = assert!(LinkId::COUNT_MAX <= 64, "six bits of `service`");

/// A flow key in three words; that of an IPv6 flow is whole with both addresses beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PackedKey {
    /// Both addresses; of IPv6 their low bits, a filter before the full compare.
    pub addresses: u64,
    /// Ports, VLAN tags, family; nothing in [`PackedKey::NUMBERS_FREE`].
    pub numbers: u64,
    /// Protocol, link, kind.
    pub service: u16,
}

/// Low and high address of an IPv6 key; zeros of an IPv4 one.
pub type LongAddresses = [u128; 2];

impl PackedKey {
    /// The bits of `numbers` that no key sets.
    pub const NUMBERS_FREE: u64 = 0xf800_0000;

    /// The words of a key, and what lies beside them.
    #[must_use]
    #[inline]
    pub fn of(key: &FlowKey) -> (Self, LongAddresses) {
        let (v6, beside) = match key.family {
            Family::V4 => (0, [0; 2]),
            Family::V6 => (V6, [key.low, key.high]),
        };
        debug_assert!(key.link.index() < LinkId::COUNT_MAX);
        let packed = Self {
            addresses: low_bits(key.low) << 32 | low_bits(key.high),
            numbers: ports(key.low_port, key.high_port) | pack_vlan(key.vlan) | v6,
            service: service(key.protocol, key.link, key.kind),
        };
        (packed, beside)
    }

    /// The words of an IPv6 key, but for its service: `ports` has the low end's above, `vlan` the
    /// tags where `numbers` has them.
    #[inline]
    pub(super) fn of_v6(low: u128, high: u128, ports: u32, vlan: u64) -> Self {
        Self {
            addresses: low_bits(low) << 32 | low_bits(high),
            numbers: u64::from(ports) << 32 | vlan | V6,
            service: 0,
        }
    }

    /// The key that it was.
    #[must_use]
    pub fn unpack(&self, [low, high]: LongAddresses) -> FlowKey {
        let (family, low, high) = if self.is_v6() {
            (Family::V6, low, high)
        } else {
            let [low, high] = self.short_addresses();
            (Family::V4, u128::from(low), u128::from(high))
        };
        let [low_port, high_port] = self.ports();
        FlowKey {
            family,
            kind: match self.service & 3 {
                0 => KeyKind::Symmetric,
                1 => KeyKind::QueryFromLow,
                _ => KeyKind::QueryFromHigh,
            },
            protocol: self.protocol(),
            link: self.link(),
            vlan: self.vlan(),
            low,
            high,
            low_port,
            high_port,
        }
    }

    /// Whether it is of IPv6.
    #[must_use]
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.numbers & V6 != 0
    }

    /// IP protocol.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> u8 {
        let [protocol, _] = self.service.to_be_bytes();
        protocol
    }

    /// The link that the flow is on.
    #[must_use]
    #[inline]
    pub fn link(&self) -> LinkId {
        let [_, link_kind] = self.service.to_be_bytes();
        LinkId(link_kind >> 2)
    }

    /// VLAN ids.
    #[must_use]
    pub fn vlan(&self) -> VlanTags {
        let tag = |bits: u64| {
            let [.., a, b] = bits.to_be_bytes();
            let is_tagged = bits & u64::from(VLAN_TAGGED) != 0;
            is_tagged.then_some(u16::from_be_bytes([a, b]) & 0xfff)
        };
        VlanTags {
            outer: tag(self.numbers),
            inner: tag(self.numbers >> VLAN_BITS),
        }
    }

    /// The lower and the higher end's port.
    #[must_use]
    pub fn ports(&self) -> [u16; 2] {
        let [a, b, c, d, ..] = self.numbers.to_be_bytes();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    }

    /// The lower and the higher end's address of an IPv4 key.
    #[must_use]
    pub fn short_addresses(&self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.addresses.to_be_bytes();
        [
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        ]
    }
}

/// Both ports where [`PackedKey::numbers`] has them.
#[inline]
fn ports(low: u16, high: u16) -> u64 {
    u64::from(low) << 48 | u64::from(high) << 32
}

/// Tags where [`PackedKey::numbers`] has them.
#[inline]
pub(super) fn pack_vlan(VlanTags { outer, inner }: VlanTags) -> u64 {
    let tag = |id: Option<u16>| id.map_or(0, |id| u32::from(id & 0xfff) | VLAN_TAGGED);
    u64::from(tag(outer) | tag(inner) << VLAN_BITS)
}

/// [`PackedKey::service`].
#[inline]
pub(super) fn service(protocol: u8, link: LinkId, kind: KeyKind) -> u16 {
    u16::from(protocol) << 8 | u16::from(link.0 << 2 | kind.number())
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are meant")]
fn low_bits(address: u128) -> u64 {
    u64::from(address as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn packing_loses_nothing(
            low in any::<u128>(), high in any::<u128>(), ports in any::<[u16; 2]>(),
            tags in any::<[Option<u16>; 2]>(), protocol in any::<u8>(), link in 0..64_u8,
            kind in 0..3_u8, is_v4 in any::<bool>(),
        ) {
            let cut = |address: u128| if is_v4 { address & 0xffff_ffff } else { address };
            let key = FlowKey {
                family: if is_v4 { Family::V4 } else { Family::V6 },
                kind: match kind {
                    0 => KeyKind::Symmetric,
                    1 => KeyKind::QueryFromLow,
                    _ => KeyKind::QueryFromHigh,
                },
                protocol,
                link: LinkId(link),
                vlan: VlanTags {
                    outer: tags[0].map(|id| id & 0xfff),
                    inner: tags[1].map(|id| id & 0xfff),
                },
                low: cut(low),
                high: cut(high),
                low_port: ports[0],
                high_port: ports[1],
            };
            let (packed, beside) = PackedKey::of(&key);
            prop_assert_eq!(packed.unpack(beside), key);
            prop_assert_eq!(packed.numbers & PackedKey::NUMBERS_FREE, 0);
        }
    }
}
