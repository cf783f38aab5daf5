//! What the pipeline takes and gives: how a packet came in, and what becomes of it.

use crate::conntrack::{FlowIndex, Shard, Ticket};
use crate::types::{
    Direction, DropReason, InterfaceSlot, LinkId, PortSide, RuleSlot, Verdict, WorkerId,
};

/// How a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The link.
    pub link: LinkId,
    /// The port of the link.
    pub side: PortSide,
    /// Bytes on the wire; more than there are in a capture that cut it.
    pub original_len: u32,
}

/// The answer for one packet. Whose it is takes a look at the connection table that a worker
/// does not need: see [`Outcome::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Pass or drop, and why.
    pub verdict: Verdict,
    /// As seen from the interface that was judged.
    pub direction: Option<Direction>,
    subject: Subject,
}

/// Whom an outcome is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// No interface.
    Nobody,
    /// An interface, and the rule that decided.
    Interface(InterfaceSlot, Option<RuleSlot>),
    /// The interface and the rule of a connection.
    Flow(FlowIndex),
}

/// An outcome with its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Pass or drop, and why.
    pub verdict: Verdict,
    /// The interface that was judged.
    pub interface: Option<InterfaceSlot>,
    /// As seen from that interface.
    pub direction: Option<Direction>,
    /// The rule that allows it, or that admitted its connection.
    pub rule: Option<RuleSlot>,
}

impl Resolved {
    /// A fragment that cannot be placed.
    pub const FRAGMENT: Self = Self {
        verdict: Verdict::Drop(DropReason::Fragment),
        interface: None,
        direction: None,
        rule: None,
    };
}

impl Outcome {
    /// An answer that is about no interface.
    pub(super) const fn bare(verdict: Verdict) -> Self {
        Self {
            verdict,
            direction: None,
            subject: Subject::Nobody,
        }
    }

    pub(super) const fn drop(reason: DropReason) -> Self {
        Self::bare(Verdict::Drop(reason))
    }

    /// An answer about an interface.
    pub(super) fn of_interface(
        verdict: Verdict,
        interface: Option<InterfaceSlot>,
        direction: Direction,
        rule: Option<RuleSlot>,
    ) -> Self {
        Self {
            verdict,
            direction: Some(direction),
            subject: interface.map_or(Subject::Nobody, |slot| Subject::Interface(slot, rule)),
        }
    }

    /// An answer from the connection table. The side that a packet came in by is its direction.
    #[inline]
    pub(super) fn of_flow(verdict: Verdict, side: PortSide, flow: FlowIndex) -> Self {
        let direction = match side {
            PortSide::Inside => Direction::Egress,
            PortSide::Outside => Direction::Ingress,
        };
        Self {
            verdict,
            direction: Some(direction),
            subject: Subject::Flow(flow),
        }
    }

    /// Names the interface and the rule; before the shard judges anything else.
    #[must_use]
    pub fn resolve(&self, shard: &Shard) -> Resolved {
        let (interface, rule) = match self.subject {
            Subject::Nobody => (None, None),
            Subject::Interface(interface, rule) => (Some(interface), rule),
            Subject::Flow(flow) => {
                let head = shard.head(flow);
                (Some(head.interface), head.rule)
            }
        };
        let rule = match self.verdict {
            Verdict::Pass(_) => rule,
            Verdict::Drop(_) => None,
        };
        Resolved {
            verdict: self.verdict,
            interface,
            direction: self.direction,
            rule,
        }
    }
}

/// What is to be done with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has been judged.
    Judged(Outcome),
    /// Another worker judges it: its flow's owner, or the home of its fragments.
    HandOver(WorkerId),
    /// Another worker owns the flow that it is a piece of: see [`super::Batch::piece`].
    HandOverPiece(WorkerId, PieceIndex),
    /// A fragment whose first has not come: it waits under this ticket.
    Hold(Ticket),
}

/// Which of a batch's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceIndex(pub(super) u8);
