//! The two ends of a flow, and what is remembered of each in single bits.

use std::hint::select_unpredictable;

/// Who spoke first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// The opener.
    Original,
    /// The other end.
    Reply,
}

impl Side {
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// One value for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Sides<T> {
    pub(super) original: T,
    pub(super) reply: T,
}

impl<T: Copy> Sides<T> {
    pub(super) const fn both(value: T) -> Self {
        Self {
            original: value,
            reply: value,
        }
    }

    #[inline]
    pub(super) fn of(&self, side: Side) -> T {
        select_unpredictable(side == Side::Original, self.original, self.reply)
    }

    #[inline]
    pub(super) fn at(&mut self, side: Side) -> &mut T {
        select_unpredictable(side == Side::Original, &mut self.original, &mut self.reply)
    }
}

/// What is remembered of a flow in single bits. The first seven are one bit for each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    /// TCP: a segment of this side was seen, so its `end` is known. Others: it sent a packet.
    Seen = 0,
    /// TCP: its `ack` is known. UDP: it sent more than one packet.
    Acked = 2,
    /// Its SYN is acknowledged. Of a picked-up connection's opener: it was answered.
    Answered = 4,
    /// It sent a FIN; its `end` is final.
    Fin = 6,
    /// Its FIN is acknowledged.
    FinAcked = 8,
    /// After the close: it may answer one repeated FIN.
    Owes = 10,
    /// It sent a SYN in the middle of the connection (cold part: `challenge`).
    Challenged = 12,
}

/// Marks that are about the flow.
pub(super) const MARK_ISN_KNOWN: u16 = 1 << 14;
/// First seen in mid-stream: the window scales are unknown (window.rs).
pub(super) const MARK_LENIENT: u16 = 1 << 15;

#[inline]
pub(super) fn mark_bit(mark: Mark, side: Side) -> u16 {
    let bit = 1u16.wrapping_shl(mark as u32);
    match side {
        Side::Original => bit,
        Side::Reply => bit << 1,
    }
}

/// A mark's bits of both sides.
pub(super) const fn mark_bits(mark: Mark) -> u16 {
    3u16.wrapping_shl(mark as u32)
}
