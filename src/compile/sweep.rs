//! Prefixes, which nest or lie apart but never overlap halfway, to intervals of an
//! [`IntervalMap`](crate::snapshot::interval::IntervalMap).

use std::cmp::Reverse;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::snapshot::interval::{IntervalBuilder, Point};

/// A prefix as the range of its addresses, and a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span<K> {
    pub(super) first: K,
    pub(super) last: K,
    pub(super) label: u32,
}

impl Span<u32> {
    pub(super) fn v4(net: Ipv4Net, label: u32) -> Self {
        Self {
            first: net.network().to_bits(),
            last: net.broadcast().to_bits(),
            label,
        }
    }
}

impl Span<u128> {
    pub(super) fn v6(net: Ipv6Net, label: u32) -> Self {
        Self {
            first: net.network().to_bits(),
            last: net.broadcast().to_bits(),
            label,
        }
    }
}

/// Spans of both families.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub(super) v4: Vec<Span<u32>>,
    pub(super) v6: Vec<Span<u128>>,
}

impl Spans {
    pub(super) fn push(&mut self, net: IpNet, label: u32) {
        match net {
            IpNet::V4(net) => self.v4.push(Span::v4(net, label)),
            IpNet::V6(net) => self.v6.push(Span::v6(net, label)),
        }
    }
}

/// Walks the spans from the lowest address up. `enter` computes the value inside of a span from the
/// value around it and the labels of all spans with this very range, in ascending order; outside of
/// all spans the value is `root`.
pub(super) fn sweep<K: Point, E>(
    spans: &mut [Span<K>],
    root: u32,
    mut enter: impl FnMut(u32, &[Span<K>]) -> Result<u32, E>,
) -> Result<IntervalBuilder<K>, E> {
    // Outer spans before the inner ones that begin with them.
    spans.sort_unstable_by_key(|span| (span.first, Reverse(span.last), span.label));
    let mut builder = IntervalBuilder::new();
    let mut open: Vec<(K, u32, u32)> = Vec::new();
    let mut around = root;
    for same in spans.chunk_by(|a, b| (a.first, a.last) == (b.first, b.last)) {
        let Span { first, last, .. } = same[0];
        while let Some((end, value, outside)) = open.pop_if(|(end, ..)| *end < first) {
            builder.extend_to(end, value);
            around = outside;
        }
        if let Some(before) = first.before() {
            builder.extend_to(before, around);
        }
        let inside = enter(around, same)?;
        open.push((last, inside, around));
        around = inside;
    }
    while let Some((end, value, _)) = open.pop() {
        builder.extend_to(end, value);
    }
    builder.extend_to(K::LAST, root);
    Ok(builder)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_innermost_prefix_has_each_address() {
        // Eight-bit universe at both ends of the space: prefixes as (bits, length).
        let prefix = (any::<u8>(), 0_u32..=32, any::<bool>());
        proptest!(|(prefixes in proptest::collection::vec(prefix, 0..12))| {
            let mut spans = Vec::new();
            for (label, (bits, len, high)) in prefixes.into_iter().enumerate() {
                let base = if high { u32::MAX << 8 } else { 0 };
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                let first = (base | u32::from(bits)) & mask;
                spans.push(Span { first, last: first | !mask, label: label as u32 });
            }
            let given = spans.clone();
            // Value: the number of spans that hold the address.
            let depth = |around, same: &[Span<u32>]| {
                Ok::<_, Infallible>(around + same.len() as u32)
            };
            let map = sweep(&mut spans, 0, depth).unwrap().finish().unwrap();
            for low in 0..=255_u32 {
                for address in [low, low | (u32::MAX << 8)] {
                    let expected = given
                        .iter()
                        .filter(|span| span.first <= address && address <= span.last)
                        .count();
                    prop_assert_eq!(map.find(address), Some(expected as u32));
                }
            }
        });
    }
}
