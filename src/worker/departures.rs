//! Ends the connections whose address has left its interface, after a policy that changed whose
//! addresses are whose. Their packets are refused from the first on in any case
//! ([`Snapshot::seat`]); this is for those that have no more packets, so that neither `flows` nor a
//! count or a share shows what is over. A few slots a turn: the path never waits for it.

use crate::clock::Tick;
use crate::conntrack::{FlowHead, Shard};
use crate::packet::FlowKey;
use crate::snapshot::{FlowSeat, Snapshot};
use crate::types::Generation;

/// Table slots that one turn looks at, at most: about as much work as a burst.
const SLOTS_PER_TURN_MAX: u32 = 128;

/// How far a worker's table has been gone through.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// No flow is left that lost its address in this generation or before.
    swept: Generation,
    /// A round: the generation that it will have swept, and the next slot.
    round: Option<(Generation, u32)>,
}

impl Departures {
    /// No flow is left that lost its address in this generation or before.
    pub(super) fn swept(&self) -> Generation {
        self.swept
    }

    /// Goes on with the round, or begins one if the snapshot calls for it; whether there was
    /// anything to do.
    #[inline]
    pub(super) fn step(&mut self, shard: &mut Shard, snapshot: &Snapshot, now: Tick) -> bool {
        if snapshot.owners_changed() <= self.swept {
            return false;
        }
        self.go_on(shard, snapshot, now);
        true
    }

    #[cold]
    #[inline(never)]
    fn go_on(&mut self, shard: &mut Shard, snapshot: &Snapshot, now: Tick) {
        let (goal, cursor) = self.round.unwrap_or((snapshot.generation(), 0));
        // A snapshot newer than the goal asks for more: what it changed ends here and there
        // already, and the next round ends all of it.
        let next = shard.weed(cursor, SLOTS_PER_TURN_MAX, now, &mut |key, head| {
            stands(snapshot, key, head)
        });
        self.round = next.map(|next| (goal, next));
        if self.round.is_none() {
            self.swept = goal;
        }
    }
}

fn stands(snapshot: &Snapshot, key: &FlowKey, head: &FlowHead) -> bool {
    let flow = FlowSeat {
        key,
        inside: head.inside_end(),
        interface: head.interface,
        judged_low: head.generation_low,
    };
    snapshot.seat(&flow).is_some()
}
