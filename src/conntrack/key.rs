//! Flow keys as entries hold them: 18 bytes, of IPv6 only the low 32 bits of the addresses.

use crate::packet::{Family, FlowKey, KeyKind, VlanTags};
use crate::types::LinkId;

const VLAN_BITS: u32 = 13;
const VLAN_TAGGED: u32 = 1 << 12;
const V6: u32 = 1 << 26;

/// The bits of [`PackedKey::wire`] that belong to the key; the entry uses the others.
pub(super) const WIRE_KEY: u32 = (1 << 27) - 1;

const _: () = assert!(LinkId::COUNT_MAX <= 64, "six bits of `link_kind`");

/// A key as entries hold it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedKey {
    /// Of IPv6 the low 32 bits, as in `high`: a filter before the full compare.
    pub(super) low: u32,
    pub(super) high: u32,
    pub(super) low_port: u16,
    pub(super) high_port: u16,
    /// Bits 0–12 the outer VLAN, 13–25 the inner one, 26 IPv6.
    pub(super) wire: u32,
    pub(super) protocol: u8,
    /// Six bits of link, two of [`KeyKind`].
    pub(super) link_kind: u8,
}

impl PackedKey {
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "low 32 bits of both families are meant"
    )]
    pub(super) fn of(key: &FlowKey) -> Self {
        let v6 = if key.family == Family::V6 { V6 } else { 0 };
        let VlanTags { outer, inner } = key.vlan;
        debug_assert!(key.link.index() < LinkId::COUNT_MAX);
        Self {
            low: key.low as u32,
            high: key.high as u32,
            low_port: key.low_port,
            high_port: key.high_port,
            wire: pack_vlan(outer) | pack_vlan(inner) << VLAN_BITS | v6,
            protocol: key.protocol,
            link_kind: key.link.0 << 2 | key.kind as u8,
        }
    }

    /// The key that it was; `addresses` are those of an IPv6 flow.
    pub(super) fn unpack(&self, addresses: [u128; 2]) -> FlowKey {
        let [low, high] = addresses;
        let (family, low, high) = if is_v6(self.wire) {
            (Family::V6, low, high)
        } else {
            (Family::V4, u128::from(self.low), u128::from(self.high))
        };
        FlowKey {
            family,
            kind: match self.link_kind & 3 {
                0 => KeyKind::Symmetric,
                1 => KeyKind::QueryFromLow,
                _ => KeyKind::QueryFromHigh,
            },
            protocol: self.protocol,
            link: LinkId(self.link_kind >> 2),
            vlan: VlanTags {
                outer: unpack_vlan(self.wire),
                inner: unpack_vlan(self.wire >> VLAN_BITS),
            },
            low,
            high,
            low_port: self.low_port,
            high_port: self.high_port,
        }
    }
}

/// Whether a key of these wire bits is of IPv6.
#[inline]
pub(super) fn is_v6(wire: u32) -> bool {
    wire & V6 != 0
}

fn pack_vlan(id: Option<u16>) -> u32 {
    id.map_or(0, |id| u32::from(id & 0xfff) | VLAN_TAGGED)
}

fn unpack_vlan(bits: u32) -> Option<u16> {
    (bits & VLAN_TAGGED != 0).then_some((bits & 0xfff) as u16)
}
