//! The rules of a set of groups to a [`Program`].

use std::cmp::Reverse;
use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::error::{CompileError, TABLE_BYTES_MAX};
use super::peers::{PeerId, Peers, WideKeys};
use super::rows::{Bit, RowBuilder};
use crate::packet::Family;
use crate::policy::{IcmpMatch, PortRange, Service};
use crate::snapshot::interval::{INTERVALS_MAX, IntervalBuilder, IntervalMap};
use crate::snapshot::key_map::KeyMap;
use crate::snapshot::program::{OpenTransports, Program, ServicePoint};
use crate::snapshot::rows::Row;
use crate::types::{RuleSlot, protocol};

/// A rule with its numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct NumberedRule {
    pub(super) service: Service,
    pub(super) peer: PeerId,
    pub(super) slot: RuleSlot,
}

/// What a rule sets in the row of an address key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    peer: PeerId,
    bit: Bit,
}

/// The program of these rules, in their order of precedence; its tables take at most so many bytes.
pub(super) fn build(
    rules: &[NumberedRule],
    peers: &Peers,
    wide: &WideKeys,
    bytes_max: usize,
) -> Result<Program, CompileError> {
    let services = distinct_services(rules);
    let mut rows = RowBuilder::new(services.len(), bytes_max)?;
    let service_map = service_map(&services, &mut rows)?;
    let grants = grants(rules, &services);
    let any = |family| {
        let of_family = |grant: &&Grant| peers.reach(grant.peer).is_any(family);
        first_of_each_bit(grants.iter().filter(of_family).map(|grant| grant.bit))
    };
    let any_address = [rows.ruled(&any(Family::V4))?, rows.ruled(&any(Family::V6))?];
    Ok(Program {
        services: service_map,
        peers: peer_rows(&grants, peers, wide, &mut rows)?,
        any_address,
        rows: rows.finish(),
        slots: rules.iter().map(|rule| rule.slot).collect(),
        open: open_transports(rules, peers),
    })
}

/// The services of the rules, narrow ones first; a service's place is its bit.
fn distinct_services(rules: &[NumberedRule]) -> Vec<Service> {
    let mut services: Vec<_> = rules.iter().map(|rule| rule.service).collect();
    services.sort_unstable_by_key(|service| (width(*service), *service));
    services.dedup();
    services
}

/// How many points it has, less one; `All` is widest.
fn width(service: Service) -> u32 {
    let (first, last) = points(service);
    last.0 - first.0
}

/// First and last point of a service.
fn points(service: Service) -> (ServicePoint, ServicePoint) {
    let range = |kind, first, last| {
        (
            ServicePoint::new(kind, first),
            ServicePoint::new(kind, last),
        )
    };
    let icmp = |kind, matched: IcmpMatch| match (matched.kind, matched.code) {
        (None, _) => range(kind, 0, u16::MAX),
        (Some(t), None) => range(
            kind,
            u16::from_be_bytes([t, 0]),
            u16::from_be_bytes([t, 0xff]),
        ),
        (Some(t), Some(code)) => {
            let both = u16::from_be_bytes([t, code]);
            range(kind, both, both)
        }
    };
    match service {
        Service::All => (ServicePoint(0), ServicePoint(u32::MAX)),
        Service::Tcp(ports) => range(ServicePoint::TCP, ports.from, ports.to),
        Service::Udp(ports) => range(ServicePoint::UDP, ports.from, ports.to),
        Service::Icmp(matched) => icmp(ServicePoint::ICMP, matched),
        Service::Icmpv6(matched) => icmp(ServicePoint::ICMPV6, matched),
        Service::Protocol(number) => {
            let number = u16::from(number);
            range(ServicePoint::OTHER, number, number)
        }
    }
}

/// Service points → rows of the services that contain them.
fn service_map(
    services: &[Service],
    rows: &mut RowBuilder,
) -> Result<IntervalMap<u32>, CompileError> {
    let mut starts: Vec<(u32, u32)> = Vec::with_capacity(services.len());
    // The first point after each service; none after one that goes to the end.
    let mut ends: Vec<(u32, u32)> = Vec::with_capacity(services.len());
    for (bit, service) in (0..).zip(services) {
        let (first, last) = points(*service);
        starts.push((first.0, bit));
        ends.extend(last.0.checked_add(1).map(|after| (after, bit)));
    }
    let mut borders: Vec<_> = starts
        .iter()
        .chain(&ends)
        .map(|(point, _)| *point)
        .collect();
    borders.sort_unstable();
    borders.dedup();
    // Popped from their ends.
    starts.sort_unstable_by_key(|start| Reverse(*start));
    ends.sort_unstable_by_key(|end| Reverse(*end));
    let mut inside = BTreeSet::new();
    let mut builder = IntervalBuilder::new();
    let mut row = Row::EMPTY;
    for border in borders {
        if let Some(before) = border.checked_sub(1) {
            builder.extend_to(before, row.0);
        }
        while let Some((_, bit)) = ends.pop_if(|(point, _)| *point <= border) {
            inside.remove(&bit);
        }
        while let Some((_, bit)) = starts.pop_if(|(point, _)| *point <= border) {
            inside.insert(bit);
        }
        row = rows.plain(inside.iter().copied())?;
    }
    builder.extend_to(u32::MAX, row.0);
    builder.finish().ok_or(CompileError::TooManyIntervals {
        limit: INTERVALS_MAX,
    })
}

/// What each rule grants, by peer, bit and order; of equal peer and bit the first rule's only.
fn grants(rules: &[NumberedRule], services: &[Service]) -> Vec<Grant> {
    let bits: HashMap<Service, u32> = services.iter().copied().zip(0..).collect();
    let mut grants: Vec<_> = rules
        .iter()
        .zip(0..)
        .map(|(numbered, rule)| Grant {
            peer: numbered.peer,
            bit: Bit {
                bit: bits[&numbered.service],
                rule,
            },
        })
        .collect();
    grants.sort_unstable();
    grants.dedup_by_key(|grant| (grant.peer, grant.bit.bit));
    grants
}

/// Address keys → rows.
fn peer_rows(
    grants: &[Grant],
    peers: &Peers,
    wide: &WideKeys,
    rows: &mut RowBuilder,
) -> Result<KeyMap, CompileError> {
    let mut pairs = Vec::new();
    let mut bits_of: HashMap<PeerId, &[Grant]> = HashMap::new();
    for of_peer in grants.chunk_by(|a, b| a.peer == b.peer) {
        let peer = of_peer[0].peer;
        // No address has the key of a peer that is nothing but "any"; `any_address` is its row.
        if peers.reach(peer).listed {
            let bits: Vec<_> = of_peer.iter().map(|grant| grant.bit).collect();
            pairs.push((peer, rows.ruled(&bits)?.0));
            bits_of.insert(peer, of_peer);
        }
    }
    for (key, together) in wide.of(bits_of.keys().copied()) {
        let of_all = together.iter().filter_map(|peer| bits_of.get(peer));
        let bits = first_of_each_bit(of_all.flat_map(|of_peer| *of_peer).map(|grant| grant.bit));
        pairs.push((key, rows.ruled(&bits)?.0));
    }
    KeyMap::new(&pairs).ok_or(CompileError::TooLarge {
        limit: TABLE_BYTES_MAX,
    })
}

/// The bits in ascending order, each with its first rule.
fn first_of_each_bit(bits: impl Iterator<Item = Bit>) -> Vec<Bit> {
    let mut bits: Vec<_> = bits.collect();
    bits.sort_unstable();
    bits.dedup_by_key(|bit| bit.bit);
    bits
}

/// Families and transports that single rules open for any address on all ports.
fn open_transports(rules: &[NumberedRule], peers: &Peers) -> OpenTransports {
    let mut open = OpenTransports::default();
    for rule in rules {
        let transports: &[u8] = match rule.service {
            Service::All => &[protocol::TCP, protocol::UDP],
            Service::Tcp(PortRange::ALL) => &[protocol::TCP],
            Service::Udp(PortRange::ALL) => &[protocol::UDP],
            _ => continue,
        };
        for family in [Family::V4, Family::V6] {
            if peers.reach(rule.peer).is_any(family) {
                for transport in transports {
                    open.0 |= OpenTransports::bit(family, *transport).0;
                }
            }
        }
    }
    open
}
