//! Rules of one peer to steps: which is the lowest rule at each point of the service space.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::policy::{IcmpMatch, Service};
use crate::snapshot::program::{NO_RULE, NODE_ENDS, ServicePoint, level_sizes};

/// The points of a service and the rule that allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    first: u32,
    last: u32,
    rule: u32,
}

impl Claim {
    /// A rule, by its number, of a service.
    pub(super) fn new(service: Service, rule: u32) -> Self {
        let (first, last) = points(service);
        Self {
            first: first.0,
            last: last.0,
            rule,
        }
    }
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

/// An interval of the service space, which begins where the one before ends, and its lowest rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    end: u32,
    rule: u32,
}

/// Makes steps; keeps its memory from one run to the next.
#[derive(Debug, Default)]
pub(super) struct StepBuilder {
    steps: Vec<Step>,
    /// Claims that hold the point reached: the lowest rule on top, ended ones below it.
    open: BinaryHeap<Reverse<(u32, u32)>>,
}

impl StepBuilder {
    /// Appends the run of these claims to `words` and returns where; 0 for none.
    ///
    /// Takes `n log n` for `n` claims however they overlap, and makes at most `2n` steps.
    pub(super) fn append(&mut self, claims: &mut [Claim], words: &mut Vec<u32>) -> usize {
        if claims.is_empty() {
            return 0;
        }
        claims.sort_unstable();
        self.cut(claims);
        let start = words.len();
        words.push(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        words.extend(self.steps.iter().map(|step| step.rule).min());
        self.append_levels(words);
        words.extend(self.steps.iter().map(|step| step.end));
        words.extend(self.steps.iter().map(|step| step.rule));
        start
    }

    /// Walks the claims, which begin in order, from the lowest point up.
    fn cut(&mut self, claims: &[Claim]) {
        self.steps.clear();
        self.open.clear();
        let mut coming = claims.iter().peekable();
        let mut point = 0_u32;
        loop {
            while let Some(claim) = coming.next_if(|claim| claim.first <= point) {
                self.open.push(Reverse((claim.rule, claim.last)));
            }
            while self
                .open
                .peek()
                .is_some_and(|Reverse((_, last))| *last < point)
            {
                self.open.pop();
            }
            let next = coming.peek().map(|claim| claim.first - 1);
            let step = match (self.open.peek(), next) {
                (Some(Reverse((rule, last))), next) => Step {
                    end: next.map_or(*last, |next| next.min(*last)),
                    rule: *rule,
                },
                (None, Some(next)) => Step {
                    end: next,
                    rule: NO_RULE,
                },
                // What comes after the last step is allowed by nobody.
                (None, None) => return,
            };
            match self.steps.last_mut() {
                Some(before) if before.rule == step.rule => before.end = step.end,
                _ => self.steps.push(step),
            }
            let Some(after) = step.end.checked_add(1) else {
                return;
            };
            point = after;
        }
    }

    /// Every sixteenth end, level by level, above the ends themselves.
    fn append_levels(&self, words: &mut Vec<u32>) {
        let sizes = level_sizes(self.steps.len());
        let mut stride = 1;
        let mut levels = Vec::new();
        for size in sizes
            .into_iter()
            .rev()
            .skip(1)
            .take_while(|size| *size != 0)
        {
            stride *= NODE_ENDS;
            let last = |node: &[Step]| node.last().map_or(0, |step| step.end);
            let level: Vec<_> = self.steps.chunks(stride).map(last).collect();
            debug_assert_eq!(level.len(), size, "one end for each node below");
            levels.push(level);
        }
        levels.iter().rev().for_each(|level| words.extend(level));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Address;
    use crate::policy::PortRange;
    use crate::snapshot::Question;
    use crate::snapshot::classes::NO_KEYS;
    use crate::snapshot::program::Program;

    /// A program without keys whose any-address run is this one.
    fn program(claims: &mut [Claim], slots: u32) -> Program {
        let mut words = vec![0; 24];
        words[8..16].fill(u32::MAX);
        let run = StepBuilder::default().append(claims, &mut words);
        words[1] = u32::try_from(run).unwrap();
        words[3] = u32::try_from(words.len()).unwrap();
        words.extend(0..slots);
        Program::new(words)
    }

    fn tcp(port: u16) -> Question {
        Question {
            remote: Address::V4(1),
            protocol: 6,
            service: port,
        }
    }

    fn lowest(claims: &[Claim], port: u16) -> Option<u32> {
        let point = ServicePoint::new(ServicePoint::TCP, port).0;
        let holds = |claim: &&Claim| claim.first <= point && point <= claim.last;
        claims.iter().filter(holds).map(|claim| claim.rule).min()
    }

    proptest! {
        #[test]
        fn the_lowest_claim_has_each_point(
            ranges in proptest::collection::vec((0..40_u16, 0..40_u16, any::<bool>()), 0..400),
        ) {
            let claim = |((a, b, high), rule): ((u16, u16, bool), u32)| {
                let base = if high { 65_496 } else { 0 };
                let ports = PortRange { from: base + a.min(b), to: base + a.max(b) };
                Claim::new(Service::Tcp(ports), rule)
            };
            let mut claims: Vec<_> = ranges.into_iter().zip(0..).map(claim).collect();
            let given = claims.clone();
            let program = program(&mut claims, 400);
            for port in (0..60).chain(65_480..=65_535) {
                let found = program.find(&tcp(port), &NO_KEYS).map(|slot| slot.0);
                prop_assert_eq!(found, lowest(&given, port), "{}", port);
            }
        }
    }

    #[test]
    fn runs_of_every_number_of_levels_are_found() {
        for count in [
            1_u32, 7, 8, 9, 15, 16, 17, 127, 128, 129, 255, 257, 2049, 32_768,
        ] {
            let claim = |rule| {
                let port = u16::try_from(2 * rule).unwrap();
                Claim::new(
                    Service::Tcp(PortRange {
                        from: port,
                        to: port,
                    }),
                    rule,
                )
            };
            let mut claims: Vec<_> = (0..count).map(claim).collect();
            let program = program(&mut claims, count);
            for port in 0..=u16::MAX {
                let rule = u32::from(port / 2);
                let expected = (port % 2 == 0 && rule < count).then_some(rule);
                let found = program.find(&tcp(port), &NO_KEYS).map(|slot| slot.0);
                assert_eq!(found, expected, "{count} {port}");
            }
        }
    }

    #[test]
    fn overlapping_ranges_take_steps_in_proportion() {
        let claim = |rule: u16| {
            let ports = PortRange {
                from: rule,
                to: 30_000 + rule,
            };
            Claim::new(Service::Tcp(ports), u32::from(30_000 - rule))
        };
        let mut claims: Vec<_> = (0..30_000).map(claim).collect();
        let mut words = vec![0];
        StepBuilder::default().append(&mut claims, &mut words);
        assert!(words.len() < 30_000 * 5, "{}", words.len());
    }
}
