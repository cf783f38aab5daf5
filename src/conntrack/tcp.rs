//! The TCP states, seen from the middle.
//!
//! ```text
//!  state        segment                                         then
//!  syn-sent     SYN of the opener, same ISN                     timer restarts
//!               SYN of the other side (simultaneous open)       syn-received
//!               SYN-ACK of the other side that acks the SYN     syn-received
//!               RST of the other side that acks the SYN         reset
//!  syn-received SYN or SYN-ACK repeated                         timer restarts
//!               both SYNs acknowledged, in the window           established (closing after a FIN)
//!  both         SYN with another ISN                            Reopen: another attempt, judged
//!               SYN-ACK that answers no SYN of ours             Invalid
//!  established  in the window                                   timer restarts; FIN: closing
//!  closing      in the window, acks a FIN; both acked           time-wait
//!  both         out of the window                               passes, changes nothing but the
//!                                                               timer; Invalid if strict
//!               SYN                                             passes, changes nothing
//!               SYN-ACK repeated from the handshake             passes, changes nothing
//!               SYN-ACK that answers such a SYN                 Invalid, reset
//!               any other SYN-ACK                               Invalid
//!  all four     RST that the receiver would obey                reset
//!               any other RST                                   passes, changes nothing; Invalid
//!                                                               if strict
//!  time-wait    the last FIN repeated, exact                    passes
//!               one ACK or RST after it from the other side,
//!               exact and empty                                 passes
//!  time-wait,   SYN with another ISN than the opener's          Reopen
//!  reset        anything else                                   Invalid
//! ```
//!
//! The timer of a tombstone never restarts.
//!
//! **Resets** (RFC 5961 §3.2). A receiver obeys an RST whose sequence number is exactly what it
//! expects next. We do not know that number, but it is bounded by two that we do: what the receiver
//! last acknowledged, and the end of what the sender sent. An RST between the two closes the entry;
//! one outside cannot have closed the connection, though a host older than the RFC may obey it:
//! then the entry idles out. The bound is the data in flight, mostly one value.
//!
//! **SYN in mid-connection** (RFC 5961 §4). The receiver answers with a challenge ACK, and the
//! sender, if it really lost the connection, with an RST that matches it. Both pass here. Should
//! the receiver answer with a SYN-ACK instead, it has lost the connection too, and what begins is
//! another one. It may not ride on the verdict of the old one: the entry becomes a tombstone, and
//! the SYN's next repetition is judged by the rules. An attacker cannot cause this from one side.
//!
//! **SYN-ACK** that answers no SYN of the entry: Invalid, with and without `tcp_strict`, unlike
//! other strays. It is the one segment by which a host accepts a connection, so it may pass only
//! where the rules have been asked about that connection. Nothing honest is lost: repetitions are
//! known by the SYN that they acknowledge, whatever their own number, and an asker who did not
//! send that SYN would answer with a reset.
//!
//! **Windows** are those of "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2001),
//! with the largest window that a side has advertised standing for the current one.

use super::challenge::Challenges;
use super::entry::{Cold, Entry, SCALE_NONE};
use super::flow::FlowState;
use super::sides::{MARK_ISN_KNOWN, MARK_LENIENT, Mark, Side, mark_bits};
use crate::packet::{Brief, TcpFlags, TcpHeader};

/// What a packet does to its flow; a change of state restarts the timer too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It passes, and the timer restarts.
    Refresh,
    /// It passes.
    Keep,
    /// It does not pass.
    Invalid,
    /// It begins another connection.
    Reopen,
}

/// Acknowledgments may lag this far behind at least, whatever the windows were.
const ACK_LAG_MIN: u32 = 66_000;

/// Window scale assumed where the handshake was not seen (RFC 7323 §2.3: the largest).
const SCALE_MAX: u8 = 14;

/// What rare segments need besides the entry.
#[derive(Debug)]
pub(super) struct Aside<'a> {
    pub(super) slot: u32,
    pub(super) cold: &'a Cold,
    pub(super) challenges: &'a mut Challenges,
}

/// Sets the state of a flow that `segment` opens.
pub(super) fn open(entry: &mut Entry, cold: &mut Cold, segment: &TcpHeader) {
    let flags = segment.flags;
    let side = Side::Original;
    *entry.end.at(side) = end_of(segment);
    entry.set(Mark::Seen, side);
    if flags.syn() {
        cold.set_isn(segment.sequence);
        entry.marks |= MARK_ISN_KNOWN;
    }
    if flags.is_open() {
        entry.state = Some(FlowState::SynSent);
        *entry.window.at(side) = segment.window;
        entry.set_scale(side, segment.window_scale.unwrap_or(SCALE_NONE));
        return;
    }
    entry.marks |= MARK_LENIENT;
    for side in [Side::Original, Side::Reply] {
        *entry.window.at(side) = u16::MAX;
        entry.set_scale(side, SCALE_MAX);
    }
    if flags.ack() {
        *entry.ack.at(side) = segment.acknowledgment;
        entry.set(Mark::Acked, side);
        // The other side has sent at least up to here.
        *entry.end.at(Side::Reply) = segment.acknowledgment;
    }
    entry.state = Some(if flags.rst() {
        FlowState::Reset
    } else if flags.syn() {
        // A SYN-ACK: the other side's SYN went by unseen.
        entry.set(Mark::Answered, Side::Reply);
        FlowState::SynReceived
    } else if flags.fin() {
        entry.set(Mark::Fin, side);
        FlowState::Closing
    } else {
        FlowState::Established
    });
}

/// Takes a segment of `side` into account.
#[inline]
pub(super) fn advance(
    entry: &mut Entry,
    aside: &mut Aside<'_>,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    match entry.state {
        Some(FlowState::Established | FlowState::Closing) => {
            synchronized(entry, aside, side, segment, is_strict)
        }
        Some(FlowState::SynSent) => syn_sent(entry, aside.cold, side, segment, is_strict),
        Some(FlowState::SynReceived) => syn_received(entry, aside.cold, side, segment, is_strict),
        Some(FlowState::TimeWait) => time_wait(entry, aside.cold, side, segment),
        Some(FlowState::Reset) => after_close(entry, aside.cold, side, segment),
        _ => Step::Invalid,
    }
}

/// Marks of a connection in which nothing is left to be learned but numbers.
const PLAIN: u16 = mark_bits(Mark::Seen) | mark_bits(Mark::Acked);
/// Marks that say whether it is one.
const PLAIN_OF: u16 = PLAIN | mark_bits(Mark::Fin);

/// What [`advance`] does with data and acknowledgments in the window of an established connection
/// in which both sides have spoken and none has closed. `false`, and nothing done, for all else.
#[inline]
pub(super) fn advance_plain(entry: &mut Entry, side: Side, segment: &Brief) -> bool {
    const CONTROL: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST | TcpFlags::ACK;
    if segment.flags.0 & CONTROL != TcpFlags::ACK || entry.marks & PLAIN_OF != PLAIN {
        return false;
    }
    let other = side.opposite();
    let (sequence, ack) = (segment.sequence, segment.acknowledgment);
    let end = sequence.wrapping_add(segment.payload_len);
    let (sent, other_sent) = (entry.end.of(side), entry.end.of(other));
    let room = window(entry, other);
    let right = entry.ack.of(other).wrapping_add(room);
    let left = sent.wrapping_sub(room);
    let lag = window(entry, side).max(ACK_LAG_MIN);
    // All four of `is_in_window` at once: the sign of each is set where it does not hold.
    let fails = right.wrapping_sub(sequence)
        | end.wrapping_sub(left)
        | other_sent.wrapping_sub(ack)
        | ack.wrapping_sub(other_sent.wrapping_sub(lag));
    if fails.cast_signed() < 0 {
        return false;
    }
    let last = entry.end.at(side);
    *last = if is_after(end, sent) { end } else { sent };
    let acked = entry.ack.at(side);
    *acked = if is_after(ack, *acked) { ack } else { *acked };
    let window = entry.window.at(side);
    *window = (*window).max(segment.window);
    true
}

/// What has no place in the connection, but does no harm to it.
fn stray(is_strict: bool) -> Step {
    if is_strict { Step::Invalid } else { Step::Keep }
}

fn syn_sent(
    entry: &mut Entry,
    cold: &Cold,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    let flags = segment.flags;
    let (isn, syn_end) = (entry.isn(cold), entry.end.original);
    let acks_syn = flags.ack() && is_within(segment.acknowledgment, isn.wrapping_add(1), syn_end);
    if flags.rst() {
        let closes = match side {
            Side::Original => is_within(segment.sequence, isn.wrapping_add(1), syn_end),
            Side::Reply => acks_syn,
        };
        return if closes {
            close(entry)
        } else {
            stray(is_strict)
        };
    }
    if flags.is_open() {
        if side == Side::Original {
            return if segment.sequence == isn {
                Step::Refresh
            } else {
                Step::Reopen
            };
        }
        learn_syn(entry, side, segment);
        entry.state = Some(FlowState::SynReceived);
        return Step::Refresh;
    }
    if flags.syn() {
        if flags.fin() || side == Side::Original || !acks_syn {
            return Step::Invalid;
        }
        learn_syn(entry, side, segment);
        learn_ack(entry, side, segment.acknowledgment);
        entry.set(Mark::Answered, Side::Original);
        entry.state = Some(FlowState::SynReceived);
        return Step::Refresh;
    }
    // A challenge ACK of a peer that still has an older connection (RFC 5961 §4.2).
    if side == Side::Reply && flags.ack() && !flags.fin() && segment.payload_len == 0 {
        return Step::Keep;
    }
    stray(is_strict)
}

fn syn_received(
    entry: &mut Entry,
    cold: &Cold,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    let flags = segment.flags;
    let other = side.opposite();
    if flags.rst() {
        return if reset_closes(entry, side, segment) {
            close(entry)
        } else {
            stray(is_strict)
        };
    }
    if flags.is_open() {
        let is_repeated = match side {
            Side::Original => cold.is_isn(segment.sequence),
            Side::Reply => end_of(segment) == entry.end.reply,
        };
        return if is_repeated {
            Step::Refresh
        } else {
            Step::Reopen
        };
    }
    if flags.syn() {
        if flags.fin() || !flags.ack() || !answers_syn(entry, cold, side, segment) {
            return Step::Invalid;
        }
        if side == Side::Reply && !entry.has(Mark::Answered, side) {
            // Repeated; a stateless responder may have chosen another number.
            *entry.end.at(side) = end_of(segment);
        }
        learn_ack(entry, side, segment.acknowledgment);
    } else {
        if !flags.ack() || !is_in_window(entry, side, segment) {
            return stray(is_strict);
        }
        learn(entry, side, segment);
    }
    entry.set(Mark::Answered, other);
    if entry.has_both(Mark::Answered) {
        let is_closing = entry.has(Mark::Fin, side) || entry.has(Mark::Fin, other);
        entry.state = Some(if is_closing {
            FlowState::Closing
        } else {
            FlowState::Established
        });
        finish_close(entry);
    }
    Step::Refresh
}

/// Whether a SYN-ACK acknowledges the SYN of the other side.
fn answers_syn(entry: &Entry, cold: &Cold, side: Side, segment: &TcpHeader) -> bool {
    let ack = segment.acknowledgment;
    match side {
        Side::Reply => {
            entry.marks & MARK_ISN_KNOWN != 0
                && is_within(ack, entry.isn(cold).wrapping_add(1), entry.end.original)
        }
        Side::Original => cold.is_isn(segment.sequence) && ack == entry.end.reply,
    }
}

fn synchronized(
    entry: &mut Entry,
    aside: &mut Aside<'_>,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    let flags = segment.flags;
    if flags.rst() {
        return if reset_closes(entry, side, segment) {
            close(entry)
        } else {
            stray(is_strict)
        };
    }
    if flags.syn() {
        return synchronized_syn(entry, aside, side, segment);
    }
    if !flags.ack() {
        return stray(is_strict);
    }
    if !is_in_window(entry, side, segment) {
        // It may be ours that is wrong, so the flow must not time out under its traffic.
        return if is_strict {
            Step::Invalid
        } else {
            Step::Refresh
        };
    }
    learn(entry, side, segment);
    if entry.has(Mark::Fin, side) {
        entry.state = Some(FlowState::Closing);
    }
    finish_close(entry);
    Step::Refresh
}

#[cold]
#[inline(never)]
fn synchronized_syn(
    entry: &mut Entry,
    aside: &mut Aside<'_>,
    side: Side,
    segment: &TcpHeader,
) -> Step {
    let flags = segment.flags;
    let other = side.opposite();
    if flags.is_open() {
        aside.challenges.note(aside.slot, segment.sequence);
        entry.clear(Mark::Challenged, other);
        entry.set(Mark::Challenged, side);
        return Step::Keep;
    }
    if flags.fin() || !flags.ack() {
        return Step::Invalid;
    }
    let ack = segment.acknowledgment;
    let is_isn_known = entry.marks & MARK_ISN_KNOWN != 0;
    let is_repeated = match side {
        Side::Original => is_isn_known && aside.cold.is_isn(segment.sequence),
        Side::Reply => is_isn_known && aside.cold.is_isn(ack.wrapping_sub(1)),
    };
    if is_repeated {
        return Step::Keep;
    }
    let challenge = aside.challenges.of(aside.slot);
    if entry.has(Mark::Challenged, other) && challenge == Some(ack.wrapping_sub(1)) {
        close(entry);
    }
    Step::Invalid
}

fn time_wait(entry: &mut Entry, cold: &Cold, side: Side, segment: &TcpHeader) -> Step {
    let flags = segment.flags;
    let other = side.opposite();
    if flags.syn() {
        return after_close(entry, cold, side, segment);
    }
    let is_exact = end_of(segment) == entry.end.of(side);
    let acks_all = flags.ack() && segment.acknowledgment == entry.end.of(other);
    if flags.fin() && !flags.rst() && is_exact && acks_all {
        entry.set(Mark::Owes, other);
        return Step::Keep;
    }
    let is_answer = !flags.fin() && segment.payload_len == 0 && (acks_all || flags.rst());
    if entry.has(Mark::Owes, side) && is_exact && is_answer {
        entry.clear(Mark::Owes, side);
        return Step::Keep;
    }
    Step::Invalid
}

/// What may still come after a close: a SYN that is not the old one's repetition.
fn after_close(entry: &Entry, cold: &Cold, side: Side, segment: &TcpHeader) -> Step {
    let is_isn_known = entry.marks & MARK_ISN_KNOWN != 0;
    let is_old = side == Side::Original && is_isn_known && cold.is_isn(segment.sequence);
    if segment.flags.is_open() && !is_old {
        Step::Reopen
    } else {
        Step::Invalid
    }
}

fn close(entry: &mut Entry) -> Step {
    entry.state = Some(FlowState::Reset);
    Step::Keep
}

/// Moves on to time-wait once both FINs are acknowledged.
fn finish_close(entry: &mut Entry) {
    if entry.state == Some(FlowState::Closing) && entry.has_both(Mark::FinAcked) {
        entry.state = Some(FlowState::TimeWait);
    }
}

/// Notes the SYN of the side that did not open; both scales are then known (RFC 7323 §2.2: in
/// force only if both sides offer one).
fn learn_syn(entry: &mut Entry, side: Side, segment: &TcpHeader) {
    *entry.end.at(side) = end_of(segment);
    entry.set(Mark::Seen, side);
    *entry.window.at(side) = segment.window;
    entry.set_scale(side, segment.window_scale.unwrap_or(SCALE_NONE));
    let is_scaled = [Side::Original, Side::Reply]
        .iter()
        .all(|side| entry.scale(*side) != SCALE_NONE);
    for side in [Side::Original, Side::Reply] {
        let scale = if is_scaled {
            entry.scale(side).min(SCALE_MAX)
        } else {
            0
        };
        entry.set_scale(side, scale);
        // The window of a SYN itself is never scaled; it is kept in the scaled unit, rounded up.
        let window = u32::from(entry.window.of(side));
        let window = window.div_ceil(1u32.wrapping_shl(u32::from(scale)));
        *entry.window.at(side) = u16::try_from(window).unwrap_or(u16::MAX);
    }
}

fn learn_ack(entry: &mut Entry, side: Side, ack: u32) {
    if !entry.has(Mark::Acked, side) || is_after(ack, entry.ack.of(side)) {
        *entry.ack.at(side) = ack;
        entry.set(Mark::Acked, side);
    }
}

/// Notes what a segment in the window says.
#[inline]
fn learn(entry: &mut Entry, side: Side, segment: &TcpHeader) {
    let other = side.opposite();
    let (end, ack) = (end_of(segment), segment.acknowledgment);
    if is_after(end, entry.end.of(side)) || !entry.has(Mark::Seen, side) {
        // In mid-stream the other's acknowledgment has already told a lower bound.
        let is_lower = entry.marks & MARK_LENIENT != 0 && is_after(entry.end.of(side), end);
        if !is_lower {
            *entry.end.at(side) = end;
        }
        entry.set(Mark::Seen, side);
    }
    learn_ack(entry, side, ack);
    if !entry.has(Mark::Seen, other) && is_after(ack, entry.end.of(other)) {
        *entry.end.at(other) = ack;
    }
    let window = entry.window.at(side);
    *window = (*window).max(segment.window);
    if segment.flags.fin() && end == entry.end.of(side) {
        entry.set(Mark::Fin, side);
    }
    if entry.has(Mark::Fin, other) && ack == entry.end.of(other) {
        entry.set(Mark::FinAcked, other);
    }
}

/// Whether sequence and acknowledgment are possible, given what both sides have sent.
#[inline]
fn is_in_window(entry: &Entry, side: Side, segment: &TcpHeader) -> bool {
    let other = side.opposite();
    let (end, ack) = (end_of(segment), segment.acknowledgment);
    let sent = entry.end.of(side);
    let is_lenient = entry.marks & MARK_LENIENT != 0;
    let is_sent_known = entry.has(Mark::Seen, side) || is_lenient;
    // Not beyond what the receiver has room for, as of its last acknowledgment.
    let is_acked = entry.has(Mark::Acked, other);
    if is_acked || is_sent_known {
        let from = if is_acked { entry.ack.of(other) } else { sent };
        let right = from.wrapping_add(window(entry, other));
        if !is_up_to(segment.sequence, right) {
            return false;
        }
    }
    // Not older than a window.
    if is_sent_known {
        let left = sent.wrapping_sub(window(entry, other));
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
        let lag = window(entry, side).max(ACK_LAG_MIN);
        if !is_up_to(ack, sent) || !is_up_to(sent.wrapping_sub(lag), ack) {
            return false;
        }
    }
    // A FIN ends the stream: there is no end behind it.
    !segment.flags.fin() || !is_sent_known || is_up_to(sent, end)
}

/// Whether the receiver would obey this RST, as far as one can tell from the middle.
fn reset_closes(entry: &Entry, side: Side, segment: &TcpHeader) -> bool {
    let other = side.opposite();
    let (sequence, sent) = (segment.sequence, entry.end.of(side));
    let is_sent_known = entry.has(Mark::Seen, side);
    if !entry.has(Mark::Acked, other) {
        return is_sent_known && sequence == sent;
    }
    let acked = entry.ack.of(other);
    sequence == acked || is_sent_known && is_within(sequence, acked, sent)
}

/// Largest window that a side has advertised, in bytes.
#[inline]
fn window(entry: &Entry, side: Side) -> u32 {
    let scale = u32::from(entry.scale(side).min(SCALE_MAX));
    u32::from(entry.window.of(side)).wrapping_shl(scale)
}

/// Sequence number after the segment.
#[inline]
fn end_of(segment: &TcpHeader) -> u32 {
    let flags = segment.flags;
    let extra = u32::from(flags.syn()).wrapping_add(u32::from(flags.fin()));
    let len = segment.payload_len.wrapping_add(extra);
    segment.sequence.wrapping_add(len)
}

/// Whether `a` comes after `b` in sequence space (RFC 9293 §3.4).
#[inline]
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Whether `a` is `b` or comes before it. Of two numbers half the space apart, neither is.
#[inline]
fn is_up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

/// Whether `value` is in `from..=to`.
#[inline]
fn is_within(value: u32, from: u32, to: u32) -> bool {
    is_up_to(from, value) && is_up_to(value, to)
}
