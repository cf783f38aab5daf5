//! What the control side may ask of a worker between two turns. Each request brings the memory
//! that its answer needs, so that the worker allocates nothing.

use crossbeam::channel::Sender;

use super::census::{Census, CensusTask};
use crate::clock::Tick;
use crate::conntrack::{FlowView, Shard};
use crate::packet::FlowKey;

/// Rows of one page of flows.
pub const FLOW_PAGE_ROWS: usize = 256;
/// Table slots that one page looks at, at most: bounds what a request costs the packet path.
const FLOW_PAGE_SLOTS: u32 = 512;
/// Flows that one request ends at most, for the same reason: each costs several cache misses.
pub const FLOW_ENDS_MAX: usize = 32;

/// A request.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Fill in a page of live flows and send it back.
    Flows(Box<FlowPage>, Sender<Box<FlowPage>>),
    /// End these flows, the first [`FLOW_ENDS_MAX`] at most, and send back the keys of those
    /// that were there to be ended, in the same order.
    End(Vec<FlowKey>, Sender<Vec<FlowKey>>),
    /// Find out what all flows name, some slots a turn, and send it back.
    Census(Box<Census>, Sender<Box<Census>>),
}

/// A page of a worker's live flows.
#[derive(Debug)]
pub struct FlowPage {
    /// Where to begin: 0, then each answer's `next`.
    pub cursor: u32,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u32>,
    /// Flows of this page.
    pub rows: Vec<FlowView>,
}

impl FlowPage {
    /// An empty page with room for its rows.
    #[must_use]
    pub fn new(cursor: u32) -> Box<Self> {
        // A page never has more rows than the slots it looks at; it looks at no more than it
        // has room for.
        Box::new(Self {
            cursor,
            next: None,
            rows: Vec::with_capacity(FLOW_PAGE_ROWS),
        })
    }
}

impl WorkerCommand {
    pub(super) fn execute(self, shard: &mut Shard, task: &mut CensusTask, now: Tick) {
        match self {
            Self::Flows(mut page, reply) => {
                let mut cursor = Some(page.cursor);
                let mut slots_left = FLOW_PAGE_SLOTS;
                // Bound: FLOW_PAGE_SLOTS slots in all.
                while let Some(from) = cursor
                    && slots_left > 0
                    && page.rows.len() < FLOW_PAGE_ROWS
                {
                    let room = FLOW_PAGE_ROWS.saturating_sub(page.rows.len());
                    let slots = slots_left.min(u32::try_from(room).unwrap_or(u32::MAX));
                    let rows = &mut page.rows;
                    cursor = shard.scan(from, slots, now, &mut |flow| rows.push(flow));
                    slots_left = slots_left.saturating_sub(slots);
                }
                page.next = cursor;
                // Whoever asked has gone: the page is dropped here, once for a request.
                let _gone = reply.try_send(page);
            }
            Self::End(mut keys, reply) => {
                keys.truncate(FLOW_ENDS_MAX);
                // Bound: FLOW_ENDS_MAX.
                keys.retain(|key| {
                    let found = shard.find(key, shard.hash(key), now);
                    if let Some(flow) = found {
                        shard.end(flow);
                    }
                    found.is_some()
                });
                let _gone = reply.try_send(keys);
            }
            Self::Census(census, reply) => task.begin(census, reply),
        }
    }
}
