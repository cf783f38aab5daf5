//! What is believed of TCP's sequence numbers, and what is learned from them.
//!
//! **Windows** are those of "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2001),
//! with the largest window that a side has advertised standing for the current one. Whoever knows
//! no number of a connection hits one with both numbers of a segment about as rarely as the hosts'
//! own checks (RFC 5961 §5). No more is learned from a segment than its receiver has room for.
//!
//! **Picked up** in mid-stream, a connection has no known scale. The largest would let anybody hit
//! the window with a few tries. So each side is taken to have room for 64 KiB at first, and for
//! more once it is seen to be used by a segment that begins exactly where the last one of its side
//! ended, which nobody guesses. Three answers are needed then ([`Fit`]): what is believed; what is
//! possible with the largest scale, which passes and changes nothing; and the rest. Until both
//! sides have been believed once, and so agree with each other, the rest passes too: it may have
//! been the first segment that was somebody else's.

use super::entry::{Entry, SCALE_NONE};
use super::flow::FlowState;
use super::sides::{MARK_LENIENT, Mark, Side, Sides};
use crate::packet::TcpHeader;

/// Acknowledgments may lag this far behind at least, whatever the windows were.
pub(super) const ACK_LAG_MIN: u32 = 66_000;

/// The largest window scale (RFC 7323 §2.3).
const SCALE_MAX: u8 = 14;

/// The largest window.
const WINDOW_MAX: u32 = (u16::MAX as u32) << SCALE_MAX;

const SIDES: [Side; 2] = [Side::Original, Side::Reply];

/// How a segment fits into a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is believed.
    In,
    /// It may belong, but so may a guess: nothing is learned from it.
    Plausible,
    /// It cannot belong.
    Out,
}

/// Notes the SYN of the side that did not open. What it says of its window counts only when both
/// sides have answered: [`settle_scales`].
pub(super) fn learn_syn(entry: &mut Entry, side: Side, segment: &TcpHeader) {
    *entry.end.at(side) = end_of(segment);
    entry.set(Mark::Seen, side);
    if entry.marks & MARK_LENIENT == 0 {
        *entry.window.at(side) = segment.window;
        entry.set_scale(side, offered_scale(segment));
    }
}

/// The scale that a SYN offers.
pub(super) fn offered_scale(segment: &TcpHeader) -> u8 {
    segment
        .window_scale
        .map_or(SCALE_NONE, |scale| scale.min(SCALE_MAX))
}

/// Puts the offered scales in force: only if both sides offer one (RFC 7323 §2.2).
pub(super) fn settle_scales(entry: &mut Entry) {
    if entry.marks & MARK_LENIENT != 0 {
        return;
    }
    let is_scaled = SIDES.iter().all(|side| entry.scale(*side) != SCALE_NONE);
    for side in SIDES {
        let scale = if is_scaled { entry.scale(side) } else { 0 };
        entry.set_scale(side, scale);
        // The window of a SYN itself is never scaled; it is kept in the scaled unit, rounded up.
        let window = u32::from(entry.window.of(side));
        let window = window.div_ceil(1u32.wrapping_shl(u32::from(scale)));
        *entry.window.at(side) = u16::try_from(window).unwrap_or(u16::MAX);
    }
}

pub(super) fn learn_ack(entry: &mut Entry, side: Side, ack: u32) {
    if !entry.has(Mark::Acked, side) || is_after(ack, entry.ack.of(side)) {
        *entry.ack.at(side) = ack;
        entry.set(Mark::Acked, side);
    }
}

/// Notes what a segment says that is believed.
#[inline]
pub(super) fn learn(entry: &mut Entry, side: Side, segment: &TcpHeader) {
    let other = side.opposite();
    let (mut end, ack) = (end_of(segment), segment.acknowledgment);
    let mut is_cut = false;
    let is_lenient = entry.marks & MARK_LENIENT != 0;
    if is_lenient && segment.sequence == entry.end.of(side) {
        widen(entry, side, segment);
    }
    if entry.has(Mark::Acked, other) {
        // The receiver takes no more than it has room for, nor a FIN behind that.
        let acked = entry.ack.of(other);
        let right = acked.wrapping_add(windows(entry).of(other));
        is_cut = is_after(end, right);
        if is_cut && is_after(acked, segment.sequence) {
            // Neither end of it is in the window: the receiver does not look at it.
            return;
        }
        end = if is_cut { right } else { end };
    }
    if is_after(end, entry.end.of(side)) || !entry.has(Mark::Seen, side) {
        // In mid-stream the other's acknowledgment has already told a lower bound.
        let is_lower = is_lenient && is_after(entry.end.of(side), end);
        if !is_lower {
            *entry.end.at(side) = end;
        }
        entry.set(Mark::Seen, side);
    }
    // Of one that its receiver has had long ago it does not look at the rest either (RFC 9293
    // §3.10.7.4); else somebody who repeats old numbers could acknowledge in another's name.
    if entry.has(Mark::Acked, other) && is_after(entry.ack.of(other), end) {
        return;
    }
    learn_ack(entry, side, ack);
    if !entry.has(Mark::Seen, other) && is_after(ack, entry.end.of(other)) {
        *entry.end.at(other) = ack;
    }
    // Before both SYNs are answered the unit is not known.
    if entry.state != Some(FlowState::SynReceived) {
        let window = entry.window.at(side);
        *window = (*window).max(segment.window);
    }
    if segment.flags.fin() && !is_cut && end == entry.end.of(side) {
        entry.set(Mark::Fin, side);
    }
    if entry.has(Mark::Fin, other) && ack == entry.end.of(other) {
        entry.set(Mark::FinAcked, other);
    }
}

/// Makes the unknown scales of a picked-up connection large enough for what is seen of it.
#[cold]
#[inline(never)]
fn widen(entry: &mut Entry, side: Side, segment: &TcpHeader) {
    let other = side.opposite();
    if entry.has(Mark::Acked, other) {
        let room = end_of(segment).wrapping_sub(entry.ack.of(other));
        widen_side(entry, other, room);
    }
    if entry.has(Mark::Seen, other) {
        let room = entry.end.of(other).wrapping_sub(segment.acknowledgment);
        widen_side(entry, side, room);
    }
}

fn widen_side(entry: &mut Entry, side: Side, room: u32) {
    if room > WINDOW_MAX {
        return;
    }
    let wanted = (0..SCALE_MAX).find(|scale| window_of(u16::MAX, *scale) >= room);
    let scale = wanted.unwrap_or(SCALE_MAX);
    if scale > entry.scale(side) {
        entry.set_scale(side, scale);
    }
}

/// How a segment fits into a synchronized connection.
#[inline]
pub(super) fn fit(entry: &mut Entry, side: Side, segment: &TcpHeader) -> Fit {
    if entry.marks & MARK_LENIENT == 0 {
        return match is_in_window(entry, side, segment, windows(entry), 0) {
            true => Fit::In,
            false => Fit::Out,
        };
    }
    fit_picked_up(entry, side, segment)
}

/// The same where the handshake was not seen; notes that the opener is answered.
#[cold]
#[inline(never)]
fn fit_picked_up(entry: &mut Entry, side: Side, segment: &TcpHeader) -> Fit {
    let largest = Sides::both(WINDOW_MAX);
    // What the other side sent before the pickup may be acknowledged after it.
    let is_plausible = is_in_window(entry, side, segment, largest, WINDOW_MAX);
    if is_plausible && side == Side::Reply {
        entry.set(Mark::Answered, Side::Original);
    }
    // The other's acknowledgment tells where a side is of which nothing was seen.
    let (guess, ack) = (entry.end.of(side.opposite()), segment.acknowledgment);
    let is_seen = entry.has(Mark::Seen, side.opposite());
    let is_next = segment.sequence == entry.end.of(side) && (!is_seen || is_up_to(ack, guess));
    let is_believed = is_next || {
        let room = windows(entry).of(side).max(ACK_LAG_MIN);
        is_in_window(entry, side, segment, windows(entry), 0)
            && is_within(ack, guess.wrapping_sub(room), guess.wrapping_add(room))
    };
    if is_plausible && is_believed {
        Fit::In
    } else if is_plausible || !entry.has_both(Mark::Seen) {
        Fit::Plausible
    } else {
        Fit::Out
    }
}

/// Whether a segment fits into a handshake that is not complete: no window is scaled there yet.
pub(super) fn is_in_handshake(entry: &Entry, side: Side, segment: &TcpHeader) -> bool {
    let windows = Sides {
        original: u32::from(entry.window.original),
        reply: u32::from(entry.window.reply),
    };
    is_in_window(entry, side, segment, windows, 0)
}

/// Whether sequence and acknowledgment are possible, given what both sides have sent; `unseen` is
/// what the other may have sent beyond that.
#[inline]
fn is_in_window(
    entry: &Entry,
    side: Side,
    segment: &TcpHeader,
    windows: Sides<u32>,
    unseen: u32,
) -> bool {
    let other = side.opposite();
    let (end, ack) = (end_of(segment), segment.acknowledgment);
    let sent = entry.end.of(side);
    let is_lenient = entry.marks & MARK_LENIENT != 0;
    let is_sent_known = entry.has(Mark::Seen, side) || is_lenient;
    // Not beyond what the receiver has room for, as of its last acknowledgment.
    let is_acked = entry.has(Mark::Acked, other);
    if is_acked || is_sent_known {
        let from = if is_acked { entry.ack.of(other) } else { sent };
        let right = from.wrapping_add(windows.of(other));
        if !is_up_to(segment.sequence, right) {
            return false;
        }
    }
    // Not older than a window.
    if is_sent_known {
        let left = sent.wrapping_sub(windows.of(other));
        if !is_up_to(left, end) {
            return false;
        }
    }
    if entry.has(Mark::Fin, side) && !is_up_to(end, sent) {
        return false;
    }
    // Acknowledges what was sent, and not too long ago.
    if entry.has(Mark::Seen, other) {
        let sent = entry.end.of(other);
        let lag = windows.of(side).max(ACK_LAG_MIN);
        if !is_up_to(ack, sent.wrapping_add(unseen)) || !is_up_to(sent.wrapping_sub(lag), ack) {
            return false;
        }
    }
    // A FIN ends the stream: there is no end behind it.
    !segment.flags.fin() || !is_sent_known || is_up_to(sent, end)
}

/// Largest window that a side has advertised, in bytes.
#[inline]
pub(super) fn window(entry: &Entry, side: Side) -> u32 {
    window_of(entry.window.of(side), entry.scale(side))
}

fn windows(entry: &Entry) -> Sides<u32> {
    Sides {
        original: window(entry, Side::Original),
        reply: window(entry, Side::Reply),
    }
}

#[inline]
fn window_of(window: u16, scale: u8) -> u32 {
    u32::from(window).wrapping_shl(u32::from(scale.min(SCALE_MAX)))
}

/// Whether a packet that an ICMP error quotes may be one that this side sent of late (RFC 5927
/// §4.1): not beyond its end, nor older than a window.
pub(super) fn is_sent(entry: &Entry, side: Side, sequence: u32) -> bool {
    let other = side.opposite();
    let is_lenient = entry.marks & MARK_LENIENT != 0;
    let room = if is_lenient && !entry.has_both(Mark::Seen) {
        WINDOW_MAX
    } else {
        window(entry, other).max(ACK_LAG_MIN)
    };
    let end = entry.end.of(side);
    let is_known = entry.has(Mark::Seen, side) || is_lenient;
    is_known && is_within(sequence, end.wrapping_sub(room), end)
}

/// Sequence number after the segment.
#[inline]
pub(super) fn end_of(segment: &TcpHeader) -> u32 {
    let flags = segment.flags;
    let extra = u32::from(flags.syn()).wrapping_add(u32::from(flags.fin()));
    let len = segment.payload_len.wrapping_add(extra);
    segment.sequence.wrapping_add(len)
}

/// Whether `a` comes after `b` in sequence space (RFC 9293 §3.4).
#[inline]
pub(super) fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Whether `a` is `b` or comes before it. Of two numbers half the space apart, neither is.
#[inline]
fn is_up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

/// Whether `value` is in `from..=to`.
#[inline]
pub(super) fn is_within(value: u32, from: u32, to: u32) -> bool {
    is_up_to(from, value) && is_up_to(value, to)
}
