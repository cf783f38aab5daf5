//! Both ends of a ring on one piece of memory, against a queue from the standard library.

use std::collections::VecDeque;
use std::thread;

use proptest::prelude::*;

use super::*;

const SIZE: u32 = 8;
const OFFSETS: RingOffset = RingOffset {
    producer: 0,
    consumer: 64,
    desc: 192,
    flags: 128,
};

/// Both ends of a ring whose indexes stand at `index`.
pub(in super::super) fn pair<T: Item>(index: u32, size: u32) -> (ProducerRing<T>, ConsumerRing<T>) {
    let mapping = Arc::new(Mapping::anonymous(192 + size as usize * size_of::<T>(), 0).unwrap());
    let memory = RingMemory::<T>::new(Arc::clone(&mapping), &OFFSETS, size).unwrap();
    memory.producer().store(index, Ordering::Relaxed);
    memory.consumer().store(index, Ordering::Relaxed);
    (
        ProducerRing::new(Arc::clone(&mapping), &OFFSETS, size).unwrap(),
        ConsumerRing::new(mapping, &OFFSETS, size).unwrap(),
    )
}

/// Sets the flag with which the kernel asks to be woken.
pub(in super::super) fn ask_for_wakeup<T: Item>(ring: &ProducerRing<T>) {
    ring.memory
        .flags()
        .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
}

#[derive(Clone, Debug)]
enum Operation {
    Push(u32),
    Submit,
    Pop(u32),
    Release,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0..2 * SIZE).prop_map(Operation::Push),
        Just(Operation::Submit),
        (0..2 * SIZE).prop_map(Operation::Pop),
        Just(Operation::Release),
    ]
}

/// The ring as a queue: what is pushed but not submitted, what is visible, what is popped but not
/// released.
#[derive(Debug, Default)]
struct Oracle {
    pushed: VecDeque<u64>,
    visible: VecDeque<u64>,
    popped: usize,
    next: u64,
}

impl Oracle {
    fn free(&self) -> usize {
        SIZE as usize - self.pushed.len() - self.visible.len() - self.popped
    }
}

proptest! {
    #[test]
    fn ring_is_a_bounded_queue_at_any_index(
        before_wrap in 0_u32..40,
        operations in prop::collection::vec(operation(), 0..200),
    ) {
        let (mut producer, mut consumer) = pair::<u64>(u32::MAX - before_wrap, SIZE);
        let mut oracle = Oracle::default();
        for operation in operations {
            match operation {
                Operation::Push(count) => {
                    let granted = producer.reserve(count);
                    prop_assert_eq!(granted as usize, oracle.free().min(count as usize));
                    for _ in 0..granted {
                        prop_assert_eq!(producer.push(oracle.next), Ok(()));
                        oracle.pushed.push_back(oracle.next);
                        oracle.next += 1;
                    }
                    if granted < count {
                        prop_assert_eq!(producer.push(u64::MAX), Err(u64::MAX));
                    }
                }
                Operation::Submit => {
                    producer.submit();
                    oracle.visible.append(&mut oracle.pushed);
                }
                Operation::Pop(count) => {
                    let found = consumer.peek(count);
                    prop_assert_eq!(found as usize, oracle.visible.len().min(count as usize));
                    for _ in 0..found {
                        prop_assert_eq!(consumer.pop(), oracle.visible.pop_front());
                        oracle.popped += 1;
                    }
                }
                Operation::Release => {
                    consumer.release();
                    oracle.popped = 0;
                }
            }
            prop_assert_eq!(consumer.has_items(), !oracle.visible.is_empty());
            let untaken = oracle.pushed.len() + oracle.visible.len() + oracle.popped;
            prop_assert_eq!(producer.pending() as usize, untaken);
        }
    }

    #[test]
    fn cursors_of_an_insane_other_side_stay_inside_the_ring(own: u32, other: u32) {
        let producer = ProducerCursor { next: own, consumer: other, size: SIZE };
        prop_assert!(producer.free() <= SIZE);
        prop_assert!(producer.pending() <= SIZE);
        let consumer = ConsumerCursor { next: own, producer: other, size: SIZE };
        prop_assert!(consumer.available() <= SIZE);
    }
}

#[test]
fn nothing_is_seen_before_submit() {
    let (mut producer, mut consumer) = pair::<u64>(0, SIZE);
    producer.push(7).unwrap();
    assert_eq!(consumer.peek(1), 0);
    assert_eq!(consumer.pop(), None);
    producer.submit();
    assert_eq!(consumer.peek(1), 1);
    assert_eq!(consumer.pop(), Some(7));
}

#[test]
fn a_full_ring_has_room_only_after_release() {
    let (mut producer, mut consumer) = pair::<u64>(u32::MAX, SIZE);
    assert_eq!(producer.reserve(SIZE + 1), SIZE);
    for item in 0..u64::from(SIZE) {
        producer.push(item).unwrap();
    }
    producer.submit();
    consumer.peek(1);
    consumer.pop();
    assert_eq!(producer.reserve(1), 0);
    consumer.release();
    assert_eq!(producer.reserve(2), 1);
}

#[test]
fn the_wakeup_flag_is_the_kernels() {
    let (producer, _consumer) = pair::<u64>(0, SIZE);
    assert!(!producer.needs_wakeup());
    ask_for_wakeup(&producer);
    assert!(producer.needs_wakeup());
}

#[test]
fn rings_that_do_not_fit_their_mapping_are_refused() {
    let mapping = Arc::new(Mapping::anonymous(4096, 0).unwrap());
    let new = |offset: RingOffset, size| {
        RingMemory::<u64>::new(Arc::clone(&mapping), &offset, size).is_some()
    };
    assert!(new(OFFSETS, 256));
    assert!(!new(OFFSETS, 512), "slots beyond the end");
    assert!(!new(OFFSETS, 100), "no power of two");
    assert!(
        !new(
            RingOffset {
                producer: 2,
                ..OFFSETS
            },
            8
        ),
        "misaligned"
    );
    assert!(
        !new(
            RingOffset {
                flags: 4096,
                ..OFFSETS
            },
            8
        ),
        "word beyond the end"
    );
    assert!(
        !new(
            RingOffset {
                desc: u64::MAX,
                ..OFFSETS
            },
            8
        ),
        "offset that overflows"
    );
}

#[test]
fn two_threads_pass_every_item_in_order() {
    const ITEMS: u64 = 200_000;
    let (mut producer, mut consumer) = pair::<u64>(u32::MAX - 1000, 64);
    let sender = thread::spawn(move || {
        let mut next = 0;
        while next < ITEMS {
            for _ in 0..producer
                .reserve(16)
                .min(u32::try_from(ITEMS - next).unwrap())
            {
                producer.push(next).unwrap();
                next += 1;
            }
            producer.submit();
            thread::yield_now();
        }
    });
    let mut expected = 0;
    while expected < ITEMS {
        for _ in 0..consumer.peek(16) {
            assert_eq!(consumer.pop(), Some(expected));
            expected += 1;
        }
        consumer.release();
        thread::yield_now();
    }
    sender.join().unwrap();
    assert!(!consumer.has_items());
}
