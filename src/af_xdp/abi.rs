//! What the kernel and we must agree on byte by byte: the structures and numbers of AF_XDP.
//!
//! Copied from `include/uapi/linux/if_xdp.h` as of Linux 6.12:
//! <https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/if_xdp.h?h=v6.12>.
//! Where libc has a number under the same name, libc's is used; the structures are our own because
//! libc's have grown fields between its releases.

use std::mem::{offset_of, size_of};

/// `struct sockaddr_xdp`: what an AF_XDP socket binds to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct SockaddrXdp {
    pub(super) family: u16,
    pub(super) flags: u16,
    pub(super) ifindex: u32,
    pub(super) queue_id: u32,
    pub(super) shared_umem_fd: u32,
}

const _: () = assert!(size_of::<SockaddrXdp>() == 16);
const _: () = assert!(offset_of!(SockaddrXdp, shared_umem_fd) == 12);

/// `struct xdp_umem_reg`: the memory area as it is registered.
///
/// Kernels before 6.8 know no `tx_metadata_len`; there its place is padding, which they ignore.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct UmemRegistration {
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) chunk_size: u32,
    pub(super) headroom: u32,
    pub(super) flags: u32,
    pub(super) tx_metadata_len: u32,
}

const _: () = assert!(size_of::<UmemRegistration>() == 32);
const _: () = assert!(offset_of!(UmemRegistration, chunk_size) == 16);

/// `struct xdp_ring_offset`: where in a mapped ring its words lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingOffset {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) desc: u64,
    pub(super) flags: u64,
}

/// `struct xdp_mmap_offsets`: the same for all four rings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MmapOffsets {
    pub(super) rx: RingOffset,
    pub(super) tx: RingOffset,
    pub(super) fill: RingOffset,
    pub(super) completion: RingOffset,
}

const _: () = assert!(size_of::<MmapOffsets>() == 128);
const _: () = assert!(offset_of!(MmapOffsets, completion) == 96);

/// `struct xdp_desc`: an item of the RX and TX rings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 16);
const _: () = assert!(offset_of!(Descriptor, len) == 8);

/// `struct xdp_statistics`: what the kernel counts for each socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct XdpStatistics {
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid_descriptors: u64,
    pub(super) tx_invalid_descriptors: u64,
    pub(super) rx_ring_full: u64,
    pub(super) rx_fill_ring_empty: u64,
    pub(super) tx_ring_empty: u64,
}

const _: () = assert!(size_of::<XdpStatistics>() == 48);

/// `XDP_PACKET_HEADROOM`: bytes that the kernel leaves free before a received packet
/// (`include/uapi/linux/bpf.h`).
pub(super) const PACKET_HEADROOM: u32 = 256;

/// Offset of the RX ring in the socket's mapping space.
pub(super) const PGOFF_RX: i64 = 0;
/// Offset of the TX ring.
pub(super) const PGOFF_TX: i64 = 0x8000_0000;
/// Offset of the fill ring.
pub(super) const PGOFF_FILL: i64 = 0x1_0000_0000;
/// Offset of the completion ring.
pub(super) const PGOFF_COMPLETION: i64 = 0x1_8000_0000;

/// IFLA_XDP and its parts (`include/uapi/linux/if_link.h`), which libc lacks.
pub(super) mod ifla_xdp {
    pub(in super::super) const IFLA_XDP: u16 = 43;
    pub(in super::super) const FD: u16 = 1;
    pub(in super::super) const ATTACHED: u16 = 2;
    pub(in super::super) const FLAGS: u16 = 3;
    pub(in super::super) const PROG_ID: u16 = 4;
    pub(in super::super) const DRV_PROG_ID: u16 = 5;
    pub(in super::super) const SKB_PROG_ID: u16 = 6;
    pub(in super::super) const HW_PROG_ID: u16 = 7;
    pub(in super::super) const EXPECTED_FD: u16 = 8;

    /// Attach only where no program is.
    pub(in super::super) const FLAG_UPDATE_IF_NOEXIST: u32 = 1 << 0;
    /// Generic mode.
    pub(in super::super) const FLAG_SKB_MODE: u32 = 1 << 1;
    /// Native mode.
    pub(in super::super) const FLAG_DRV_MODE: u32 = 1 << 2;
    /// Replace exactly the program of `EXPECTED_FD`.
    pub(in super::super) const FLAG_REPLACE: u32 = 1 << 4;
}
