//! A queue against a kernel that is played by the other ends of its rings.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::link::{Link, LinkQueue};
use super::super::options::HugePages;
use super::super::ring::tests::{ask_for_wakeup, pair};
use super::super::ring::{ConsumerRing, ProducerRing};
use super::*;

const RING_SIZE: u32 = 8;
const FRAMES: u32 = 16;
const FRAME_SIZE: u32 = 2048;
const HEADROOM: u64 = 256;

/// The other ends of a queue's rings.
struct Kernel {
    rx: ProducerRing<Descriptor>,
    tx: ConsumerRing<Descriptor>,
    fill: ConsumerRing<u64>,
    completion: ProducerRing<u64>,
}

impl Kernel {
    fn give_received(&mut self, addr: u64, len: u32, options: u32) {
        assert_eq!(self.rx.reserve(1), 1);
        self.rx.push(Descriptor { addr, len, options }).unwrap();
        self.rx.submit();
    }

    fn give_completed(&mut self, addr: u64) {
        assert_eq!(self.completion.reserve(1), 1);
        self.completion.push(addr).unwrap();
        self.completion.submit();
    }

    fn take_filled(&mut self) -> Option<u64> {
        self.fill.peek(1);
        let addr = self.fill.pop();
        self.fill.release();
        addr
    }

    fn take_sent(&mut self) -> Option<Descriptor> {
        self.tx.peek(1);
        let descriptor = self.tx.pop();
        self.tx.release();
        descriptor
    }
}

fn queue(transmits: bool) -> (XdpQueue, Kernel) {
    let start = u32::MAX - 20;
    let (kernel_rx, rx) = pair(start, RING_SIZE);
    let (tx, kernel_tx) = pair(start, RING_SIZE);
    let (fill, kernel_fill) = pair(start, RING_SIZE);
    let (kernel_completion, completion) = pair(start, RING_SIZE);
    let rings = Rings {
        rx,
        tx,
        fill,
        completion,
    };
    let kernel = Kernel {
        rx: kernel_rx,
        tx: kernel_tx,
        fill: kernel_fill,
        completion: kernel_completion,
    };
    // No AF_XDP socket: wakeups of it fail, which is one more thing to see.
    let socket = Socket::of(sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap());
    let umem = Umem::new(FRAMES, FRAME_SIZE, HugePages::Off).unwrap();
    (
        XdpQueue::new(rings, Arc::new(socket), Arc::new(umem), transmits),
        kernel,
    )
}

fn received(queue: &mut XdpQueue) -> (Vec<Frame>, usize) {
    let mut frames = Vec::new();
    let bad = queue.receive(64, |frame| frames.push(frame));
    (frames, bad)
}

#[test]
fn types_cross_threads_as_workers_need() {
    fn send<T: Send>() {}
    fn share<T: Send + Sync>() {}
    send::<XdpQueue>();
    send::<LinkQueue>();
    send::<Link>();
    share::<Umem>();
}

#[test]
fn descriptors_outside_of_the_memory_are_counted_and_not_delivered() {
    let (mut queue, mut kernel) = queue(true);
    let end = u64::from(FRAMES * FRAME_SIZE);
    kernel.give_received(end, 64, 0);
    kernel.give_received(u64::MAX, 64, 0);
    kernel.give_received(HEADROOM, 1793, 0);
    kernel.give_received(HEADROOM, u32::MAX, 0);
    kernel.give_received(HEADROOM, 64, OPTION_CONTINUED);
    kernel.give_received(HEADROOM, 1792, 0);
    let (frames, bad) = received(&mut queue);
    assert_eq!(bad, 5);
    assert_eq!(frames, [Frame::new(HEADROOM, 1792)]);
}

#[test]
fn completions_outside_of_the_memory_are_counted_and_not_recycled() {
    let (mut queue, mut kernel) = queue(true);
    kernel.give_completed(u64::from(FRAMES * FRAME_SIZE));
    kernel.give_completed(2048 + HEADROOM);
    let mut chunks = Vec::new();
    queue.flush(64, |chunk| chunks.push(chunk));
    assert_eq!(chunks, [ChunkAddr(2048)]);
    assert_eq!(queue.bad_completions(), 1);
}

#[test]
fn a_full_transmit_ring_gives_the_frame_back() {
    let (mut queue, mut kernel) = queue(true);
    for index in 0..u64::from(RING_SIZE) {
        assert_eq!(queue.transmit(Frame::new(index * 2048, 60)), Ok(()));
    }
    let refused = queue.transmit(Frame::new(9 * 2048, 60));
    assert_eq!(refused, Err((Frame::new(9 * 2048, 60), DropReason::TxFull)));
    queue.flush(64, |_| {});
    assert_eq!(
        kernel.take_sent(),
        Some(Descriptor {
            addr: 0,
            len: 60,
            options: 0
        })
    );
    assert_eq!(queue.transmit(Frame::new(9 * 2048, 60)), Ok(()));
    assert_eq!(queue.transmit_pending(), RING_SIZE);
}

#[test]
fn a_queue_that_only_receives_takes_no_frame() {
    let (mut queue, mut kernel) = queue(false);
    let refused = queue.transmit(Frame::new(0, 60));
    assert_eq!(refused, Err((Frame::new(0, 60), DropReason::TxFull)));
    queue.flush(64, |_| {});
    assert_eq!(kernel.take_sent(), None);
}

#[test]
fn nothing_is_sent_before_flush() {
    let (mut queue, mut kernel) = queue(true);
    assert_eq!(queue.transmit(Frame::new(0, 60)), Ok(()));
    assert_eq!(kernel.take_sent(), None);
    queue.flush(64, |_| {});
    assert!(kernel.take_sent().is_some());
}

#[test]
fn refill_stops_at_a_full_ring_or_an_empty_source() {
    let (mut queue, mut kernel) = queue(true);
    let mut source = vec![ChunkAddr(4096), ChunkAddr(2048), ChunkAddr(0)];
    assert_eq!(queue.refill(|| source.pop(), 2), 2, "the limit");
    assert_eq!(queue.refill(|| source.pop(), 64), 1, "the source");
    let mut asked = 0_u64;
    let more = queue.refill(
        || {
            asked += 1;
            Some(ChunkAddr(asked * 2048))
        },
        64,
    );
    assert_eq!(
        (more, asked),
        (5, 5),
        "the ring, and no chunk is asked for in vain"
    );
    assert_eq!(kernel.take_filled(), Some(0));
}

#[test]
fn waiting_frames_are_seen_without_taking_them() {
    let (mut queue, mut kernel) = queue(true);
    assert!(!queue.has_received());
    kernel.give_received(HEADROOM, 60, 0);
    assert!(queue.has_received());
    assert!(queue.has_received());
    assert_eq!(received(&mut queue).0.len(), 1);
    assert!(!queue.has_received());
}

#[test]
fn wakeups_happen_only_where_the_kernel_asks_and_end_without_progress() {
    let (mut queue, _kernel) = queue(true);
    assert_eq!(queue.transmit(Frame::new(0, 60)), Ok(()));
    queue.flush(64, |_| {});
    assert_eq!(queue.kick_errors(), 0, "nobody asked");
    ask_for_wakeup(&queue.rings.tx);
    queue.flush(64, |_| {});
    assert_eq!(queue.kick_errors(), 1, "one try, then the next turn");
}

#[test]
fn a_device_that_does_not_send_keeps_no_worker_awake() {
    let (mut queue, mut kernel) = queue(true);
    assert_eq!(queue.transmit(Frame::new(0, 60)), Ok(()));
    queue.flush(64, |_| {});
    assert!(queue.has_work(), "nothing was refused yet");
    ask_for_wakeup(&queue.rings.tx);
    queue.flush(64, |_| {});
    assert!(!queue.has_work(), "the wakeup failed");
    kernel.give_received(HEADROOM, 60, 0);
    assert!(queue.has_work(), "but what came in is work");
}

#[test]
fn a_device_that_stops_sending_keeps_a_worker_awake_for_a_while_only() {
    let (mut queue, mut kernel) = queue(true);
    for index in 0..2 {
        assert_eq!(queue.transmit(Frame::new(index * 2048, 60)), Ok(()));
    }
    for _ in 0..=FLUSHES_STALLED {
        assert!(queue.has_work() || queue.left == 0);
        queue.flush(64, |_| {});
    }
    assert!(!queue.has_work());
    kernel.take_sent();
    queue.flush(64, |_| {});
    assert!(queue.has_work(), "it goes on");
}

#[test]
fn normal_answers_to_a_wakeup_are_no_errors() {
    let kick = |errno| Kick::from(Err(io::Error::from_raw_os_error(errno)));
    for errno in [libc::EAGAIN, libc::EBUSY, libc::ENOBUFS] {
        assert_eq!(kick(errno), Kick::Working);
    }
    assert_eq!(kick(libc::ENETDOWN), Kick::Down);
    assert_eq!(kick(libc::ENXIO), Kick::Failed);
}

proptest! {
    /// Each chunk is in one place at any time, whatever the order of events.
    #[test]
    fn chunks_are_conserved(events in prop::collection::vec(0_u8..6, 0..400)) {
        let (mut queue, mut kernel) = queue(true);
        let mut free: Vec<ChunkAddr> = queue.umem.chunks().collect();
        let mut held: Vec<Frame> = Vec::new();
        let (mut kernel_free, mut kernel_sent) = (Vec::new(), Vec::new());
        let (mut filled, mut waiting) = (0_usize, 0_usize);
        let (mut queued, mut completed) = (0_usize, 0_usize);
        for event in events {
            match event {
                0 => filled += queue.refill(|| free.pop(), 3),
                1 => if let Some(addr) = kernel.take_filled() {
                    filled -= 1;
                    kernel_free.push(addr);
                },
                2 => if kernel.rx.reserve(1) == 1 && let Some(addr) = kernel_free.pop() {
                    kernel.give_received(addr + HEADROOM, 100, 0);
                    waiting += 1;
                },
                3 => {
                    let bad = queue.receive(2, |frame| { held.push(frame); waiting -= 1; });
                    prop_assert_eq!(bad, 0);
                }
                4 => if let Some(frame) = held.pop() {
                    match queue.transmit(frame) {
                        Ok(()) => queued += 1,
                        Err((frame, _)) => free.push(queue.umem.chunk_of(frame.addr())),
                    }
                    queue.flush(2, |chunk| { free.push(chunk); completed -= 1; });
                },
                _ => {
                    if let Some(descriptor) = kernel.take_sent() {
                        queued -= 1;
                        kernel_sent.push(descriptor.addr);
                    }
                    if kernel.completion.reserve(1) == 1 && let Some(addr) = kernel_sent.pop() {
                        kernel.give_completed(addr);
                        completed += 1;
                    }
                }
            }
            let in_rings = filled + waiting + queued + completed;
            let total = free.len() + held.len() + kernel_free.len() + kernel_sent.len() + in_rings;
            prop_assert_eq!(total, FRAMES as usize);
            let unique: BTreeSet<_> = free.iter().collect();
            prop_assert_eq!(unique.len(), free.len());
        }
    }
}
