//! The memory of a shard: what it says of itself is what the allocator gave, and what it needs is
//! there before the first packet.
#![cfg(test)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portcullis::clock::Tick;
use portcullis::conntrack::{FlowClass, NewFlow, PerInterface, Shard, ShardConfig};
use portcullis::packet::{FlowKey, IpPacket, Parsed, build, parse};
use portcullis::types::{Direction, Generation, InterfaceSlot, LinkId, RuleSlot};

struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: impl Fn(usize) -> usize) {
    // A thread at its end has no count any more, and is none that a test counts.
    let _gone = LIVE_BYTES.try_with(|live| live.set(bytes(live.get())));
}

// SAFETY: every call goes to the system's allocator unchanged.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|live| live.wrapping_add(layout.size()));
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|live| live.wrapping_add(layout.size()));
        // SAFETY: the caller's layout is passed on. (Without this, memory that is taken but not
        // used would be written to.)
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|live| live.wrapping_sub(layout.size()));
        // SAFETY: `alloc` had the pointer from the same allocator with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn shard(max_flows: u32, limit: u32) -> Shard {
    let config = ShardConfig {
        per_interface: PerInterface {
            max_flows: limit,
            new_per_second: 0,
        },
        ..ShardConfig::new(max_flows, [1, 2])
    };
    Shard::new(&config, Tick(0))
}

#[test]
fn shard_takes_what_it_says() {
    for (max_flows, limit) in [
        (1, 0),
        (1_000, 7),
        (1_000_000, 0),
        (1_000_000, 100),
        (1_000_000, u32::MAX),
    ] {
        let before = LIVE_BYTES.get();
        let shard = shard(max_flows, limit);
        let taken = LIVE_BYTES.get().wrapping_sub(before) + size_of::<Shard>();
        let memory = shard.memory_bytes();
        let said = memory.flows + memory.fragments + memory.ipv6 + memory.heavy + memory.interfaces;
        assert_eq!(said, taken, "{max_flows} flows: {memory:?}");
    }
}

#[test]
fn flow_takes_80_bytes_of_ipv4_and_112_of_ipv6_with_everything_counted() {
    // Counted by interface, as in the gateway.
    let memory = shard(1_000_000, u32::MAX).memory_bytes();
    let v4 = memory.flows + memory.fragments;
    assert!(v4 <= 80 * 1_000_000, "{v4}");
    assert!(v4 + memory.ipv6 <= 112 * 1_000_000, "{memory:?}");
}

/// Pages that this thread has had to wait for so far.
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    // Fields after the name, which may contain blanks: the eighth is `minflt` (proc(5)).
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let field = fields.split_whitespace().nth(7).expect("minflt");
    field.parse().expect("a number")
}

fn open(shard: &mut Shard, packet: &IpPacket) {
    let (key, opener) = FlowKey::of(LinkId(0), packet).expect("tracked");
    let new = NewFlow {
        interface: InterfaceSlot(1),
        rule: Some(RuleSlot(1)),
        generation: Generation(1),
        class: FlowClass::Tracked,
        direction: Direction::Ingress,
        opener,
    };
    let hash = shard.hash(&key);
    let opened = shard.open(&key, hash, &new, packet, 60, Tick(0));
    assert!(opened.is_ok());
}

#[test]
fn flows_of_ipv4_wait_for_no_page() {
    let flows = 200_000;
    let frame = build::v4("10.0.0.1", "10.0.0.2").udp(1, 53).build();
    let Parsed::Ip(mut packet) = parse(&frame, frame.len()) else {
        panic!("a datagram");
    };
    let mut shard = shard(flows, 0);
    let before = faults();
    for number in 0..flows {
        let addresses = &mut packet.addresses;
        *addresses = portcullis::packet::Addresses::V4 {
            source: number,
            destination: 7,
        };
        open(&mut shard, &packet);
    }
    let waited = faults() - before;
    // The test's own stack and heap may have some; 200,000 flows lie on 4,000 pages.
    assert!(waited < 40, "{waited} faults");
}
