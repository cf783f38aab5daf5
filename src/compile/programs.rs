//! The rules of some groups to a [`Program`].

use super::peers::{PeerId, Peers};
use super::steps::{Claim, StepBuilder};
use crate::packet::Family;
use crate::policy::{PortRange, Service};
use crate::snapshot::program::{
    ANY_ADDRESS, BUCKET_KEYS, BUCKET_MASK, BUCKET_WORDS, FREE, HEADER_WORDS, OpenTransports,
    PROBES_MAX, Program, SLOTS, home,
};
use crate::types::{RuleSlot, protocol};

/// Keys that a bucket has on average, at most; more overflow into the next ones.
const BUCKET_LOAD: usize = 5;

/// A rule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberedRule {
    pub(super) service: Service,
    pub(super) peer: PeerId,
    pub(super) slot: RuleSlot,
}

/// The program of these rules, in their order of precedence, and what it opens for any address on
/// all ports; `None` if it would take more than so many bytes.
pub(super) fn build(
    rules: &[NumberedRule],
    peers: &Peers,
    bytes_max: usize,
) -> Option<(Program, OpenTransports)> {
    let mut runs = Runs::new(rules, bytes_max);
    let mut by_peer: Vec<(PeerId, u32)> = rules.iter().map(|rule| rule.peer).zip(0..).collect();
    by_peer.sort_unstable();
    let mut pairs = Vec::new();
    // The rules of each peer that has a key.
    let mut listed = Vec::new();
    for of_peer in by_peer.chunk_by(|a, b| a.0 == b.0) {
        let peer = of_peer[0].0;
        // No address has the key of a peer that is nothing but "any".
        if peers.reach(peer).listed {
            pairs.push((peer, runs.append(of_peer.iter().map(|(_, rule)| *rule))?));
            listed.push((peer, of_peer));
        }
    }
    for (key, together) in peers.wide().of(listed.iter().map(|(peer, _)| *peer)) {
        let mut of_all = Vec::new();
        for peer in together {
            if let Ok(position) = listed.binary_search_by_key(peer, |(peer, _)| *peer) {
                of_all.push(position);
            }
        }
        let run = match *of_all {
            [only] => pairs[only].1,
            _ => runs.append(
                of_all
                    .iter()
                    .flat_map(|position| listed[*position].1.iter().map(|(_, rule)| *rule)),
            )?,
        };
        pairs.push((key, run));
    }
    let mut any = |family| {
        let of_family = |rule: &u32| peers.reach(rules[*rule as usize].peer).is_any(family);
        runs.append((0..).take(rules.len()).filter(of_family))
    };
    let any_address = [any(Family::V4)?, any(Family::V6)?];
    let words = runs.finish(&pairs, any_address)?;
    Some((Program::new(words), open_transports(rules, peers)))
}

/// Collects the runs of one program.
struct Runs<'r> {
    rules: &'r [NumberedRule],
    steps: StepBuilder,
    claims: Vec<Claim>,
    /// Begins with a word that is in no run, so that 0 is none.
    words: Vec<u32>,
    words_max: usize,
}

impl<'r> Runs<'r> {
    fn new(rules: &'r [NumberedRule], bytes_max: usize) -> Self {
        Self {
            rules,
            steps: StepBuilder::default(),
            claims: Vec::new(),
            words: vec![0],
            // Offsets are 32 bits.
            words_max: (bytes_max / size_of::<u32>()).min(u32::MAX as usize),
        }
    }

    /// The run of these rules, by number.
    fn append(&mut self, rules: impl Iterator<Item = u32>) -> Option<u32> {
        self.claims.clear();
        let service = |rule: u32| self.rules[rule as usize].service;
        self.claims
            .extend(rules.map(|rule| Claim::new(service(rule), rule)));
        let run = self.steps.append(&mut self.claims, &mut self.words);
        self.offset(run)
    }

    /// A place in the program, if the program may be as large.
    fn offset(&self, place: usize) -> Option<u32> {
        let fits = self.words.len() <= self.words_max;
        u32::try_from(place).ok().filter(|_| fits)
    }

    /// The whole program.
    fn finish(self, pairs: &[(u32, u32)], any_address: [u32; 2]) -> Option<Vec<u32>> {
        let buckets = buckets(pairs);
        let count = buckets.len() / BUCKET_WORDS;
        // The word in front of the runs is left out.
        let runs_start = self.offset(HEADER_WORDS + buckets.len() - 1)?;
        let slots_start = self.offset(HEADER_WORDS + buckets.len() + self.words.len() - 1)?;
        let whole = slots_start as usize + self.rules.len();
        if whole > self.words_max {
            return None;
        }
        let place = |run: u32| if run == 0 { 0 } else { runs_start + run };
        let mut words = Vec::with_capacity(whole);
        words.resize(HEADER_WORDS, 0);
        words[BUCKET_MASK] = self.offset(count - 1)?;
        for (header, run) in ANY_ADDRESS.into_iter().zip(any_address) {
            words[header] = place(run);
        }
        words[SLOTS] = slots_start;
        for bucket in buckets.chunks_exact(BUCKET_WORDS) {
            let (keys, values) = bucket.split_at(BUCKET_KEYS);
            words.extend_from_slice(keys);
            words.extend(values.iter().map(|run| place(*run)));
        }
        words.extend_from_slice(&self.words[1..]);
        words.extend(self.rules.iter().map(|rule| rule.slot.0));
        Some(words)
    }
}

/// The buckets of these keys and values; twice as many until no key is further from its home than
/// a lookup goes.
fn buckets(pairs: &[(u32, u32)]) -> Vec<u32> {
    let mut count = pairs.len().div_ceil(BUCKET_LOAD).next_power_of_two();
    if pairs.len() <= BUCKET_KEYS {
        count = 1;
    }
    loop {
        if let Some(buckets) = buckets_of(pairs, count) {
            return buckets;
        }
        count *= 2;
    }
}

fn buckets_of(pairs: &[(u32, u32)], count: usize) -> Option<Vec<u32>> {
    let mut words = vec![0; count * BUCKET_WORDS];
    for bucket in words.chunks_exact_mut(BUCKET_WORDS) {
        bucket[..BUCKET_KEYS].fill(FREE);
    }
    let mask = u32::try_from(count - 1).unwrap_or(u32::MAX);
    for &(key, value) in pairs {
        let place = (0..PROBES_MAX).find_map(|probe| {
            let start = ((home(key, mask) + probe) & mask as usize) * BUCKET_WORDS;
            (start..start + BUCKET_KEYS).find(|place| words[*place] == FREE)
        })?;
        words[place] = key;
        words[place + BUCKET_KEYS] = value;
    }
    Some(words)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place_and_no_key_is_far_from_home() {
        for count in [0_u32, 1, 8, 9, 40, 41, 1000, 100_000] {
            for stride in [1_u32, 2, 64, 4096, 0x9e37] {
                let pairs: Vec<_> = (0..count).map(|i| (i.wrapping_mul(stride), i)).collect();
                let words = buckets(&pairs);
                let used: usize = words
                    .chunks_exact(BUCKET_WORDS)
                    .map(|b| b[..BUCKET_KEYS].iter().filter(|k| **k != FREE).count())
                    .sum();
                assert_eq!(used, pairs.len());
                // Never sparse: a hostile choice of keys costs a few doublings at most.
                assert!(words.len() <= 64 + pairs.len() * 64, "{count} {stride}");
            }
        }
    }
}
