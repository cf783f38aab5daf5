//! When a new flow may be refused for want of room. More may have been opened than the gateway
//! still has, so this says when a refusal is right, not when one has to be.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::conntrack::PerInterface;
use portcullis::packet::FlowKey;

use crate::model::Verdicts;
use portcullis::types::DropReason;

/// The window of a rate, and what rounding adds.
const SECOND: Duration = Duration::from_millis(1001);

/// What flows one worker may have opened.
#[derive(Debug, Default)]
struct Opened {
    all: HashSet<FlowKey>,
    by_interface: HashMap<String, HashSet<FlowKey>>,
    /// When, in the last second.
    lately: HashMap<String, VecDeque<Tick>>,
}

#[derive(Debug)]
pub(crate) struct Quota {
    max_flows: usize,
    limit: PerInterface,
    opened: Vec<Opened>,
}

impl Quota {
    pub(crate) fn new(max_flows: u32, limit: PerInterface, workers: usize) -> Self {
        Self {
            max_flows: max_flows as usize,
            limit,
            opened: (0..workers).map(|_| Opened::default()).collect(),
        }
    }

    /// The refusals that are right for a flow that an interface opens now; notes it.
    pub(crate) fn open(
        &mut self,
        worker: usize,
        interface: &str,
        key: FlowKey,
        now: Tick,
    ) -> Verdicts {
        let opened = &mut self.opened[worker];
        let its = opened.by_interface.entry(interface.to_owned()).or_default();
        let lately = opened.lately.entry(interface.to_owned()).or_default();
        while lately.front().is_some_and(|at| now.since(*at) > SECOND) {
            lately.pop_front();
        }
        let PerInterface {
            max_flows,
            new_per_second,
        } = self.limit;
        let has_all = max_flows != 0 && its.len() >= max_flows as usize;
        let is_fast = new_per_second != 0 && lately.len() >= new_per_second as usize;
        let mut verdicts = Verdicts::default();
        if has_all || is_fast {
            verdicts = verdicts.or(Verdicts::drop(DropReason::Limit));
        }
        if opened.all.len() >= self.max_flows {
            verdicts = verdicts.or(Verdicts::drop(DropReason::TableFull));
        }
        opened.all.insert(key);
        its.insert(key);
        lately.push_back(now);
        verdicts
    }
}
