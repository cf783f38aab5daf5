//! The TCP states, seen from the middle.
//!
//! ```text
//!  state        segment                                         then
//!  syn-sent     SYN of the opener, same ISN                     timer restarts
//!               SYN of the other side (simultaneous open)       syn-received
//!               SYN-ACK of the other side that acks the SYN     syn-received
//!               RST of the other side that acks the SYN         reset
//!  syn-received SYN or SYN-ACK repeated                         timer restarts
//!               RST while nobody acked the opener's SYN         as in syn-sent
//!               both SYNs acknowledged, in the window           established (closing after a FIN)
//!  syn-sent     SYN of the opener, another ISN                  Reopen: another attempt, judged
//!  both         SYN-ACK that answers no SYN of ours             Invalid
//!  established  in the window                                   timer restarts; FIN: closing
//!  closing      in the window, acks a FIN; both acked           time-wait
//!  both         out of the window                               passes, changes nothing but the
//!                                                               timer; Invalid if strict
//!               SYN-ACK repeated from the handshake             passes, changes nothing
//!               any other SYN-ACK                               Invalid
//!  these and    SYN with another ISN                            passes, changes nothing
//!  syn-received SYN-ACK that answers such a SYN                 Invalid, reset
//!               RST, exactly what its receiver has acked        reset
//!               RST, of what is sent and not acked yet          passes; the deadline comes nearer
//!               any other RST                                   passes, changes nothing; Invalid
//!                                                               if strict
//!  time-wait    the last FIN repeated, or data before it, exact passes
//!               one ACK or RST after it from the other side,
//!               exact and empty                                 passes
//!  time-wait,   SYN with another ISN than the opener's          Reopen
//!  reset        anything else                                   Invalid
//! ```
//!
//! The timer of a tombstone never restarts.
//!
//! **Resets** (RFC 5961 §3.2). A receiver obeys an RST whose sequence number is exactly what it
//! expects next, and answers any other in its window with a challenge ACK, which a sender that
//! means it answers with an exact one. What the receiver expects is known here once it has
//! acknowledged it: an RST with that number closes the entry. One between that and the end of what
//! the sender sent may be obeyed, if the data got there; or it may be a guess, and the connection
//! lives. Such a one closes nothing, but leaves the entry no longer than a tombstone has, unless a
//! segment in the window says that the connection goes on. One outside of both cannot have closed
//! the connection, though a host older than the RFC may obey it: then the entry idles out.
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
//! What is believed of sequence numbers is in window.rs.

use super::challenge::Challenges;
use super::entry::{Cold, Entry};
use super::flow::FlowState;
use super::sides::{MARK_ISN_KNOWN, MARK_LENIENT, Mark, Side, mark_bits};
use super::window::{
    ACK_LAG_MIN, Fit, end_of, fit, is_after, is_in_handshake, is_within, learn, learn_ack,
    learn_syn, offered_scale, settle_scales, window,
};
use crate::packet::{Brief, TcpFlags, TcpHeader};

/// What a packet does to its flow; a change of state restarts the timer too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It passes, and the timer restarts.
    Refresh,
    /// It passes.
    Keep,
    /// It passes, and may have ended the connection: the deadline comes nearer.
    Doubt,
    /// It does not pass.
    Invalid,
    /// It begins another connection.
    Reopen,
}

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
        entry.set_scale(side, offered_scale(segment));
        return;
    }
    // The scales are unknown, and grow with what is seen (window.rs).
    entry.marks |= MARK_LENIENT;
    for side in [Side::Original, Side::Reply] {
        *entry.window.at(side) = u16::MAX;
        entry.set_scale(side, 0);
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
        Some(FlowState::SynReceived) => syn_received(entry, aside, side, segment, is_strict),
        Some(FlowState::TimeWait) => time_wait(entry, aside.cold, side, segment),
        Some(FlowState::Reset) => after_close(entry, aside.cold, side, segment),
        _ => Step::Invalid,
    }
}

/// What a segment would come to that came in pieces: it passes or not, and changes nothing, since
/// that would need bytes that are not here.
#[cold]
#[inline(never)]
pub(super) fn verdict(
    entry: &Entry,
    aside: &mut Aside<'_>,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    // A SYN begins nothing in pieces, and its number is not to be noted.
    if segment.flags.is_open() {
        return Step::Keep;
    }
    match advance(&mut { *entry }, aside, side, segment, is_strict) {
        Step::Invalid => Step::Invalid,
        Step::Refresh | Step::Keep | Step::Doubt | Step::Reopen => Step::Keep,
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
    let acked = entry.ack.of(other);
    let right = acked.wrapping_add(room);
    let left = sent.wrapping_sub(room);
    let lag = window(entry, side).max(ACK_LAG_MIN);
    // All four of `is_in_window` at once, and that the end has room and is not an old one: the sign
    // of each is set where it does not hold.
    let fails = right.wrapping_sub(end)
        | end.wrapping_sub(acked)
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
    let isn = entry.isn(cold);
    let acks_syn = acks_opening_syn(entry, cold, segment);
    if flags.rst() {
        let closes = match side {
            Side::Original => is_within(segment.sequence, isn.wrapping_add(1), entry.end.original),
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

/// Whether a segment of the other side acknowledges the opener's SYN.
fn acks_opening_syn(entry: &Entry, cold: &Cold, segment: &TcpHeader) -> bool {
    let first = entry.isn(cold).wrapping_add(1);
    segment.flags.ack() && is_within(segment.acknowledgment, first, entry.end.original)
}

fn syn_received(
    entry: &mut Entry,
    aside: &mut Aside<'_>,
    side: Side,
    segment: &TcpHeader,
    is_strict: bool,
) -> Step {
    let flags = segment.flags;
    let other = side.opposite();
    if flags.rst() {
        // An opener whose SYN nobody has answered yet obeys what acknowledges it (RFC 9293
        // §3.10.7.3): a SYN of the other side may have been somebody else's.
        let is_unanswered = side == Side::Reply && !entry.has(Mark::Answered, Side::Original);
        if is_unanswered && acks_opening_syn(entry, aside.cold, segment) {
            return close(entry);
        }
        return reset(entry, side, segment, is_strict);
    }
    if flags.is_open() {
        let is_repeated = match side {
            Side::Original => aside.cold.is_isn(segment.sequence),
            Side::Reply => end_of(segment) == entry.end.reply,
        };
        return if is_repeated {
            Step::Refresh
        } else {
            note_syn(entry, aside, side, segment)
        };
    }
    if flags.syn() {
        if flags.fin() || !flags.ack() {
            return Step::Invalid;
        }
        if !answers_syn(entry, aside.cold, side, segment) {
            return answers_other_syn(entry, aside, side, segment);
        }
        if side == Side::Reply && !entry.has(Mark::Answered, side) {
            // Repeated; a stateless responder may have chosen another number. Or the first one
            // after a SYN that was somebody else's.
            learn_syn(entry, side, segment);
        }
        learn_ack(entry, side, segment.acknowledgment);
        complete(entry, other);
        return Step::Refresh;
    }
    if !flags.ack() || !is_in_handshake(entry, side, segment) {
        let is_bound = entry.marks & MARK_LENIENT == 0;
        return stray(is_strict && is_bound);
    }
    complete(entry, other);
    learn(entry, side, segment);
    if entry.state == Some(FlowState::Established) && entry.has(Mark::Fin, side) {
        entry.state = Some(FlowState::Closing);
    }
    finish_close(entry);
    Step::Refresh
}

/// The SYN of a side is acknowledged; with both, the handshake is complete.
fn complete(entry: &mut Entry, answered: Side) {
    entry.set(Mark::Answered, answered);
    if entry.has_both(Mark::Answered) {
        let is_closing = mark_bits(Mark::Fin) & entry.marks != 0;
        entry.state = Some(if is_closing {
            FlowState::Closing
        } else {
            FlowState::Established
        });
        settle_scales(entry);
    }
}

/// Whether a SYN-ACK acknowledges the SYN of the other side.
fn answers_syn(entry: &Entry, cold: &Cold, side: Side, segment: &TcpHeader) -> bool {
    let ack = segment.acknowledgment;
    match side {
        Side::Reply => entry.marks & MARK_ISN_KNOWN != 0 && acks_opening_syn(entry, cold, segment),
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
        return reset(entry, side, segment, is_strict);
    }
    if flags.syn() {
        return synchronized_syn(entry, aside, side, segment);
    }
    if !flags.ack() {
        return stray(is_strict);
    }
    match fit(entry, side, segment) {
        Fit::In => {}
        // It may be ours that is wrong, so the flow must not time out under its traffic.
        Fit::Plausible => return Step::Refresh,
        Fit::Out if !is_strict => return Step::Refresh,
        Fit::Out => return Step::Invalid,
    }
    learn(entry, side, segment);
    if entry.has(Mark::Fin, side) {
        entry.state = Some(FlowState::Closing);
    }
    finish_close(entry);
    Step::Refresh
}

/// An RST once the other side has spoken: see the module, "Resets".
#[cold]
#[inline(never)]
fn reset(entry: &mut Entry, side: Side, segment: &TcpHeader, is_strict: bool) -> Step {
    let other = side.opposite();
    let (sequence, sent) = (segment.sequence, entry.end.of(side));
    let is_sent_known = entry.has(Mark::Seen, side);
    let is_acked = entry.has(Mark::Acked, other);
    let acked = if is_acked { entry.ack.of(other) } else { sent };
    if sequence == acked && (is_acked || is_sent_known) {
        return close(entry);
    }
    if is_acked && is_sent_known && is_within(sequence, acked, sent) {
        return Step::Doubt;
    }
    let is_bound = entry.marks & MARK_LENIENT == 0 || entry.has_both(Mark::Seen);
    stray(is_strict && is_bound)
}

/// A SYN in mid-connection: the other side answers it with a challenge ACK.
fn note_syn(entry: &mut Entry, aside: &mut Aside<'_>, side: Side, segment: &TcpHeader) -> Step {
    aside.challenges.note(aside.slot, segment.sequence);
    entry.clear(Mark::Challenged, side.opposite());
    entry.set(Mark::Challenged, side);
    Step::Keep
}

/// A SYN-ACK that answers no SYN of the entry, but may answer one in mid-connection.
fn answers_other_syn(
    entry: &mut Entry,
    aside: &Aside<'_>,
    side: Side,
    segment: &TcpHeader,
) -> Step {
    let challenge = aside.challenges.of(aside.slot);
    let syn = segment.acknowledgment.wrapping_sub(1);
    if entry.has(Mark::Challenged, side.opposite()) && challenge == Some(syn) {
        close(entry);
    }
    Step::Invalid
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
    if flags.is_open() {
        return note_syn(entry, aside, side, segment);
    }
    if flags.fin() || !flags.ack() {
        return Step::Invalid;
    }
    let is_isn_known = entry.marks & MARK_ISN_KNOWN != 0;
    let syn = match side {
        Side::Original => segment.sequence,
        Side::Reply => segment.acknowledgment.wrapping_sub(1),
    };
    if is_isn_known && aside.cold.is_isn(syn) {
        return Step::Keep;
    }
    answers_other_syn(entry, aside, side, segment)
}

fn time_wait(entry: &mut Entry, cold: &Cold, side: Side, segment: &TcpHeader) -> Step {
    let flags = segment.flags;
    let other = side.opposite();
    if flags.syn() {
        return after_close(entry, cold, side, segment);
    }
    let (end, sent) = (end_of(segment), entry.end.of(side));
    let is_exact = end == sent;
    let acks_all = flags.ack() && segment.acknowledgment == entry.end.of(other);
    let is_repeated = match flags.fin() {
        true => is_exact,
        // What comes before the FIN is repeated first.
        false => {
            let room = window(entry, other).max(ACK_LAG_MIN);
            segment.payload_len > 0 && is_within(end, sent.wrapping_sub(room), sent)
        }
    };
    if is_repeated && !flags.rst() && acks_all {
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
