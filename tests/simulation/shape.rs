//! What one seed builds: how many of everything, and how bad the weather is.

use portcullis::conntrack::{PerInterface, TcpPickup};
use portcullis::pipeline::{IcmpErrors, OnRuleRemoved, Unregistered};
use portcullis::port::FaultRates;

use crate::exempt::Exempt;
use crate::policies::LINKS;
use crate::random::Random;

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) links: usize,
    pub(crate) workers: u16,
    /// Of these, the first so many have queues: one of every port.
    pub(crate) with_queues: u16,
    /// Chunks of each link.
    pub(crate) chunks: u32,
    pub(crate) inbox_frames: usize,
    pub(crate) sent_max: usize,
    pub(crate) fill_max: usize,
    pub(crate) burst: usize,
    pub(crate) max_flows: u32,
    pub(crate) per_interface: PerInterface,
    pub(crate) exempt: Exempt,
    pub(crate) tcp_pickup: TcpPickup,
    pub(crate) tcp_strict: bool,
    /// By link.
    pub(crate) unregistered: Vec<Unregistered>,
    pub(crate) icmp_errors: IcmpErrors,
    pub(crate) on_rule_removed: OnRuleRemoved,
    pub(crate) faults: FaultRates,
    /// A worker that gets one turn where others get many.
    pub(crate) slow: Option<u16>,
    /// Whether workers sleep.
    pub(crate) sleeps: bool,
}

impl Shape {
    /// Of four seeds in a row one limits what an interface has, one how fast it gets it, and one
    /// has small tables.
    pub(crate) fn new(random: &mut Random, seed: u64) -> Self {
        let per_interface = per_interface(random, seed);
        let workers = random.port(1, 4);
        let with_queues = match random.once_in(3) {
            true => random.port(1, workers),
            false => workers,
        };
        let mut rate = |most: u16| match random.once_in(2) {
            true => 0,
            false => random.port(0, most),
        };
        let faults = FaultRates {
            receive_loss: rate(50),
            receive_delay: rate(300),
            transmit_loss: rate(50),
            transmit_refusal: rate(100),
        };
        Self {
            links: 1 + random.below(LINKS.len()),
            workers,
            with_queues,
            chunks: *random.pick(&[48, 96, 256, 512]),
            inbox_frames: *random.pick(&[4, 16, 128]),
            sent_max: *random.pick(&[4, 16, 64]),
            fill_max: *random.pick(&[8, 32, 128]),
            burst: *random.pick(&[1, 7, 64]),
            max_flows: match seed % 4 {
                0 | 1 => 1024,
                2 => *random.pick(&[8, 64, 1024]),
                _ => *random.pick(&[1, 4, 8]),
            },
            per_interface,
            exempt: Exempt::new(random),
            tcp_pickup: match random.once_in(3) {
                true => TcpPickup::SynOnly,
                false => TcpPickup::Rules,
            },
            tcp_strict: random.once_in(3),
            unregistered: (0..LINKS.len())
                .map(|_| match random.once_in(4) {
                    true => Unregistered::Pass,
                    false => Unregistered::Drop,
                })
                .collect(),
            icmp_errors: match random.once_in(4) {
                true => IcmpErrors::Rules,
                false => IcmpErrors::Related,
            },
            on_rule_removed: match random.once_in(3) {
                true => OnRuleRemoved::Revalidate,
                false => OnRuleRemoved::Keep,
            },
            faults,
            slow: random.once_in(2).then(|| random.port(0, workers)),
            sleeps: !random.once_in(3),
        }
    }
}

/// One kind of limit at a time, so that it can be told which one refused.
fn per_interface(random: &mut Random, seed: u64) -> PerInterface {
    let (max_flows, new_per_second) = match seed % 4 {
        0 => (1 + random.number(4), 0),
        1 => (0, 1 + random.number(12)),
        // Counts, and never refuses.
        2 if random.once_in(4) => (u32::MAX, 0),
        _ => (0, 0),
    };
    PerInterface {
        max_flows,
        new_per_second,
    }
}
