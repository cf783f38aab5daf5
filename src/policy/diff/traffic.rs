//! Slices put together to the fewest lines that people read: services with the same addresses are
//! one line, and addresses that a group or prefix list is are called by its name.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::axis::{Families, ServiceText, Span, service_texts};
use super::budget::{Budget, DiffError};
use super::excess::{Slice, restricted};
use super::peers::Peers;
use super::ranges::AddressSet;
use super::rules::Piece;
use crate::sync::Arc;
use crate::types::Direction;

/// Any of these services with any of these addresses. Several may overlap; what they say together
/// is exact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Traffic {
    /// `ingress` or `egress`, seen from the interface.
    pub direction: String,
    /// The services.
    pub services: Vec<ServiceText>,
    /// All addresses of the other end, as the fewest prefixes.
    pub addresses: Vec<IpNet>,
    /// Groups and prefix lists of which `addresses` has every one, as rules name them.
    pub peers: Vec<String>,
    /// What `addresses` has beside those of `peers`; empty where there are no peers.
    pub other_addresses: Vec<IpNet>,
    /// Services that were left out to be brief; 0 in a whole answer.
    pub more_services: usize,
    /// Addresses that were left out to be brief, likewise.
    pub more_addresses: usize,
    /// Of `other_addresses`, likewise.
    pub more_other_addresses: usize,
}

/// A line in the making.
#[derive(Default)]
struct Line {
    spans: Vec<Span>,
    named: Vec<Arc<[Piece]>>,
}

/// The traffic of slices, in the order of services.
pub(super) fn traffic(
    slices: Vec<Slice>,
    direction: Direction,
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<Vec<Traffic>, DiffError> {
    let mut by_addresses: HashMap<Arc<AddressSet>, Line> = HashMap::new();
    for slice in slices {
        budget.work(slice.addresses.len())?;
        let line = by_addresses.entry(slice.addresses).or_default();
        line.spans.push(slice.span);
        if line
            .named
            .last()
            .is_none_or(|last| !Arc::ptr_eq(last, &slice.named))
        {
            line.named.push(slice.named);
        }
    }
    // The same services twice, with other addresses.
    let mut by_spans: BTreeMap<Vec<Span>, Vec<(Arc<AddressSet>, Line)>> = BTreeMap::new();
    for (addresses, mut line) in by_addresses {
        budget.work(line.spans.len())?;
        let spans = joined(std::mem::take(&mut line.spans));
        by_spans.entry(spans).or_default().push((addresses, line));
    }
    let mut list = Vec::with_capacity(by_spans.len());
    for (spans, parts) in by_spans {
        let mut addresses = AddressSet::default();
        let mut named = Vec::new();
        for (part, line) in parts {
            addresses = addresses.join(&part, budget)?;
            named.extend(line.named.iter().flat_map(|pieces| pieces.iter().copied()));
        }
        budget.keep(spans.len())?;
        let (names, rest) = name(&addresses, named, peers, budget)?;
        let other_addresses = match &*names {
            [] => Vec::new(),
            _ => rest.prefixes(budget)?,
        };
        list.push(Traffic {
            direction: direction.name().to_owned(),
            services: service_texts(&spans),
            addresses: addresses.prefixes(budget)?,
            peers: names,
            other_addresses,
            more_services: 0,
            more_addresses: 0,
            more_other_addresses: 0,
        });
    }
    Ok(list)
}

/// Spans in order, those that touch as one.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut list: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match list.last_mut() {
            Some(last) if span.from <= last.to + 1 => last.to = last.to.max(span.to),
            _ => list.push(span),
        }
    }
    list
}

/// The groups and lists of which the addresses have every one, and what else they have.
fn name(
    addresses: &AddressSet,
    mut named: Vec<Piece>,
    peers: &mut Peers<'_>,
    budget: &mut Budget,
) -> Result<(Vec<String>, AddressSet), DiffError> {
    named.sort_unstable_by_key(|piece| (piece.set, piece.families));
    named.dedup_by_key(|piece| (piece.set, piece.families));
    let mut named: Vec<_> = named
        .into_iter()
        .filter_map(|piece| Some((peers.name(piece.set)?, piece)))
        .collect();
    // Of two that overlap the first is said, and that is the same one in whatever order rules are.
    named.sort_unstable_by(|(a, piece_a), (b, piece_b)| {
        (a, piece_a.families).cmp(&(b, piece_b.families))
    });
    let mut rest = addresses.clone();
    let mut names: Vec<String> = Vec::new();
    for (name, Piece { set, families, .. }) in named {
        let whole = peers.addresses(set, budget)?;
        if families != Families::Both {
            budget.work(whole.len())?;
        }
        let whole = restricted(&whole, families);
        if whole.meets(&rest, budget)? && whole.is_in(addresses, budget)? {
            rest = rest.minus(&whole, budget)?;
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
    }
    Ok((names, rest))
}
